using ILGPU;

namespace MimEngine.Kernels.Ilgpu;

internal sealed partial class IlgpuBackend
{
    public override void ResizePositionsForward(Tensor y, Tensor table, in GridResize resize)
        => LaunchEach(y.Count, new ResizeEach(F(y), F(table), new GridSizes(resize), y.Shape.Cols));

    public override void ResizePositionsBackward(Grad dtable, Tensor dy, in GridResize resize)
    {
        if (dtable.Wanted)
            LaunchEach(dtable.Into.Count, new ResizeBackwardEach(F(dtable), F(dy), new GridSizes(resize), dy.Shape.Cols, Flag(dtable.Accumulate)));
    }
}

/// <summary>Sizes of both grids, and one axis's share of a bicubic weight.</summary>
internal readonly struct GridSizes(GridResize resize)
{
    public readonly int Prefix = resize.Prefix, FromRows = resize.FromRows, FromColumns = resize.FromColumns, Rows = resize.Rows,
        Columns = resize.Columns;

    public readonly float RowStep = resize.RowStep, ColumnStep = resize.ColumnStep;

    /// <summary>Weight of tap k = 0 … 3 at a distance t ∈ [0, 1) past the second: Keys 1981, a = −0.75.</summary>
    public static float Weight(int k, float t)
    {
        float d = k == 0 ? t + 1f : k == 1 ? t : k == 2 ? 1f - t : 2f - t;
        return k == 1 || k == 2 ? (1.25f * d - 2.25f) * d * d + 1f : ((-0.75f * d + 3.75f) * d - 6f) * d + 3f;
    }

    /// <summary>The largest whole number that is not above.</summary>
    public static int Floor(float x)
    {
        int whole = (int)x;
        return whole > x ? whole - 1 : whole;
    }

    public static int Clamp(int i, int count) => i < 0 ? 0 : i >= count ? count - 1 : i;

    /// <summary>Weight of source cell <paramref name="source"/> in cell <paramref name="cell"/> of the result, along one axis.</summary>
    public static float Share(int source, int cell, int count, float step)
    {
        float at = (cell + 0.5f) * step - 0.5f;
        int floor = Floor(at);
        float t = at - floor, sum = 0f;
        for (int k = 0; k < 4; k++)
            if (Clamp(floor - 1 + k, count) == source) sum += Weight(k, t);
        return sum;
    }
}

/// <summary>One thread is one number of the result.</summary>
internal readonly struct ResizeEach(ArrayView<float> y, ArrayView<float> table, GridSizes at, int cols) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= y.Length) return;
        int row = i / cols, c = i % cols, cell = row - at.Prefix;
        float sum = 0f;
        if (cell < 0) sum = table[i];
        else
        {
            float down = (cell / at.Columns + 0.5f) * at.RowStep - 0.5f, right = (cell % at.Columns + 0.5f) * at.ColumnStep - 0.5f;
            int top = GridSizes.Floor(down), left = GridSizes.Floor(right);
            for (int k = 0; k < 16; k++)
            {
                int r = GridSizes.Clamp(top - 1 + k / 4, at.FromRows), s = GridSizes.Clamp(left - 1 + k % 4, at.FromColumns);
                float weight = GridSizes.Weight(k / 4, down - top) * GridSizes.Weight(k % 4, right - left);
                sum += weight * table[(at.Prefix + r * at.FromColumns + s) * cols + c];
            }
        }
        y[i] = sum;
    }
}

/// <summary>One thread is one number of the table's gradient; it looks through the result in raster order.</summary>
internal readonly struct ResizeBackwardEach(ArrayView<float> dtable, ArrayView<float> dy, GridSizes at, int cols, int accumulate) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= dtable.Length) return;
        int row = i / cols, c = i % cols, cell = row - at.Prefix;
        float sum = 0f;
        if (cell < 0) sum = dy[i];
        else
        {
            for (int r = 0; r < at.Rows; r++)
            {
                float down = GridSizes.Share(cell / at.FromColumns, r, at.FromRows, at.RowStep);
                if (down == 0f) continue;
                for (int s = 0; s < at.Columns; s++)
                    sum += down * GridSizes.Share(cell % at.FromColumns, s, at.FromColumns, at.ColumnStep)
                        * dy[(at.Prefix + r * at.Columns + s) * cols + c];
            }
        }
        dtable[i] = accumulate != 0 ? dtable[i] + sum : sum;
    }
}
