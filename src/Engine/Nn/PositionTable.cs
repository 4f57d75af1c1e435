using MimEngine.Kernels;

namespace MimEngine.Engine.Nn;

/// <summary>Tables of absolute positions at another number of patches.</summary>
public static class PositionTable
{
    /// <summary>
    /// The rows of a square grid at another side, bicubic: output row (y, x) samples the input at ((y + ½)·from/to − ½, …), borders repeated.
    /// Rows before the grid ([cls]) are kept.
    /// </summary>
    /// <param name="table">(prefix + from², C).</param>
    /// <returns>(prefix + to², C).</returns>
    /// <remarks>MAE util/pos_embed.py interpolate_pos_embed; golden 03_mae/pos_embed.</remarks>
    public static float[] Resize(ReadOnlySpan<float> table, int width, int from, int to, int prefix = 1)
    {
        if (table.Length != (prefix + from * from) * width)
            throw new ArgumentException($"A table of {table.Length} numbers is not ({prefix} + {from} × {from}, {width}).", nameof(table));
        float[] resized = new float[(prefix + to * to) * width];
        table[..(prefix * width)].CopyTo(resized);
        double step = (double)from / to;
        Bicubic(resized.AsSpan(prefix * width), (to, to), table[(prefix * width)..], (from, from), width, (step, step));
        return resized;
    }

    /// <summary>Bicubic resampling of a grid of vectors, align_corners off, without antialiasing.</summary>
    /// <param name="into">(rows, columns, C), written.</param>
    /// <param name="source">(rows, columns, C).</param>
    /// <param name="step">Source cells that one output cell covers: sizes' quotient, or 1/scale where a scale factor is given.</param>
    public static void Bicubic(Span<float> into, (int Rows, int Columns) intoSize, ReadOnlySpan<float> source, (int Rows, int Columns) size,
        int width, (double Rows, double Columns) step)
    {
        Span<double> vertical = stackalloc double[4], horizontal = stackalloc double[4];
        double[] sums = new double[width];
        for (int y = 0; y < intoSize.Rows; y++)
        {
            int top = CubicTaps.Of(vertical, (y + 0.5) * step.Rows - 0.5);
            for (int x = 0; x < intoSize.Columns; x++)
            {
                int left = CubicTaps.Of(horizontal, (x + 0.5) * step.Columns - 0.5);
                Array.Clear(sums);
                for (int i = 0; i < 4; i++)
                {
                    int row = Math.Clamp(top + i, 0, size.Rows - 1);
                    for (int j = 0; j < 4; j++)
                    {
                        int column = Math.Clamp(left + j, 0, size.Columns - 1);
                        double weight = vertical[i] * horizontal[j];
                        ReadOnlySpan<float> cell = source.Slice((row * size.Columns + column) * width, width);
                        for (int c = 0; c < width; c++) sums[c] += weight * cell[c];
                    }
                }
                Span<float> result = into.Slice((y * intoSize.Columns + x) * width, width);
                for (int c = 0; c < width; c++) result[c] = (float)sums[c];
            }
        }
    }
}
