using MimEngine.Kernels;

namespace MimEngine.Engine.Autograd;

public static partial class Ops
{
    /// <summary>(B, 3, S, S) images to (B, L, 3·P²) patches. Pixels are data: no gradient flows back.</summary>
    public static Value Patchify(this Tape t, Tensor images, int patch, PixelOrder order)
    {
        (int rows, int cols) = (images.Shape.D2 / patch, images.Shape.D3 / patch);
        if (rows * patch != images.Shape.D2 || cols * patch != images.Shape.D3)
            throw new ArgumentException($"Patchify: images are {images.Shape}, which {patch}-pixel patches do not tile.");
        Value y = t.New(new Shape(images.Shape.D0, rows * cols, 3 * patch * patch), needsGrad: false);
        t.Backend.Patchify(y.Data, images, patch, order);
        return y;
    }

    /// <summary>[cls] and patch tokens with mask tokens in place of hidden patches and positions added; see Backend.</summary>
    public static Value AssembleTokens(this Tape t, Value x, Param? cls, Param? mask, Tensor? hidden, Value? pos)
    {
        (int b, int l, int c) = (x.Shape.D0, x.Shape.D1, x.Shape.D2);
        int n = l + (cls is null ? 0 : 1);
        if (hidden is not null && mask is null) throw new ArgumentException("AssembleTokens: hidden patches need a mask token.");
        if (pos is not null && pos.Shape.Count != (long)n * c)
            throw new ArgumentException($"AssembleTokens: {n} tokens of width {c}, but {(pos is Param p ? $"'{p.Name}'" : "the table")} is {pos.Shape}.");
        int mark = t.Mark;
        Value y = t.New(new Shape(b, n, c), needsGrad: true);
        t.Backend.AssembleTokensForward(y.Data, x.Data, cls?.Data, mask?.Data, hidden, pos?.Data);
        t.Record<AssembleTokensNode>(y, mark)?.Set(x, cls, hidden is null ? null : mask, hidden, pos);
        return y;
    }

    private sealed class AssembleTokensNode : Node
    {
        private Value _x = null!;
        private Param? _cls, _mask;
        private Value? _pos;
        private Tensor? _hidden;

        public void Set(Value x, Param? cls, Param? mask, Tensor? hidden, Value? pos)
            => (_x, _cls, _mask, _hidden, _pos) = (x, cls, mask, hidden, pos);

        public override void Backward(Tape t) => t.Backend.AssembleTokensBackward(t.GradFor(_x), t.GradFor(_cls), t.GradFor(_mask),
            t.GradFor(_pos), t.GradOf(Output), _hidden);
    }

    /// <summary>Tokens [first, first + count) of every image.</summary>
    public static Value SliceTokens(this Tape t, Value x, int first, int count)
    {
        if (first + count > x.Shape.D1) throw new ArgumentException($"SliceTokens: tokens {first} to {first + count} of {x.Shape}.");
        int mark = t.Mark;
        Value y = t.New(new Shape(x.Shape.D0, count, x.Shape.D2), x.NeedsGrad);
        t.Backend.SliceTokensForward(y.Data, x.Data, first);
        t.Record<SliceTokensNode>(y, mark)?.Set(x, first);
        return y;
    }

    private sealed class SliceTokensNode : Node
    {
        private Value _x = null!;
        private int _first;

        public void Set(Value x, int first) => (_x, _first) = (x, first);

        public override void Backward(Tape t) => t.Backend.SliceTokensBackward(t.GradFor(_x), t.GradOf(Output), _first);
    }

    /// <summary>(B, N, C) to (B, C): the mean of the tokens from <paramref name="first"/> on.</summary>
    public static Value MeanTokens(this Tape t, Value x, int first)
    {
        int mark = t.Mark;
        Value y = t.New(new Shape(x.Shape.D0, x.Shape.D2), x.NeedsGrad);
        t.Backend.MeanTokensForward(y.Data, x.Data, first);
        t.Record<MeanTokensNode>(y, mark)?.Set(x, first);
        return y;
    }

    private sealed class MeanTokensNode : Node
    {
        private Value _x = null!;
        private int _first;

        public void Set(Value x, int first) => (_x, _first) = (x, first);

        public override void Backward(Tape t) => t.Backend.MeanTokensBackward(t.GradFor(_x), t.GradOf(Output), _first);
    }

    /// <summary>Prefix rows and visible patches only: (B, prefix + <paramref name="visible"/>, C), in raster order.</summary>
    /// <param name="hidden">(B, L) U8; every image has <paramref name="visible"/> zeros.</param>
    public static Value GatherVisible(this Tape t, Value x, Tensor hidden, int visible)
    {
        int prefix = x.Shape.D1 - hidden.Shape.D1;
        int mark = t.Mark;
        Value y = t.New(new Shape(x.Shape.D0, prefix + visible, x.Shape.D2), x.NeedsGrad);
        t.Backend.GatherVisibleForward(y.Data, x.Data, hidden);
        t.Record<GatherVisibleNode>(y, mark)?.Set(x, hidden);
        return y;
    }

    private sealed class GatherVisibleNode : Node
    {
        private Value _x = null!;
        private Tensor _hidden;

        public void Set(Value x, Tensor hidden) => (_x, _hidden) = (x, hidden);

        public override void Backward(Tape t) => t.Backend.GatherVisibleBackward(t.GradFor(_x), t.GradOf(Output), _hidden);
    }

    /// <summary>Prefix rows and visible patches back at their places, mask tokens between: (B, tokens, C).</summary>
    public static Value ScatterVisible(this Tape t, Value x, Param mask, Tensor hidden, int tokens)
    {
        int mark = t.Mark;
        Value y = t.New(new Shape(x.Shape.D0, tokens, x.Shape.D2), x.NeedsGrad || mask.NeedsGrad);
        t.Backend.ScatterVisibleForward(y.Data, x.Data, mask.Data, hidden);
        t.Record<ScatterVisibleNode>(y, mark)?.Set(x, mask, hidden);
        return y;
    }

    private sealed class ScatterVisibleNode : Node
    {
        private Value _x = null!;
        private Param _mask = null!;
        private Tensor _hidden;

        public void Set(Value x, Param mask, Tensor hidden) => (_x, _mask, _hidden) = (x, mask, hidden);

        public override void Backward(Tape t)
            => t.Backend.ScatterVisibleBackward(t.GradFor(_x), t.GradFor(_mask), t.GradOf(Output), _hidden);
    }

    /// <summary>y[b] = Σ_n w[b, n]·x[b, N − W + n]; (B, C).</summary>
    public static Value PoolTokens(this Tape t, Value x, Value w)
    {
        if (w.Shape.Rank != 2 || w.Shape.D1 > x.Shape.D1)
            throw new ArgumentException($"PoolTokens: weights are {w.Shape}; tokens are {x.Shape}.");
        int mark = t.Mark;
        Value y = t.New(new Shape(x.Shape.D0, x.Shape.D2), x.NeedsGrad || w.NeedsGrad);
        t.Backend.PoolTokensForward(y.Data, x.Data, w.Data);
        t.Record<PoolTokensNode>(y, mark)?.Set(x, w);
        return y;
    }

    private sealed class PoolTokensNode : Node
    {
        private Value _x = null!, _w = null!;

        public void Set(Value x, Value w) => (_x, _w) = (x, w);

        public override void Backward(Tape t)
            => t.Backend.PoolTokensBackward(t.GradFor(_x), t.GradFor(_w), t.GradOf(Output), _x.Data, _w.Data);
    }
}
