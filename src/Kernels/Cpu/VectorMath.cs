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

    /// <summary>e^x for x in [−87.33, 88.72] only; relative error as above. For x ≤ 0 from a softmax, clamp below and use this.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TV ExpWithin<TV>(TV x) where TV : struct, ILanes<TV>
    {
        // x = n·ln 2 + r with |r| ≤ ln 2 / 2; e^r = 1 + r + r²·P(r), P of degree 4: 8e-9 before rounding.
        TV n = TV.Min(TV.All(127f), TV.Round(x * TV.All(Log2E)));
        TV r = TV.MulAdd(n, TV.All(-Ln2Rest), TV.MulAdd(n, TV.All(-Ln2Short), x));
        TV p = TV.MulAdd(TV.All(1.39261761e-3f), r, TV.All(8.36317307e-3f));
        p = TV.MulAdd(p, r, TV.All(4.16665547e-2f));
        p = TV.MulAdd(p, r, TV.All(1.66665770e-1f));
        p = TV.MulAdd(p, r, TV.All(0.5f));
        TV one = TV.All(1f);
        return TV.Scale(TV.MulAdd(p, r * r, r + one), n);
    }

    /// <summary>2^x for x ≤ 126, relative error below 4e-7; below −126 anything from 0 to 2^−126. NaN stays.</summary>
    /// <remarks>Half the work of <see cref="Exp"/>: the softmax of attention counts its logits in units of ln 2.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TV Exp2<TV>(TV x) where TV : struct, ILanes<TV>
    {
        // x = n + f with |f| ≤ ½, exactly; 2^f = 1 + f·P(f), P of degree 4: 2e-7 before rounding.
        TV n = TV.Round(x), f = x - n;
        TV p = TV.MulAdd(TV.All(1.33813021e-3f), f, TV.All(9.66636837e-3f));
        p = TV.MulAdd(p, f, TV.All(5.55038117e-2f));
        p = TV.MulAdd(p, f, TV.All(0.240223497f));
        p = TV.MulAdd(p, f, TV.All(0.693147182f));
        return TV.Scale(TV.MulAdd(p, f, TV.All(1f)), n);
    }

    /// <summary>GELU(x) = x·Φ(x). Absolute error below 1.2e-7·max(1, |x|); relative error below 3e-6 in the negative tail.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TV Gelu<TV>(TV x) where TV : struct, ILanes<TV> => x * Normal(x, out _);

    /// <summary>GELU′(x) = Φ(x) + x·φ(x), φ(x) = exp(−x²/2)/√(2π). Absolute error below 3e-7.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TV GeluSlope<TV>(TV x) where TV : struct, ILanes<TV>
    {
        TV cumulative = Normal(x, out TV gauss);
        return TV.MulAdd(x * TV.All(0.39894228f), gauss, cumulative);
    }

    private const float Bend = 0.42f;

    /// <summary>Φ(x), and exp(−x²/2) on the way. The upper tail is 1 − Φ(−x), so that neither side cancels.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TV Normal<TV>(TV x, out TV gauss) where TV : struct, ILanes<TV>
    {
        TV one = TV.All(1f);
        gauss = ExpWithin(TV.Max(TV.All(-87f), x * x * TV.All(-0.5f)));
        TV t = TV.Reciprocal(TV.MulAdd(TV.All(Bend * 0.70710678f), TV.Abs(x), one));
        TV tail = HalfScaledErfc(t) * gauss;
        return TV.Where(x, TV.Zero, one - tail, tail);
    }

    /// <summary>½·erfc(a)·exp(a²) for a ≥ 0, from t = 1/(1 + 0.42·a): t·P(t), P of degree 7; 2.4e-9·exp(a²), 5e-7 relative at
    /// most.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TV HalfScaledErfc<TV>(TV t) where TV : struct, ILanes<TV>
    {
        TV p = TV.MulAdd(TV.All(0.5f * 0.06784844127f), t, TV.All(0.5f * -0.3064115787f));
        p = TV.MulAdd(p, t, TV.All(0.5f * 0.4085604283f));
        p = TV.MulAdd(p, t, TV.All(0.5f * -0.09170205599f));
        p = TV.MulAdd(p, t, TV.All(0.5f * 0.2422947999f));
        p = TV.MulAdd(p, t, TV.All(0.5f * 0.2048395457f));
        p = TV.MulAdd(p, t, TV.All(0.5f * 0.2375913474f));
        p = TV.MulAdd(p, t, TV.All(0.5f * 0.2369790767f));
        return p * t;
    }
}
