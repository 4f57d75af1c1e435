namespace MimEngine.Kernels;

/// <summary>A table of positions at another size: prefix rows, then a grid of one size that becomes a grid of another.</summary>
/// <param name="Prefix">Rows before the grid ([cls]), which stay as they are.</param>
/// <param name="RowStep">Source rows that one row of the result covers.</param>
/// <param name="ColumnStep">Source columns that one column of the result covers.</param>
public readonly record struct GridResize(int Prefix, int FromRows, int FromColumns, int Rows, int Columns, float RowStep, float ColumnStep)
{
    /// <summary>
    /// DINO's and iBOT's rule: the scale is (n + 0.1)/G, and steps are its inverse, so that even a grid of equal size would move a little
    /// (SPEC E.1, J.21).
    /// </summary>
    public static GridResize ByScale(int prefix, int from, int rows, int columns)
        => new(prefix, from, from, rows, columns, (float)(from / (rows + 0.1)), (float)(from / (columns + 0.1)));

    /// <summary>Rows of the table.</summary>
    public int From => Prefix + FromRows * FromColumns;

    /// <summary>Rows of the result.</summary>
    public int To => Prefix + Rows * Columns;
}

public abstract partial class Backend
{
    /// <summary>
    /// y = table at another grid, bicubic without antialiasing (<see cref="CubicTaps"/>): y[t] = table[t] in the prefix; cell (r, c) is
    /// Σ_i Σ_j u_i·v_j·table[prefix + clamp(top + i)·FromColumns + clamp(left + j)], i, j = 0 … 3, with (top, u) the taps at
    /// (r + ½)·RowStep − ½ and (left, v) those at (c + ½)·ColumnStep − ½.
    /// </summary>
    /// <param name="y">(prefix + Rows·Columns, C) float32, written.</param>
    /// <param name="table">(prefix + FromRows·FromColumns, C) float32.</param>
    /// <remarks>32·C flops a cell. Caron et al. 2021 (DINO), interpolate_pos_encoding; golden 05_ibot_attmask/vit_features_interpolate.</remarks>
    public abstract void ResizePositionsForward(Tensor y, Tensor table, in GridResize resize);

    /// <summary>dtable[s] = Σ over cells t, in raster order, of weight(t, s)·dy[t]; dy[t] itself in the prefix.</summary>
    public abstract void ResizePositionsBackward(Grad dtable, Tensor dy, in GridResize resize);
}
