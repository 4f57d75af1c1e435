using ILGPU;

namespace MimEngine.Kernels.Ilgpu;

/// <summary>Four numbers of one row of a thread's results.</summary>
internal readonly struct Four(float x, float y, float z, float w)
{
    public readonly float X = x, Y = y, Z = z, W = w;

    public Four Plus(float a, Four b) => new(X + a * b.X, Y + a * b.Y, Z + a * b.Z, W + a * b.W);
    public Four Times(float a) => new(a * X, a * Y, a * Z, a * W);
}

/// <summary>4 × 4 results of one thread: row i is row ty + i·Side of the group's block, column j is column tx + j·Side.</summary>
internal readonly struct Results(Four a, Four b, Four c, Four d)
{
    public readonly Four A = a, B = b, C = c, D = d;

    /// <summary>Plus the outer product of a column of four and a row of four.</summary>
    public Results Plus(Four column, Four row)
        => new(A.Plus(column.X, row), B.Plus(column.Y, row), C.Plus(column.Z, row), D.Plus(column.W, row));
}

/// <summary>Writes one finished sum of products.</summary>
internal interface IEpilogue
{
    void Store(int row, int col, float sum);
}

/// <summary>Panels of operands in shared memory: depth after depth, 4·Side numbers and one of padding against bank conflicts.</summary>
internal static class Panel
{
    /// <summary>How far along the summed axis one panel reaches.</summary>
    public const int Depth = 16;

    public static int Width<TT>() where TT : struct, ITile => 4 * TT.Side + 1;

    public static int Size<TT>() where TT : struct, ITile => Depth * (4 * TT.Side + 1);

    /// <summary>
    /// panel[k][r] = x[offset + (row0 + r)·rowStride + (k0 + k)·depthStride], 0 past the ends. Neighbouring threads read neighbouring
    /// addresses, whichever stride is 1.
    /// </summary>
    public static void Load<TT>(ArrayView<float> panel, Cells x, int offset, int row0, int rows, int rowStride, int k0, int depth,
        int depthStride) where TT : struct, ITile
    {
        int wide = 4 * TT.Side;
        for (int i = Group.IdxX; i < Depth * wide; i += TT.Side * TT.Side)
        {
            int r = depthStride == 1 ? i / Depth : i % wide, k = depthStride == 1 ? i % Depth : i / wide;
            float v = 0f;
            if (row0 + r < rows && k0 + k < depth) v = x.Get(offset + (row0 + r) * rowStride + (k0 + k) * depthStride);
            panel[k * (wide + 1) + r] = v;
        }
    }

    /// <summary>Adds the product of two panels, from depth <paramref name="first"/> of the left one on.</summary>
    public static Results Multiply<TT>(Results sum, ArrayView<float> left, int first, ArrayView<float> right) where TT : struct, ITile
    {
        int tx = Group.IdxX % TT.Side, ty = Group.IdxX / TT.Side, width = 4 * TT.Side + 1;
        for (int k = 0; k < Depth; k++)
        {
            int l = (first + k) * width + ty, r = k * width + tx;
            sum = sum.Plus(new Four(left[l], left[l + TT.Side], left[l + 2 * TT.Side], left[l + 3 * TT.Side]),
                new Four(right[r], right[r + TT.Side], right[r + 2 * TT.Side], right[r + 3 * TT.Side]));
        }
        return sum;
    }
}

/// <summary>Where a matrix lies: element (row, depth) at Offset + row·RowStride + depth·DepthStride.</summary>
internal readonly struct Operand(Cells x, int offset, int rows, int rowStride, int depthStride)
{
    public readonly Cells X = x;
    public readonly int Offset = offset, Rows = rows, RowStride = rowStride, DepthStride = depthStride;

    public void Load<TT>(ArrayView<float> panel, int row0, int k0, int depth) where TT : struct, ITile
        => Panel.Load<TT>(panel, X, Offset, row0, Rows, RowStride, k0, depth, DepthStride);
}

/// <summary>c[m, n] = Σ_k a[m, k]·b[n, k] for any layout and type of both: float32 sums, one group a block of 4·Side × 4·Side results.</summary>
internal readonly struct Product<TE>(Operand a, Operand b, int depth, int across, TE epilogue) : IKernel where TE : struct, IEpilogue
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> left = SharedMemory.Allocate<float>(Panel.Size<TT>()), right = SharedMemory.Allocate<float>(Panel.Size<TT>());
        int row0 = Grid.IdxX / across * (4 * TT.Side), col0 = Grid.IdxX % across * (4 * TT.Side);
        Results sum = default;
        for (int k = 0; k < depth; k += Panel.Depth)
        {
            a.Load<TT>(left, row0, k, depth);
            b.Load<TT>(right, col0, k, depth);
            Group.Barrier();
            sum = Panel.Multiply<TT>(sum, left, 0, right);
            Group.Barrier();
        }
        int row = row0 + Group.IdxX / TT.Side, col = col0 + Group.IdxX % TT.Side;
        Store<TT>(row, col, sum.A);
        Store<TT>(row + TT.Side, col, sum.B);
        Store<TT>(row + 2 * TT.Side, col, sum.C);
        Store<TT>(row + 3 * TT.Side, col, sum.D);
    }

    private void Store<TT>(int row, int col, Four sums) where TT : struct, ITile
    {
        if (row >= a.Rows) return;
        if (col < b.Rows) epilogue.Store(row, col, sums.X);
        if (col + TT.Side < b.Rows) epilogue.Store(row, col + TT.Side, sums.Y);
        if (col + 2 * TT.Side < b.Rows) epilogue.Store(row, col + 2 * TT.Side, sums.Z);
        if (col + 3 * TT.Side < b.Rows) epilogue.Store(row, col + 3 * TT.Side, sums.W);
    }
}

/// <summary>y = sum (+ bias), or y += sum.</summary>
internal readonly struct LinearStore(Cells y, ArrayView<float> bias, int hasBias, int accumulate, int cols) : IEpilogue
{
    public void Store(int row, int col, float sum)
    {
        int at = row * cols + col;
        if (hasBias != 0) sum += bias[col];
        y.Put(at, sum, accumulate);
    }
}

/// <summary>h = sum + bias; y = GELU(h).</summary>
internal readonly struct GeluStore(Cells y, Cells h, ArrayView<float> bias, int hasBias, int cols) : IEpilogue
{
    public void Store(int row, int col, float sum)
    {
        int at = row * cols + col;
        if (hasBias != 0) sum += bias[col];
        h.Put(at, sum);
        y.Put(at, Scalar.Gelu(sum));
    }
}

/// <summary>dh = sum·GELU′(h).</summary>
internal readonly struct SlopeStore(Cells dh, Cells h, int cols) : IEpilogue
{
    public void Store(int row, int col, float sum)
    {
        int at = row * cols + col;
        dh.Put(at, sum * Scalar.GeluSlope(h.Get(at)));
    }
}

/// <summary>y = residual + rowScale·gamma·(sum + bias).</summary>
internal readonly struct ResidualStore(ArrayView<float> y, ArrayView<float> residual, ArrayView<float> bias, int hasBias,
    ArrayView<float> gamma, int hasGamma, ArrayView<float> rowScale, int rowsPerScale, int cols) : IEpilogue
{
    public void Store(int row, int col, float sum)
    {
        int at = row * cols + col;
        if (hasBias != 0) sum += bias[col];
        if (hasGamma != 0) sum *= gamma[col];
        if (rowsPerScale != 0) sum *= rowScale[row / rowsPerScale];
        y[at] = residual[at] + sum;
    }
}
