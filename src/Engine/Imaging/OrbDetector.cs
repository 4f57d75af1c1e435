using MimEngine.Kernels.Cpu;

namespace MimEngine.Engine.Imaging;

/// <summary>
/// Keypoints of ORB (Rublee et al. 2011, section 3.1): FAST corners on a pyramid of smaller pictures, each level keeping its share of
/// 500, first twice as many by FAST's value, then the best by Harris' measure. Settings are OpenCV's defaults (SPEC A.3.3).
/// </summary>
/// <remarks>
/// Level l is the level before, resized bilinearly to 1.2^−l of the picture; corners closer than 31 pixels to a level's border are dropped,
/// as descriptors would not fit. Ties at the last place all stay.
/// </remarks>
public sealed class OrbDetector : KeypointDetector
{
    private const int Features = 500, Levels = 8, Edge = 31, Threshold = 20, HarrisRadius = 3;
    private const float ScaleStep = 1.2f, HarrisK = 0.04f;

    private byte[] _level = [], _previous = [], _values = [], _scratch = [];
    private int[] _places = [];
    private float[] _responses = [], _sorted = [];

    /// <inheritdoc/>
    protected override void Find(ReadOnlySpan<byte> gray, int height, int width)
    {
        Grown(ref _level, height * width);
        Grown(ref _previous, height * width);
        Grown(ref _values, height * width);
        Grown(ref _scratch, HostFast.ScratchBytes(width));
        gray.CopyTo(_level);
        float factor = 1f / ScaleStep;
        float wanted = Features * (1f - factor) / (1f - MathF.Pow(factor, Levels));
        int left = Features, h = height, w = width;
        for (int l = 0; l < Levels; l++)
        {
            float scale = MathF.Pow(ScaleStep, l);
            if (l > 0)
            {
                (_previous, _level) = (_level, _previous);
                (int h0, int w0) = (h, w);
                (h, w) = ((int)MathF.Round(height / scale), (int)MathF.Round(width / scale));
                Resize(_level, h, w, _previous, h0, w0);
            }
            int share = l < Levels - 1 ? (int)MathF.Round(wanted) : Math.Max(0, left);
            left -= share;
            wanted *= factor;
            if (h > 2 * Edge && w > 2 * Edge) FindInLevel(h, w, share, scale);
        }
    }

    private void FindInLevel(int h, int w, int share, float scale)
    {
        HostFast.Find(_values, _level, h, w, Threshold, _scratch);
        int n = 0;
        for (int y = Edge; y < h - Edge; y++)
            for (int x = Edge; x < w - Edge; x++)
            {
                if (_values[y * w + x] == 0) continue;
                if (n == _places.Length)
                {
                    Array.Resize(ref _places, Math.Max(256, 2 * n));
                    Array.Resize(ref _responses, _places.Length);
                    Array.Resize(ref _sorted, _places.Length);
                }
                (_places[n], _responses[n]) = (y * w + x, _values[y * w + x]);
                n++;
            }
        n = KeepBest(n, 2 * share);
        for (int i = 0; i < n; i++) _responses[i] = Harris(_places[i], w);
        n = KeepBest(n, share);
        for (int i = 0; i < n; i++) Add(_places[i] % w * scale, _places[i] / w * scale);
    }

    /// <summary>Keeps what is at least as good as number <paramref name="best"/>, in its order; returns how many that are.</summary>
    private int KeepBest(int n, int best)
    {
        if (n <= best) return n;
        if (best == 0) return 0;
        _responses.AsSpan(0, n).CopyTo(_sorted);
        _sorted.AsSpan(0, n).Sort();
        float least = _sorted[n - best];
        int kept = 0;
        for (int i = 0; i < n; i++)
            if (_responses[i] >= least)
                (_places[kept], _responses[kept++]) = (_places[i], _responses[i]);
        return kept;
    }

    /// <summary>det M − k·tr² M of the gradients' second moments M in 7 × 7 pixels; Sobel's gradient (Harris and Stephens 1988).</summary>
    private float Harris(int place, int w)
    {
        int a = 0, b = 0, c = 0;
        for (int dy = -HarrisRadius; dy <= HarrisRadius; dy++)
            for (int dx = -HarrisRadius; dx <= HarrisRadius; dx++)
            {
                ReadOnlySpan<byte> up = _level.AsSpan(place + (dy - 1) * w + dx - 1, 3), down = _level.AsSpan(place + (dy + 1) * w + dx - 1, 3);
                ReadOnlySpan<byte> row = _level.AsSpan(place + dy * w + dx - 1, 3);
                int gx = 2 * (row[2] - row[0]) + up[2] - up[0] + down[2] - down[0];
                int gy = 2 * (down[1] - up[1]) + down[0] - up[0] + down[2] - up[2];
                a += gx * gx;
                b += gy * gy;
                c += gx * gy;
            }
        return (float)a * b - (float)c * c - HarrisK * ((float)a + b) * ((float)a + b);
    }

    /// <summary>Bilinear, pixel middles at half, weights in 256ths, rounded once.</summary>
    private static void Resize(byte[] to, int h, int w, byte[] from, int h0, int w0)
    {
        for (int y = 0; y < h; y++)
        {
            (int y0, int y1, int wy) = Place(y, h, h0);
            for (int x = 0; x < w; x++)
            {
                (int x0, int x1, int wx) = Place(x, w, w0);
                int upper = from[y0 * w0 + x0] * (256 - wx) + from[y0 * w0 + x1] * wx;
                int lower = from[y1 * w0 + x0] * (256 - wx) + from[y1 * w0 + x1] * wx;
                to[y * w + x] = (byte)((upper * (256 - wy) + lower * wy + 32768) >> 16);
            }
        }

        static (int First, int Second, int Weight) Place(int i, int n, int n0)
        {
            double at = Math.Clamp((i + 0.5) * n0 / n - 0.5, 0, n0 - 1);
            int first = (int)at;
            return (first, Math.Min(first + 1, n0 - 1), (int)Math.Round((at - first) * 256));
        }
    }
}
