using MimEngine.Kernels.Ptx;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>The emitted kernels that see every number once, run on a model of the machine against their definitions in float64.</summary>
[TestFixture]
public class PtxElementTests
{
    private const float Untouched = -7.25f;

    [Test]
    public void AdamW_updates_its_segments_and_nothing_else([Values] bool hasCopy, [Values] bool hasScales)
    {
        (int Offset, int Length, int Gradient, float Keep, float Rate, float Root)[] segments =
            [(16, 4099, 8240, 0.99f, 1e-3f, 3f), (4128, 7, 4128, 1f, 2e-3f, 5f), (4144, 8200, 24, 0.98f, 3e-3f, 2f)];
        const int all = 12400;
        const float beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f;
        float[] scales = [0.5f, 2f, 0.25f], p = Filled(1), m = Filled(2), v = [.. Filled(3).Select(MathF.Abs)], g = Numbers.Floats(all, 4);
        List<int> rows = [];
        int first = 0, chunks = 0;
        foreach ((int offset, int length, int gradient, float keep, float rate, float root) in segments)
        {
            rows.AddRange([gradient, 0, offset, length, first, chunks, 0]);
            rows.AddRange([BitConverter.SingleToInt32Bits(keep), BitConverter.SingleToInt32Bits(rate), BitConverter.SingleToInt32Bits(root)]);
            first += length;
            chunks += (length + ElementKernels.Chunk - 1) / ElementKernels.Chunk;
        }
        var machine = new PtxMachine();
        ushort[] before = [.. Enumerable.Repeat((ushort)0x1234, all)];
        ulong atP = machine.Add(p), atM = machine.Add(m), atV = machine.Add(v), copy = machine.Add(before), atG = machine.Add(g);
        machine.Run(ElementKernels.AdamW("adamw"), chunks, 1, false, atP, atM, atV, hasCopy ? copy : 0, atG, hasScales ? machine.Add(scales) : 0,
            machine.Add(rows.ToArray()), (ulong)segments.Length, Bits(beta1), Bits(1 - beta1), Bits(beta2), Bits(1 - beta2), Bits(eps));
        float[] newP = machine.Read<float>(atP), newM = machine.Read<float>(atM), newV = machine.Read<float>(atV);
        ushort[] copied = machine.Read<ushort>(copy);
        Assert.That(machine.Read<float>(atG), Is.EqualTo(g));
        for (int i = 0; i < all; i++)
        {
            int s = Array.FindIndex(segments, x => i >= x.Offset && i < x.Offset + x.Length);
            if (s < 0)
            {
                Assert.That((newP[i], newM[i], newV[i], copied[i]), Is.EqualTo((p[i], m[i], v[i], before[i])), $"{i} is in no segment");
                continue;
            }
            double d = g[i - segments[s].Offset + segments[s].Gradient] * (hasScales ? scales[s] : 1.0);
            double moment = beta1 * (double)m[i] + (1 - beta1) * d, second = beta2 * (double)v[i] + (1 - beta2) * d * d;
            double updated = p[i] * (double)segments[s].Keep - segments[s].Rate * moment / (Math.Sqrt(second) * segments[s].Root + eps);
            Assert.That(newM[i], Is.EqualTo(moment).Within(3e-7), $"m at {i}");
            Assert.That(newV[i], Is.EqualTo(second).Within(3e-7), $"v at {i}");
            Assert.That(newP[i], Is.EqualTo(updated).Within(1e-6), $"p at {i}");
            Assert.That(copied[i], Is.EqualTo(hasCopy ? Half(newP[i]) : before[i]), $"copy at {i}");
        }

        float[] Filled(int seed)
        {
            float[] values = Numbers.Floats(all, seed);
            for (int i = 0; i < all; i++)
                if (!segments.Any(x => i >= x.Offset && i < x.Offset + x.Length)) values[i] = Untouched;
            return values;
        }
    }

    [Test]
    public void Combined_chunks_are_their_sum([Values(1, 31, 32, 33, 200)] int chunks, [Values(8, 72)] int cols, [Values] bool accumulate, [Values] bool backwards)
    {
        float[] partial = Numbers.Floats(chunks * cols, 1), old = Numbers.Floats(cols, 2);
        var machine = new PtxMachine();
        ulong y = machine.Add(old);
        machine.Run(ElementKernels.Combine("combine"), (cols + ElementKernels.CombinedColumns - 1) / ElementKernels.CombinedColumns, 1, backwards, y,
            machine.Add(partial), (ulong)chunks, (ulong)cols, accumulate ? 1u : 0u);
        float[] made = machine.Read<float>(y);
        for (int c = 0; c < cols; c++)
        {
            double sum = Enumerable.Range(0, chunks).Sum(i => (double)partial[i * cols + c]) + (accumulate ? old[c] : 0);
            Assert.That(made[c], Is.EqualTo(sum).Within(1e-5), $"column {c}");
        }
    }

    [Test]
    public void Head_dots_are_those_of_every_head([Values(32, 64, 128)] int width)
    {
        const int images = 2, tokens = 13, heads = 3;
        int columns = heads * width;
        ushort[] dy = Numbers.Halves(images * tokens * columns, 1), y = Numbers.Halves(images * tokens * columns, 2);
        var machine = new PtxMachine();
        ulong delta = machine.Add(new float[images * heads * tokens]);
        int eighths = dy.Length / 8;
        machine.Run(ElementKernels.HeadDots("dots", width), (eighths + ElementKernels.Threads - 1) / ElementKernels.Threads, 1, false, delta, machine.Add(dy),
            machine.Add(y), (ulong)eighths, tokens, heads);
        float[] made = machine.Read<float>(delta);
        for (int b = 0; b < images; b++)
            for (int h = 0; h < heads; h++)
                for (int n = 0; n < tokens; n++)
                {
                    int from = (b * tokens + n) * columns + h * width;
                    double sum = Enumerable.Range(from, width).Sum(i => (double)Numbers.Float(dy[i]) * Numbers.Float(y[i]));
                    Assert.That(made[(b * heads + h) * tokens + n], Is.EqualTo(sum).Within(2e-6), $"({b}, {h}, {n})");
                }
    }

    [Test]
    public void A_branchs_gradient_is_scaled_by_row_and_column([Values] bool keeps, [Values] bool hasGamma, [Values] bool hasRows)
    {
        const int images = 3, tokens = 5, columns = 72, rows = images * tokens;
        float[] dy = Numbers.Floats(rows * columns, 1), gamma = Numbers.Floats(columns, 2), scale = Numbers.Floats(images, 3);
        var machine = new PtxMachine();
        ulong branch = machine.Add(new ushort[dy.Length]), scaled = machine.Add(new ushort[dy.Length]);
        int eighths = dy.Length / 8;
        machine.Run(ElementKernels.BranchGradient("branch"), (eighths + ElementKernels.Threads - 1) / ElementKernels.Threads, 1, false, branch, keeps ? scaled : 0,
            machine.Add(dy), hasGamma ? machine.Add(gamma) : 0, hasRows ? machine.Add(scale) : 0, (ulong)eighths, columns / 8, hasRows ? (ulong)tokens : 0);
        ushort[] made = machine.Read<ushort>(branch), kept = machine.Read<ushort>(scaled);
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < columns; c++)
            {
                float v = dy[r * columns + c] * (hasRows ? scale[r / tokens] : 1f);
                Assert.That(kept[r * columns + c], Is.EqualTo(keeps ? Half(v) : 0), $"scaled at ({r}, {c})");
                Assert.That(made[r * columns + c], Is.EqualTo(Half(v * (hasGamma ? gamma[c] : 1f))), $"branch at ({r}, {c})");
            }
    }

    private static ulong Bits(float value) => BitConverter.SingleToUInt32Bits(value);

    /// <summary>bfloat16, nearest even.</summary>
    private static ushort Half(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        return (ushort)(bits + 0x7FFF + (bits >> 16 & 1) >> 16);
    }
}
