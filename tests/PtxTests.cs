using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using MimEngine.Kernels.Ptx;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>The emitted tensor-core kernels, run on a model of the machine against products in float64.</summary>
[TestFixture]
public class PtxTests
{
    private static readonly GemmTiling[] s_tilings = [new(128, 128, 64, 64, 64, 3, 2), new(128, 128, 64, 32, 32, 3, 1), new(128, 256, 64, 64, 32, 4, 1)];
    private static readonly WgmmaTiling[] s_warpgroups = [new(2, 256, 4, 1), new(2, 128, 3, 2), new(2, 192, 4, 1)];
    private static readonly (bool A, bool B)[] s_layouts = [(true, true), (true, false), (false, false)];

    [Test]
    public void Products_of_every_layout_and_tiling_are_products([ValueSource(nameof(s_tilings))] object tiling, [Values] bool backwards)
    {
        var t = (GemmTiling)tiling;
        foreach ((bool a, bool b) in s_layouts)
            foreach ((int m, int n, int k, int slices) in new[] { (136, 264, 72, 1), (128, 128, 64, 1), (72, 136, 200, 2) })
                CheckProduct(GemmMma.Write("gemm", a, b, t, new StoreFloat()), t.BlockRows, t.BlockCols, t.Depth, 0, 0, a, b, (m, n, k, slices), backwards);
    }

    [Test]
    public void Products_of_warpgroups_are_products([ValueSource(nameof(s_warpgroups))] object tiling, [Values] bool backwards)
    {
        var t = (WgmmaTiling)tiling;
        foreach ((bool a, bool b) in s_layouts)
            foreach ((int m, int n, int k, int slices) in new[] { (136, 264, 72, 1), (128, 256, 64, 1), (72, 136, 456, 2) })
                CheckProduct(GemmWgmma.Write("gemm", a, b, t, new StoreFloat()), t.Rows, t.Cols, WgmmaTiling.Depth, GemmWgmma.BoxLines(a, t.Rows),
                    GemmWgmma.BoxLines(b, t.Cols), a, b, (m, n, k, slices), backwards);
    }

    private static void CheckProduct(PtxKernel kernel, int blockRows, int blockCols, int depthStep, int boxA, int boxB, bool aAlongDepth, bool bAlongDepth,
        (int M, int N, int K, int Slices) size, bool backwards)
    {
        (int m, int n, int k, int slices) = size;
        var machine = new PtxMachine();
        ushort[] a = Numbers.Halves(m * k, 1), b = Numbers.Halves(n * k, 2);
        float[] bias = Numbers.Floats(n, 3), residual = Numbers.Floats(m * n * slices, 4), gamma = Numbers.Floats(n, 5), scale = Numbers.Floats((m + 7) / 8, 6);
        ulong at = machine.Add(a), from = machine.Add(b), y = machine.Add(Enumerable.Repeat(float.NaN, m * n * slices).ToArray());
        if (boxA > 0) at = machine.AddMap(at, aAlongDepth ? m : k, aAlongDepth ? k : m, boxA);
        if (boxB > 0) from = machine.AddMap(from, bAlongDepth ? n : k, bAlongDepth ? k : n, boxB);
        int part = (k / slices + depthStep - 1) / depthStep * depthStep;
        bool plain = slices > 1;
        machine.Run(kernel, (m + blockRows - 1) / blockRows * ((n + blockCols - 1) / blockCols), slices, backwards, at, from, (ulong)m, (ulong)n, (ulong)k,
            (ulong)part, y, plain ? 0 : machine.Add(bias), plain ? 0 : machine.Add(residual), plain ? 0 : machine.Add(gamma), plain ? 0 : machine.Add(scale), plain ? 0 : 8u);
        float[] got = machine.Read<float>(y);
        double difference = 0, norm = 0;
        for (int i = 0; i < m; i++)
            for (int j = 0; j < n; j++)
            {
                double sum = 0, made = 0;
                for (int d = 0; d < k; d++) sum += (double)Numbers.Float(a[aAlongDepth ? i * k + d : d * m + i]) * Numbers.Float(b[bAlongDepth ? j * k + d : d * n + j]);
                for (int s = 0; s < slices; s++) made += got[(s * m + i) * n + j];
                if (!plain) sum = residual[i * n + j] + (double)scale[i / 8] * gamma[j] * (sum + bias[j]);
                difference += (made - sum) * (made - sum);
                norm += sum * sum;
            }
        Assert.That(Math.Sqrt(difference / norm), Is.LessThan(1e-6), $"{kernel.Name} {aAlongDepth} {bAlongDepth} {size}");
    }

    [Test]
    public void Half_results_and_gelu_are_those_of_the_sums([Values("half", "more", "gelu", "slope")] string ending, [Values(72, 136, 200)] int n)
    {
        const int m = 40, k = 72;
        var tiling = new GemmTiling(128, 128, 64, 64, 32, 3, 1);
        bool gelu = ending == "gelu", slope = ending == "slope", more = ending == "more";
        PtxKernel kernel = GemmMma.Write("gemm", true, true, tiling, gelu ? new StoreGelu() : slope ? new StoreSlope() : new StoreHalf());
        var machine = new PtxMachine();
        ushort[] a = Numbers.Halves(m * k, 1), b = Numbers.Halves(n * k, 2), old = Numbers.Halves(m * n, 3), h = Numbers.Halves(m * n, 5);
        float[] bias = Numbers.Floats(n, 4);
        ulong y = machine.Add(old), kept = machine.Add(slope ? h : new ushort[m * n]);
        ulong[] own = gelu ? [y, kept, machine.Add(bias)] : slope ? [y, kept] : [y, machine.Add(bias), more ? 1ul : 0ul];
        machine.Run(kernel, (n + 127) / 128, 1, false, [machine.Add(a), machine.Add(b), m, (ulong)n, k, 96, .. own]);
        float[] made = Array.ConvertAll(machine.Read<ushort>(y), Numbers.Float), inner = Array.ConvertAll(machine.Read<ushort>(kept), Numbers.Float);
        for (int i = 0; i < m; i++)
            for (int j = 0; j < n; j++)
            {
                double sum = slope ? 0 : bias[j];
                for (int d = 0; d < k; d++) sum += (double)Numbers.Float(a[i * k + d]) * Numbers.Float(b[j * k + d]);
                double x = slope ? Numbers.Float(h[i * n + j]) : sum, upTo = 0.5 * (1 + OracleBackend.Erf(x / Math.Sqrt(2)));
                double expected = gelu ? sum * upTo : slope ? sum * (upTo + x * Math.Exp(-x * x / 2) / Math.Sqrt(2 * Math.PI)) : more ? sum + Numbers.Float(old[i * n + j]) : sum;
                Assert.That(made[i * n + j], Is.EqualTo(expected).Within(0.004 * Math.Abs(expected) + 1e-5), $"({i}, {j})");
                if (gelu) Assert.That(inner[i * n + j], Is.EqualTo(sum).Within(0.004 * Math.Abs(sum) + 1e-5), $"h at ({i}, {j})");
            }
    }
}
