namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    public override void GatherVisibleForward(Tensor y, Tensor x, Tensor hidden)
        => Collect(nameof(GatherVisibleForward), Grad.Write(y), x, hidden);

    public override void GatherVisibleBackward(Grad dx, Tensor dy, Tensor hidden)
        => Spread(nameof(GatherVisibleBackward), dx, dy, null, hidden);

    public override void ScatterVisibleForward(Tensor y, Tensor x, Tensor mask, Tensor hidden)
        => Spread(nameof(ScatterVisibleForward), Grad.Write(y), x, mask, hidden);

    public override void ScatterVisibleBackward(Grad dx, Grad dmask, Tensor dy, Tensor hidden)
    {
        Collect(nameof(ScatterVisibleBackward), dx, dy, hidden);
        if (!dmask.Wanted) return;
        int images = dy.Shape.D0, tokens = dy.Shape.D1, cols = dy.Shape.Cols, prefix = tokens - hidden.Shape.D1;
        float* to = dmask.Into.F32, from = dy.F32;
        bool a = dmask.Accumulate;
        switch (Level)
        {
            case SimdLevel.Vector512:
                _rows.For(cols, HiddenSumCols<Lanes16>.Grain, new HiddenSumCols<Lanes16>(to, a, from, hidden.U8, images, tokens, prefix, cols));
                break;
            case SimdLevel.Vector256:
                _rows.For(cols, HiddenSumCols<Lanes8>.Grain, new HiddenSumCols<Lanes8>(to, a, from, hidden.U8, images, tokens, prefix, cols));
                break;
            default:
                _rows.For(cols, HiddenSumCols<Lanes1>.Grain, new HiddenSumCols<Lanes1>(to, a, from, hidden.U8, images, tokens, prefix, cols));
                break;
        }
    }

    /// <summary>few ← prefix rows and visible patches of all.</summary>
    private void Collect(string op, Grad few, Tensor all, Tensor hidden)
    {
        if (!few.Wanted) return;
        int images = all.Shape.D0, tokens = all.Shape.D1, cols = all.Shape.Cols, kept = few.Into.Shape.D1;
        CheckVisible(op, hidden, tokens, kept);
        float* to = few.Into.F32, from = all.F32;
        bool a = few.Accumulate;
        byte* h = hidden.U8;
        switch (Level)
        {
            case SimdLevel.Vector512: _rows.For(images, 1, new CollectImages<Lanes16>(to, a, from, h, hidden.Shape.D1, kept, tokens, cols)); break;
            case SimdLevel.Vector256: _rows.For(images, 1, new CollectImages<Lanes8>(to, a, from, h, hidden.Shape.D1, kept, tokens, cols)); break;
            default: _rows.For(images, 1, new CollectImages<Lanes1>(to, a, from, h, hidden.Shape.D1, kept, tokens, cols)); break;
        }
    }

    /// <summary>all ← prefix rows and visible patches of few, and on hidden patches the mask token, or 0 where there is none.</summary>
    private void Spread(string op, Grad all, Tensor few, Tensor? mask, Tensor hidden)
    {
        if (!all.Wanted) return;
        int images = few.Shape.D0, tokens = all.Into.Shape.D1, cols = few.Shape.Cols, kept = few.Shape.D1;
        CheckVisible(op, hidden, tokens, kept);
        float* to = all.Into.F32, from = few.F32, m = mask is { } given ? given.F32 : null;
        bool a = all.Accumulate;
        byte* h = hidden.U8;
        switch (Level)
        {
            case SimdLevel.Vector512: _rows.For(images, 1, new SpreadImages<Lanes16>(to, a, from, m, h, hidden.Shape.D1, kept, tokens, cols)); break;
            case SimdLevel.Vector256: _rows.For(images, 1, new SpreadImages<Lanes8>(to, a, from, m, h, hidden.Shape.D1, kept, tokens, cols)); break;
            default: _rows.For(images, 1, new SpreadImages<Lanes1>(to, a, from, m, h, hidden.Shape.D1, kept, tokens, cols)); break;
        }
    }

    /// <summary>A mask of another count would read and write past an image: better a sentence.</summary>
    private void CheckVisible(string op, Tensor hidden, int tokens, int kept)
    {
        if (_dry) return;
        int patches = hidden.Shape.D1, wanted = kept - (tokens - patches);
        byte* h = hidden.U8;
        for (int b = 0; b < hidden.Shape.D0; b++, h += patches)
        {
            int visible = 0;
            for (int l = 0; l < patches; l++) visible += h[l] == 0 ? 1 : 0;
            if (visible != wanted) throw new ArgumentException($"{op}: image {b} has {visible} visible patches; all must have {wanted}.");
        }
    }

    /// <summary>One row is one image.</summary>
    private readonly struct CollectImages<TV>(float* few, bool accumulate, float* all, byte* hidden, int patches, int kept, int tokens,
        int cols) : IRowKernel where TV : struct, ILanes<TV>
    {
        public void Run(int first, int last, int chunk)
        {
            int prefix = tokens - patches;
            for (int b = first; b < last; b++)
            {
                float* to = few + (long)b * kept * cols, from = all + (long)b * tokens * cols;
                Lines<TV>.Put(to, from, accumulate, prefix * cols);
                to += (long)prefix * cols;
                from += (long)prefix * cols;
                byte* h = hidden + (long)b * patches;
                for (int l = 0; l < patches; l++, from += cols)
                {
                    if (h[l] != 0) continue;
                    Lines<TV>.Put(to, from, accumulate, cols);
                    to += cols;
                }
            }
        }
    }

    /// <summary>One row is one image.</summary>
    private readonly struct SpreadImages<TV>(float* all, bool accumulate, float* few, float* mask, byte* hidden, int patches, int kept,
        int tokens, int cols) : IRowKernel where TV : struct, ILanes<TV>
    {
        public void Run(int first, int last, int chunk)
        {
            int prefix = tokens - patches;
            for (int b = first; b < last; b++)
            {
                float* to = all + (long)b * tokens * cols, from = few + (long)b * kept * cols;
                Lines<TV>.Put(to, from, accumulate, prefix * cols);
                to += (long)prefix * cols;
                from += (long)prefix * cols;
                byte* h = hidden + (long)b * patches;
                for (int l = 0; l < patches; l++, to += cols)
                {
                    if (h[l] == 0)
                    {
                        Lines<TV>.Put(to, from, accumulate, cols);
                        from += cols;
                    }
                    else if (mask != null) Lines<TV>.Copy(to, mask, cols);
                    else if (!accumulate) Lines<TV>.Set(to, 0f, cols);
                }
            }
        }
    }

    public override void PoolTokensForward(Tensor y, Tensor x, Tensor w)
    {
        int images = x.Shape.D0, tokens = x.Shape.D1, cols = x.Shape.Cols, count = w.Shape.D1;
        switch (Level)
        {
            case SimdLevel.Vector512: _rows.For(images, 1, new PoolImages<Lanes16>(y.F32, x.F32, w.F32, count, tokens, cols)); break;
            case SimdLevel.Vector256: _rows.For(images, 1, new PoolImages<Lanes8>(y.F32, x.F32, w.F32, count, tokens, cols)); break;
            default: _rows.For(images, 1, new PoolImages<Lanes1>(y.F32, x.F32, w.F32, count, tokens, cols)); break;
        }
    }

    /// <summary>One row is one image.</summary>
    private readonly struct PoolImages<TV>(float* y, float* x, float* w, int count, int tokens, int cols) : IRowKernel
        where TV : struct, ILanes<TV>
    {
        public void Run(int first, int last, int chunk)
        {
            for (int b = first; b < last; b++)
            {
                float* to = y + (long)b * cols, from = x + ((long)b * tokens + tokens - count) * cols, weights = w + (long)b * count;
                for (int n = 0; n < count; n++, from += cols) Lines<TV>.Scale(to, from, weights[n], n > 0, cols);
            }
        }
    }

    public override void PoolTokensBackward(Grad dx, Grad dw, Tensor dy, Tensor x, Tensor w)
    {
        int images = x.Shape.D0, tokens = x.Shape.D1, cols = x.Shape.Cols, count = w.Shape.D1;
        float* to = dx.Wanted ? dx.Into.F32 : null, weights = dw.Wanted ? dw.Into.F32 : null;
        switch (Level)
        {
            case SimdLevel.Vector512:
                _rows.For(images, 1, new PoolBackwardImages<Lanes16>(to, dx.Accumulate, weights, dw.Accumulate, dy.F32, x.F32, w.F32, count,
                    tokens, cols));
                break;
            case SimdLevel.Vector256:
                _rows.For(images, 1, new PoolBackwardImages<Lanes8>(to, dx.Accumulate, weights, dw.Accumulate, dy.F32, x.F32, w.F32, count,
                    tokens, cols));
                break;
            default:
                _rows.For(images, 1, new PoolBackwardImages<Lanes1>(to, dx.Accumulate, weights, dw.Accumulate, dy.F32, x.F32, w.F32, count,
                    tokens, cols));
                break;
        }
    }

    /// <summary>One row is one image.</summary>
    private readonly struct PoolBackwardImages<TV>(float* dx, bool addX, float* dw, bool addW, float* dy, float* x, float* w, int count,
        int tokens, int cols) : IRowKernel where TV : struct, ILanes<TV>
    {
        public void Run(int first, int last, int chunk)
        {
            int before = tokens - count;
            for (int b = first; b < last; b++)
            {
                float* g = dy + (long)b * cols;
                long image = (long)b * tokens * cols;
                if (dx != null && !addX) Lines<TV>.Set(dx + image, 0f, before * cols);
                for (int n = 0; n < count; n++)
                {
                    long row = image + (long)(before + n) * cols;
                    if (dx != null) Lines<TV>.Scale(dx + row, g, w[(long)b * count + n], addX, cols);
                    if (dw == null) continue;
                    float dot = Lines<TV>.Dot(g, x + row, cols), old = addW ? dw[(long)b * count + n] : 0f;
                    dw[(long)b * count + n] = old + dot;
                }
            }
        }
    }
}
