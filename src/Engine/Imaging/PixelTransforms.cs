namespace MimEngine.Engine.Imaging;

/// <summary>
/// torchvision's transforms of uint8 tensors, in place on one planar crop, (3, S, S). Blends clip to 0…255 and truncate, as casting to
/// uint8 does there.
/// </summary>
internal static class PixelTransforms
{
    /// <summary>factor·pixel: 0 is black, 1 the crop itself.</summary>
    public static void Brightness(Span<byte> planar, float factor)
    {
        foreach (ref byte p in planar) p = Blend(p, 0f, factor);
    }

    /// <summary>Towards or away from the mean grey value.</summary>
    public static void Contrast(Span<byte> planar, float factor)
    {
        int plane = planar.Length / 3;
        long sum = 0;
        for (int i = 0; i < plane; i++) sum += Gray(planar, plane, i);
        float mean = (float)(sum / (double)plane);
        foreach (ref byte p in planar) p = Blend(p, mean, factor);
    }

    /// <summary>Towards or away from each pixel's grey value.</summary>
    public static void Saturation(Span<byte> planar, float factor)
    {
        int plane = planar.Length / 3;
        for (int i = 0; i < plane; i++)
        {
            byte gray = Gray(planar, plane, i);
            for (int c = 0; c < 3; c++) planar[c * plane + i] = Blend(planar[c * plane + i], gray, factor);
        }
    }

    /// <summary>Towards or away from a 3 × 3 mean with weight 5 in the middle; the border stays.</summary>
    public static void Sharpness(Span<byte> planar, Span<byte> copy, int size, float factor)
    {
        planar.CopyTo(copy);
        for (int c = 0; c < 3; c++)
            for (int y = 1; y < size - 1; y++)
                for (int x = 1; x < size - 1; x++)
                {
                    int at = (c * size + y) * size + x, sum = 4 * copy[at];
                    for (int dy = -size; dy <= size; dy += size) sum += copy[at + dy - 1] + copy[at + dy] + copy[at + dy + 1];
                    planar[at] = Blend(copy[at], MathF.Round(sum / 13f), factor);
                }
    }

    /// <summary>Keeps the upper bits of every byte.</summary>
    public static void Posterize(Span<byte> planar, int bits)
    {
        byte kept = (byte)(0xFF << (8 - bits));
        foreach (ref byte p in planar) p &= kept;
    }

    /// <summary>Inverts what is at least the threshold.</summary>
    public static void Solarize(Span<byte> planar, float threshold)
    {
        foreach (ref byte p in planar)
            if (p >= threshold) p = (byte)(255 - p);
    }

    /// <summary>Stretches each channel to 0…255; a flat channel stays.</summary>
    public static void AutoContrast(Span<byte> planar)
    {
        int plane = planar.Length / 3;
        for (int c = 0; c < 3; c++)
        {
            Span<byte> channel = planar.Slice(c * plane, plane);
            byte least = 255, most = 0;
            foreach (byte p in channel) (least, most) = (Math.Min(least, p), Math.Max(most, p));
            if (least == most) continue;
            float scale = 255f / (most - least);
            foreach (ref byte p in channel) p = (byte)Math.Clamp((p - least) * scale, 0f, 255f);
        }
    }

    /// <summary>Flattens each channel's histogram, in Pillow's integer arithmetic.</summary>
    public static void Equalize(Span<byte> planar)
    {
        int plane = planar.Length / 3;
        Span<int> histogram = stackalloc int[256];
        Span<byte> table = stackalloc byte[256];
        for (int c = 0; c < 3; c++)
        {
            Span<byte> channel = planar.Slice(c * plane, plane);
            histogram.Clear();
            foreach (byte p in channel) histogram[p]++;
            int last = 255;
            while (histogram[last] == 0) last--;
            int step = (plane - histogram[last]) / 255, before = 0;
            if (step == 0) continue;
            for (int v = 0; v < 256; v++)
            {
                table[v] = v == 0 ? (byte)0 : (byte)Math.Min(255, (before + step / 2) / step);
                before += histogram[v];
            }
            foreach (ref byte p in channel) p = table[p];
        }
    }

    /// <summary>
    /// Nearest neighbour at source (x, y) = (a·x′ + b·y′ + tx, c·x′ + d·y′ + ty) of each output pixel, with coordinates of pixel centres
    /// counted from the origin; black outside.
    /// </summary>
    /// <param name="origin">0 = the upper left corner, 0.5 = the middle.</param>
    public static void Affine(Span<byte> planar, Span<byte> copy, int size, float origin, float a, float b, float tx, float c, float d, float ty)
    {
        planar.CopyTo(copy);
        int plane = size * size;
        float shift = origin * size - 0.5f;
        for (int y = 0; y < size; y++)
            for (int x = 0; x < size; x++)
            {
                float u = x - shift, v = y - shift;
                // Ties to even, as grid_sample's nearest.
                int sx = (int)MathF.Round(a * u + b * v + tx + shift), sy = (int)MathF.Round(c * u + d * v + ty + shift);
                bool inside = (uint)sx < (uint)size && (uint)sy < (uint)size;
                for (int channel = 0; channel < 3; channel++)
                    planar[channel * plane + y * size + x] = inside ? copy[channel * plane + sy * size + sx] : (byte)0;
            }
    }

    /// <summary>Sets a rectangle to 0.</summary>
    public static void Erase(Span<byte> planar, int width, CropBox box)
    {
        for (int c = 0; c < 3; c++)
            for (int y = box.Top; y < box.Top + box.Height; y++)
                planar.Slice(c * (planar.Length / 3) + y * width + box.Left, box.Width).Clear();
    }

    private static byte Gray(ReadOnlySpan<byte> planar, int plane, int i)
        => (byte)(0.2989f * planar[i] + 0.587f * planar[plane + i] + 0.114f * planar[2 * plane + i]);

    private static byte Blend(float pixel, float other, float factor) => (byte)Math.Clamp(factor * pixel + (1f - factor) * other, 0f, 255f);
}
