using MimEngine.Kernels;

namespace MimEngine.Engine.Autograd;

public static partial class Ops
{
    /// <summary>y = softmax(q·kᵀ/√D + bias)·v for each image and head; qkv is (B, N, 3·C), y (B, N, C) of its type.</summary>
    public static Value Attention(this Tape t, Value qkv, int heads, Value? bias = null)
    {
        (int b, int n, int c) = (qkv.Shape.D0, qkv.Shape.D1, qkv.Shape.D2 / 3);
        if (qkv.Shape.Rank != 3 || c % heads != 0)
            throw new ArgumentException($"Attention: qkv is {qkv.Shape}; it must be (B, N, 3·C) with C divisible by {heads} heads.");
        int mark = t.Mark;
        Tensor lse = t.Keep(new Shape(b, heads, n));
        Value y = t.New(new Shape(b, n, c), qkv.NeedsGrad || bias is { NeedsGrad: true }, qkv.Data.DType);
        t.Backend.AttentionForward(y.Data, lse, qkv.Data, heads, bias?.Data);
        t.Record<AttentionNode>(y, mark)?.Set(qkv, heads, bias, lse);
        return y;
    }

    private sealed class AttentionNode : Node
    {
        private Value _qkv = null!;
        private Value? _bias;
        private int _heads;
        private Tensor _lse;

        public void Set(Value qkv, int heads, Value? bias, Tensor lse) => (_qkv, _heads, _bias, _lse) = (qkv, heads, bias, lse);

        public override void Backward(Tape t) => t.Backend.AttentionBackward(t.GradFor(_qkv), t.GradFor(_bias), t.GradOf(Output),
            Output.Data, _lse, _qkv.Data, _heads, _bias?.Data);
    }

    /// <summary>(H, N, N) bias from an (R, H) table of relative positions on a grid × grid picture with one [cls].</summary>
    public static Value RelativePositionBias(this Tape t, Param table, int grid)
    {
        int side = 2 * grid - 1, n = 1 + grid * grid;
        if (table.DeclaredShape.D0 != side * side + 3)
            throw new ArgumentException($"RelativePositionBias: '{table.Name}' is {table.DeclaredShape}; a {grid}×{grid} grid needs "
                + $"{side * side + 3} rows.");
        int mark = t.Mark;
        Value y = t.New(new Shape(table.DeclaredShape.D1, n, n), table.NeedsGrad);
        t.Backend.RelativePositionBiasForward(y.Data, table.Data, grid);
        t.Record<RelativePositionBiasNode>(y, mark)?.Set(table, grid);
        return y;
    }

    private sealed class RelativePositionBiasNode : Node
    {
        private Param _table = null!;
        private int _grid;

        public void Set(Param table, int grid) => (_table, _grid) = (table, grid);

        public override void Backward(Tape t) => t.Backend.RelativePositionBiasBackward(t.GradFor(_table), t.GradOf(Output), _grid);
    }

    /// <summary>A weight for each of the last <paramref name="count"/> tokens out of attention, (B, count); see Backend.</summary>
    /// <param name="mix">(B, H, N): which heads and queries count.</param>
    public static Value MixAttention(this Tape t, Value attention, Tensor mix, int count, float gain, bool renormalise, float eps)
    {
        int mark = t.Mark;
        Tensor sums = t.Keep(new Shape(attention.Shape.D0));
        Value w = t.New(new Shape(attention.Shape.D0, count), attention.NeedsGrad);
        t.Backend.MixAttentionForward(w.Data, sums, attention.Data, mix, gain, renormalise, eps);
        t.Record<MixAttentionNode>(w, mark)?.Set(attention, sums, mix, gain, renormalise);
        return w;
    }

    private sealed class MixAttentionNode : Node
    {
        private Value _attention = null!;
        private Tensor _sums, _mix;
        private float _gain;
        private bool _renormalise;

        public void Set(Value attention, Tensor sums, Tensor mix, float gain, bool renormalise)
            => (_attention, _sums, _mix, _gain, _renormalise) = (attention, sums, mix, gain, renormalise);

        public override void Backward(Tape t) => t.Backend.MixAttentionBackward(t.GradFor(_attention), t.GradOf(Output), Output.Data, _sums,
            _mix, _gain, _renormalise);
    }
}
