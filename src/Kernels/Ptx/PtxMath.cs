namespace MimEngine.Kernels.Ptx;

/// <summary>Elementary functions in float32. The hardware's ex2 and rcp are good to 2 units in the last place, far inside bfloat16.</summary>
internal static class PtxMath
{
    /// <summary>log2 e.</summary>
    public const float Log2E = 1.44269504f;

    public static string Exp2(PtxText t, string x) => t.Float("ex2.approx.ftz.f32", x);

    /// <summary>x·Φ(x).</summary>
    public static string Gelu(PtxText t, string x) => t.Float("mul.f32", x, Normal(t, x, Gauss(t, x)));

    /// <summary>Φ(x) + x·φ(x).</summary>
    public static string GeluSlope(PtxText t, string x)
    {
        string gauss = Gauss(t, x);
        return t.Float("fma.rn.f32", t.Float("mul.f32", x, 0.39894228f), gauss, Normal(t, x, gauss));
    }

    /// <summary>exp(−x²/2).</summary>
    private static string Gauss(PtxText t, string x) => Exp2(t, t.Float("mul.f32", t.Float("mul.f32", x, x), -0.5f * Log2E));

    /// <summary>Φ(x) from exp(−x²/2), with the coefficients of the other backends.</summary>
    private static string Normal(PtxText t, string x, string gauss)
    {
        ReadOnlySpan<float> terms = [0.5f * -0.3064115787f, 0.5f * 0.4085604283f, 0.5f * -0.09170205599f, 0.5f * 0.2422947999f,
            0.5f * 0.2048395457f, 0.5f * 0.2375913474f, 0.5f * 0.2369790767f];
        string s = t.Float("rcp.approx.ftz.f32", t.Float("fma.rn.f32", t.Float("abs.f32", x), 0.42f * 0.70710678f, 1f));
        string p = t.Float("mov.f32", 0.5f * 0.06784844127f);
        foreach (float term in terms) p = t.Float("fma.rn.f32", p, s, term);
        string tail = t.Float("mul.f32", t.Float("mul.f32", p, s), gauss);
        return t.Float("selp.f32", t.Float("sub.f32", 1f, tail), tail, t.Test("setp.gt.f32", x, 0f));
    }
}
