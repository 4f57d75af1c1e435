using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace MimEngine.Kernels.Cpu;

/// <summary>
/// GELU and its slope on 16 lanes by pieces: a·Φ(−a), or Φ(−a) − a·φ(a), of a = |x| on 32 pieces a quarter wide, each a polynomial in the distance from
/// its middle. A coefficient of all 32 is two registers, and one permutation of them looks 16 up: the work is spread over all four ports, where a
/// formula with an exponential and a reciprocal keeps the two that multiply busy three times as long.
/// </summary>
internal static unsafe class GeluPieces
{
    public const int Pieces = 32;
    public const int GeluTerms = 6, SlopeTerms = 5;
    public const float Width = 0.25f;

    /// <summary>The middle of the last piece, where both curves are given as 0, as they are from there on: a·Φ(−a) is 4e-14.</summary>
    public const float End = (Pieces - 1) * Width;

    /// <summary>Added to a number it leaves a multiple of <see cref="Width"/>, whose number of widths is in the lowest bits.</summary>
    public const float Rounder = 1.5f * (1 << 23) * Width;

    /// <summary>Coefficients of rising powers, 32 each, one piece after the other; then End, Rounder, 1 and the bits of a magnitude, for emitted code.</summary>
    public static readonly float* Gelu = Table(GeluTerms, a => a * Upper(a)), Slope = Table(SlopeTerms, a => Upper(a) - a * Density(a));

    /// <summary>
    /// Interpolates at Chebyshev's points in float64; the first piece begins and the last one ends in its middle, and where the curve is 0 there
    /// the polynomial is too.
    /// </summary>
    private static float* Table(int terms, Func<double, double> curve)
    {
        float* table = (float*)NativeMemory.AlignedAlloc((nuint)((terms * Pieces + 4) * sizeof(float)), 64);   // as long as the process runs
        for (int piece = 0; piece < Pieces; piece++)
        {
            double middle = piece * Width, low = piece == 0 ? 0 : -Width / 2, high = piece == Pieces - 1 ? 0 : Width / 2;
            int fixedTerms = piece == Pieces - 1 || curve(middle) == 0 ? 1 : 0, n = terms - fixedTerms;
            double[] at = new double[n], newton = new double[n], sum = new double[n + 1];
            for (int i = 0; i < n; i++)
            {
                at[i] = (low + high) / 2 + (high - low) / 2 * Math.Cos(Math.PI * (2 * i + 1) / (2 * n));
                newton[i] = curve(middle + at[i]) / (fixedTerms == 0 ? 1 : at[i]);
            }
            for (int order = 1; order < n; order++)
                for (int i = n - 1; i >= order; i--) newton[i] = (newton[i] - newton[i - 1]) / (at[i] - at[i - order]);
            for (int i = n - 1; i >= 0; i--)   // sum = sum·(u − at[i]) + newton[i]
            {
                for (int d = n - 1; d > 0; d--) sum[d] = sum[d - 1] - at[i] * sum[d];
                sum[0] = newton[i] - at[i] * sum[0];
            }
            for (int d = 0; d < terms; d++) table[d * Pieces + piece] = d < fixedTerms ? 0f : (float)sum[d - fixedTerms];
        }
        new Span<float>([End, Rounder, 1f, BitConverter.Int32BitsToSingle(int.MaxValue)]).CopyTo(new Span<float>(table + terms * Pieces, 4));
        return table;
    }

    private static double Density(double a) => Math.Exp(-a * a / 2) / Math.Sqrt(2 * Math.PI);

    /// <summary>Φ(−a) for a ≥ 0, to 1e-13: ½ less the series of the density's integral, and from 2 on its continued fraction.</summary>
    private static double Upper(double a)
    {
        double value = 0;
        if (a < 2)
        {
            double term = a;
            for (int n = 1; n < 60; n++, term *= a * a / (2 * n - 1)) value += term;
            return 0.5 - Density(a) * value;
        }
        for (int k = 200; k > 0; k--) value = k / (a + value);
        return Density(a) / (a + value);
    }

    /// <summary>|x| up to <see cref="End"/> as the number of a piece, in the lowest five bits, and the distance from its middle.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Place(Vector512<float> x, out Vector512<int> piece)
    {
        // The second operand wins where one is NaN.
        Vector512<float> a = Avx512F.Min(Vector512.Create(End), Vector512.Abs(x)), rounder = Vector512.Create(Rounder), n = a + rounder;
        piece = n.AsInt32();
        return a - (n - rounder);
    }
}

/// <summary>A curve whose table stays in registers over a loop.</summary>
internal readonly unsafe struct GeluCurve<TV> where TV : struct, ILanes<TV>
{
    private readonly Vector512<float> _a0, _b0, _a1, _b1, _a2, _b2, _a3, _b3, _a4, _b4, _a5, _b5;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public GeluCurve()
    {
        if (typeof(TV) != typeof(Lanes16)) return;
        float* t = GeluPieces.Gelu;
        (_a0, _b0, _a1, _b1) = (Vector512.Load(t), Vector512.Load(t + 16), Vector512.Load(t + 32), Vector512.Load(t + 48));
        (_a2, _b2, _a3, _b3) = (Vector512.Load(t + 64), Vector512.Load(t + 80), Vector512.Load(t + 96), Vector512.Load(t + 112));
        (_a4, _b4, _a5, _b5) = (Vector512.Load(t + 128), Vector512.Load(t + 144), Vector512.Load(t + 160), Vector512.Load(t + 176));
    }

    /// <summary>GELU(x) = x·Φ(x).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public TV Of(TV x)
    {
        if (typeof(TV) != typeof(Lanes16)) return VectorMath.Gelu(x);
        Vector512<float> v = Unsafe.BitCast<TV, Lanes16>(x).V, u = GeluPieces.Place(v, out Vector512<int> i);
        Vector512<float> p = Avx512F.PermuteVar16x32x2(_a5, i, _b5);
        p = Avx512F.FusedMultiplyAdd(p, u, Avx512F.PermuteVar16x32x2(_a4, i, _b4));
        p = Avx512F.FusedMultiplyAdd(p, u, Avx512F.PermuteVar16x32x2(_a3, i, _b3));
        p = Avx512F.FusedMultiplyAdd(p, u, Avx512F.PermuteVar16x32x2(_a2, i, _b2));
        p = Avx512F.FusedMultiplyAdd(p, u, Avx512F.PermuteVar16x32x2(_a1, i, _b1));
        p = Avx512F.FusedMultiplyAdd(p, u, Avx512F.PermuteVar16x32x2(_a0, i, _b0));
        return Unsafe.BitCast<Lanes16, TV>(new Lanes16(Avx512F.Max(Vector512<float>.Zero, v) - p));   // x·Φ(x) = max(0, x) − |x|·Φ(−|x|)
    }
}

/// <summary>A curve whose table stays in registers over a loop.</summary>
internal readonly unsafe struct SlopeCurve<TV> where TV : struct, ILanes<TV>
{
    private readonly Vector512<float> _a0, _b0, _a1, _b1, _a2, _b2, _a3, _b3, _a4, _b4;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public SlopeCurve()
    {
        if (typeof(TV) != typeof(Lanes16)) return;
        float* t = GeluPieces.Slope;
        (_a0, _b0, _a1, _b1) = (Vector512.Load(t), Vector512.Load(t + 16), Vector512.Load(t + 32), Vector512.Load(t + 48));
        (_a2, _b2, _a3, _b3) = (Vector512.Load(t + 64), Vector512.Load(t + 80), Vector512.Load(t + 96), Vector512.Load(t + 112));
        (_a4, _b4) = (Vector512.Load(t + 128), Vector512.Load(t + 144));
    }

    /// <summary>GELU′(x) = Φ(x) + x·φ(x).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public TV Of(TV x)
    {
        if (typeof(TV) != typeof(Lanes16)) return VectorMath.GeluSlope(x);
        Vector512<float> v = Unsafe.BitCast<TV, Lanes16>(x).V, u = GeluPieces.Place(v, out Vector512<int> i);
        Vector512<float> p = Avx512F.PermuteVar16x32x2(_a4, i, _b4);
        p = Avx512F.FusedMultiplyAdd(p, u, Avx512F.PermuteVar16x32x2(_a3, i, _b3));
        p = Avx512F.FusedMultiplyAdd(p, u, Avx512F.PermuteVar16x32x2(_a2, i, _b2));
        p = Avx512F.FusedMultiplyAdd(p, u, Avx512F.PermuteVar16x32x2(_a1, i, _b1));
        p = Avx512F.FusedMultiplyAdd(p, u, Avx512F.PermuteVar16x32x2(_a0, i, _b0));
        // 1 less the same of −x above 0
        Vector512<float> above = Avx512F.CompareGreaterThan(v, Vector512<float>.Zero);
        return Unsafe.BitCast<Lanes16, TV>(new Lanes16(Avx512F.BlendVariable(p, Vector512<float>.One - p, above)));
    }
}
