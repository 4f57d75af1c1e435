using MimEngine.Kernels.Ptx;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>The emitted attention kernels, run on a model of the machine against attention in float64.</summary>
[TestFixture]
public class FlashTests
{
    private const int Images = 2, Heads = 2;
    private static readonly FlashTiling[] s_tilings = [new(64, 4, 64), new(64, 2, 32), new(32, 4, 64), new(128, 4, 32)];

    [Test]
    public void Attention_and_its_gradients_are_those_of_the_definition([ValueSource(nameof(s_tilings))] object tiling, [Values(37, 70)] int tokens,
        [Values] bool hasBias, [Values] bool backwards)
    {
        var t = (FlashTiling)tiling;
        int width = t.Width, columns = Heads * width;
        float scale = 2f / MathF.Sqrt(width);
        ushort[] qkv = Numbers.Halves(Images * tokens * 3 * columns, 1), dy = Numbers.Halves(Images * tokens * columns, 2);
        float[] bias = Numbers.Floats(Heads * tokens * tokens, 3);
        var right = new Definition(qkv, dy, hasBias ? bias : null, tokens, width, scale);
        var machine = new PtxMachine();
        ulong y = machine.Add(new ushort[dy.Length]), lse = machine.Add(new float[Images * Heads * tokens]), x = machine.Add(qkv), up = machine.Add(dy),
            delta = machine.Add(Array.ConvertAll(right.Delta, v => (float)v)), d = machine.Add(new ushort[qkv.Length]);
        ulong scaleBits = BitConverter.SingleToUInt32Bits(scale);
        ulong[] more = hasBias ? [machine.Add(bias)] : [];
        int groups = Images * Heads * ((tokens + t.Own - 1) / t.Own);
        machine.Run(FlashForward.Write("forward", t, hasBias), groups, 1, backwards, [y, lse, x, (ulong)tokens, Heads, scaleBits, .. more]);
        foreach (bool ofQueries in new[] { true, false })
            machine.Run(FlashBackward.Write("backward", t, hasBias, ofQueries), groups, 1, backwards, [d, x, up, lse, delta, (ulong)tokens, Heads, scaleBits, .. more]);
        if (hasBias)
            foreach (int slices in new[] { 1, Images })
            {
                ulong partial = machine.Add(new float[slices * bias.Length]);
                machine.Run(FlashBias.Write("bias", t), Heads * ((tokens + t.Own - 1) / t.Own) * ((tokens + t.Block - 1) / t.Block), slices, backwards,
                    [partial, x, up, lse, delta, .. more, (ulong)tokens, Heads, Images, (ulong)(Images / slices), scaleBits]);
                float[] made = machine.Read<float>(partial);
                double[] total = [.. Enumerable.Range(0, bias.Length).Select(i => Enumerable.Range(0, slices).Sum(s => (double)made[s * bias.Length + i]))];
                Assert.That(Norm(total.Zip(right.BiasGradient, (a, b) => a - b)), Is.LessThan(1e-5 * Norm(right.BiasGradient)), $"{slices} slices");
            }
        Assert.That(Error(machine.Read<ushort>(y), right.Y), Is.LessThan(4e-3));
        Assert.That(Error(machine.Read<ushort>(d), right.Gradient), Is.LessThan(4e-3));
        float[] sums = machine.Read<float>(lse);
        for (int i = 0; i < sums.Length; i++) Assert.That(sums[i], Is.EqualTo(right.Lse[i]).Within(1e-5));
    }

    private static double Norm(IEnumerable<double> values) => Math.Sqrt(values.Sum(v => v * v));

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
        public readonly double[] Y, Lse, Delta, Gradient, BiasGradient;

        public Definition(ushort[] qkv, ushort[] dy, float[]? bias, int tokens, int width, float scale)
        {
            int columns = Heads * width;
            (Y, Lse, Delta, Gradient) = (new double[dy.Length], new double[Images * Heads * tokens], new double[Images * Heads * tokens], new double[qkv.Length]);
            BiasGradient = new double[Heads * tokens * tokens];
            for (int image = 0; image < Images; image++)
                for (int h = 0; h < Heads; h++)
                    for (int i = 0; i < tokens; i++) Row(image, h, i);

            void Row(int image, int h, int i)
            {
                int At(int token, int part) => (image * tokens + token) * 3 * columns + part * columns + h * width;
                int row = (image * Heads + h) * tokens + i, to = (image * tokens + i) * columns + h * width;
                double[] p = [.. Enumerable.Range(0, tokens).Select(j => scale * Dot(qkv, At(i, 0), qkv, At(j, 1), width) + (bias?[(h * tokens + i) * tokens + j] ?? 0))];
                double max = p.Max();
                Lse[row] = max + Math.Log(p.Sum(s => Math.Exp(s - max)));
                for (int j = 0; j < tokens; j++)
                {
                    p[j] = Math.Exp(p[j] - Lse[row]);
                    for (int c = 0; c < width; c++) Y[to + c] += p[j] * Numbers.Float(qkv[At(j, 2) + c]);
                }
                Delta[row] = Enumerable.Range(0, width).Sum(c => Y[to + c] * Numbers.Float(dy[to + c]));
                for (int j = 0; j < tokens; j++)
                {
                    double ds = p[j] * (Dot(dy, to, qkv, At(j, 2), width) - Delta[row]);
                    BiasGradient[(h * tokens + i) * tokens + j] += ds;
                    for (int c = 0; c < width; c++)
                    {
                        Gradient[At(i, 0) + c] += scale * ds * Numbers.Float(qkv[At(j, 1) + c]);
                        Gradient[At(j, 1) + c] += scale * ds * Numbers.Float(qkv[At(i, 0) + c]);
                        Gradient[At(j, 2) + c] += p[j] * Numbers.Float(dy[to + c]);
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
