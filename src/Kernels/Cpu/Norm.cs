using System.Runtime.CompilerServices;

namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    // At most this many chunks of rows keep partial dγ and dβ: 64 · 2 · C floats of scratch whatever the batch.
    private const int NormChunks = 64;

    public override void LayerNormForward(Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor gamma, Tensor beta, float eps)
        => Run(y.DType, new LayerNormOp(y.Raw, mean.F32, rstd.F32, x.F32, gamma.F32, beta.F32, x.Shape.Rows, x.Shape.Cols, eps));

    private readonly struct LayerNormOp(void* y, float* mean, float* rstd, float* x, float* gamma, float* beta, int rows, int cols, float eps)
        : IElementOp
    {
        public void Run<TV, TE>(Rows on) where TV : struct, ILanes<TV> where TE : struct, IElement
            => on.For(rows, RowGrain(cols), new LayerNormRows<TV, TE>(y, mean, rstd, x, gamma, beta, cols, eps));
    }

    private readonly struct LayerNormRows<TV, TE>(void* y, float* mean, float* rstd, float* x, float* gamma, float* beta, int cols, float eps)
        : IRowKernel where TV : struct, ILanes<TV> where TE : struct, IElement
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            void* to = y;   // fields would be read again after every store
            float* scale = gamma, shift = beta;
            int width = cols;
            for (int row = first; row < last; row++)
            {
                nint at = (nint)row * cols;
                float* px = x + at;
                (float m, float variance) = Lines<TV>.Moments(px, cols);
                float r = 1f / MathF.Sqrt(variance + eps);
                mean[row] = m;
                rstd[row] = r;
                TV vm = TV.All(m), vr = TV.All(r);
                int i = 0;
                for (; i <= width - TV.Count; i += TV.Count)
                {
                    Lines<TV>.Ask(px + width + i);   // the next row: this one is in L1, and memory would idle
                    Lines<TV>.Ask(TE.At(to, at + i + Lines<TV>.Ahead));
                    TE.Store(TV.MulAdd((TV.Load(px + i) - vm) * vr, TV.Load(scale + i), TV.Load(shift + i)), to, at + i);
                }
                int n = cols - i;
                if (n > 0)
                {
                    TV centred = (TV.LoadFirst(px + i, n) - vm) * vr;
                    TE.StoreFirst(TV.MulAdd(centred, TV.LoadFirst(gamma + i, n), TV.LoadFirst(beta + i, n)), y, at + i, n);
                }
            }
        }
    }

    public override void LayerNormBackward(Grad dx, Grad dgamma, Grad dbeta, Tensor dy, Tensor x, Tensor mean, Tensor rstd, Tensor gamma)
    {
        int rows = x.Shape.Rows, cols = x.Shape.Cols;
        bool affine = dgamma.Wanted || dbeta.Wanted;
        int grain = Math.Max(RowGrain(cols), Rows.Chunks(rows, NormChunks)), chunks = Rows.Chunks(rows, grain);
        float* partial = affine ? (float*)Scratch(PartialSlot, 2L * chunks * cols * sizeof(float)) : null;
        Run(dy.DType, new LayerNormBackwardOp(dx.Wanted ? dx.Into.F32 : null, dx.Accumulate, partial, dy.Raw, x.F32, mean.F32, rstd.F32, gamma.F32,
            rows, cols, grain, ClosesOnTheWay));
        // A chunk's partial row is dγ then dβ.
        if (dgamma.Wanted) CombineChunks(dgamma, partial, chunks, 2 * cols, cols);
        if (dbeta.Wanted) CombineChunks(dbeta, partial + cols, chunks, 2 * cols, cols);
    }

    /// <summary>
    /// Whether LayerNorm's backward pass closes a row on the walk that opens the next. Where lines are asked for, memory then never idles; where the
    /// processor looks ahead by itself, it follows one row at a time better. The bits are the same.
    /// </summary>
    internal bool ClosesOnTheWay { get; init; } = Simd.AsksAhead;

    private readonly struct LayerNormBackwardOp(float* dx, bool accumulate, float* partial, void* dy, float* x, float* mean,
        float* rstd, float* gamma, int rows, int cols, int grain, bool onTheWay) : IElementOp
    {
        public void Run<TV, TE>(Rows on) where TV : struct, ILanes<TV> where TE : struct, IElement
            => on.For(rows, grain, new LayerNormBackwardRows<TV, TE>(dx, accumulate, partial, dy, x, mean, rstd, gamma, cols, onTheWay));
    }

    private void CombineChunks(Grad y, float* partial, int chunks, long stride, int cols)
    {
        switch (Level)
        {
            case SimdLevel.Vector512: CombineChunks<Lanes16>(y, partial, chunks, stride, cols); break;
            case SimdLevel.Vector256: CombineChunks<Lanes8>(y, partial, chunks, stride, cols); break;
            default: CombineChunks<Lanes1>(y, partial, chunks, stride, cols); break;
        }
    }

    /// <summary>y = Σ over the chunks' partial rows, in chunk order; written or added.</summary>
    private static void CombineChunks<TV>(Grad y, float* partial, int chunks, long stride, int cols) where TV : struct, ILanes<TV>
    {
        for (int c = 0; c < cols; c += TV.Count)
        {
            int n = cols - c;
            TV sum = TV.Zero;
            for (int chunk = 0; chunk < chunks; chunk++) sum += Lines<TV>.Load(partial + chunk * stride + c, n);
            if (y.Accumulate) sum += Lines<TV>.Load(y.Into.F32 + c, n);
            Lines<TV>.Store(sum, y.Into.F32 + c, n);
        }
    }

    private readonly struct LayerNormBackwardRows<TV, TE>(float* dx, bool accumulate, float* partial, void* dy, float* x, float* mean,
        float* rstd, float* gamma, int cols, bool onTheWay) : IRowKernel where TV : struct, ILanes<TV> where TE : struct, IElement
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            float* dgamma = partial + 2L * chunk * cols, dbeta = dgamma + cols;
            if (partial != null) Lines<TV>.Set(dgamma, 0f, 2 * cols);
            (float G, float H) means = Open(dgamma, dbeta, first);
            bool together = onTheWay && dx != null && partial != null && cols % TV.Count == 0;
            for (int row = first + 1; row < last; row++)
            {
                if (together) means = CloseAndOpen(dgamma, dbeta, row, means);
                else
                {
                    if (dx != null) Close(row - 1, means);
                    means = Open(dgamma, dbeta, row);
                }
            }
            if (dx != null) Close(last - 1, means);
        }

        /// <summary>Adds dy·x̂ and dy of a row to the chunk's sums; returns mean(g) and mean(g·x̂), g = dy·γ.</summary>
        [MethodImpl(MethodImplOptions.NoInlining)]
        private (float G, float H) Open(float* dgamma, float* dbeta, int row)
        {
            nint at = (nint)row * cols;
            float* xRow = x + at, weight = gamma;   // fields would be read again after every store
            void* dyRow = TE.At(dy, at);
            bool sums = partial != null;
            int i = 0, n = cols;
            TV m = TV.All(mean[row]), r = TV.All(rstd[row]), g0 = TV.Zero, h0 = TV.Zero;
            for (; i <= n - TV.Count; i += TV.Count)
            {
                TV d = TE.Load<TV>(dyRow, i), centred = (TV.Load(xRow + i) - m) * r, g = d * TV.Load(weight + i);
                g0 += g;
                h0 = TV.MulAdd(g, centred, h0);
                if (!sums) continue;
                TV.MulAdd(d, centred, TV.Load(dgamma + i)).Store(dgamma + i);
                (TV.Load(dbeta + i) + d).Store(dbeta + i);
            }
            int left = n - i;
            if (left > 0)   // past the end dy and so g are 0: x̂ there does not matter
            {
                TV d = TE.LoadFirst<TV>(dyRow, i, left), centred = (TV.LoadFirst(xRow + i, left) - m) * r, g = d * TV.LoadFirst(weight + i, left);
                g0 += g;
                h0 = TV.MulAdd(g, centred, h0);
                if (sums)
                {
                    TV.MulAdd(d, centred, TV.LoadFirst(dgamma + i, left)).StoreFirst(dgamma + i, left);
                    (TV.LoadFirst(dbeta + i, left) + d).StoreFirst(dbeta + i, left);
                }
            }
            return (g0.Sum() / n, h0.Sum() / n);
        }

        /// <summary>dx of a row.</summary>
        [MethodImpl(MethodImplOptions.NoInlining)]
        private void Close(int row, (float G, float H) means)
        {
            nint at = (nint)row * cols;
            float* xRow = x + at, dxRow = dx + at, weight = gamma;   // fields would be read again after every store
            void* dyRow = TE.At(dy, at);
            bool add = accumulate;
            int i = 0, n = cols;
            TV m = TV.All(mean[row]), r = TV.All(rstd[row]), meanG = TV.All(means.G), meanH = TV.All(means.H);
            for (; i <= n - TV.Count; i += TV.Count)
            {
                TV v = Slope(TE.Load<TV>(dyRow, i) * TV.Load(weight + i), (TV.Load(xRow + i) - m) * r, r, meanG, meanH);
                (add ? v + TV.Load(dxRow + i) : v).Store(dxRow + i);
            }
            int left = n - i;
            if (left == 0) return;
            TV g = TE.LoadFirst<TV>(dyRow, i, left) * TV.LoadFirst(weight + i, left);
            TV tail = Slope(g, (TV.LoadFirst(xRow + i, left) - m) * r, r, meanG, meanH);
            (add ? tail + TV.LoadFirst(dxRow + i, left) : tail).StoreFirst(dxRow + i, left);
        }

        /// <summary>
        /// Closes the row before, whose lines are in L1, on the same walk that opens this one: memory is read all the time, and nobody waits for
        /// the sums across a vector. The bits are those of one after the other.
        /// </summary>
        private (float G, float H) CloseAndOpen(float* dgamma, float* dbeta, int row, (float G, float H) means)
        {
            nint at = (nint)row * cols;
            float* xRow = x + at, dxRow = dx + at;
            void* dyRow = TE.At(dy, at);
            TV m = TV.All(mean[row]), r = TV.All(rstd[row]), mBefore = TV.All(mean[row - 1]), rBefore = TV.All(rstd[row - 1]);
            TV meanG = TV.All(means.G), meanH = TV.All(means.H), g0 = TV.Zero, h0 = TV.Zero;
            float* weight = gamma;   // fields would be read again after every store
            int n = cols;
            bool add = accumulate;
            for (int i = 0; i < n; i += TV.Count)
            {
                int before = i - n;
                Lines<TV>.Ask(xRow + i + Lines<TV>.Ahead);
                Lines<TV>.Ask(TE.At(dyRow, i + Lines<TV>.Ahead));
                Lines<TV>.Ask(dxRow + before + Lines<TV>.Ahead);
                TV w = TV.Load(weight + i), d = TE.Load<TV>(dyRow, i), centred = (TV.Load(xRow + i) - m) * r, g = d * w;
                g0 += g;
                h0 = TV.MulAdd(g, centred, h0);
                TV.MulAdd(d, centred, TV.Load(dgamma + i)).Store(dgamma + i);
                (TV.Load(dbeta + i) + d).Store(dbeta + i);
                TV v = Slope(TE.Load<TV>(dyRow, before) * w, (TV.Load(xRow + before) - mBefore) * rBefore, rBefore, meanG, meanH);
                (add ? v + TV.Load(dxRow + before) : v).Store(dxRow + before);
            }
            return (g0.Sum() / cols, h0.Sum() / cols);
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static TV Slope(TV g, TV centred, TV r, TV meanG, TV meanH) => r * (g - meanG - centred * meanH);
    }

    public override void SoftmaxForward(Tensor y, Tensor x)
    {
        int rows = x.Shape.Rows, cols = x.Shape.Cols, grain = RowGrain(cols);
        switch (Level)
        {
            case SimdLevel.Vector512: _rows.For(rows, grain, new SoftmaxRows<Lanes16>(y.F32, x.F32, cols)); break;
            case SimdLevel.Vector256: _rows.For(rows, grain, new SoftmaxRows<Lanes8>(y.F32, x.F32, cols)); break;
            default: _rows.For(rows, grain, new SoftmaxRows<Lanes1>(y.F32, x.F32, cols)); break;
        }
    }

    private readonly struct SoftmaxRows<TV>(float* y, float* x, int cols) : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            float largest = Lines<TV>.Largest(x + (long)first * cols, cols), factor = 1f;
            float* before = y + (long)first * cols;   // before the first row nothing waits: what lies there is written over
            for (int row = first; row < last; row++)
            {
                float* px = x + (long)row * cols, py = y + (long)row * cols;
                factor = 1f / Lines<TV>.ExpMinus(py, px, largest, row + 1 < last ? px + cols : px, out largest, before, factor, cols);
                before = py;
            }
            Lines<TV>.Scale(before, before, factor, accumulate: false, cols);
        }
    }

    public override void SoftmaxBackward(Grad dx, Tensor dy, Tensor y)
    {
        if (!dx.Wanted) return;
        int rows = y.Shape.Rows, cols = y.Shape.Cols, grain = RowGrain(cols);
        float* to = dx.Into.F32;
        bool a = dx.Accumulate;
        switch (Level)
        {
            case SimdLevel.Vector512: _rows.For(rows, grain, new SoftmaxBackwardRows<Lanes16>(to, a, dy.F32, y.F32, cols)); break;
            case SimdLevel.Vector256: _rows.For(rows, grain, new SoftmaxBackwardRows<Lanes8>(to, a, dy.F32, y.F32, cols)); break;
            default: _rows.For(rows, grain, new SoftmaxBackwardRows<Lanes1>(to, a, dy.F32, y.F32, cols)); break;
        }
    }

    private readonly struct SoftmaxBackwardRows<TV>(float* dx, bool accumulate, float* dy, float* y, int cols)
        : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int width = cols;   // fields would be read again after every store
            bool add = accumulate;
            for (int row = first; row < last; row++)
            {
                long at = (long)row * cols;
                float* py = y + at, slope = dy + at, to = dx + at;
                TV dot = TV.All(Lines<TV>.Dot(slope, py, width));
                int i = 0;
                for (; i <= width - TV.Count; i += TV.Count)
                {
                    Lines<TV>.Ask(py + width + i);
                    Lines<TV>.Ask(slope + width + i);
                    Lines<TV>.Ask(to + i + Lines<TV>.Ahead);
                    TV d = TV.Load(py + i) * (TV.Load(slope + i) - dot);
                    (add ? d + TV.Load(to + i) : d).Store(to + i);
                }
                int n = width - i;
                if (n == 0) continue;
                TV tail = TV.LoadFirst(py + i, n) * (TV.LoadFirst(slope + i, n) - dot);
                (add ? tail + TV.LoadFirst(to + i, n) : tail).StoreFirst(to + i, n);
            }
        }
    }
}
