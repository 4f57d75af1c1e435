using ILGPU;

namespace MimEngine.Kernels.Ilgpu;

internal sealed partial class IlgpuBackend
{
    private const int RowsAChunk = 64;      // rows that one thread of a column sum adds
    private const int PartialSlot = 0, SecondPartialSlot = 1;

    public override void LinearForward(Tensor y, Tensor x, Tensor w, Tensor? b)
    {
        if (!TryForward(y, null, x, w, b, null, null, null)) Forward(x, w, new LinearStore(N(y), F(b), Flag(b), 0, w.Shape.D0));
    }

    public override void LinearGeluForward(Tensor y, Tensor h, Tensor x, Tensor w, Tensor? b)
    {
        if (!TryForward(y, h, x, w, b, null, null, null)) Forward(x, w, new GeluStore(N(y), N(h), F(b), Flag(b), w.Shape.D0));
    }

    public override void LinearGeluBackward(Tensor dh, Tensor dy, Tensor w, Tensor h)
    {
        int m = dy.Shape.Rows, n = w.Shape.D0, k = w.Shape.Cols;
        if (!TrySlope(dh, dy, w, h)) Multiply(new Operand(N(dy), 0, m, n, 1), new Operand(N(w), 0, k, 1, k), n, new SlopeStore(N(dh), N(h), k));
    }

    public override void LinearResidualForward(Tensor y, Tensor x, Tensor w, Tensor? b, Tensor residual, Tensor? gamma, Tensor? rowScale)
    {
        if (TryForward(y, null, x, w, b, residual, gamma, rowScale)) return;
        Forward(x, w, new ResidualStore(F(y), F(residual), F(b), Flag(b), F(gamma), Flag(gamma), F(rowScale),
            rowScale is { } s ? x.Shape.Rows / (int)s.Count : 0, w.Shape.D0));
    }

    public override void LinearBackward(Grad dx, Grad dw, Grad db, Tensor dy, Tensor x, Tensor w)
    {
        int m = x.Shape.Rows, k = w.Shape.Cols, n = w.Shape.D0;
        bool done = TryBackward(dx, dw, dy, x, w);
        if (dx.Wanted && !done)
            Multiply(new Operand(N(dy), 0, m, n, 1), new Operand(N(w), 0, k, 1, k), n, new LinearStore(N(dx), None, 0, Flag(dx.Accumulate), k));
        if (dw.Wanted && !done)
            Multiply(new Operand(N(dy), 0, n, 1, n), new Operand(N(x), 0, k, 1, k), m, new LinearStore(N(dw), None, 0, Flag(dw.Accumulate), k));
        if (db.Wanted && !TrySumColumns(db, dy, m, n)) SumColumns(db, PartialSlot, m, n, new Plain(N(dy), n));
    }

    public override void GeluForward(Tensor y, Tensor x) => LaunchEach(y.Count, new GeluEach(N(y), N(x)));

    public override void GeluBackward(Grad dx, Tensor dy, Tensor x)
    {
        if (dx.Wanted && !TryGeluBackward(dx, dy, x)) LaunchEach(x.Count, new GeluBackwardEach(N(dx), N(dy), N(x), Flag(dx.Accumulate)));
    }

    public override void ScaleAddForward(Tensor y, Tensor residual, Tensor? gamma, Tensor? rowScale)
        => LaunchEach(y.Count, new ScaleAddEach(F(y), F(residual), F(gamma), Flag(gamma), F(rowScale), RowsPerScale(y, rowScale), y.Shape.Cols));

    public override void ScaleAddBackward(Tensor branch, Tensor? scaled, Tensor dy, Tensor? gamma, Tensor? rowScale)
    {
        if (TryBranchGradient(branch, scaled, dy, gamma, rowScale)) return;
        LaunchEach(dy.Count, new ScaleAddBackwardEach(N(branch), N(scaled), Flag(scaled), F(dy), F(gamma), Flag(gamma), F(rowScale),
            RowsPerScale(dy, rowScale), dy.Shape.Cols));
    }

    public override void LayerScaleBackward(Grad dgamma, Grad dw, Grad db, Tensor raw, Tensor rawBias, Tensor w, Tensor? b, Tensor gamma)
        => Launch(w.Shape.D0, new LayerScaleRows(F(dgamma), (int)dgamma.Mode, F(dw), (int)dw.Mode, F(db), (int)db.Mode, F(raw), F(rawBias),
            F(w), F(b), Flag(b), F(gamma), w.Shape.Cols));

    private static int RowsPerScale(Tensor y, Tensor? rowScale) => rowScale is { } s ? y.Shape.Rows / (int)s.Count : 0;

    private void Forward<TE>(Tensor x, Tensor w, TE epilogue) where TE : struct, IEpilogue
    {
        int m = x.Shape.Rows, k = w.Shape.Cols, n = w.Shape.D0;
        Multiply(new Operand(N(x), 0, m, k, 1), new Operand(N(w), 0, n, k, 1), k, epilogue);
    }

    /// <summary>Results a·bᵀ, rows and columns from the operands.</summary>
    private void Multiply<TE>(Operand a, Operand b, int depth, TE epilogue) where TE : struct, IEpilogue
    {
        int across = Blocks(b.Rows, Block);
        Launch((long)Blocks(a.Rows, Block) * across, new Product<TE>(a, b, depth, across, epilogue));
    }

    /// <summary>Sums of columns over all rows: chunks of rows first, then chunk after chunk.</summary>
    private void SumColumns<TE>(Grad into, int slot, int rows, int cols, TE element) where TE : struct, IElement
    {
        int chunks = Blocks(rows, RowsAChunk);
        ArrayView<float> partial = Scratch<float>(slot, (long)chunks * cols);
        LaunchEach((long)chunks * cols, new ColumnChunks<TE>(partial, rows, cols, element));
        Combine(into, partial, chunks, cols);
    }
}

/// <summary>One number of a matrix that exists only while it is summed.</summary>
internal interface IElement
{
    float At(int row, int col);
}

/// <summary>The matrix itself.</summary>
internal readonly struct Plain(Cells x, int cols) : IElement
{
    public float At(int row, int col) => x.Get(row * cols + col);
}

/// <summary>One thread sums up to 64 rows of one column.</summary>
internal readonly struct ColumnChunks<TE>(ArrayView<float> partial, int rows, int cols, TE element) : IKernel where TE : struct, IElement
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>(), first = i / cols * 64, col = i % cols;
        if (first >= rows) return;
        int last = first + 64 < rows ? first + 64 : rows;
        float sum = 0f;
        for (int row = first; row < last; row++) sum += element.At(row, col);
        partial[i] = sum;
    }
}

/// <summary>One thread adds one column's chunks in order.</summary>
internal readonly struct CombineChunks(ArrayView<float> y, ArrayView<float> partial, int chunks, int cols, int accumulate) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int col = Team.Index<TT>();
        if (col >= cols) return;
        float sum = 0f;
        for (int chunk = 0; chunk < chunks; chunk++) sum += partial[chunk * cols + col];
        y[col] = accumulate != 0 ? y[col] + sum : sum;
    }
}

internal readonly struct GeluEach(Cells y, Cells x) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i < y.Length) y.Put(i, Scalar.Gelu(x.Get(i)));
    }
}

internal readonly struct GeluBackwardEach(Cells dx, Cells dy, Cells x, int accumulate) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= x.Length) return;
        dx.Put(i, dy.Get(i) * Scalar.GeluSlope(x.Get(i)), accumulate);
    }
}

internal readonly struct ScaleAddEach(ArrayView<float> y, ArrayView<float> residual, ArrayView<float> gamma, int hasGamma,
    ArrayView<float> rowScale, int rowsPerScale, int cols) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= y.Length) return;
        float v = y[i];
        if (hasGamma != 0) v *= gamma[i % cols];
        if (rowsPerScale != 0) v *= rowScale[i / cols / rowsPerScale];
        y[i] = residual[i] + v;
    }
}

internal readonly struct ScaleAddBackwardEach(Cells branch, Cells scaled, int hasScaled, ArrayView<float> dy,
    ArrayView<float> gamma, int hasGamma, ArrayView<float> rowScale, int rowsPerScale, int cols) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= dy.Length) return;
        float v = dy[i];
        if (rowsPerScale != 0) v *= rowScale[i / cols / rowsPerScale];
        if (hasScaled != 0) scaled.Put(i, v);
        if (hasGamma != 0) v *= gamma[i % cols];
        branch.Put(i, v);
    }
}

/// <summary>One group is one output n: dgamma_n from the whole row, then dw_n and db_n. Modes are those of <see cref="GradMode"/>.</summary>
internal readonly struct LayerScaleRows(ArrayView<float> dgamma, int gammaMode, ArrayView<float> dw, int weightMode, ArrayView<float> db,
    int biasMode, ArrayView<float> raw, ArrayView<float> rawBias, ArrayView<float> w, ArrayView<float> b, int hasBias,
    ArrayView<float> gamma, int cols) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>());
        int n = Grid.IdxX, at = n * cols;
        float g = gamma[n], dot = 0f;
        for (int k = Group.IdxX; k < cols; k += TT.Side * TT.Side)
        {
            dot += w[at + k] * raw[at + k];
            if (weightMode == 1) dw[at + k] = g * raw[at + k];
            if (weightMode == 2) dw[at + k] += g * raw[at + k];
        }
        dot = Team.Sum<TT>(room, dot, 0f).A;
        if (Group.IdxX != 0) return;
        if (hasBias != 0) dot += b[n] * rawBias[n];
        if (gammaMode == 1) dgamma[n] = dot;
        if (gammaMode == 2) dgamma[n] += dot;
        if (biasMode == 1) db[n] = g * rawBias[n];
        if (biasMode == 2) db[n] += g * rawBias[n];
    }
}
