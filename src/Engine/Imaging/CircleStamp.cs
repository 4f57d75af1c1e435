namespace MimEngine.Engine.Imaging;

/// <summary>
/// The anti-aliased circle of radius 3 that OpenCV's drawKeypoints paints, at any fractional center, in whole-number arithmetic (SPEC A.4.2):
/// twelve segments of a polygon in 16.16 fixed point, each drawn as a band of three pixels whose strength is read from two tables.
/// </summary>
public static class CircleStamp
{
    private const int One = 65536;

    // 1/cos of the segment's slope, 7 bits, by 32nds; and the pixel's share by its distance from the segment's middle, by 32nds of a pixel.
    private static ReadOnlySpan<byte> Slopes =>
    [
        181, 181, 181, 182, 182, 183, 184, 185, 187, 188, 190, 192, 194, 196, 198, 201,
        203, 206, 209, 211, 214, 218, 221, 224, 227, 231, 235, 238, 242, 246, 250, 254,
    ];

    private static ReadOnlySpan<byte> Shares =>
    [
        168, 177, 185, 194, 202, 210, 218, 224, 231, 236, 241, 246, 249, 252, 254, 254, 254, 254, 252, 249, 246, 241,
        236, 231, 224, 218, 210, 202, 194, 185, 177, 168, 158, 149, 140, 131, 122, 114, 105, 97, 89, 82, 75, 68, 62, 56,
        50, 45, 40, 36, 32, 28, 25, 22, 19, 16, 14, 12, 11, 9, 8, 7, 5, 5,
    ];

    // Sines of 0°, 30° … 360° as a table of 7 decimals has them.
    private static ReadOnlySpan<float> Sines => [0f, 0.5f, 0.8660254f, 1f, 0.8660254f, 0.5f, 0f, -0.5f, -0.8660254f, -1f, -0.8660254f, -0.5f, 0f];

    /// <summary>Paints one circle onto a grey canvas with white; non-zero pixels are the keypoint's marks.</summary>
    /// <param name="canvas">(H, W), read and written.</param>
    public static void Draw(Span<byte> canvas, int height, int width, float x, float y)
    {
        long cx = (long)MathF.Round(x * 16f) * 4096, cy = (long)MathF.Round(y * 16f) * 4096;
        const double Radius = 48 * 4096;
        (long X, long Y) last = default;
        for (int i = 0; i <= 12; i++)
        {
            (long X, long Y) at = (Snap(cx + Radius * Sines[(i + 3) % 12]), Snap(cy + Radius * Sines[i]));
            if (i > 0 && at != last) Segment(canvas, height, width, last, at);
            last = at;
        }
    }

    private static long Snap(double v)
    {
        long whole = (long)Math.Round(v / One) * One;
        return whole + (long)Math.Round(v - whole);
    }

    private static void Segment(Span<byte> canvas, int height, int width, (long X, long Y) p, (long X, long Y) q)
    {
        if (!Clip((long)width * One - 1, (long)height * One - 1, ref p, ref q)) return;
        // Along the longer extent: u runs, v follows. Strides say which of them is x.
        bool alongX = Math.Abs(q.X - p.X) > Math.Abs(q.Y - p.Y);
        (long u1, long v1, long u2, long v2) = alongX ? (p.X, p.Y, q.X, q.Y) : (p.Y, p.X, q.Y, q.X);
        if (u2 < u1) (u1, v1, u2, v2) = (u2, v2, u1, v1);
        long du = u2 - u1, dv = v2 - v1, step = (dv << 16) / (du | 1);
        u2 += One;
        long n = (u2 >> 16) - (u1 >> 16);
        long v = v1 + ((step * -(u1 & 65535)) >> 16) + 32768;
        int slope = (int)(step >> 11) & 63;
        if (step < 0) slope ^= 63;
        int i = (int)(u1 >> 9) & 0x78, j = (int)(u2 >> 9) & 0x78, k = (slope & 32) != 0 ? 256 : Slopes[slope];
        Span<int> ends = stackalloc int[9];
        int t0 = k << 7, t1 = ((0x78 - i) | 4) * k, t2 = (j | 4) * k;
        ends[0] = 0;
        ends[1] = ends[3] = (((((j - i) & 0x78) | 4) * k) >> 8) & 511;
        ends[2] = (t1 >> 8) & 511;
        ends[4] = (((((j - i) + 128) | 4) * k) >> 8) & 511;
        ends[5] = ((t1 + t0) >> 8) & 511;
        ends[6] = (t2 >> 8) & 511;
        ends[7] = ((t2 + t0) >> 8) & 511;
        ends[8] = k;
        long u = u1 >> 16;
        for (long s = 0; n >= 0; s++, n--, u++, v += step)
        {
            int strength = ends[(int)(3 * Math.Min(s, 2) + Math.Min(n, 2))], distance = (int)(v >> 11) & 31;
            long middle = v >> 16;
            Touch(canvas, height, width, alongX, u, middle - 1, (strength * Shares[distance + 32] >> 8) & 255);
            Touch(canvas, height, width, alongX, u, middle, (strength * Shares[distance] >> 8) & 255);
            Touch(canvas, height, width, alongX, u, middle + 1, (strength * Shares[63 - distance] >> 8) & 255);
        }
    }

    private static void Touch(Span<byte> canvas, int height, int width, bool alongX, long u, long v, int alpha)
    {
        (long x, long y) = alongX ? (u, v) : (v, u);
        if (x < 0 || y < 0 || x >= width || y >= height) return;
        ref byte pixel = ref canvas[(int)(y * width + x)];
        int value = pixel;
        value += ((255 - value) * alpha + 127) >> 8;
        value += ((255 - value) * alpha + 127) >> 8;
        pixel = (byte)value;
    }

    /// <summary>Cohen and Sutherland's clipping to [0, right] × [0, bottom]; false where nothing is left.</summary>
    private static bool Clip(long right, long bottom, ref (long X, long Y) p, ref (long X, long Y) q)
    {
        int a = Outside(p, right, bottom), b = Outside(q, right, bottom);
        if ((a & b) != 0) return false;
        if ((a | b) == 0) return true;
        // First to the rows, then to the columns; the products need more than 63 bits only for pictures of 2^15 pixels and more.
        if ((a & 12) != 0) p = AtRow(p, q, (a & 4) != 0 ? 0 : bottom);
        if ((b & 12) != 0) q = AtRow(q, p, (b & 4) != 0 ? 0 : bottom);
        (a, b) = (Outside(p, right, bottom) & 3, Outside(q, right, bottom) & 3);
        if ((a & b) != 0) return false;
        if (a != 0) p = AtColumn(p, q, a == 1 ? 0 : right);
        if (b != 0) q = AtColumn(q, p, b == 1 ? 0 : right);
        return true;

        static int Outside((long X, long Y) p, long right, long bottom)
            => (p.X < 0 ? 1 : p.X > right ? 2 : 0) | (p.Y < 0 ? 4 : p.Y > bottom ? 8 : 0);

        static (long, long) AtRow((long X, long Y) p, (long X, long Y) q, long y) => (p.X + (y - p.Y) * (q.X - p.X) / (q.Y - p.Y), y);

        static (long, long) AtColumn((long X, long Y) p, (long X, long Y) q, long x) => (x, p.Y + (x - p.X) * (q.Y - p.Y) / (q.X - p.X));
    }
}
