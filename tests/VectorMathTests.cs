using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>The bounds that VectorMath's docstrings state, over dense grids, at every width this machine has.</summary>
[TestFixture]
public unsafe class VectorMathTests
{
    private static IEnumerable<SimdLevel> Levels => Enum.GetValues<SimdLevel>().Where(l => l <= Simd.Best);

    private interface IFunction { static abstract TV Of<TV>(TV x) where TV : struct, ILanes<TV>; }
    private struct Exp : IFunction { public static TV Of<TV>(TV x) where TV : struct, ILanes<TV> => VectorMath.Exp(x); }
    private struct ExpDown : IFunction { public static TV Of<TV>(TV x) where TV : struct, ILanes<TV> => VectorMath.ExpDown(x); }
    private struct Gelu : IFunction { public static TV Of<TV>(TV x) where TV : struct, ILanes<TV> => VectorMath.Gelu(x); }
    private struct Slope : IFunction { public static TV Of<TV>(TV x) where TV : struct, ILanes<TV> => VectorMath.GeluSlope(x); }

    private static float[] Apply<TF>(SimdLevel level, float[] x) where TF : struct, IFunction
    {
        float[] y = new float[x.Length];
        fixed (float* py = y, px = x)
        {
            if (level == SimdLevel.Vector512) Run<TF, Lanes16>(py, px, x.Length);
            else if (level == SimdLevel.Vector256) Run<TF, Lanes8>(py, px, x.Length);
            else Run<TF, Lanes1>(py, px, x.Length);
        }
        return y;
    }

    private static void Run<TF, TV>(float* y, float* x, int n) where TF : struct, IFunction where TV : struct, ILanes<TV>
    {
        int i = 0;
        for (; i <= n - TV.Count; i += TV.Count) TF.Of(TV.Load(x + i)).Store(y + i);
        if (i < n) TF.Of(TV.LoadFirst(x + i, n - i)).StoreFirst(y + i, n - i);
    }

    private static float[] Grid(double from, double to, int n)
        => [.. Enumerable.Range(0, n).Select(i => (float)(from + (to - from) * i / (n - 1)))];

    /// <summary>erfc in float64: series below 2.5, continued fraction above; an algorithm of its own, good to 1e-14.</summary>
    private static double Erfc(double x)
    {
        if (x < 0) return 2 - Erfc(-x);
        if (x < 2.5)
        {
            double term = x, sum = x;
            for (int n = 1; n < 200; n++)
            {
                term *= -x * x / n;
                sum += term / (2 * n + 1);
            }
            return 1 - 2 / Math.Sqrt(Math.PI) * sum;
        }
        double f = 0;
        for (int k = 200; k > 0; k--) f = k / 2.0 / (x + f);
        return Math.Exp(-x * x) / Math.Sqrt(Math.PI) / (x + f);
    }

    private static double Normal(double x) => 0.5 * Erfc(-x / Math.Sqrt(2));

    [TestCaseSource(nameof(Levels))]
    public void Exp_is_within_2e_7(SimdLevel level)
    {
        float[] x = Grid(-87.3, 88.37, 200_003);
        float[] y = Apply<Exp>(level, x);
        double worst = x.Zip(y, (a, b) => Math.Abs(b / Math.Exp(a) - 1)).Max();
        Assert.That(worst, Is.LessThan(2e-7));
        x = Grid(88.37, 88.722, 2_003);
        worst = x.Zip(Apply<Exp>(level, x), (a, b) => Math.Abs(b / Math.Exp(a) - 1)).Max();
        Assert.That(worst, Is.LessThan(6e-6));
    }

    [TestCaseSource(nameof(Levels))]
    public void Exp_of_the_ends_is_zero_infinity_and_NaN(SimdLevel level)
        => Assert.That(Apply<Exp>(level, [float.NegativeInfinity, -200, -88, 0, 89, 1e30f, float.PositiveInfinity, float.NaN]),
            Is.EqualTo(new[] { 0, 0, 0, 1, float.PositiveInfinity, float.PositiveInfinity, float.PositiveInfinity, float.NaN }));

    [TestCaseSource(nameof(Levels))]
    public void Exp_of_what_is_not_positive_is_within_2e_7(SimdLevel level)
    {
        float[] x = Grid(-87.3, 0, 200_003);
        Assert.That(x.Zip(Apply<ExpDown>(level, x), (a, b) => Math.Abs(b / Math.Exp(a) - 1)).Max(), Is.LessThan(2e-7));
        Assert.That(Apply<ExpDown>(level, [float.NegativeInfinity, -200, -88, 0, float.NaN]), Is.EqualTo(new[] { 0, 0, 0, 1, float.NaN }));
    }

    [TestCaseSource(nameof(Levels))]
    public void Gelu_is_within_its_bounds(SimdLevel level)
    {
        float[] x = Grid(-12, 12, 200_003);
        float[] y = Apply<Gelu>(level, x);
        Assert.That(x.Zip(y, (a, b) => Math.Abs(b - a * Normal(a)) / Math.Max(1, Math.Abs(a))).Max(),
            Is.LessThan(level == SimdLevel.Vector512 ? 6.5e-8 : 1.2e-7));
        Assert.That(x.Zip(y).Where(p => p.First is < 0 and > -5).Max(p => Math.Abs(p.Second / (p.First * Normal(p.First)) - 1)),
            Is.LessThan(2e-6));
        Assert.That(Apply<Gelu>(level, [float.PositiveInfinity, float.NaN, 0f]), Is.EqualTo(new[] { float.PositiveInfinity, float.NaN, 0f }));
    }

    [TestCaseSource(nameof(Levels))]
    public void Tanh_is_within_3e_7(SimdLevel level)
    {
        float[] x = Grid(-12, 12, 200_003);
        using CpuBackend cpu = new(1, level);
        using Storage from = cpu.Allocate(x.Length * sizeof(float)), to = cpu.Allocate(x.Length * sizeof(float));
        Tensor input = new(from, 0, new Shape(x.Length), DType.F32), output = input with { Storage = to };
        x.CopyTo(input.Host<float>());
        cpu.ActivateForward(output, input, Activation.Tanh);
        float[] y = output.Host<float>().ToArray();
        Assert.That(x.Zip(y).Where(p => p.First != 0).Max(p => Math.Abs(p.Second / Math.Tanh(p.First) - 1)), Is.LessThan(3e-7));
    }

    [TestCaseSource(nameof(Levels))]
    public void Gelu_slope_is_within_3e_7(SimdLevel level)
    {
        float[] x = Grid(-12, 12, 200_003);
        double worst = x.Zip(Apply<Slope>(level, x),
            (a, b) => Math.Abs(b - (Normal(a) + a * Math.Exp(-0.5 * (double)a * a) / Math.Sqrt(2 * Math.PI)))).Max();
        Assert.That(worst, Is.LessThan(level == SimdLevel.Vector512 ? 1.5e-7 : 3e-7));
    }

    [Test]
    public void Far_out_the_pieces_of_16_lanes_are_0_and_what_came_in()
    {
        if (Simd.Best != SimdLevel.Vector512) Assert.Ignore("This machine has no vectors of 16 lanes.");
        float[] far = [float.NegativeInfinity, float.MinValue, -1e4f, -7.75f, 7.75f, 1e4f, float.MaxValue, float.PositiveInfinity, float.NaN];
        Assert.That(Apply<Gelu>(SimdLevel.Vector512, far), Is.EqualTo(Array.ConvertAll(far, x => x < 0 ? 0 : x)));
        Assert.That(Apply<Slope>(SimdLevel.Vector512, far), Is.EqualTo(Array.ConvertAll(far, x => float.IsNaN(x) ? x : x < 0 ? 0 : 1)));
    }
}
