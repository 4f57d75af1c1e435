using MimEngine.Kernels;

namespace MimEngine.Engine.Data;

/// <summary>
/// Random erasing (Zhong et al. 2020) in timm's mode "pixel": a rectangle of 2 to 33 % of a normalised crop, aspect 0.3 to 3.3, becomes normal
/// noise, another number for every pixel and channel (SPEC C.4).
/// </summary>
public static class PixelErasing
{
    private const int Tries = 10;

    /// <summary>Erases with a probability; a rectangle that ten draws did not fit is left out.</summary>
    /// <param name="picture">(3, S, S) float32, normalised.</param>
    public static void Apply(Span<float> picture, int size, float probability, ref RngSequence random)
    {
        if (random.Uniform() >= probability || Box(size, ref random) is not { Right: > 0 } box) return;
        for (int c = 0; c < 3; c++)
            for (int y = box.Top; y < box.Bottom; y++)
                foreach (ref float v in picture.Slice((c * size + y) * size + box.Left, box.Right - box.Left)) v = (float)random.Normal();
    }

    /// <summary>The rectangle: area uniform, log aspect (height to width) uniform, both sides below S; empty after ten tries.</summary>
    internal static MixBox Box(int size, ref RngSequence random)
    {
        double low = Math.Log(0.3);
        for (int i = 0; i < Tries; i++)
        {
            double area = (0.02 + (1.0 / 3 - 0.02) * random.UniformDouble()) * size * size, aspect = Math.Exp(low - 2 * low * random.UniformDouble());
            int height = (int)Math.Round(Math.Sqrt(area * aspect)), width = (int)Math.Round(Math.Sqrt(area / aspect));
            if (height >= size || width >= size) continue;
            int top = random.Below(size - height + 1), left = random.Below(size - width + 1);
            return new MixBox(top, top + height, left, left + width);
        }
        return default;
    }
}
