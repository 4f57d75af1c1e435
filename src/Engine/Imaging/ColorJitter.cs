using MimEngine.Kernels;

namespace MimEngine.Engine.Imaging;

/// <summary>
/// One drawn change of colours, as torchvision's ColorJitter makes it of a Pillow picture: brightness, contrast, saturation and hue in a drawn
/// order. Blends are Pillow's, other + factor·(pixel − other), clipped and truncated to bytes; hue turns in 8-bit HSV (SPEC E.2).
/// </summary>
internal readonly record struct ColorJitter(float Brightness, float Contrast, float Saturation, float Hue, uint Order)
{
    private const int BrightnessStep = 0, ContrastStep = 1, SaturationStep = 2, HueStep = 3;

    /// <summary>Order of up to four steps, a byte each, the first lowest: 0 brightness, 1 contrast, 2 saturation, 3 hue, 255 none.</summary>
    public static uint OrderOf(ReadOnlySpan<int> steps)
    {
        uint order = 0xFFFFFFFF;
        for (int i = 0; i < steps.Length; i++) order = order & ~(0xFFu << 8 * i) | (uint)steps[i] << 8 * i;
        return order;
    }

    /// <summary>Draws the order, then factors from 1 ± strength (never below 0), then the turn of hue from ± its strength.</summary>
    /// <remarks>A step of strength 0 is left out, as in torchvision: even a turn by 0 rounds hue and saturation to bytes.</remarks>
    public static ColorJitter Draw(AugmentConfig config, ref RngSequence random)
    {
        Span<int> steps = [0, 1, 2, 3];
        random.Shuffle(steps);
        foreach (ref int step in steps)
            if ((step switch { BrightnessStep => config.Brightness, ContrastStep => config.Contrast, SaturationStep => config.Saturation, _ => config.Hue })
                == 0f) step = 0xFF;
        float brightness = Factor(config.Brightness, ref random), contrast = Factor(config.Contrast, ref random);
        float saturation = Factor(config.Saturation, ref random);
        return new ColorJitter(brightness, contrast, saturation, random.Uniform(-config.Hue, config.Hue), OrderOf(steps));
    }

    /// <param name="planar">(3, S, S), changed in place.</param>
    public void Apply(Span<byte> planar)
    {
        for (int i = 0; i < 4; i++)
        {
            switch ((Order >> 8 * i) & 0xFF)
            {
                case BrightnessStep: Towards(planar, 0, Brightness); break;
                case ContrastStep: Towards(planar, MeanLuma(planar), Contrast); break;
                case SaturationStep: Saturate(planar, Saturation); break;
                case HueStep: Turn(planar, Hue); break;
            }
        }
    }

    /// <summary>Every pixel becomes Pillow's luma, in all three channels.</summary>
    public static void Grayscale(Span<byte> planar)
    {
        int plane = planar.Length / 3;
        Span<byte> red = planar[..plane], green = planar.Slice(plane, plane), blue = planar[(2 * plane)..];
        for (int i = 0; i < plane; i++) red[i] = Luma(red[i], green[i], blue[i]);
        red.CopyTo(green);
        red.CopyTo(blue);
    }

    private static float Factor(float strength, ref RngSequence random) => random.Uniform(Math.Max(0f, 1f - strength), 1f + strength);

    private static byte Luma(int r, int g, int b) => (byte)((19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16);

    private static byte Blend(int other, int pixel, float factor)
    {
        float mixed = other + factor * (pixel - other);
        return mixed <= 0f ? (byte)0 : mixed >= 255f ? (byte)255 : (byte)mixed;
    }

    // Towards one grey value a pixel's result depends on its own value only: 256 of them are computed.
    private static void Towards(Span<byte> planar, int other, float factor)
    {
        Span<byte> table = stackalloc byte[256];
        for (int v = 0; v < 256; v++) table[v] = Blend(other, v, factor);
        foreach (ref byte p in planar) p = table[p];
    }

    private static int MeanLuma(ReadOnlySpan<byte> planar)
    {
        int plane = planar.Length / 3;
        ReadOnlySpan<byte> red = planar[..plane], green = planar.Slice(plane, plane), blue = planar[(2 * plane)..];
        long sum = 0;
        for (int i = 0; i < plane; i++) sum += Luma(red[i], green[i], blue[i]);
        return (int)(sum / (double)plane + 0.5);
    }

    private static void Saturate(Span<byte> planar, float factor)
    {
        int plane = planar.Length / 3;
        Span<byte> red = planar[..plane], green = planar.Slice(plane, plane), blue = planar[(2 * plane)..];
        for (int i = 0; i < plane; i++)
        {
            int gray = Luma(red[i], green[i], blue[i]);
            red[i] = Blend(gray, red[i], factor);
            green[i] = Blend(gray, green[i], factor);
            blue[i] = Blend(gray, blue[i], factor);
        }
    }

    /// <summary>Turns hue by a share of the circle; hue and saturation are bytes in between, as Pillow's HSV pictures hold them.</summary>
    private static void Turn(Span<byte> planar, float hue)
    {
        int plane = planar.Length / 3;
        Span<byte> red = planar[..plane], green = planar.Slice(plane, plane), blue = planar[(2 * plane)..];
        byte shift = unchecked((byte)(int)(hue * 255.0));
        for (int i = 0; i < plane; i++)
        {
            int r = red[i], g = green[i], b = blue[i], most = Math.Max(r, Math.Max(g, b)), least = Math.Min(r, Math.Min(g, b));
            if (most == least) continue;    // no colour: a turn leaves it
            float range = most - least, toRed = (most - r) / range, toGreen = (most - g) / range, toBlue = (most - b) / range;
            float sixths = r == most ? toBlue - toGreen : g == most ? (float)(2.0 + toRed - toBlue) : (float)(4.0 + toGreen - toRed);
            double circle = sixths / 6.0 + 1.0;
            float angle = (float)(circle >= 1.0 ? circle - 1.0 : circle);
            byte turned = unchecked((byte)((byte)(angle * 255.0) + shift));
            byte saturation = (byte)(range / most * 255.0);
            (red[i], green[i], blue[i]) = FromHsv(turned, saturation, (byte)most);
        }
    }

    private static (byte R, byte G, byte B) FromHsv(byte hue, byte saturation, byte value)
    {
        if (saturation == 0) return (value, value, value);
        int sector = (int)(hue * 6.0 / 255.0);
        float within = (float)(hue * 6.0 / 255.0 - sector), share = (float)(saturation / 255.0);
        byte low = Rounded(value * (1.0 - share)), falling = Rounded(value * (1.0 - share * within));
        byte rising = Rounded(value * (1.0 - share * (1.0 - within)));
        return (sector % 6) switch
        {
            0 => (value, rising, low),
            1 => (falling, value, low),
            2 => (low, value, rising),
            3 => (low, falling, value),
            4 => (rising, low, value),
            _ => (value, low, falling),
        };
    }

    private static byte Rounded(double value) => (byte)Math.Clamp((int)Math.Floor(value + 0.5), 0, 255);
}
