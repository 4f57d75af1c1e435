namespace MimEngine.Kernels;

/// <summary>
/// Bicubic resampling without antialiasing, as torch.nn.functional.interpolate has it: the four cells around a place and their weights
/// (Keys 1981 with a = −0.75). Cells outside are the border cell.
/// </summary>
public static class CubicTaps
{
    private const double A = -0.75;

    /// <summary>The first of four cells around a place, which may lie outside, and their weights.</summary>
    /// <param name="at">Place in cells; the middle of cell i is i.</param>
    public static int Of(Span<double> weights, double at)
    {
        double floor = Math.Floor(at), t = at - floor;
        weights[0] = Far(t + 1);
        weights[1] = Near(t);
        weights[2] = Near(1 - t);
        weights[3] = Far(2 - t);
        return (int)floor - 1;
    }

    private static double Near(double d) => ((A + 2) * d - (A + 3)) * d * d + 1;

    private static double Far(double d) => ((A * d - 5 * A) * d + 8 * A) * d - 4 * A;
}
