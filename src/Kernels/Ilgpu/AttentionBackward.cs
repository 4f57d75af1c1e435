using ILGPU;

namespace MimEngine.Kernels.Ilgpu;

/// <summary>delta[b, h, n] = Σ over the head of dy·y, which is Σ_k p·dp.</summary>
internal readonly struct RowDots(ArrayView<float> delta, Cells dy, Cells y, HeadLayout at) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= delta.Length) return;
        int from = at.Output(i / at.Tokens) + i % at.Tokens * (at.Heads * at.Width);
        float sum = 0f;
        for (int d = 0; d < at.Width; d++) sum += dy.Get(from + d) * y.Get(from + d);
        delta[i] = sum;
    }
}

/// <summary>Probabilities p = exp(logits − lse) made again block by block, and ds = p·(dy·vᵀ − delta).</summary>
internal readonly struct Probabilities(Cells qkv, Cells dy, ArrayView<float> lse, ArrayView<float> delta,
    ArrayView<float> bias, int hasBias, HeadLayout at)
{
    public readonly Cells Qkv = qkv, Dy = dy;
    public readonly HeadLayout At = at;

    /// <summary>p of a block: queries from q0, keys from k0; 0 outside.</summary>
    public Results Of<TT>(ArrayView<float> left, ArrayView<float> right, int head, int q0, int k0) where TT : struct, ITile
    {
        var q = new Operand(Qkv, At.Part(head, 0), At.Tokens, At.Stride, 1);
        var k = new Operand(Qkv, At.Part(head, 1), At.Tokens, At.Stride, 1);
        Results s = Heads.Dot<TT>(left, right, q, q0, k, k0, At.Width);
        int row = q0 + Group.IdxX / TT.Side, col = k0 + Group.IdxX % TT.Side;
        return new Results(Row<TT>(s.A, head, row, col), Row<TT>(s.B, head, row + TT.Side, col), Row<TT>(s.C, head, row + 2 * TT.Side, col),
            Row<TT>(s.D, head, row + 3 * TT.Side, col));
    }

    /// <summary>ds of the same block.</summary>
    public Results Slopes<TT>(Results p, ArrayView<float> left, ArrayView<float> right, int head, int q0, int k0) where TT : struct, ITile
    {
        var d = new Operand(Dy, At.Output(head), At.Tokens, At.Heads * At.Width, 1);
        var v = new Operand(Qkv, At.Part(head, 2), At.Tokens, At.Stride, 1);
        Results dp = Heads.Dot<TT>(left, right, d, q0, v, k0, At.Width);
        int row = q0 + Group.IdxX / TT.Side;
        return new Results(Slope(p.A, dp.A, head, row), Slope(p.B, dp.B, head, row + TT.Side), Slope(p.C, dp.C, head, row + 2 * TT.Side),
            Slope(p.D, dp.D, head, row + 3 * TT.Side));
    }

    private Four Row<TT>(Four s, int head, int row, int col) where TT : struct, ITile
    {
        if (row >= At.Tokens) return default;
        float minus = lse[head * At.Tokens + row];
        return new Four(One(s.X, minus, head, row, col), One(s.Y, minus, head, row, col + TT.Side),
            One(s.Z, minus, head, row, col + 2 * TT.Side), One(s.W, minus, head, row, col + 3 * TT.Side));
    }

    private float One(float s, float minus, int head, int row, int col)
    {
        if (col >= At.Tokens) return 0f;
        s *= At.Scale;
        if (hasBias != 0) s += bias[(head % At.Heads * At.Tokens + row) * At.Tokens + col];
        return Scalar.Exp(s - minus);
    }

    private Four Slope(Four p, Four dp, int head, int row)
    {
        if (row >= At.Tokens) return default;
        float d = delta[head * At.Tokens + row];
        return new Four(p.X * (dp.X - d), p.Y * (dp.Y - d), p.Z * (dp.Z - d), p.W * (dp.W - d));
    }
}

/// <summary>One group is one block of queries of one head and a run of its columns: dq = ds·k/√D.</summary>
internal readonly struct QueryGradients(Cells dqkv, Probabilities made, int blocks, int across, int accumulate) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> left = SharedMemory.Allocate<float>(Panel.Size<TT>()), right = SharedMemory.Allocate<float>(Panel.Size<TT>());
        ArrayView<float> panel = SharedMemory.Allocate<float>(4 * TT.Side * (4 * TT.Side + 1));
        HeadLayout at = made.At;
        int col0 = Grid.IdxX % across * (4 * TT.Side), q0 = Grid.IdxX / across % blocks * (4 * TT.Side), head = Grid.IdxX / across / blocks;
        int tx = Group.IdxX % TT.Side, ty = Group.IdxX / TT.Side;
        Results dq = default;
        for (int k0 = 0; k0 < at.Tokens; k0 += 4 * TT.Side)
        {
            Results p = made.Of<TT>(left, right, head, q0, k0);
            Results ds = made.Slopes<TT>(p, left, right, head, q0, k0);
            Heads.PutTransposed<TT>(panel, ty, tx, ds.A);
            Heads.PutTransposed<TT>(panel, ty + TT.Side, tx, ds.B);
            Heads.PutTransposed<TT>(panel, ty + 2 * TT.Side, tx, ds.C);
            Heads.PutTransposed<TT>(panel, ty + 3 * TT.Side, tx, ds.D);
            dq = Heads.Spread<TT>(dq, panel, right, made.Qkv, at.Part(head, 1) + col0, k0, at.Tokens, at.Stride, at.Width - col0);
        }
        int first = at.Part(head, 0) + col0, cols = at.Width - col0, row = q0 + ty;
        if (row < at.Tokens) Heads.Store<TT>(dqkv, first + row * at.Stride, cols, dq.A.Times(at.Scale), accumulate);
        row += TT.Side;
        if (row < at.Tokens) Heads.Store<TT>(dqkv, first + row * at.Stride, cols, dq.B.Times(at.Scale), accumulate);
        row += TT.Side;
        if (row < at.Tokens) Heads.Store<TT>(dqkv, first + row * at.Stride, cols, dq.C.Times(at.Scale), accumulate);
        row += TT.Side;
        if (row < at.Tokens) Heads.Store<TT>(dqkv, first + row * at.Stride, cols, dq.D.Times(at.Scale), accumulate);
    }
}

/// <summary>One group is one block of keys of one head and a run of its columns: dk = dsᵀ·q/√D, dv = pᵀ·dy.</summary>
internal readonly struct KeyValueGradients(Cells dqkv, Probabilities made, int blocks, int across, int accumulate) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> left = SharedMemory.Allocate<float>(Panel.Size<TT>()), right = SharedMemory.Allocate<float>(Panel.Size<TT>());
        ArrayView<float> weights = SharedMemory.Allocate<float>(4 * TT.Side * (4 * TT.Side + 1));
        ArrayView<float> slopes = SharedMemory.Allocate<float>(4 * TT.Side * (4 * TT.Side + 1));
        HeadLayout at = made.At;
        int col0 = Grid.IdxX % across * (4 * TT.Side), k0 = Grid.IdxX / across % blocks * (4 * TT.Side), head = Grid.IdxX / across / blocks;
        int tx = Group.IdxX % TT.Side, ty = Group.IdxX / TT.Side, cols = at.Width - col0;
        Results dk = default, dv = default;
        for (int q0 = 0; q0 < at.Tokens; q0 += 4 * TT.Side)
        {
            Results p = made.Of<TT>(left, right, head, q0, k0);
            Results ds = made.Slopes<TT>(p, left, right, head, q0, k0);
            PutRow<TT>(weights, slopes, ty, tx, p.A, ds.A);
            PutRow<TT>(weights, slopes, ty + TT.Side, tx, p.B, ds.B);
            PutRow<TT>(weights, slopes, ty + 2 * TT.Side, tx, p.C, ds.C);
            PutRow<TT>(weights, slopes, ty + 3 * TT.Side, tx, p.D, ds.D);
            dv = Heads.Spread<TT>(dv, weights, right, made.Dy, at.Output(head) + col0, q0, at.Tokens, at.Heads * at.Width, cols);
            dk = Heads.Spread<TT>(dk, slopes, right, made.Qkv, at.Part(head, 0) + col0, q0, at.Tokens, at.Stride, cols);
        }
        StoreRow<TT>(k0 + ty, head, col0, dk.A, dv.A);
        StoreRow<TT>(k0 + ty + TT.Side, head, col0, dk.B, dv.B);
        StoreRow<TT>(k0 + ty + 2 * TT.Side, head, col0, dk.C, dv.C);
        StoreRow<TT>(k0 + ty + 3 * TT.Side, head, col0, dk.D, dv.D);
    }

    private static void PutRow<TT>(ArrayView<float> weights, ArrayView<float> slopes, int row, int col, Four p, Four ds)
        where TT : struct, ITile
    {
        Heads.Put<TT>(weights, row, col, p);
        Heads.Put<TT>(slopes, row, col, ds);
    }

    private void StoreRow<TT>(int row, int head, int col0, Four dk, Four dv) where TT : struct, ITile
    {
        HeadLayout at = made.At;
        if (row >= at.Tokens) return;
        Heads.Store<TT>(dqkv, at.Part(head, 1) + row * at.Stride + col0, at.Width - col0, dk.Times(at.Scale), accumulate);
        Heads.Store<TT>(dqkv, at.Part(head, 2) + row * at.Stride + col0, at.Width - col0, dv, accumulate);
    }
}

/// <summary>One group is one block of one head's bias: ds summed over images in order.</summary>
internal readonly struct BiasGradients(Cells dbias, Probabilities made, int images, int blocks, int accumulate) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> left = SharedMemory.Allocate<float>(Panel.Size<TT>()), right = SharedMemory.Allocate<float>(Panel.Size<TT>());
        HeadLayout at = made.At;
        int k0 = Grid.IdxX % blocks * (4 * TT.Side), q0 = Grid.IdxX / blocks % blocks * (4 * TT.Side), h = Grid.IdxX / blocks / blocks;
        Results sum = default;
        for (int image = 0; image < images; image++)
        {
            Results p = made.Of<TT>(left, right, image * at.Heads + h, q0, k0);
            Results ds = made.Slopes<TT>(p, left, right, image * at.Heads + h, q0, k0);
            sum = new Results(sum.A.Plus(1f, ds.A), sum.B.Plus(1f, ds.B), sum.C.Plus(1f, ds.C), sum.D.Plus(1f, ds.D));
        }
        int row = q0 + Group.IdxX / TT.Side;
        StoreRow<TT>(h, row, k0, sum.A);
        StoreRow<TT>(h, row + TT.Side, k0, sum.B);
        StoreRow<TT>(h, row + 2 * TT.Side, k0, sum.C);
        StoreRow<TT>(h, row + 3 * TT.Side, k0, sum.D);
    }

    private void StoreRow<TT>(int h, int row, int k0, Four values) where TT : struct, ITile
    {
        int tokens = made.At.Tokens;
        if (row < tokens) Heads.Store<TT>(dbias, (h * tokens + row) * tokens + k0, tokens - k0, values, accumulate);
    }
}
