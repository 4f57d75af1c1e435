using MimEngine.Kernels.Ptx;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>The emitted attention kernels, run on a model of the machine against attention in float64.</summary>
[TestFixture]
public class FlashTests
{
    private const int Images = 1, Heads = 2;
    private static readonly FlashTiling[] s_tilings = [new(64, 4, 64), new(64, 2, 32), new(32, 4, 64), new(128, 4, 32)];

    [Test]
    public void Attention_and_its_gradients_are_those_of_the_definition([ValueSource(nameof(s_tilings))] object tiling, [Values(37, 145)] int tokens,
        [Values] bool hasBias, [Values] bool backwards)
    {
        var t = (FlashTiling)tiling;
        int width = t.Width, columns = Heads * width;
        float scale = 2f / MathF.Sqrt(width);
        ushort[] qkv = Numbers.Halves(Images * tokens * 3 * columns, 1), dy = Numbers.Halves(Images * tokens * columns, 2);
        float[] bias = Numbers.Floats(Heads * tokens * tokens, 3);
        var right = new Definition(qkv, dy, hasBias ? bias : null, tokens, width, scale);
        var machine = new PtxMachine();
        ulong y = machine.Add(new ushort[dy.Length]), lse = machine.Add(new float[Heads * tokens]), x = machine.Add(qkv), up = machine.Add(dy),
            delta = machine.Add(Array.ConvertAll(right.Delta, v => (float)v)), d = machine.Add(new ushort[qkv.Length]);
        ulong scaleBits = BitConverter.SingleToUInt32Bits(scale);
        ulong[] more = hasBias ? [machine.Add(bias)] : [];
        int groups = Images * Heads * ((tokens + t.Own - 1) / t.Own);
        machine.Run(FlashForward.Write("forward", t, hasBias), groups, 1, backwards, [y, lse, x, (ulong)tokens, Heads, scaleBits, .. more]);
        foreach (bool ofQueries in new[] { true, false })
            machine.Run(FlashBackward.Write("backward", t, hasBias, ofQueries), groups, 1, backwards, [d, x, up, lse, delta, (ulong)tokens, Heads, scaleBits, .. more]);
        Assert.That(Error(machine.Read<ushort>(y), right.Y), Is.LessThan(4e-3));
        Assert.That(Error(machine.Read<ushort>(d), right.Gradient), Is.LessThan(4e-3));
        float[] sums = machine.Read<float>(lse);
        for (int i = 0; i < sums.Length; i++) Assert.That(sums[i], Is.EqualTo(right.Lse[i]).Within(1e-5));
    }

    private static double Error(ushort[] made, double[] expected)
    {
        double difference = 0, norm = 0;
        for (int i = 0; i < made.Length; i++)
        {
            difference += Math.Pow(Numbers.Float(made[i]) - expected[i], 2);
            norm += expected[i] * expected[i];
        }
        return Math.Sqrt(difference / norm);
    }

    /// <summary>Attention of every image and head, written out.</summary>
    private sealed class Definition
    {
        public readonly double[] Y, Lse, Delta, Gradient;

        public Definition(ushort[] qkv, ushort[] dy, float[]? bias, int tokens, int width, float scale)
        {
            int columns = Heads * width;
            (Y, Lse, Delta, Gradient) = (new double[dy.Length], new double[Heads * tokens], new double[Heads * tokens], new double[qkv.Length]);
            int At(int token, int part, int head) => token * 3 * columns + part * columns + head * width;
            for (int h = 0; h < Heads; h++)
                for (int i = 0; i < tokens; i++)
                {
                    double[] p = [.. Enumerable.Range(0, tokens).Select(j => scale * Dot(qkv, At(i, 0, h), qkv, At(j, 1, h), width) + (bias?[(h * tokens + i) * tokens + j] ?? 0))];
                    double max = p.Max(), sum = p.Sum(s => Math.Exp(s - max));
                    Lse[h * tokens + i] = max + Math.Log(sum);
                    for (int j = 0; j < tokens; j++)
                    {
                        p[j] = Math.Exp(p[j] - Lse[h * tokens + i]);
                        for (int c = 0; c < width; c++) Y[i * columns + h * width + c] += p[j] * Numbers.Float(qkv[At(j, 2, h) + c]);
                    }
                    double delta = Enumerable.Range(0, width).Sum(c => Y[i * columns + h * width + c] * Numbers.Float(dy[i * columns + h * width + c]));
                    Delta[h * tokens + i] = delta;
                    for (int j = 0; j < tokens; j++)
                    {
                        double ds = scale * p[j] * (Dot(dy, i * columns + h * width, qkv, At(j, 2, h), width) - delta);
                        for (int c = 0; c < width; c++)
                        {
                            Gradient[At(i, 0, h) + c] += ds * Numbers.Float(qkv[At(j, 1, h) + c]);
                            Gradient[At(j, 1, h) + c] += ds * Numbers.Float(qkv[At(i, 0, h) + c]);
                            Gradient[At(j, 2, h) + c] += p[j] * Numbers.Float(dy[i * columns + h * width + c]);
                        }
                    }
                }
        }

        private static double Dot(ushort[] a, int from, ushort[] b, int at, int count)
        {
            double sum = 0;
            for (int i = 0; i < count; i++) sum += (double)Numbers.Float(a[from + i]) * Numbers.Float(b[at + i]);
            return sum;
        }
    }
}
