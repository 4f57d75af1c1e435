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
                for (; i <= cols - TV.Count; i += TV.Count)
                    TE.Store(TV.MulAdd((TV.Load(px + i) - vm) * vr, TV.Load(gamma + i), TV.Load(beta + i)), y, at + i);
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
            rows, cols, grain));
        // A chunk's partial row is dγ then dβ.
        if (dgamma.Wanted) CombineChunks(dgamma, partial, chunks, 2 * cols, cols);
        if (dbeta.Wanted) CombineChunks(dbeta, partial + cols, chunks, 2 * cols, cols);
    }

    private readonly struct LayerNormBackwardOp(float* dx, bool accumulate, float* partial, void* dy, float* x, float* mean,
        float* rstd, float* gamma, int rows, int cols, int grain) : IElementOp
    {
        public void Run<TV, TE>(Rows on) where TV : struct, ILanes<TV> where TE : struct, IElement
            => on.For(rows, grain, new LayerNormBackwardRows<TV, TE>(dx, accumulate, partial, dy, x, mean, rstd, gamma, cols));
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
        float* rstd, float* gamma, int cols) : IRowKernel where TV : struct, ILanes<TV> where TE : struct, IElement
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            float* dgamma = partial + 2L * chunk * cols, dbeta = dgamma + cols;
            if (partial != null) Lines<TV>.Set(dgamma, 0f, 2 * cols);
            for (int row = first; row < last; row++)
            {
                nint at = (nint)row * cols;
                Row(dx == null ? null : dx + at, dgamma, dbeta, TE.At(dy, at), x + at, TV.All(mean[row]), TV.All(rstd[row]));
            }
        }

        /// <summary>
        /// One pass adds dy·x̂ and dy to the chunk's sums and takes mean(g) and mean(g·x̂); a second one, over lines in L1, makes dx. Where a tail is
        /// loaded, g is 0 past the end, so x̂ there does not matter.
        /// </summary>
        private void Row(float* dxRow, float* dgamma, float* dbeta, void* dyRow, float* xRow, TV m, TV r)
        {
            int whole = cols / TV.Count * TV.Count, rest = cols - whole;
            TV g0 = TV.Zero, h0 = TV.Zero;
            for (int i = 0; i < whole; i += TV.Count)
            {
                TV d = TE.Load<TV>(dyRow, i), centred = (TV.Load(xRow + i) - m) * r, g = d * TV.Load(gamma + i);
                g0 += g;
                h0 = TV.MulAdd(g, centred, h0);
                if (partial == null) continue;
                TV.MulAdd(d, centred, TV.Load(dgamma + i)).Store(dgamma + i);
                (TV.Load(dbeta + i) + d).Store(dbeta + i);
            }
            if (rest > 0)
            {
                TV d = TE.LoadFirst<TV>(dyRow, whole, rest), centred = (TV.LoadFirst(xRow + whole, rest) - m) * r;
                TV g = d * TV.LoadFirst(gamma + whole, rest);
                g0 += g;
                h0 = TV.MulAdd(g, centred, h0);
                if (partial != null)
                {
                    TV.MulAdd(d, centred, TV.LoadFirst(dgamma + whole, rest)).StoreFirst(dgamma + whole, rest);
                    (TV.LoadFirst(dbeta + whole, rest) + d).StoreFirst(dbeta + whole, rest);
                }
            }
            if (dxRow == null) return;
            TV meanG = TV.All(g0.Sum() / cols), meanH = TV.All(h0.Sum() / cols);
            for (int i = 0; i < whole; i += TV.Count)
            {
                TV v = Slope(TE.Load<TV>(dyRow, i) * TV.Load(gamma + i), (TV.Load(xRow + i) - m) * r, r, meanG, meanH);
                (accumulate ? v + TV.Load(dxRow + i) : v).Store(dxRow + i);
            }
            if (rest == 0) return;
            TV tail = Slope(TE.LoadFirst<TV>(dyRow, whole, rest) * TV.LoadFirst(gamma + whole, rest), (TV.LoadFirst(xRow + whole, rest) - m) * r, r,
                meanG, meanH);
            (accumulate ? tail + TV.LoadFirst(dxRow + whole, rest) : tail).StoreFirst(dxRow + whole, rest);
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
            for (int row = first; row < last; row++)
            {
                float* px = x + (long)row * cols, py = y + (long)row * cols;
                float sum = Lines<TV>.ExpMinus(py, px, Lines<TV>.Largest(px, cols), cols);
                Lines<TV>.Scale(py, py, 1f / sum, accumulate: false, cols);
            }
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
            for (int row = first; row < last; row++)
            {
                long at = (long)row * cols;
                TV dot = TV.All(Lines<TV>.Dot(dy + at, y + at, cols));
                for (int i = 0; i < cols; i += TV.Count)
                {
                    int n = cols - i;
                    TV d = Lines<TV>.Load(y + at + i, n) * (Lines<TV>.Load(dy + at + i, n) - dot);
                    if (accumulate) d += Lines<TV>.Load(dx + at + i, n);
                    Lines<TV>.Store(d, dx + at + i, n);
                }
            }
        }
    }
}
