namespace MimEngine.Engine.Imaging;

/// <summary>For every output pixel of one axis: the source pixels it is made of and their weights.</summary>
internal sealed class ResampleTable
{
    /// <summary>Fraction bits of Pillow's fixed-point weights: 32 less 8 for the pixel and 2 for overshoot.</summary>
    public const int Bits = 22;

    private int[] _first = [], _count = [], _fixed = [];
    private float[] _float = [];
    private double[] _exact = [];

    /// <summary>Room for weights of each output pixel.</summary>
    public int Taps { get; private set; }

    /// <summary>First source pixel of each output pixel, inside the box.</summary>
    public ReadOnlySpan<int> First => _first;

    /// <summary>How many source pixels from there; at most <see cref="Taps"/>.</summary>
    public ReadOnlySpan<int> Count => _count;

    /// <summary>(outputs, Taps), with antialias.</summary>
    public ReadOnlySpan<int> Fixed => _fixed;

    /// <summary>(outputs, Taps), without antialias.</summary>
    public ReadOnlySpan<float> Float => _float;

    /// <param name="from">Source pixels.</param>
    /// <param name="to">Pixels of the whole result.</param>
    /// <param name="start">First output pixel wanted.</param>
    /// <param name="outputs">How many.</param>
    public void Fill(int from, int to, int start, int outputs, Interpolation interpolation, bool antialias)
    {
        double scale = from / (double)to, support = interpolation == Interpolation.Bicubic ? 2 : 1;
        Taps = antialias ? (int)Math.Ceiling(support * Math.Max(scale, 1)) * 2 + 1 : (int)support * 2;
        if (_first.Length < outputs) (_first, _count) = (new int[outputs], new int[outputs]);
        if (antialias && _fixed.Length < outputs * Taps) _fixed = new int[outputs * Taps];
        if (antialias && _exact.Length < Taps) _exact = new double[Taps];
        if (!antialias && _float.Length < outputs * Taps) _float = new float[outputs * Taps];
        for (int i = 0; i < outputs; i++)
        {
            if (antialias) Widened(i, start + i, from, scale, support, interpolation);
            else Plain(i, start + i, from, (float)from / to, interpolation);
        }
    }

    /// <summary>Pillow: the filter is as wide as an output pixel when shrinking; cut at the border and made to sum to 1 again.</summary>
    private void Widened(int i, int output, int from, double scale, double support, Interpolation interpolation)
    {
        double stretch = Math.Max(scale, 1), reach = support * stretch, center = (output + 0.5) * scale, total = 0;
        int first = Math.Max(0, (int)(center - reach + 0.5)), last = Math.Min(from, (int)(center + reach + 0.5));
        (_first[i], _count[i]) = (first, last - first);
        for (int k = 0; k < last - first; k++)
        {
            double x = Math.Abs((k + first - center + 0.5) / stretch);
            double w = interpolation == Interpolation.Bicubic ? Cubic(x, -0.5) : Math.Max(0, 1 - x);
            _exact[k] = w;
            total += w;
        }
        for (int k = 0; k < last - first; k++)
        {
            double w = (total != 0 ? _exact[k] / total : _exact[k]) * (1 << Bits);
            _fixed[i * Taps + k] = (int)(w < 0 ? w - 0.5 : w + 0.5);
        }
    }

    /// <summary>PyTorch: always the nearest two or four pixels; those outside are the border pixel, whose weights are added up.</summary>
    private void Plain(int i, int output, int from, float scale, Interpolation interpolation)
    {
        float at = scale * (output + 0.5f) - 0.5f;
        if (interpolation == Interpolation.Bilinear) at = Math.Max(0f, at);
        int floor = (int)MathF.Floor(at), taps = Taps, before = taps / 2 - 1;
        float t = at - floor;
        int first = Math.Clamp(floor - before, 0, from - 1), last = Math.Clamp(floor - before + taps - 1, 0, from - 1);
        (_first[i], _count[i]) = (first, last - first + 1);
        Span<float> weights = _float.AsSpan(i * taps, taps);
        weights.Clear();
        for (int k = 0; k < taps; k++)
        {
            float x = Math.Abs(k - before - t);
            float w = interpolation == Interpolation.Bicubic ? (float)Cubic(x, -0.75) : 1f - x;
            weights[Math.Clamp(floor - before + k, 0, from - 1) - first] += w;
        }
    }

    /// <summary>Keys 1981: cubic convolution with parameter a.</summary>
    private static double Cubic(double x, double a)
        => x < 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : x < 2 ? ((x - 5) * x + 8) * x * a - 4 * a : 0;
}
