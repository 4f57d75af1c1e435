using MimEngine.Kernels;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Philox against its authors' vectors, and the names of random numbers.</summary>
[TestFixture]
public class RngTests
{
    private static readonly Rng s_name = new(1234, RandomStream.Test, 5);

    // Known answers published with Salmon et al. 2011 (Random123): all zeros, all ones, digits of pi.
    [TestCase(0ul, 0ul, 0ul, 0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u)]
    [TestCase(ulong.MaxValue, ulong.MaxValue, ulong.MaxValue, 0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu)]
    [TestCase(0x299f31d0_a4093822ul, 0x85a308d3_243f6a88ul, 0x03707344_13198a2eul, 0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u)]
    public void Philox_gives_its_authors_known_answers(ulong key, ulong counterLow, ulong counterHigh, uint x, uint y, uint z, uint w)
        => Assert.That(Philox.Block(key, counterLow, counterHigh), Is.EqualTo((x, y, z, w)));

    [Test]
    public void Word_by_random_access_equals_the_sequence()
    {
        RngSequence sequence = s_name.Start();
        uint[] inOrder = [.. Enumerable.Range(0, 1000).Select(_ => sequence.Word())];
        uint[] backwards = [.. Enumerable.Range(0, 1000).Reverse().Select(n => s_name.Word((ulong)n)).Reverse()];
        Assert.That(backwards, Is.EqualTo(inOrder));
    }

    [Test]
    public void Every_part_of_the_name_gives_other_bits()
    {
        Rng[] names =
        [
            s_name, s_name with { Seed = 1235 }, s_name with { Seed = 1234 + (1ul << 40) }, s_name with { Stream = RandomStream.Mask },
            s_name with { Index = 6 }, s_name with { Index = 5 + (1ul << 40) },
        ];
        uint[] words = [.. names.SelectMany(n => Enumerable.Range(0, 500).Select(i => n.Word((ulong)i)))];
        // 3000 of 2^32 values: 0.001 pairs are expected to meet.
        Assert.That(words.Distinct().Count(), Is.EqualTo(words.Length));
    }

    [Test]
    public void Uniform_numbers_fill_the_unit_interval_evenly()
    {
        const int draws = 200_000, bins = 64;
        RngSequence sequence = s_name.Start();
        int[] counts = new int[bins];
        double sum = 0, squares = 0;
        for (int i = 0; i < draws; i++)
        {
            double u = sequence.Uniform();
            Assert.That(u, Is.InRange(0, 1 - 1e-9));
            counts[(int)(u * bins)]++;
            (sum, squares) = (sum + u, squares + u * u);
        }
        double chi = counts.Sum(c => Math.Pow(c - draws / (double)bins, 2)) / (draws / (double)bins);
        Assert.That(chi, Is.InRange(63 - 5 * Math.Sqrt(126), 63 + 5 * Math.Sqrt(126)),
            "chi-squared with 63 degrees of freedom, 5 deviations");
        Assert.That(sum / draws, Is.EqualTo(0.5).Within(5 * Math.Sqrt(1 / 12.0 / draws)));
        Assert.That(squares / draws, Is.EqualTo(1 / 3.0).Within(5 * Math.Sqrt(4 / 45.0 / draws)));
    }

    [Test]
    public void Normal_numbers_have_the_moments_of_the_distribution()
    {
        const int draws = 200_000;
        RngSequence sequence = s_name.Start();
        double[] x = [.. Enumerable.Range(0, draws).Select(_ => sequence.Normal())];
        Assert.That(x.Average(), Is.EqualTo(0).Within(5 / Math.Sqrt(draws)));
        Assert.That(x.Average(v => v * v), Is.EqualTo(1).Within(5 * Math.Sqrt(2.0 / draws)));
        Assert.That(x.Average(v => v * v * v), Is.EqualTo(0).Within(5 * Math.Sqrt(15.0 / draws)));
        Assert.That(x.Average(v => v * v * v * v), Is.EqualTo(3).Within(5 * Math.Sqrt(96.0 / draws)));
    }

    [TestCase(1)]
    [TestCase(3)]
    [TestCase(10)]
    [TestCase(1000)]
    public void Below_gives_every_integer_equally_often(int bound)
    {
        const int each = 400;
        RngSequence sequence = (s_name with { Index = (ulong)bound }).Start();
        int[] counts = new int[bound];
        for (int i = 0; i < each * bound; i++) counts[sequence.Below(bound)]++;
        Assert.That(counts, Is.All.InRange(each - 6 * Math.Sqrt(each), each + 6 * Math.Sqrt(each)));
    }

    [Test]
    public void Below_refuses_an_empty_range()
        => Assert.Throws<ArgumentOutOfRangeException>(() =>
        {
            RngSequence sequence = s_name.Start();
            sequence.Below(0);
        });

    [Test]
    public void Shuffle_is_a_permutation_and_puts_every_item_everywhere()
    {
        const int n = 5, rounds = 20_000;
        int[,] seen = new int[n, n];
        for (int round = 0; round < rounds; round++)
        {
            RngSequence sequence = (s_name with { Index = (ulong)round }).Start();
            int[] items = [0, 1, 2, 3, 4];
            sequence.Shuffle<int>(items);
            Assert.That(items.Order(), Is.EqualTo(new[] { 0, 1, 2, 3, 4 }));
            for (int i = 0; i < n; i++) seen[i, items[i]]++;
        }
        double expected = rounds / (double)n;
        Assert.That(seen.Cast<int>(), Is.All.InRange(expected - 6 * Math.Sqrt(expected), expected + 6 * Math.Sqrt(expected)));
    }
}
