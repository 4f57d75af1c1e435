using MimEngine.Kernels;

namespace MimEngine.Engine.Autograd;

public static partial class Ops
{
    /// <summary>y = softmax(q·kᵀ/√D + bias)·v for each image and head; qkv is (B, N, 3·C), y (B, N, C).</summary>
    public static Value Attention(this Tape t, Value qkv, int heads, Value? bias = null)
    {
        (int b, int n, int c) = (qkv.Shape.D0, qkv.Shape.D1, qkv.Shape.D2 / 3);
        if (qkv.Shape.Rank != 3 || c % heads != 0)
            throw new ArgumentException($"Attention: qkv is {qkv.Shape}; it must be (B, N, 3·C) with C divisible by {heads} heads.");
        int mark = t.Mark;
        Tensor lse = t.Keep(new Shape(b, heads, n));
        Value y = t.New(new Shape(b, n, c), qkv.NeedsGrad || bias is { NeedsGrad: true });
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
}
