using MimEngine.Kernels;

namespace MimEngine.Tests;

internal sealed unsafe partial class OracleBackend
{
    public override void ResizePositionsForward(Tensor y, Tensor table, in GridResize resize)
    {
        int cols = table.Shape.Cols;
        Require(table.Shape.Rows == resize.From && y.Shape.Rows == resize.To, $"ResizePositions: {table.Shape} to {y.Shape} by {resize}.");
        for (int t = 0; t < resize.To; t++)
        {
            for (int c = 0; c < cols; c++) F(y)[t * cols + c] = 0;
            for (int s = 0; s < resize.From; s++)
            {
                double share = Share(resize, t, s);
                for (int c = 0; c < cols; c++) F(y)[t * cols + c] += share * F(table)[s * cols + c];
            }
        }
    }

    public override void ResizePositionsBackward(Grad dtable, Tensor dy, in GridResize resize)
    {
        int cols = dy.Shape.Cols;
        double[] g = new double[resize.From * cols];
        for (int t = 0; t < resize.To; t++)
            for (int s = 0; s < resize.From; s++)
            {
                double share = Share(resize, t, s);
                for (int c = 0; c < cols; c++) g[s * cols + c] += share * F(dy)[t * cols + c];
            }
        Emit(dtable, g);
    }

    /// <summary>Weight of row s of the table in row t of the result.</summary>
    private static double Share(GridResize g, int t, int s)
    {
        if (t < g.Prefix || s < g.Prefix) return t == s ? 1 : 0;
        (int row, int column) = Math.DivRem(t - g.Prefix, g.Columns);
        (int fromRow, int fromColumn) = Math.DivRem(s - g.Prefix, g.FromColumns);
        return Axis(fromRow, g.FromRows, (row + 0.5) * g.RowStep - 0.5) * Axis(fromColumn, g.FromColumns, (column + 0.5) * g.ColumnStep - 0.5);
    }

    /// <summary>Keys' kernel with a = −0.75 at the distance of every cell, those past a border counting as the border's.</summary>
    private static double Axis(int cell, int cells, double at)
    {
        const double a = -0.75;
        double sum = 0;
        for (int i = (int)Math.Floor(at) - 1; i <= (int)Math.Floor(at) + 2; i++)
        {
            double d = Math.Abs(at - i);
            double weight = d <= 1 ? (a + 2) * d * d * d - (a + 3) * d * d + 1 : d < 2 ? a * d * d * d - 5 * a * d * d + 8 * a * d - 4 * a : 0;
            if (Math.Clamp(i, 0, cells - 1) == cell) sum += weight;
        }
        return sum;
    }
}
