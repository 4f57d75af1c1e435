using MimEngine.Engine.Autograd;
using MimEngine.Kernels;

namespace MimEngine.Engine.Nn;

/// <summary>
/// The fixed position table of MAE and MoCo v3: (prefix + G², C), prefix rows 0; a patch at (row y, column x) gets, with ω_i = 10000^(−i/(C/4)),
/// [sin ωx, cos ωx, sin ωy, cos ωy], C/4 numbers each, in float64 rounded once (SPEC C.1: columns come first).
/// </summary>
public sealed record SinCosTable(int Width, int Grid, int Prefix = 1) : Init
{
    /// <summary>A table of this kind as a parameter that is saved and loaded but never trained.</summary>
    public static Param Fixed(ParamSet p, string name, int width, int grid, int prefix = 1)
    {
        Param table = p.Add(name, new Shape(prefix + grid * grid, width), new SinCosTable(width, grid, prefix));
        table.Trained = false;
        return table;
    }

    /// <inheritdoc/>
    public override void Fill(Span<float> values, ref RngSequence rng)
    {
        int quarter = Width / 4;
        if (4 * quarter != Width) throw new ArgumentException($"A sine-cosine table needs a width divisible by 4; {Width} is not.");
        values.Clear();
        for (int patch = 0; patch < Grid * Grid; patch++)
        {
            Span<float> row = values.Slice((Prefix + patch) * Width, Width);
            for (int i = 0; i < quarter; i++)
            {
                double omega = 1 / Math.Pow(10_000, i / (double)quarter), x = patch % Grid * omega, y = patch / Grid * omega;
                (row[i], row[quarter + i]) = ((float)Math.Sin(x), (float)Math.Cos(x));
                (row[2 * quarter + i], row[3 * quarter + i]) = ((float)Math.Sin(y), (float)Math.Cos(y));
            }
        }
    }
}
