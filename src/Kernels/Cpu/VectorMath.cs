using System.Runtime.CompilerServices;

namespace MimEngine.Kernels.Cpu;

/// <summary>
/// Elementary functions over any width of vector. Coefficients are our own minimax fits (weighted, in 30 digits); every bound below
/// was measured over the range against float64. All lanes are independent, so a value does not depend on where it lies in a row.
/// </summary>
internal static class VectorMath
{
    private const float LargestExponent = 88.72284f;     // e^x overflows float32 above
    private const float SmallestExponent = -87.33654f;   // e^x is subnormal below; given as 0
    private const float Log2E = 1.44269504f;
    private const float Ln2Short = 0.693359375f;         // 10 bits, so that n·Ln2Short is exact without FMA too
    private const float Ln2Rest = -2.12194440e-4f;

    /// <summary>e^x, relative error below 2e-7 (6e-6 above 88.37); 0 below −87.33, ∞ above 88.72, NaN stays.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TV Exp<TV>(TV x) where TV : struct, ILanes<TV>
    {
        TV top = TV.All(LargestExponent), bottom = TV.All(SmallestExponent);
        TV e = ExpWithin(TV.Min(top, TV.Max(bottom, x)));   // a NaN passes: the second operand wins
        return TV.Where(x, top, TV.All(float.PositiveInfinity), TV.Where(bottom, x, TV.Zero, e));
    }

    /// <summary>e^x for x in [−87.33, 88.72] only; relative error as above.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TV ExpWithin<TV>(TV x) where TV : struct, ILanes<TV> => ExpAround(x, TV.Min(TV.All(127f), TV.Round(x * TV.All(Log2E))));

    /// <summary>e^x for x ≤ 0, relative error below 2e-7; 0 below −87.33, NaN stays. What a softmax takes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TV ExpDown<TV>(TV x) where TV : struct, ILanes<TV>
    {
        TV bottom = TV.All(SmallestExponent), y = TV.Max(bottom, x);
        return TV.Where(bottom, x, TV.Zero, ExpAround(y, TV.Round(y * TV.All(Log2E))));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TV ExpAround<TV>(TV x, TV n) where TV : struct, ILanes<TV>
    {
        // x = n·ln 2 + r with |r| ≤ ln 2 / 2; e^r = 1 + r + r²·P(r), P of degree 4: 8e-9 before rounding.
        TV r = TV.MulAdd(n, TV.All(-Ln2Rest), TV.MulAdd(n, TV.All(-Ln2Short), x));
        TV p = TV.MulAdd(TV.All(1.39261761e-3f), r, TV.All(8.36317307e-3f));
        p = TV.MulAdd(p, r, TV.All(4.16665547e-2f));
        p = TV.MulAdd(p, r, TV.All(1.66665770e-1f));
        p = TV.MulAdd(p, r, TV.All(0.5f));
        TV one = TV.All(1f);
        return TV.Scale(TV.MulAdd(p, r * r, r + one), n);
    }

    private const float Exp2Term1 = 0.693147182f, Exp2Term2 = 0.240223497f, Exp2Term3 = 5.55038117e-2f, Exp2Term4 = 9.66636837e-3f, Exp2Term5 = 1.33813021e-3f;

    /// <summary>The coefficients of <see cref="Exp2"/>'s polynomial, the highest first, for code that is not compiled from it.</summary>
    public static ReadOnlySpan<float> Exp2Terms => [Exp2Term5, Exp2Term4, Exp2Term3, Exp2Term2, Exp2Term1];

    /// <summary>2^x for x ≤ 126, relative error below 4e-7; below −126 anything from 0 to 2^−126. NaN stays.</summary>
    /// <remarks>Half the work of <see cref="Exp"/>: the softmax of attention counts its logits in units of ln 2.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TV Exp2<TV>(TV x) where TV : struct, ILanes<TV>
    {
        // x = n + f with |f| ≤ ½, exactly; 2^f = 1 + f·P(f), P of degree 4: 2e-7 before rounding.
        TV n = TV.Round(x), f = x - n;
        TV p = TV.MulAdd(TV.All(Exp2Term5), f, TV.All(Exp2Term4));
        p = TV.MulAdd(p, f, TV.All(Exp2Term3));
        p = TV.MulAdd(p, f, TV.All(Exp2Term2));
        p = TV.MulAdd(p, f, TV.All(Exp2Term1));
        return TV.Scale(TV.MulAdd(p, f, TV.All(1f)), n);
    }

    /// <summary>
    /// GELU(x) = x·Φ(x). Absolute error below 1.2e-7·max(1, |x|), on 16 lanes (<see cref="GeluPieces"/>) 6.5e-8; relative error below 2e-6 from −5 on.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TV Gelu<TV>(TV x) where TV : struct, ILanes<TV>
        => typeof(TV) == typeof(Lanes16) ? new GeluCurve<TV>().Of(x) : x * Normal(x, out _);

    /// <summary>GELU′(x) = Φ(x) + x·φ(x), φ(x) = exp(−x²/2)/√(2π). Absolute error below 3e-7, on 16 lanes 1.5e-7.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TV GeluSlope<TV>(TV x) where TV : struct, ILanes<TV>
    {
        if (typeof(TV) == typeof(Lanes16)) return new SlopeCurve<TV>().Of(x);
        TV cumulative = Normal(x, out TV gauss);
        return TV.MulAdd(x * TV.All(0.39894228f), gauss, cumulative);
    }

    private const float Bend = 0.42f;
    private const float Farthest = 13.2f;   // exp(−x²/2) is subnormal beyond

    /// <summary>
    /// Φ(x), and exp(−x²/2) on the way, of |x| ≤ 13.2 (what is farther counts as that). The upper tail is 1 − Φ(−x), so that neither side cancels.
    /// </summary>
    /// <remarks>Sums of products are split in halves: the time goes into waiting for the one before, not into the number of operations.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TV Normal<TV>(TV x, out TV gauss) where TV : struct, ILanes<TV>
    {
        TV one = TV.All(1f), a = TV.Min(TV.All(Farthest), TV.Abs(x));   // a NaN passes: the second operand wins
        TV t = TV.Reciprocal(TV.MulAdd(TV.All(Bend * 0.70710678f), a, one));
        // exp(−a²/2) = 2^(n + f), |f| ≤ ½; 2^f = 1 + f·P(f), P of degree 4: 9.2e-8 before rounding.
        TV square = a * a, half = TV.All(-0.72134752f), n = TV.Round(square * half), f = TV.MulAdd(square, half, TV.Zero - n), f2 = f * f;
        TV p = TV.MulAdd(TV.All(1.32647271e-3f), f, TV.All(9.67151264e-3f));
        p = TV.MulAdd(p, f2, TV.MulAdd(TV.All(5.55073374e-2f), f, TV.All(0.240222421f)));
        gauss = TV.Scale(TV.MulAdd(p, f2, TV.MulAdd(TV.All(0.693146978f), f, one)), n);
        TV tail = HalfScaledErfc(t) * (t * gauss);
        return TV.Where(x, TV.Zero, one - tail, tail);
    }

    /// <summary>
    /// ½·erfc(a/√2)·exp(a²/2)/t for a in [0, 13.2], t = 1/(1 + 0.297·a): a polynomial of degree 7, relative error 2.7e-7, 8 times less below 2.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TV HalfScaledErfc<TV>(TV t) where TV : struct, ILanes<TV>
    {
        TV t2 = t * t;
        TV high = TV.MulAdd(TV.All(0.0367435631f), t, TV.All(-0.166787177f));
        high = TV.MulAdd(high, t2, TV.MulAdd(TV.All(0.231553421f), t, TV.All(-0.0753061218f)));
        TV low = TV.MulAdd(TV.All(0.139510214f), t, TV.All(0.0958658649f));
        low = TV.MulAdd(low, t2, TV.MulAdd(TV.All(0.120022372f), t, TV.All(0.118397851f)));
        return TV.MulAdd(high, t2 * t2, low);
    }
}
