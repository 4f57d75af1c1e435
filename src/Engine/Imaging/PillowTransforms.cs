namespace MimEngine.Engine.Imaging;

/// <summary>
/// Transforms of Pillow in place on one planar crop, (3, S, S): what timm's policies are made of. Unlike torchvision's of
/// <see cref="PixelTransforms"/> they round grey to nearest and interpolate bicubically.
/// </summary>
internal static class PillowTransforms
{
    /// <summary>Inverts every byte.</summary>
    public static void Invert(Span<byte> planar)
    {
        foreach (ref byte p in planar) p = (byte)(255 - p);
    }

    /// <summary>Adds to what is below 128, up to 255.</summary>
    public static void SolarizeAdd(Span<byte> planar, int add)
    {
        foreach (ref byte p in planar)
            if (p < 128) p = (byte)Math.Min(255, p + add);
    }

    /// <summary>Stretches each channel to 0…255 by a table in double; a flat channel stays.</summary>
    public static void AutoContrast(Span<byte> planar)
    {
        int plane = planar.Length / 3;
        for (int c = 0; c < 3; c++)
        {
            Span<byte> channel = planar.Slice(c * plane, plane);
            byte least = 255, most = 0;
            foreach (byte p in channel) (least, most) = (Math.Min(least, p), Math.Max(most, p));
            if (most <= least) continue;
            double scale = 255.0 / (most - least), offset = -least * scale;
            foreach (ref byte p in channel) p = (byte)Math.Clamp((int)(p * scale + offset), 0, 255);
        }
    }

    /// <summary>factor·pixel.</summary>
    public static void Brightness(Span<byte> planar, float factor)
    {
        foreach (ref byte p in planar) p = Blend(0, p, factor);
    }

    /// <summary>Towards or away from the mean grey value, rounded.</summary>
    public static void Contrast(Span<byte> planar, float factor)
    {
        int plane = planar.Length / 3;
        long sum = 0;
        for (int i = 0; i < plane; i++) sum += Gray(planar, plane, i);
        int mean = (int)((double)sum / plane + 0.5);
        foreach (ref byte p in planar) p = Blend(mean, p, factor);
    }

    /// <summary>Towards or away from each pixel's grey value.</summary>
    public static void Color(Span<byte> planar, float factor)
    {
        int plane = planar.Length / 3;
        for (int i = 0; i < plane; i++)
        {
            int gray = Gray(planar, plane, i);
            for (int c = 0; c < 3; c++) planar[c * plane + i] = Blend(gray, planar[c * plane + i], factor);
        }
    }

    /// <summary>Towards or away from a 3 × 3 mean with weight 5 in the middle; the border's mean is itself.</summary>
    public static void Sharpness(Span<byte> planar, Span<byte> copy, int size, float factor)
    {
        planar.CopyTo(copy);
        for (int c = 0; c < 3; c++)
            for (int y = 0; y < size; y++)
                for (int x = 0; x < size; x++)
                {
                    int at = (c * size + y) * size + x, smooth = copy[at];
                    if (x > 0 && y > 0 && x < size - 1 && y < size - 1)
                    {
                        int sum = 4 * copy[at];
                        for (int dy = -size; dy <= size; dy += size) sum += copy[at + dy - 1] + copy[at + dy] + copy[at + dy + 1];
                        smooth = (2 * sum + 13) / 26;   // sum/13 to nearest; no sum is half way
                    }
                    planar[at] = Blend(smooth, copy[at], factor);
                }
    }

    /// <summary>
    /// Bicubic at source (x, y) = (a·x′ + b·y′ + tx, c·x′ + d·y′ + ty) of each output pixel's middle, x′ and y′ counted from the upper left
    /// corner; <paramref name="fill"/> where that lies outside.
    /// </summary>
    /// <remarks>The kernel is Pillow's of geometric transforms, Keys' with −1 where resizing has −½; results are truncated.</remarks>
    public static void Affine(Span<byte> planar, Span<byte> copy, int size, in Matrix m, (byte R, byte G, byte B) fill)
    {
        planar.CopyTo(copy);
        int plane = size * size;
        for (int y = 0; y < size; y++)
            for (int x = 0; x < size; x++)
            {
                double u = m.A * (x + 0.5) + m.B * (y + 0.5) + m.X, v = m.C * (x + 0.5) + m.D * (y + 0.5) + m.Y;
                int at = y * size + x;
                if (u < 0 || v < 0 || u >= size || v >= size)
                {
                    (planar[at], planar[plane + at], planar[2 * plane + at]) = fill;
                    continue;
                }
                for (int c = 0; c < 3; c++)
                    planar[c * plane + at] = Bicubic(copy.Slice(c * plane, plane), size, u - 0.5, v - 0.5);
            }
    }

    /// <summary>Rows of an affine map: (A, B, X) makes x, (C, D, Y) makes y.</summary>
    internal readonly record struct Matrix(double A, double B, double X, double C, double D, double Y);

    private static byte Bicubic(ReadOnlySpan<byte> plane, int size, double u, double v)
    {
        int left = (int)Math.Floor(u), top = (int)Math.Floor(v);
        double dx = u - left, dy = v - top;
        Span<double> column = stackalloc double[4];
        for (int i = 0; i < 4; i++)
        {
            ReadOnlySpan<byte> row = plane.Slice(Math.Clamp(top - 1 + i, 0, size - 1) * size, size);
            column[i] = Cubic(row[Math.Clamp(left - 1, 0, size - 1)], row[Math.Clamp(left, 0, size - 1)],
                row[Math.Clamp(left + 1, 0, size - 1)], row[Math.Clamp(left + 2, 0, size - 1)], dx);
        }
        return (byte)Math.Clamp(Cubic(column[0], column[1], column[2], column[3], dy), 0, 255);
    }

    private static double Cubic(double a, double b, double c, double d, double t)
        => b + t * (c - a + t * (2 * (a - b) + c - d + t * (b - a - c + d)));

    // ITU-R 601 in 16-bit fixed point, rounded.
    private static int Gray(ReadOnlySpan<byte> planar, int plane, int i)
        => (planar[i] * 19595 + planar[plane + i] * 38470 + planar[2 * plane + i] * 7471 + 0x8000) >> 16;

    private static byte Blend(int from, int to, float factor) => (byte)Math.Clamp(from + factor * (to - from), 0f, 255f);
}
