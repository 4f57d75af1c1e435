using ILGPU;

namespace MimEngine.Kernels.Ilgpu;

internal sealed partial class IlgpuBackend
{
    public override void LayerNormForward(Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor gamma, Tensor beta, float eps)
    {
        if (TryNormForward(y, mean, rstd, x, gamma, beta, eps)) return;
        Launch(x.Shape.Rows, new LayerNormRows(N(y), F(mean), F(rstd), F(x), F(gamma), F(beta), x.Shape.Cols, eps));
    }

    public override void LayerNormBackward(Grad dx, Grad dgamma, Grad dbeta, Tensor dy, Tensor x, Tensor mean, Tensor rstd, Tensor gamma)
    {
        int rows = x.Shape.Rows, cols = x.Shape.Cols;
        if (TryNormBackward(dx, dgamma, dbeta, dy, x, mean, rstd, gamma)) return;
        if (dx.Wanted)
            Launch(rows, new LayerNormBackwardRows(F(dx), N(dy), F(x), F(mean), F(rstd), F(gamma), cols, Flag(dx.Accumulate)));
        if (dgamma.Wanted) SumColumns(dgamma, PartialSlot, rows, cols, new TimesNormal(N(dy), F(x), F(mean), F(rstd), cols));
        if (dbeta.Wanted) SumColumns(dbeta, SecondPartialSlot, rows, cols, new Plain(N(dy), cols));
    }

    public override void SoftmaxForward(Tensor y, Tensor x) => Launch(x.Shape.Rows, new SoftmaxRows(F(y), F(x), x.Shape.Cols));

    public override void SoftmaxBackward(Grad dx, Tensor dy, Tensor y)
    {
        if (dx.Wanted) Launch(y.Shape.Rows, new SoftmaxBackwardRows(F(dx), F(dy), F(y), y.Shape.Cols, Flag(dx.Accumulate)));
    }

    public override void BatchNormForward(Tensor y, Tensor mean, Tensor rstd, Tensor runningMean, Tensor runningVariance, Tensor x,
        float eps, float momentum, bool training)
    {
        int rows = x.Shape.Rows, cols = x.Shape.Cols;
        Launch(cols, new BatchStatistics(F(mean), F(rstd), F(runningMean), F(runningVariance), F(x), rows, cols, eps, momentum, Flag(training)));
        LaunchEach(x.Count, new BatchNormEach(F(y), F(x), F(mean), F(rstd), cols));
    }

    public override void BatchNormBackward(Grad dx, Tensor dy, Tensor x, Tensor mean, Tensor rstd, bool training)
    {
        if (dx.Wanted)
            Launch(x.Shape.Cols, new BatchNormBackwardCols(F(dx), F(dy), F(x), F(mean), F(rstd), x.Shape.Rows, x.Shape.Cols, Flag(training),
                Flag(dx.Accumulate)));
    }
}

/// <summary>One group is one row: mean, then variance, then y.</summary>
internal readonly struct LayerNormRows(Cells y, ArrayView<float> mean, ArrayView<float> rstd, ArrayView<float> x,
    ArrayView<float> gamma, ArrayView<float> beta, int cols, float eps) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>()), second = SharedMemory.Allocate<float>(Team.Room<TT>());
        int row = Grid.IdxX, at = row * cols;
        float sum = 0f, squares = 0f;
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side) sum += x[at + c];
        float m = Team.Sum<TT>(room, sum, 0f).A / cols;
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side) squares += (x[at + c] - m) * (x[at + c] - m);
        float r = 1f / MathF.Sqrt(Team.Sum<TT>(second, squares, 0f).A / cols + eps);
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side) y.Put(at + c, (x[at + c] - m) * r * gamma[c] + beta[c]);
        if (Group.IdxX != 0) return;
        mean[row] = m;
        rstd[row] = r;
    }
}

/// <summary>One group is one row: dx = rstd·(g − mean(g) − x̂·mean(g·x̂)), g = dy·γ.</summary>
internal readonly struct LayerNormBackwardRows(ArrayView<float> dx, Cells dy, ArrayView<float> x, ArrayView<float> mean,
    ArrayView<float> rstd, ArrayView<float> gamma, int cols, int accumulate) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>());
        int at = Grid.IdxX * cols;
        float m = mean[Grid.IdxX], r = rstd[Grid.IdxX], sum = 0f, dot = 0f;
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side)
        {
            float g = dy.Get(at + c) * gamma[c];
            sum += g;
            dot += g * ((x[at + c] - m) * r);
        }
        Pair sums = Team.Sum<TT>(room, sum, dot);
        float meanG = sums.A / cols, meanDot = sums.B / cols;
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side)
        {
            float d = r * (dy.Get(at + c) * gamma[c] - meanG - (x[at + c] - m) * r * meanDot);
            dx[at + c] = accumulate != 0 ? dx[at + c] + d : d;
        }
    }
}

/// <summary>dy·x̂: what dγ sums.</summary>
internal readonly struct TimesNormal(Cells dy, ArrayView<float> x, ArrayView<float> mean, ArrayView<float> rstd, int cols)
    : IElement
{
    public float At(int row, int col) => dy.Get(row * cols + col) * ((x[row * cols + col] - mean[row]) * rstd[row]);
}

/// <summary>One group is one row.</summary>
internal readonly struct SoftmaxRows(ArrayView<float> y, ArrayView<float> x, int cols) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>()), second = SharedMemory.Allocate<float>(Team.Room<TT>());
        int at = Grid.IdxX * cols;
        float largest = float.NegativeInfinity, sum = 0f;
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side) largest = Scalar.Larger(largest, x[at + c]);
        largest = Team.Max<TT>(room, largest);
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side) sum += Scalar.Exp(x[at + c] - largest);
        float share = 1f / Team.Sum<TT>(second, sum, 0f).A;
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side) y[at + c] = Scalar.Exp(x[at + c] - largest) * share;
    }
}

/// <summary>One group is one row: dx = y·(dy − Σ dy·y).</summary>
internal readonly struct SoftmaxBackwardRows(ArrayView<float> dx, ArrayView<float> dy, ArrayView<float> y, int cols, int accumulate) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>());
        int at = Grid.IdxX * cols;
        float dot = 0f;
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side) dot += dy[at + c] * y[at + c];
        dot = Team.Sum<TT>(room, dot, 0f).A;
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side)
        {
            float d = y[at + c] * (dy[at + c] - dot);
            dx[at + c] = accumulate != 0 ? dx[at + c] + d : d;
        }
    }
}

/// <summary>One group is one column: the statistics that are used, and the running ones.</summary>
internal readonly struct BatchStatistics(ArrayView<float> mean, ArrayView<float> rstd, ArrayView<float> runningMean,
    ArrayView<float> runningVariance, ArrayView<float> x, int rows, int cols, float eps, float momentum, int training) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>()), second = SharedMemory.Allocate<float>(Team.Room<TT>());
        int col = Grid.IdxX;
        float sum = 0f, squares = 0f;
        for (int row = Group.IdxX; row < rows; row += TT.Side * TT.Side) sum += x[row * cols + col];
        float m = Team.Sum<TT>(room, sum, 0f).A / rows;
        for (int row = Group.IdxX; row < rows; row += TT.Side * TT.Side) squares += (x[row * cols + col] - m) * (x[row * cols + col] - m);
        float all = Team.Sum<TT>(second, squares, 0f).A, variance = all / rows;
        if (Group.IdxX != 0) return;
        if (training != 0)
        {
            runningMean[col] = (1f - momentum) * runningMean[col] + momentum * m;
            runningVariance[col] = (1f - momentum) * runningVariance[col] + momentum * (all / (rows - 1));
        }
        mean[col] = training != 0 ? m : runningMean[col];
        rstd[col] = 1f / MathF.Sqrt((training != 0 ? variance : runningVariance[col]) + eps);
    }
}

internal readonly struct BatchNormEach(ArrayView<float> y, ArrayView<float> x, ArrayView<float> mean, ArrayView<float> rstd, int cols) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i < y.Length) y[i] = (x[i] - mean[i % cols]) * rstd[i % cols];
    }
}

/// <summary>One group is one column.</summary>
internal readonly struct BatchNormBackwardCols(ArrayView<float> dx, ArrayView<float> dy, ArrayView<float> x, ArrayView<float> mean,
    ArrayView<float> rstd, int rows, int cols, int training, int accumulate) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>());
        int col = Grid.IdxX;
        float m = mean[col], r = rstd[col], sum = 0f, dot = 0f;
        for (int row = Group.IdxX; row < rows; row += TT.Side * TT.Side)
        {
            sum += dy[row * cols + col];
            dot += dy[row * cols + col] * ((x[row * cols + col] - m) * r);
        }
        Pair sums = Team.Sum<TT>(room, sum, dot);
        float meanDy = training != 0 ? sums.A / rows : 0f, meanDot = training != 0 ? sums.B / rows : 0f;
        for (int row = Group.IdxX; row < rows; row += TT.Side * TT.Side)
        {
            int at = row * cols + col;
            float d = r * (dy[at] - meanDy - (x[at] - m) * r * meanDot);
            dx[at] = accumulate != 0 ? dx[at] + d : d;
        }
    }
}
