using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>The parts of a weight gradient that threads take from one another.</summary>
[TestFixture]
public class WeightPartTests
{
    /// <summary>
    /// Several threads in turns drawn by chance, some of them asleep for long. Every panel meets every block once and in order, and no turn reads rows of a that
    /// its thread has not packed in that block.
    /// </summary>
    [Test]
    public void Whoever_takes_from_whom_every_panel_meets_every_block_once_and_in_order([Values(1, 2, 5, 23)] int blocks, [Values(1, 2, 4, 33)] int panels)
    {
        for (int seed = 0; seed < 200; seed++)
        {
            var random = new Random(seed);
            const int threads = 4;
            var parts = new WeightPart[2 * threads];
            int mid = random.Next(panels + 1);
            parts[0] = new WeightPart(0, 8, 0, mid);
            parts[1] = new WeightPart(0, 8, mid, panels);
            int[] met = new int[panels], at = [0, 1, -1, -1], packed = [-1, -1, -1, -1];
            double[] pace = [.. Enumerable.Range(0, threads).Select(_ => 0.05 + random.NextDouble())];
            for (int idle = 0; idle < 1_000;)
            {
                int i = random.Next(threads);
                if (random.NextDouble() > pace[i]) continue;
                idle++;
                if (at[i] < 0)
                {
                    int from = random.Next(parts.Length);
                    if (!parts[from].Split(blocks, 1, out WeightPart half)) continue;
                    parts[threads + i].Become(half);
                    (at[i], packed[i]) = (threads + i, -1);
                }
                if (!parts[at[i]].Advance(blocks, out WeightPart.Turn turn))
                {
                    at[i] = -1;
                    continue;
                }
                idle = 0;
                if (turn.Opens) packed[i] = turn.Block;
                Assert.That(packed[i], Is.EqualTo(turn.Block), "rows of a of another block");
                Assert.That(met[turn.Panel]++, Is.EqualTo(turn.Block), $"panel {turn.Panel}");
            }
            Assert.That(met, Is.All.EqualTo(blocks));
        }
    }

    [Test]
    public void Half_of_what_is_left_is_taken_and_too_little_is_not()
    {
        var part = new WeightPart(0, 8, 0, 4);
        for (int i = 0; i < 2; i++) Assert.That(part.Advance(3, out _));
        Assert.That(part.Left(3), Is.EqualTo(10));
        Assert.That(part.Split(3, 6, out _), Is.False);
        Assert.That(part.Split(3, 5, out WeightPart half));
        Assert.That((part.Left(3), half.Left(3)), Is.EqualTo((4L, 6L)), "two panels of three blocks, of the three that the first block has not come to");
    }
}
