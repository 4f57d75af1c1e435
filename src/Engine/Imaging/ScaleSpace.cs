using System.Numerics.Tensors;

namespace MimEngine.Engine.Imaging;

/// <summary>
/// One octave of SIFT's scale space (Lowe 2004, section 3): six pictures, each more blurred than the last, whose differences approximate
/// the Laplacian; three of the five differences have neighbours in scale. Reused octave after octave and picture after picture.
/// </summary>
internal sealed class ScaleSpace
{
    /// <summary>Differences that are searched in an octave.</summary>
    public const int Layers = 3;

    private const double Sigma = 1.6, CameraSigma = 0.5;   // of the first layer, and what a photograph is assumed to have
    private readonly float[][] _blurred = [[], [], [], [], [], []];
    private readonly float[][] _kernels = new float[Layers + 3][];
    private readonly float[] _firstKernel = Kernel(Math.Sqrt(Sigma * Sigma - 4 * CameraSigma * CameraSigma));
    private readonly int _longest;
    private float[] _rows = [], _line = [];

    public ScaleSpace()
    {
        // Layer i adds what is missing from 1.6·2^((i − 1)/3) to 1.6·2^(i/3).
        for (int i = 1; i < _kernels.Length; i++)
            _kernels[i] = Kernel(Sigma * Math.Sqrt(Math.Pow(2, 2.0 * i / Layers) - Math.Pow(2, 2.0 * (i - 1) / Layers)));
        _longest = _kernels.Skip(1).Append(_firstKernel).Max(k => k.Length);
    }

    public int Height { get; private set; }
    public int Width { get; private set; }

    /// <summary>(H, W): layer i + 1 less layer i, i of 0 to 4.</summary>
    public float[][] Differences { get; } = [[], [], [], [], []];

    /// <summary>Twice the size, so that the finest details count too; then the first octave.</summary>
    public void Begin(ReadOnlySpan<byte> gray, int height, int width)
    {
        (Height, Width) = (2 * height, 2 * width);
        Grow();
        float[] twice = _blurred[1];
        for (int y = 0; y < Height; y++)
        {
            int y0 = (y - 1) >> 1, yUp = Math.Max(0, y0) * width, yDown = Math.Min(height - 1, y0 + 1) * width;
            float wy = (y & 1) == 0 ? 0.75f : 0.25f;   // of the lower pixel; pixel middles at half
            for (int x = 0; x < Width; x++)
            {
                int x0 = (x - 1) >> 1, left = Math.Max(0, x0), right = Math.Min(width - 1, x0 + 1);
                float wx = (x & 1) == 0 ? 0.75f : 0.25f;
                float up = gray[yUp + left] * (1f - wx) + gray[yUp + right] * wx, down = gray[yDown + left] * (1f - wx) + gray[yDown + right] * wx;
                twice[y * Width + x] = up * (1f - wy) + down * wy;
            }
        }
        Blur(_blurred[0], twice, _firstKernel);
        Fill();
    }

    /// <summary>Halves the layer of twice the first one's blur, and fills the octave from it.</summary>
    public void Next()
    {
        float[] from = _blurred[Layers], to = _blurred[0];
        int width = Width, h = Height / 2, w = Width / 2;
        for (int y = 0; y < h; y++)
            for (int x = 0; x < w; x++) to[y * w + x] = from[2 * y * width + 2 * x];
        (Height, Width) = (h, w);
        Fill();
    }

    private void Grow()
    {
        int n = Height * Width;
        if (_blurred[0].Length < n)
        {
            for (int i = 0; i < _blurred.Length; i++) _blurred[i] = new float[n];
            for (int i = 0; i < Differences.Length; i++) Differences[i] = new float[n];
            _rows = new float[n];
        }
        if (_line.Length < Width + _longest) _line = new float[Width + _longest];
    }

    private void Fill()
    {
        int n = Height * Width;
        for (int i = 1; i < _blurred.Length; i++)
        {
            Blur(_blurred[i], _blurred[i - 1], _kernels[i]);
            TensorPrimitives.Subtract(_blurred[i].AsSpan(0, n), _blurred[i - 1].AsSpan(0, n), Differences[i - 1].AsSpan(0, n));
        }
    }

    /// <summary>Sampled bell of four deviations to each side, sum 1.</summary>
    private static float[] Kernel(double sigma)
    {
        int length = (int)Math.Round(8 * sigma + 1) | 1, middle = length / 2;
        double[] w = [.. Enumerable.Range(0, length).Select(i => Math.Exp(-(i - middle) * (double)(i - middle) / (2 * sigma * sigma)))];
        return [.. w.Select(v => (float)(v / w.Sum()))];
    }

    /// <summary>Along rows, then along columns; beyond the border the picture is mirrored without repeating its last pixel.</summary>
    private void Blur(float[] to, float[] from, float[] kernel)
    {
        int h = Height, w = Width, reach = kernel.Length / 2;
        Span<float> line = _line.AsSpan(0, w + 2 * reach);
        for (int y = 0; y < h; y++)
        {
            Span<float> row = from.AsSpan(y * w, w), sum = _rows.AsSpan(y * w, w);
            row.CopyTo(line[reach..]);
            for (int i = 1; i <= reach; i++)
            {
                line[reach - i] = row[Mirror(-i, w)];
                line[reach + w - 1 + i] = row[Mirror(w - 1 + i, w)];
            }
            TensorPrimitives.Multiply(line[..w], kernel[0], sum);
            for (int k = 1; k < kernel.Length; k++) TensorPrimitives.MultiplyAdd(line.Slice(k, w), kernel[k], sum, sum);
        }
        for (int y = 0; y < h; y++)
        {
            Span<float> sum = to.AsSpan(y * w, w);
            TensorPrimitives.Multiply(_rows.AsSpan(Mirror(y - reach, h) * w, w), kernel[0], sum);
            for (int k = 1; k < kernel.Length; k++)
                TensorPrimitives.MultiplyAdd(_rows.AsSpan(Mirror(y - reach + k, h) * w, w), kernel[k], sum, sum);
        }
    }

    private static int Mirror(int i, int n)
    {
        if (n == 1) return 0;
        while (i < 0 || i >= n) i = i < 0 ? -i : 2 * n - 2 - i;
        return i;
    }
}
