using System.Runtime.CompilerServices;

namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    // Backward adds into every row of the table, so it is cut by columns; this many keep the whole table of a block in the caches.
    private const int PositionColumns = 64;

    public override void ResizePositionsForward(Tensor y, Tensor table, in GridResize resize)
    {
        int cols = table.Shape.Cols, grain = RowGrain(16 * cols);
        switch (Level)
        {
            case SimdLevel.Vector512: _rows.For(resize.To, grain, new ResizeRows<Lanes16>(y.F32, table.F32, resize, cols)); break;
            case SimdLevel.Vector256: _rows.For(resize.To, grain, new ResizeRows<Lanes8>(y.F32, table.F32, resize, cols)); break;
            default: _rows.For(resize.To, grain, new ResizeRows<Lanes1>(y.F32, table.F32, resize, cols)); break;
        }
    }

    /// <summary>One row is one row of the result.</summary>
    private readonly struct ResizeRows<TV>(float* y, float* table, GridResize resize, int cols) : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            CellTaps* taps = stackalloc CellTaps[16];
            for (int row = first; row < last; row++)
            {
                float* to = y + (long)row * cols;
                if (row < resize.Prefix)
                {
                    Lines<TV>.Copy(to, table + (long)row * cols, cols);
                    continue;
                }
                CellTaps.Of(taps, resize, row);
                for (int k = 0; k < 16; k++) Lines<TV>.Scale(to, table + (long)taps[k].Row * cols, taps[k].Weight, accumulate: k > 0, cols);
            }
        }
    }

    public override void ResizePositionsBackward(Grad dtable, Tensor dy, in GridResize resize)
    {
        if (!dtable.Wanted) return;
        int cols = dy.Shape.Cols, blocks = (cols + PositionColumns - 1) / PositionColumns;
        float* to = dtable.Into.F32, from = dy.F32;
        bool a = dtable.Accumulate;
        switch (Level)
        {
            case SimdLevel.Vector512: _rows.For(blocks, 1, new ResizeBackwardColumns<Lanes16>(to, a, from, resize, cols)); break;
            case SimdLevel.Vector256: _rows.For(blocks, 1, new ResizeBackwardColumns<Lanes8>(to, a, from, resize, cols)); break;
            default: _rows.For(blocks, 1, new ResizeBackwardColumns<Lanes1>(to, a, from, resize, cols)); break;
        }
    }

    /// <summary>One row is one block of columns of the whole table.</summary>
    private readonly struct ResizeBackwardColumns<TV>(float* dtable, bool accumulate, float* dy, GridResize resize, int cols) : IRowKernel
        where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            CellTaps* taps = stackalloc CellTaps[16];
            for (int block = first; block < last; block++)
            {
                int at = block * PositionColumns, n = Math.Min(PositionColumns, cols - at);
                if (!accumulate)
                    for (int row = 0; row < resize.From; row++) Lines<TV>.Set(dtable + (long)row * cols + at, 0f, n);
                for (int row = 0; row < resize.To; row++)
                {
                    float* from = dy + (long)row * cols + at;
                    if (row < resize.Prefix)
                    {
                        float* to = dtable + (long)row * cols + at;
                        Lines<TV>.Add(to, to, from, n);
                        continue;
                    }
                    CellTaps.Of(taps, resize, row);
                    for (int k = 0; k < 16; k++)
                        Lines<TV>.Scale(dtable + (long)taps[k].Row * cols + at, from, taps[k].Weight, accumulate: true, n);
                }
            }
        }
    }

    /// <summary>One of the sixteen rows of the table that a row of the result is made of.</summary>
    private readonly struct CellTaps(int row, float weight)
    {
        public readonly int Row = row;
        public readonly float Weight = weight;

        /// <summary>Those of row <paramref name="row"/> of the result.</summary>
        public static void Of(CellTaps* taps, in GridResize resize, int row)
        {
            Span<double> vertical = stackalloc double[4], horizontal = stackalloc double[4];
            (int r, int c) = Math.DivRem(row - resize.Prefix, resize.Columns);
            int top = CubicTaps.Of(vertical, (r + 0.5) * resize.RowStep - 0.5);
            int left = CubicTaps.Of(horizontal, (c + 0.5) * resize.ColumnStep - 0.5);
            for (int k = 0; k < 16; k++)
            {
                int i = Math.Clamp(top + k / 4, 0, resize.FromRows - 1), j = Math.Clamp(left + k % 4, 0, resize.FromColumns - 1);
                taps[k] = new CellTaps(resize.Prefix + i * resize.FromColumns + j, (float)(vertical[k / 4] * horizontal[k % 4]));
            }
        }
    }
}
