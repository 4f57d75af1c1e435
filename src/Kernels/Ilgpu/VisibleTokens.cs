using ILGPU;

namespace MimEngine.Kernels.Ilgpu;

internal sealed partial class IlgpuBackend
{
    private const int PlaceSlot = 4, RankSlot = 5;

    public override void GatherVisibleForward(Tensor y, Tensor x, Tensor hidden)
    {
        VisibleLayout at = Visible(hidden, x.Shape, y.Shape);
        LaunchEach(y.Count, new TakeVisible(F(y), F(x), at, 0));
    }

    public override void GatherVisibleBackward(Grad dx, Tensor dy, Tensor hidden)
    {
        if (!dx.Wanted) return;
        VisibleLayout at = Visible(hidden, dx.Into.Shape, dy.Shape);
        LaunchEach(dx.Into.Count, new PutVisible(F(dx), F(dy), None, 0, at, Flag(dx.Accumulate)));
    }

    public override void ScatterVisibleForward(Tensor y, Tensor x, Tensor mask, Tensor hidden)
    {
        VisibleLayout at = Visible(hidden, y.Shape, x.Shape);
        LaunchEach(y.Count, new PutVisible(F(y), F(x), F(mask), 1, at, 0));
    }

    public override void ScatterVisibleBackward(Grad dx, Grad dmask, Tensor dy, Tensor hidden)
    {
        int tokens = dy.Shape.D1, patches = hidden.Shape.D1, cols = dy.Shape.Cols;
        if (dx.Wanted) LaunchEach(dx.Into.Count, new TakeVisible(F(dx), F(dy), Visible(hidden, dy.Shape, dx.Into.Shape), Flag(dx.Accumulate)));
        if (dmask.Wanted)
            SumColumns(dmask, PartialSlot, dy.Shape.D0 * patches, cols, new Hidden(F(dy), U(hidden), 1, tokens, tokens - patches, cols));
    }

    public override void PoolTokensForward(Tensor y, Tensor x, Tensor w)
        => LaunchEach(y.Count, new PoolEach(F(y), F(x), F(w), x.Shape.D1, w.Shape.Cols, x.Shape.Cols));

    public override void PoolTokensBackward(Grad dx, Grad dw, Tensor dy, Tensor x, Tensor w)
    {
        int tokens = x.Shape.D1, last = w.Shape.Cols, cols = x.Shape.Cols;
        if (dx.Wanted) LaunchEach(x.Count, new PoolBackwardEach(F(dx), F(dy), F(w), tokens, last, cols, Flag(dx.Accumulate)));
        if (dw.Wanted) Launch(w.Count, new PoolWeightRows(F(dw), F(dy), F(x), tokens, last, cols, Flag(dw.Accumulate)));
    }

    /// <summary>Finds, on the device, where the visible patches of every image are.</summary>
    private VisibleLayout Visible(Tensor hidden, Shape all, Shape visible)
    {
        int images = hidden.Shape.D0, patches = hidden.Shape.D1, prefix = all.D1 - patches, kept = visible.D1 - prefix;
        var at = new VisibleLayout(Scratch<int>(PlaceSlot, (long)images * kept), Scratch<int>(RankSlot, hidden.Count), all.D1, prefix, kept,
            all.Cols);
        LaunchEach(images, new FindVisible(at, U(hidden), images));
        return at;
    }
}

/// <summary>Places[b, v] = the v-th visible patch; Ranks[b, l] = v, or −1 where patch l is hidden.</summary>
internal readonly struct VisibleLayout(ArrayView<int> places, ArrayView<int> ranks, int tokens, int prefix, int kept, int cols)
{
    public readonly ArrayView<int> Places = places, Ranks = ranks;
    public readonly int Tokens = tokens, Prefix = prefix, Kept = kept, Cols = cols;
}

/// <summary>One thread is one image.</summary>
internal readonly struct FindVisible(VisibleLayout at, ArrayView<byte> hidden, int images) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int b = Team.Index<TT>(), patches = at.Tokens - at.Prefix, v = 0;
        if (b >= images) return;
        for (int l = 0; l < patches; l++)
        {
            bool seen = hidden[b * patches + l] == 0 && v < at.Kept;
            at.Ranks[b * patches + l] = seen ? v : -1;
            if (!seen) continue;
            at.Places[b * at.Kept + v] = l;
            v++;
        }
    }
}

/// <summary>short[b, i] = long[b, its place].</summary>
internal readonly struct TakeVisible(ArrayView<float> y, ArrayView<float> x, VisibleLayout at, int accumulate) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= y.Length) return;
        int c = i % at.Cols, n = i / at.Cols % (at.Prefix + at.Kept), b = i / at.Cols / (at.Prefix + at.Kept), token = n;
        if (n >= at.Prefix) token = at.Prefix + at.Places[b * at.Kept + n - at.Prefix];
        float v = x[(b * at.Tokens + token) * at.Cols + c];
        y[i] = accumulate != 0 ? y[i] + v : v;
    }
}

/// <summary>long[b, n] = short[b, its rank], or the mask token, or 0 where it is hidden.</summary>
internal readonly struct PutVisible(ArrayView<float> y, ArrayView<float> x, ArrayView<float> mask, int hasMask, VisibleLayout at,
    int accumulate) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= y.Length) return;
        int c = i % at.Cols, n = i / at.Cols % at.Tokens, b = i / at.Cols / at.Tokens, rank = n;
        if (n >= at.Prefix)
        {
            rank = at.Ranks[b * (at.Tokens - at.Prefix) + n - at.Prefix];
            if (rank >= 0) rank += at.Prefix;
        }
        float v = 0f;
        if (rank >= 0) v = x[(b * (at.Prefix + at.Kept) + rank) * at.Cols + c];
        else if (hasMask != 0) v = mask[c];
        y[i] = accumulate != 0 ? y[i] + v : v;
    }
}

internal readonly struct PoolEach(ArrayView<float> y, ArrayView<float> x, ArrayView<float> w, int tokens, int last, int cols) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= y.Length) return;
        int b = i / cols;
        float sum = 0f;
        for (int n = 0; n < last; n++) sum += w[b * last + n] * x[(b * tokens + tokens - last + n) * cols + i % cols];
        y[i] = sum;
    }
}

internal readonly struct PoolBackwardEach(ArrayView<float> dx, ArrayView<float> dy, ArrayView<float> w, int tokens, int last, int cols,
    int accumulate) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= dx.Length) return;
        int b = i / cols / tokens, n = i / cols % tokens - (tokens - last);
        float d = 0f;
        if (n >= 0) d = w[b * last + n] * dy[b * cols + i % cols];
        dx[i] = accumulate != 0 ? dx[i] + d : d;
    }
}

/// <summary>One group is one weight.</summary>
internal readonly struct PoolWeightRows(ArrayView<float> dw, ArrayView<float> dy, ArrayView<float> x, int tokens, int last, int cols,
    int accumulate) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>());
        int b = Grid.IdxX / last, from = (b * tokens + tokens - last + Grid.IdxX % last) * cols;
        float dot = 0f;
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side) dot += dy[b * cols + c] * x[from + c];
        dot = Team.Sum<TT>(room, dot, 0f).A;
        if (Group.IdxX == 0) dw[Grid.IdxX] = accumulate != 0 ? dw[Grid.IdxX] + dot : dot;
    }
}
