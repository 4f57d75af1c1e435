using System.Runtime.CompilerServices;

namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    private const int ColumnGrain = 64;   // columns a chunk: four cache lines of a row
    private const int SumRows = 64;       // rows summed in float before they join the total: error grows as √64 + √(B/64), not √B

    public override void BatchNormForward(Tensor y, Tensor mean, Tensor rstd, Tensor runningMean, Tensor runningVariance, Tensor x,
        float eps, float momentum, bool training)
    {
        int rows = x.Shape.Rows, cols = x.Shape.Cols;
        float* py = y.F32, pm = mean.F32, pr = rstd.F32, rm = runningMean.F32, rv = runningVariance.F32, px = x.F32;
        switch (Level)
        {
            case SimdLevel.Vector512:
                _rows.For(cols, ColumnGrain, new BatchNormCols<Lanes16>(py, pm, pr, rm, rv, px, rows, cols, eps, momentum, training));
                break;
            case SimdLevel.Vector256:
                _rows.For(cols, ColumnGrain, new BatchNormCols<Lanes8>(py, pm, pr, rm, rv, px, rows, cols, eps, momentum, training));
                break;
            default:
                _rows.For(cols, ColumnGrain, new BatchNormCols<Lanes1>(py, pm, pr, rm, rv, px, rows, cols, eps, momentum, training));
                break;
        }
    }

    private readonly struct BatchNormCols<TV>(float* y, float* mean, float* rstd, float* runningMean, float* runningVariance, float* x,
        int rows, int cols, float eps, float momentum, bool training) : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (int c = first; c < last; c += TV.Count)
            {
                int n = last - c;
                TV m = Lines<TV>.Load(runningMean + c, n), v = Lines<TV>.Load(runningVariance + c, n);
                if (training)
                {
                    TV oldMean = m, oldVariance = v;
                    (m, v) = Statistics(x + c, n);
                    // Bessel's correction; a batch of one has no deviations to correct for.
                    TV unbiased = v * TV.All(rows > 1 ? rows / (rows - 1f) : 1f), keep = TV.All(1f - momentum), take = TV.All(momentum);
                    Lines<TV>.Store(TV.MulAdd(keep, oldMean, take * m), runningMean + c, n);
                    Lines<TV>.Store(TV.MulAdd(keep, oldVariance, take * unbiased), runningVariance + c, n);
                }
                TV r = TV.All(1f) / TV.Sqrt(v + TV.All(eps));
                Lines<TV>.Store(m, mean + c, n);
                Lines<TV>.Store(r, rstd + c, n);
                for (int row = 0; row < rows; row++)
                {
                    long at = (long)row * cols + c;
                    Lines<TV>.Store((Lines<TV>.Load(x + at, n) - m) * r, y + at, n);
                }
            }
        }

        /// <summary>Mean and biased variance of Count columns.</summary>
        private (TV Mean, TV Variance) Statistics(float* column, int n)
        {
            TV scale = TV.All(1f / rows), sum = TV.Zero, squares = TV.Zero;
            for (int block = 0; block < rows; block += SumRows)
            {
                TV part = TV.Zero;
                for (int row = block; row < Math.Min(rows, block + SumRows); row++) part += Lines<TV>.Load(column + (long)row * cols, n);
                sum += part;
            }
            TV m = sum * scale;
            for (int block = 0; block < rows; block += SumRows)
            {
                TV part = TV.Zero;
                for (int row = block; row < Math.Min(rows, block + SumRows); row++)
                {
                    TV d = Lines<TV>.Load(column + (long)row * cols, n) - m;
                    part = TV.MulAdd(d, d, part);
                }
                squares += part;
            }
            return (m, squares * scale);
        }
    }

    public override void BatchNormBackward(Grad dx, Tensor dy, Tensor x, Tensor mean, Tensor rstd, bool training)
    {
        if (!dx.Wanted) return;
        int rows = x.Shape.Rows, cols = x.Shape.Cols;
        float* to = dx.Into.F32, pd = dy.F32, px = x.F32, pm = mean.F32, pr = rstd.F32;
        bool a = dx.Accumulate;
        switch (Level)
        {
            case SimdLevel.Vector512:
                _rows.For(cols, ColumnGrain, new BatchNormBackwardCols<Lanes16>(to, a, pd, px, pm, pr, rows, cols, training));
                break;
            case SimdLevel.Vector256:
                _rows.For(cols, ColumnGrain, new BatchNormBackwardCols<Lanes8>(to, a, pd, px, pm, pr, rows, cols, training));
                break;
            default:
                _rows.For(cols, ColumnGrain, new BatchNormBackwardCols<Lanes1>(to, a, pd, px, pm, pr, rows, cols, training));
                break;
        }
    }

    private readonly struct BatchNormBackwardCols<TV>(float* dx, bool accumulate, float* dy, float* x, float* mean, float* rstd, int rows,
        int cols, bool training) : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            TV scale = TV.All(1f / rows);
            for (int c = first; c < last; c += TV.Count)
            {
                int n = last - c;
                TV m = Lines<TV>.Load(mean + c, n), r = Lines<TV>.Load(rstd + c, n), meanD = TV.Zero, meanH = TV.Zero;
                for (int block = 0; training && block < rows; block += SumRows)
                {
                    TV partD = TV.Zero, partH = TV.Zero;
                    for (int row = block; row < Math.Min(rows, block + SumRows); row++)
                    {
                        long at = (long)row * cols + c;
                        TV d = Lines<TV>.Load(dy + at, n);
                        partD += d;
                        partH = TV.MulAdd(d, (Lines<TV>.Load(x + at, n) - m) * r, partH);
                    }
                    meanD += partD;
                    meanH += partH;
                }
                (meanD, meanH) = (meanD * scale, meanH * scale);
                for (int row = 0; row < rows; row++)
                {
                    long at = (long)row * cols + c;
                    TV centred = (Lines<TV>.Load(x + at, n) - m) * r;
                    TV d = r * (Lines<TV>.Load(dy + at, n) - meanD - centred * meanH);
                    if (accumulate) d += Lines<TV>.Load(dx + at, n);
                    Lines<TV>.Store(d, dx + at, n);
                }
            }
        }
    }
}
