namespace MimEngine.Engine.Imaging;

/// <summary>
/// Keypoints of SIFT (Lowe 2004, sections 3 and 4): extrema of the difference of Gaussians over place and scale, moved to the extremum of
/// a fitted quadratic, without those of low contrast or on edges. Settings are OpenCV's defaults (SPEC A.3.3).
/// </summary>
/// <remarks>
/// One point an extremum: a reference list that repeats a place once for every orientation marks the same pixels. As there, places of the
/// doubled picture are halved without a shift of a quarter pixel.
/// </remarks>
public sealed class SiftDetector : KeypointDetector
{
    private const int Border = 5, Moves = 5;
    private const float Contrast = 0.04f, EdgeRatio = 10f, Gray = 1f / 255f;
    private readonly ScaleSpace _space = new();

    /// <inheritdoc/>
    protected override void Find(ReadOnlySpan<byte> gray, int height, int width)
    {
        // An octave that has no pixel between its borders holds no extremum, nor do those after it.
        float scale = 0.5f;
        if (2 * Math.Min(height, width) <= 2 * Border) return;
        for (_space.Begin(gray, height, width); ; _space.Next(), scale *= 2f)
        {
            for (int layer = 1; layer <= ScaleSpace.Layers; layer++) FindInLayer(layer, scale);
            if (Math.Min(_space.Height, _space.Width) / 2 <= 2 * Border) return;
        }
    }

    private void FindInLayer(int layer, float scale)
    {
        // Half of what the final test asks for, in grey levels, rounded down: the fit may still raise it.
        float threshold = MathF.Floor(0.5f * Contrast / ScaleSpace.Layers * 255f);
        int h = _space.Height, w = _space.Width;
        float[] below = _space.Differences[layer - 1], at = _space.Differences[layer], above = _space.Differences[layer + 1];
        for (int y = Border; y < h - Border; y++)
            for (int x = Border; x < w - Border; x++)
            {
                float v = at[y * w + x];
                if (MathF.Abs(v) <= threshold) continue;
                float sign = v > 0 ? 1f : -1f;
                if (Largest(at, y * w + x, w, v, sign) && Largest(below, y * w + x, w, v, sign) && Largest(above, y * w + x, w, v, sign))
                    Refine(layer, y, x, scale);
            }
    }

    private static bool Largest(float[] picture, int at, int w, float v, float sign)
    {
        for (int row = at - w; row <= at + w; row += w)
            if (sign * picture[row - 1] > sign * v || sign * picture[row] > sign * v || sign * picture[row + 1] > sign * v) return false;
        return true;
    }

    private void Refine(int layer, int y, int x, float scale)
    {
        int h = _space.Height, w = _space.Width;
        for (int move = 0; move < Moves; move++)
        {
            int i = y * w + x;
            float[] b = _space.Differences[layer - 1], c = _space.Differences[layer], a = _space.Differences[layer + 1];
            // Gradient and Hessian in (x, y, scale), of grey from 0 to 1.
            float gx = (c[i + 1] - c[i - 1]) * (Gray / 2), gy = (c[i + w] - c[i - w]) * (Gray / 2), gs = (a[i] - b[i]) * (Gray / 2);
            float twice = 2f * c[i];
            float xx = (c[i + 1] + c[i - 1] - twice) * Gray, yy = (c[i + w] + c[i - w] - twice) * Gray, ss = (a[i] + b[i] - twice) * Gray;
            float xy = (c[i + w + 1] - c[i + w - 1] - c[i - w + 1] + c[i - w - 1]) * (Gray / 4);
            float xs = (a[i + 1] - a[i - 1] - b[i + 1] + b[i - 1]) * (Gray / 4), ys = (a[i + w] - a[i - w] - b[i + w] + b[i - w]) * (Gray / 4);
            if (!Solve(xx, yy, ss, xy, xs, ys, gx, gy, gs, out float dx, out float dy, out float ds)) return;
            if (MathF.Abs(dx) < 0.5f && MathF.Abs(dy) < 0.5f && MathF.Abs(ds) < 0.5f)
            {
                float value = c[i] * Gray + 0.5f * (gx * dx + gy * dy + gs * ds);
                float trace = xx + yy, determinant = xx * yy - xy * xy;
                bool edge = determinant <= 0 || trace * trace * EdgeRatio >= (EdgeRatio + 1) * (EdgeRatio + 1) * determinant;
                if (MathF.Abs(value) * ScaleSpace.Layers >= Contrast && !edge) Add((x + dx) * scale, (y + dy) * scale);
                return;
            }
            if (MathF.Max(MathF.Abs(ds), MathF.Max(MathF.Abs(dx), MathF.Abs(dy))) > h + w) return;   // a flat place: nothing to move to
            x += (int)MathF.Round(dx);
            y += (int)MathF.Round(dy);
            layer += (int)MathF.Round(ds);
            if (layer < 1 || layer > ScaleSpace.Layers || x < Border || x >= w - Border || y < Border || y >= h - Border) return;
        }
    }

    /// <summary>The symmetric 3 × 3 system H·d = −g, by cofactors; false where H has no inverse.</summary>
    private static bool Solve(double xx, double yy, double ss, double xy, double xs, double ys, double gx, double gy, double gs,
        out float dx, out float dy, out float ds)
    {
        double cxx = yy * ss - ys * ys, cxy = xs * ys - xy * ss, cxs = xy * ys - xs * yy;
        double cyy = xx * ss - xs * xs, cys = xy * xs - xx * ys, css = xx * yy - xy * xy;
        double determinant = xx * cxx + xy * cxy + xs * cxs;
        dx = (float)(-(cxx * gx + cxy * gy + cxs * gs) / determinant);
        dy = (float)(-(cxy * gx + cyy * gy + cys * gs) / determinant);
        ds = (float)(-(cxs * gx + cys * gy + css * gs) / determinant);
        return float.IsFinite(dx) && float.IsFinite(dy) && float.IsFinite(ds);
    }
}
