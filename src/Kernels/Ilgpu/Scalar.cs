using ILGPU;

namespace MimEngine.Kernels.Ilgpu;

/// <summary>
/// Elementary functions in float32 additions and products only. ILGPU's own become approximations or calls that differ from device to
/// device; these give the accuracy of the CPU's everywhere. Coefficients are those of <c>Cpu.VectorMath</c>, with its bounds.
/// </summary>
internal static class Scalar
{
    private const float Largest = 88.72284f, Smallest = -87.33654f;

    /// <summary>The larger one; a NaN on the right is passed over.</summary>
    public static float Larger(float a, float b) => b > a ? b : a;

    /// <summary>bfloat16 bits: nearest, ties to even; NaN stays NaN.</summary>
    public static ushort Half(float v)
    {
        uint u = Interop.FloatAsInt(v), rounded = u + 0x7FFF + ((u >> 16) & 1);
        if ((u & 0x7FFF_FFFF) > 0x7F80_0000) rounded = u | 0x0040_0000;
        return (ushort)(rounded >> 16);
    }

    /// <summary>e^x, relative error below 4e-7; 0 below −87.33, ∞ above 88.72, NaN stays.</summary>
    public static float Exp(float x)
    {
        if (x > Largest) return float.PositiveInfinity;
        if (x < Smallest) return 0f;
        // Adding 1.5·2^23 rounds to the nearest whole number and leaves it in the low bits.
        float shifted = x * 1.44269504f + 12582912f;
        float n = shifted - 12582912f;
        int power = (int)(Interop.FloatAsInt(shifted) - 0x4B400000u);
        float r = x - n * 0.693359375f + n * 2.12194440e-4f;
        float p = 1.39261761e-3f * r + 8.36317307e-3f;
        p = p * r + 4.16665547e-2f;
        p = p * r + 1.66665770e-1f;
        p = p * r + 0.5f;
        float e = p * (r * r) + (r + 1f);
        // 2^power in two factors: 2^128 is no float, and e below 1 may need it.
        int half = power >> 1;
        return e * PowerOfTwo(half) * PowerOfTwo(power - half);
    }

    /// <summary>ln x for normal positive x, error below 2e-7·max(1, |ln x|).</summary>
    public static float Log(float x)
    {
        uint bits = Interop.FloatAsInt(x);
        int power = (int)(bits >> 23) - 127;
        float m = Interop.IntAsFloat((bits & 0x007FFFFFu) | 0x3F800000u);
        if (m > 1.41421356f)
        {
            m *= 0.5f;
            power += 1;
        }
        // ln m = 2·artanh(s), s = (m − 1)/(m + 1), |s| ≤ 0.1716: five terms leave 3e-10.
        float s = (m - 1f) / (m + 1f), z = s * s;
        float series = 0.111111111f * z + 0.142857143f;
        series = series * z + 0.2f;
        series = series * z + 0.333333333f;
        series = series * z + 1f;
        return power * 0.693359375f + (2f * s * series - power * 2.12194440e-4f);
    }

    /// <summary>tanh x, relative error below 4e-7: its series near 0, where the quotient would cancel.</summary>
    public static float Tanh(float x)
    {
        float a = x < 0f ? -x : x, z = x * x;
        if (a < 0.3f)
        {
            float p = 0.0218694885f * z - 0.0539682540f;
            p = p * z + 0.133333333f;
            p = p * z - 0.333333333f;
            return x + x * z * p;
        }
        float e = Exp(-2f * a), t = (1f - e) / (1f + e);
        return x < 0f ? -t : t;
    }

    /// <summary>GELU(x) = x·Φ(x).</summary>
    public static float Gelu(float x) => x * Normal(x, Gauss(x));

    /// <summary>GELU′(x) = Φ(x) + x·φ(x).</summary>
    public static float GeluSlope(float x)
    {
        float gauss = Gauss(x);
        return x * 0.39894228f * gauss + Normal(x, gauss);
    }

    private static float PowerOfTwo(int n) => Interop.IntAsFloat((uint)(n + 127) << 23);

    private static float Gauss(float x)
    {
        float half = x * x * -0.5f;
        return Exp(half < -87f ? -87f : half);
    }

    /// <summary>Φ(x) from exp(−x²/2). The upper tail is 1 − Φ(−x), so that neither side cancels.</summary>
    private static float Normal(float x, float gauss)
    {
        float t = 1f / (0.42f * 0.70710678f * (x < 0f ? -x : x) + 1f);
        float p = 0.5f * 0.06784844127f * t + 0.5f * -0.3064115787f;
        p = p * t + 0.5f * 0.4085604283f;
        p = p * t + 0.5f * -0.09170205599f;
        p = p * t + 0.5f * 0.2422947999f;
        p = p * t + 0.5f * 0.2048395457f;
        p = p * t + 0.5f * 0.2375913474f;
        p = p * t + 0.5f * 0.2369790767f;
        float tail = p * t * gauss;
        return x > 0f ? 1f - tail : tail;
    }
}
