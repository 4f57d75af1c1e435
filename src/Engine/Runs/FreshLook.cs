namespace MimEngine.Engine.Runs;

/// <summary>
/// Whether a tensor's statistics are those of an initialisation: a file of an untrained network loads without any complaint, and every number
/// measured with it is wrong.
/// </summary>
/// <remarks>SPEC K and A.11: a published comparison measured random networks because a load had silently missed.</remarks>
public static class FreshLook
{
    private const double Share = 0.01;   // of the deviation, where the tensor is large enough to tell
    private const int FewestDrawn = 256;

    // Normal .02 (nearly all ViTs), and the same cut at one deviation (official SimMIM).
    private static readonly double[] s_deviations = [0.02, 0.0107918];

    /// <summary>"all 1", "normal .02", "uniform, Xavier's bound", or null for a tensor that looks trained.</summary>
    /// <param name="shape">(outputs, inputs, …) where it is a matrix.</param>
    public static string? Of(ReadOnlySpan<float> values, ReadOnlySpan<long> shape)
    {
        if (values.Length == 0) return null;
        (double sum, double squares, double largest) = (0, 0, 0);
        bool constant = true;
        foreach (float v in values)
        {
            sum += v;
            squares += (double)v * v;
            largest = Math.Max(largest, Math.Abs(v));
            constant &= v == values[0];
        }
        if (constant) return $"all {values[0].ToString(System.Globalization.CultureInfo.InvariantCulture)}";
        int n = values.Length;
        if (n < FewestDrawn) return null;
        double mean = sum / n, deviation = Math.Sqrt(Math.Max(0, squares / n - mean * mean));
        if (Math.Abs(mean) > 4 * deviation / Math.Sqrt(n)) return null;
        // The deviation of n drawn numbers is itself off by 1/√(2n); three of that, but never less than the 1 % that many allow.
        double tolerance = Math.Max(Share, 3 / Math.Sqrt(2.0 * n));
        foreach (double std in s_deviations)
            if (Math.Abs(deviation / std - 1) <= tolerance) return $"normal {std:0.####}";
        if (shape.Length < 2) return null;
        double inputs = n / (double)shape[0], bound = Math.Sqrt(6 / (inputs + shape[0]));
        return largest <= bound * (1 + 1e-6) && largest > 0.9 * bound && Math.Abs(deviation * Math.Sqrt(3) / bound - 1) <= tolerance
            ? "uniform within Xavier's bound" : null;
    }
}
