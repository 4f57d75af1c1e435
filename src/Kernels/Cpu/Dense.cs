using System.Runtime.CompilerServices;

namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    public override void LinearForward(Tensor y, Tensor x, Tensor w, Tensor? b)
    {
        if (_bf16 == null && Stored(x, w, y))
        {
            Tensor wide = Room(y, WideYSlot);
            LinearForward(wide, Wide(x, WideXSlot), Wide(w, WideWSlot), b);
            Cast(y, wide);
        }
        else LinearForward(Linear(y, x, w, b), y.DType, x, w);
    }

    public override void LinearGeluForward(Tensor y, Tensor h, Tensor x, Tensor w, Tensor? b)
    {
        if (_bf16 == null && Stored(x, w, h))
        {
            (Tensor wideY, Tensor wideH) = (Room(y, WideYSlot), Room(h, WideHSlot));
            LinearGeluForward(wideY, wideH, Wide(x, WideXSlot), Wide(w, WideWSlot), b);
            Cast(h, wideH);
            Cast(y, wideY);
            return;
        }
        Product p = Linear(h, x, w, b);
        SameShape(nameof(LinearGeluForward), y, h);
        p.Finish = Finish.Gelu;
        OneType(nameof(LinearGeluForward), y, h);
        p.Beside = (float*)y.Raw;
        LinearForward(p, h.DType, x, w);
    }

    public override void LinearGeluBackward(Tensor dh, Tensor dy, Tensor w, Tensor h)
    {
        LinearShapes(dy, h, w);
        SameShape(nameof(LinearGeluBackward), dh, h);
        OneType(nameof(LinearGeluBackward), dh, h);
        if (_bf16 == null && (Precision == Precision.BF16 || Stored(dh, dy, w)))
        {
            base.LinearGeluBackward(dh, dy, w, h);
            return;
        }
        var p = new Product
        {
            M = dy.Shape.Rows, N = w.Shape.Cols, K = w.Shape.Rows, C = (float*)dh.Raw, Finish = Finish.Slope, Beside = (float*)h.Raw,
        };
        if (_bf16 != null) MultiplyPairsPlain(p, dh.DType, dy, w);
        else if (Level == SimdLevel.Vector512) MultiplyPlain<Lanes16>(p, dy.F32, w.F32);
        else if (Level == SimdLevel.Vector256) MultiplyPlain<Lanes8>(p, dy.F32, w.F32);
        else MultiplyPlain<Lanes1>(p, dy.F32, w.F32);
    }

    public override void LinearResidualForward(Tensor y, Tensor x, Tensor w, Tensor? b, Tensor residual, Tensor? gamma, Tensor? rowScale)
    {
        if (_bf16 == null && Stored(x, w)) (x, w) = (Wide(x, WideXSlot), Wide(w, WideWSlot));
        Product p = Linear(y, x, w, b);
        SameShape(nameof(LinearResidualForward), y, residual);
        p.Finish = Finish.Residual;
        p.Residual = residual.F32;
        p.Scales = Scales(nameof(LinearResidualForward), y, gamma, rowScale);
        LinearForward(p, y.DType, x, w);
    }

    private void LinearForward(in Product p, DType y, Tensor x, Tensor w)
    {
        if (_bf16 != null)
        {
            MultiplyPairsByTransposed(p, y, x, w);
            return;
        }
        bool rounds = Precision == Precision.BF16;
        float* a = rounds ? Rounded(x.F32, x.Count, Bf16Slot) : x.F32, b = rounds ? Rounded(w.F32, w.Count, Bf16OtherSlot) : w.F32;
        switch (Level)
        {
            case SimdLevel.Vector512: MultiplyByTransposed<Lanes16>(p, a, b); break;
            case SimdLevel.Vector256: MultiplyByTransposed<Lanes8>(p, a, b); break;
            default: MultiplyByTransposed<Lanes1>(p, a, b); break;
        }
    }

    private static Product Linear(Tensor y, Tensor x, Tensor w, Tensor? b)
    {
        LinearShapes(y, x, w);
        if (b is { } bias && bias.Count != w.Shape.Rows)
            throw new ArgumentException($"Linear: the bias {bias.Shape} does not fit the weight {w.Shape}.");
        return new Product { M = x.Shape.Rows, N = w.Shape.Rows, K = w.Shape.Cols, C = (float*)y.Raw, Bias = b is { } t ? t.F32 : null };
    }

    private static void LinearShapes(Tensor y, Tensor x, Tensor w)
    {
        if (x.Shape.Cols != w.Shape.Cols || y.Shape.Cols != w.Shape.Rows || x.Shape.Rows != y.Shape.Rows)
            throw new ArgumentException($"Linear: {x.Shape} times the transposed {w.Shape} is not {y.Shape}.");
    }

    private static void SameShape(string op, Tensor a, Tensor b)
    {
        if (a.Count != b.Count || a.Shape.Cols != b.Shape.Cols)
            throw new ArgumentException($"{op}: {a.Shape} and {b.Shape} must be equal.");
    }

    public override void LinearBackward(Grad dx, Grad dw, Grad db, Tensor dy, Tensor x, Tensor w)
    {
        LinearShapes(dy, x, w);
        if (dx.Wanted) SameShape(nameof(LinearBackward), dx.Into, x);
        if (dw.Wanted) SameShape(nameof(LinearBackward), dw.Into, w);
        if (db.Wanted && db.Into.Count != w.Shape.Rows)
            throw new ArgumentException($"LinearBackward: the bias gradient {db.Into.Shape} does not fit the weight {w.Shape}.");
        if (_bf16 != null)
        {
            LinearBackwardPairs(dx, dw, db, dy, x, w);
            return;
        }
        if (Stored(dy, x, w) || dx.Wanted && Stored(dx.Into))
        {
            Grad wide = !dx.Wanted ? dx : new Grad(dx.Accumulate ? Wide(dx.Into, WideYSlot) : Room(dx.Into, WideYSlot), dx.Mode);
            LinearBackward(wide, dw, db, Wide(dy, WideHSlot), dw.Wanted ? Wide(x, WideXSlot) : Room(x, WideXSlot), Wide(w, WideWSlot));
            if (dx.Wanted && dx.Into != wide.Into) Cast(dx.Into, wide.Into);
            return;
        }
        switch (Level)
        {
            case SimdLevel.Vector512: LinearBackward<Lanes16, Lanes8>(dx, dw, db, dy, x, w); break;
            case SimdLevel.Vector256: LinearBackward<Lanes8, Lanes8>(dx, dw, db, dy, x, w); break;
            default: LinearBackward<Lanes1, Lanes1>(dx, dw, db, dy, x, w); break;
        }
    }

    private void LinearBackward<TV, TA>(Grad dx, Grad dw, Grad db, Tensor dy, Tensor x, Tensor w)
        where TV : struct, ILanes<TV> where TA : struct, ILanes<TA>
    {
        (int m, int n, int k) = (x.Shape.Rows, w.Shape.Rows, w.Shape.Cols);
        bool rounds = Precision == Precision.BF16;
        float* g = rounds && (dx.Wanted || dw.Wanted) ? Rounded(dy.F32, dy.Count, Bf16Slot) : dy.F32;
        if (dx.Wanted)
        {
            var p = new Product { M = m, N = k, K = n, C = dx.Into.F32, Accumulate = dx.Accumulate };
            MultiplyPlain<TV>(p, g, rounds ? Rounded(w.F32, w.Count, Bf16OtherSlot) : w.F32);
        }
        float* sums = db.Wanted ? db.Into.F32 : null;
        if (dw.Wanted && rounds)
        {
            MultiplyTransposed<TV, TA>(dw.Into.F32, dw.Accumulate, null, false, g, Rounded(x.F32, x.Count, Bf16OtherSlot), n, k, m);
            if (sums != null) ColumnSums<TV>(sums, db.Accumulate, dy.F32, m, n, WeightGradient.BlockTokens(m, 1));
        }
        else if (dw.Wanted) MultiplyTransposed<TV, TA>(dw.Into.F32, dw.Accumulate, sums, db.Accumulate, g, x.F32, n, k, m);
        else if (db.Wanted) ColumnSums<TV>(sums, db.Accumulate, dy.F32, m, n, WeightGradient.BlockTokens(m, 1));
    }

    private void LinearBackwardPairs(Grad dx, Grad dw, Grad db, Tensor dy, Tensor x, Tensor w)
    {
        (int m, int n, int k) = (x.Shape.Rows, w.Shape.Rows, w.Shape.Cols);
        if (dx.Wanted)
            MultiplyPairsPlain(new Product { M = m, N = k, K = n, C = (float*)dx.Into.Raw, Accumulate = dx.Accumulate }, dx.Into.DType, dy, w);
        float* sums = db.Wanted ? db.Into.F32 : null;
        if (dw.Wanted) MultiplyPairsTransposed(dw.Into.F32, dw.Accumulate, sums, db.Accumulate, dy, x, n, k, m);
        else if (db.Wanted) ColumnSums<Lanes16>(sums, db.Accumulate, Wide(dy, WideHSlot).F32, m, n, WeightGradient.BlockTokens(m, 1));
    }

    /// <summary>sums = Σ over rows of x (+ sums): the order, and so the bits, that the weight gradient gives too.</summary>
    private void ColumnSums<TV>(float* sums, bool accumulate, float* x, int rows, int cols, int grain)
        where TV : struct, ILanes<TV>
    {
        int tasks = Rows.Chunks(rows, grain);
        float* partial = GemmScratch((nint)tasks * cols);
        _rows.For(rows, grain, new ColumnSumRows<TV>(partial, x, cols));
        AddInOrder<TV>(sums, partial, cols, tasks, accumulate);
    }

    private readonly struct ColumnSumRows<TV>(float* partial, float* x, int cols) : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
            => new AddRows<TV>(partial + (nint)chunk * cols, x + (nint)first * cols, cols, last - first, false).Run(0, cols, 0);
    }

    public override void ScaleAddForward(Tensor y, Tensor residual, Tensor? gamma, Tensor? rowScale)
    {
        SameShape(nameof(ScaleAddForward), y, residual);
        BranchScales s = Scales(nameof(ScaleAddForward), y, gamma, rowScale);
        int rows = y.Shape.Rows, cols = y.Shape.Cols, grain = Math.Max(1, ElementGrain / cols);
        switch (Level)
        {
            case SimdLevel.Vector512: _rows.For(rows, grain, new ScaleAddRows<Lanes16>(y.F32, residual.F32, s, cols)); break;
            case SimdLevel.Vector256: _rows.For(rows, grain, new ScaleAddRows<Lanes8>(y.F32, residual.F32, s, cols)); break;
            default: _rows.For(rows, grain, new ScaleAddRows<Lanes1>(y.F32, residual.F32, s, cols)); break;
        }
    }

    private readonly struct ScaleAddRows<TV>(float* y, float* residual, BranchScales scales, int cols) : IRowKernel
        where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (int r = first; r < last; r++)
            {
                nint at = (nint)r * cols;
                ScaleAddRow<TV>(y + at, y + at, residual + at, scales.Gamma, scales.OfRow(r), cols);
            }
        }
    }

    /// <summary>y = residual + scale·gamma ⊙ branch, any of the three the same memory.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void ScaleAddRow<TV>(float* y, float* branch, float* residual, float* gamma, float scale, int n)
        where TV : struct, ILanes<TV>
    {
        TV s = TV.All(scale);
        int j = 0;
        for (; j <= n - TV.Count; j += TV.Count)
            TV.MulAdd(gamma == null ? s : s * TV.Load(gamma + j), TV.Load(branch + j), TV.Load(residual + j)).Store(y + j);
        int left = n - j;
        if (left == 0) return;
        TV factor = gamma == null ? s : s * TV.LoadFirst(gamma + j, left);
        TV.MulAdd(factor, TV.LoadFirst(branch + j, left), TV.LoadFirst(residual + j, left)).StoreFirst(y + j, left);
    }

    public override void ScaleAddBackward(Tensor branch, Tensor? scaled, Tensor dy, Tensor? gamma, Tensor? rowScale)
    {
        SameShape(nameof(ScaleAddBackward), branch, dy);
        if (scaled is { } t) SameShape(nameof(ScaleAddBackward), t, dy);
        BranchScales s = Scales(nameof(ScaleAddBackward), dy, gamma, rowScale);
        Run(scaled is { } u ? OneType(nameof(ScaleAddBackward), branch, u) : branch.DType,
            new ScaleOp(branch.Raw, scaled is { } v ? v.Raw : null, dy.F32, s, dy.Shape.Rows, dy.Shape.Cols));
    }

    private readonly struct ScaleOp(void* branch, void* scaled, float* dy, BranchScales scales, int rows, int cols) : IElementOp
    {
        public void Run<TV, TE>(Rows on) where TV : struct, ILanes<TV> where TE : struct, IElement
            => on.For(rows, Math.Max(1, ElementGrain / cols), new ScaleRows<TV, TE>(branch, scaled, dy, scales, cols));
    }

    private readonly struct ScaleRows<TV, TE>(void* branch, void* scaled, float* dy, BranchScales scales, int cols)
        : IRowKernel where TV : struct, ILanes<TV> where TE : struct, IElement
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (int r = first; r < last; r++)
            {
                nint at = (nint)r * cols;
                TV s = TV.All(scales.OfRow(r));
                for (int j = 0; j < cols; j += TV.Count)
                {
                    int n = cols - j;
                    TV v = s * Lines<TV>.Load(dy + at + j, n);
                    if (scaled != null) Lines<TV>.Store<TE>(v, scaled, at + j, n);
                    Lines<TV>.Store<TE>(scales.Gamma == null ? v : v * Lines<TV>.Load(scales.Gamma + j, n), branch, at + j, n);
                }
            }
        }
    }

    /// <summary>Column and row factors of a residual branch; null = 1.</summary>
    internal struct BranchScales
    {
        public float* Gamma, Row;
        public int Group;

        public readonly float OfRow(int row) => Row == null ? 1f : Row[row / Group];

        public readonly void OfRows(float* scales, int row, int rows)
        {
            for (int r = 0; r < rows; r++) scales[r] = OfRow(row + r);
        }
    }

    private static BranchScales Scales(string op, Tensor y, Tensor? gamma, Tensor? rowScale)
    {
        int rows = y.Shape.Rows, groups = rowScale is { } s ? checked((int)s.Count) : 1;
        if (gamma is { } g && g.Count != y.Shape.Cols) throw new ArgumentException($"{op}: gamma {g.Shape} does not fit {y.Shape}.");
        if (groups == 0 || rows % groups != 0)
            throw new ArgumentException($"{op}: {groups} row factors do not divide the {rows} rows of {y.Shape}.");
        return new BranchScales
        {
            Gamma = gamma is { } c ? c.F32 : null, Row = rowScale is { } r ? r.F32 : null, Group = Math.Max(1, rows / groups),
        };
    }

    public override void LayerScaleBackward(Grad dgamma, Grad dw, Grad db, Tensor raw, Tensor rawBias, Tensor w, Tensor? b, Tensor gamma)
    {
        SameShape(nameof(LayerScaleBackward), raw, w);
        int n = w.Shape.Rows, k = w.Shape.Cols, grain = Math.Max(1, ElementGrain / k);
        if (gamma.Count != n || rawBias.Count != n || (b is { } t && t.Count != n))
            throw new ArgumentException($"LayerScaleBackward: gamma {gamma.Shape} and rawBias {rawBias.Shape} must have {n} elements.");
        var operands = new LayerScaleOperands
        {
            DGamma = dgamma, Dw = dw, Db = db, Raw = raw.F32, RawBias = rawBias.F32, W = w.F32, B = b is { } u ? u.F32 : null,
            Gamma = gamma.F32, K = k,
        };
        switch (Level)
        {
            case SimdLevel.Vector512: _rows.For(n, grain, new LayerScaleRows<Lanes16>(operands)); break;
            case SimdLevel.Vector256: _rows.For(n, grain, new LayerScaleRows<Lanes8>(operands)); break;
            default: _rows.For(n, grain, new LayerScaleRows<Lanes1>(operands)); break;
        }
    }

    private struct LayerScaleOperands
    {
        public Grad DGamma, Dw, Db;
        public float* Raw, RawBias, W, B, Gamma;
        public int K;
    }

    private readonly struct LayerScaleRows<TV>(LayerScaleOperands o) : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (int i = first; i < last; i++)
            {
                float* raw = o.Raw + (nint)i * o.K, w = o.W + (nint)i * o.K;
                if (o.DGamma.Wanted) Put(o.DGamma, i, Dot(w, raw, o.K) + (o.B == null ? 0f : o.B[i] * o.RawBias[i]));
                if (o.Db.Wanted) Put(o.Db, i, o.Gamma[i] * o.RawBias[i]);
                if (o.Dw.Wanted) Scale(o.Dw.Into.F32 + (nint)i * o.K, o.Dw.Accumulate, o.Gamma[i], raw, o.K);
            }
        }

        private static void Put(Grad grad, int i, float value)
        {
            float* p = grad.Into.F32 + i;
            *p = grad.Accumulate ? *p + value : value;
        }

        private static float Dot(float* a, float* b, int n)
        {
            TV s = TV.Zero;
            int j = 0;
            for (; j <= n - TV.Count; j += TV.Count) s = TV.MulAdd(TV.Load(a + j), TV.Load(b + j), s);
            if (j < n) s = TV.MulAdd(TV.LoadFirst(a + j, n - j), TV.LoadFirst(b + j, n - j), s);
            return s.Sum();
        }

        private static void Scale(float* y, bool accumulate, float factor, float* x, int n)
        {
            TV f = TV.All(factor);
            int j = 0;
            for (; j <= n - TV.Count; j += TV.Count)
                (accumulate ? TV.MulAdd(f, TV.Load(x + j), TV.Load(y + j)) : f * TV.Load(x + j)).Store(y + j);
            int left = n - j;
            if (left == 0) return;
            TV v = TV.LoadFirst(x + j, left);
            (accumulate ? TV.MulAdd(f, v, TV.LoadFirst(y + j, left)) : f * v).StoreFirst(y + j, left);
        }
    }
}
