using MimEngine.Kernels;

namespace MimEngine.Engine.Autograd;

public static partial class Ops
{
    /// <summary>
    /// y = residual + rowScale ⊙ gamma ⊙ (GELU(x·w₁ᵀ + b₁)·w₂ᵀ + b₂): the second half of a block as one node, so that GELU′ is taken where the
    /// second layer's gradient is made. The pre-activation and the activation are kept.
    /// </summary>
    /// <param name="gamma">(C) LayerScale or none.</param>
    /// <param name="rowScale">(B) stochastic depth: 0 or 1/keep for each image, or none.</param>
    public static Value Mlp(this Tape t, Value x, LinearParams inner, LinearParams outer, Value residual, Param? gamma = null,
        Tensor? rowScale = null)
    {
        int mark = t.Mark;
        Shape hidden = LinearShape(x, inner);
        if (outer.Inputs != inner.Outputs || residual.Shape.Cols != outer.Outputs || residual.Shape.Rows != x.Shape.Rows)
            throw new ArgumentException(
                $"Mlp: {x.Shape} through {inner.Weight.DeclaredShape} and {outer.Weight.DeclaredShape} is not {residual.Shape}.");
        Tensor h = t.Keep(hidden, t.Backend.Branch), a = t.Keep(hidden, t.Backend.Branch);
        bool behind = x.NeedsGrad || inner.Weight.NeedsGrad || inner.Bias is { NeedsGrad: true };
        Value y = t.New(residual.Shape, behind || residual.NeedsGrad || outer.Weight.NeedsGrad);
        t.Backend.LinearGeluForward(a, h, x.Data, inner.Weight.Operand, inner.Bias?.Data);
        t.Backend.LinearResidualForward(y.Data, a, outer.Weight.Operand, outer.Bias?.Data, residual.Data, gamma?.Data, rowScale);
        t.Record<MlpNode>(y, mark)?.Set(x, inner, h, a, behind, outer, residual, gamma, rowScale);
        return y;
    }

    private sealed class MlpNode : ResidualNode
    {
        private Value _x = null!;
        private LinearParams _inner = null!;
        private Tensor _h, _a;
        private Tensor? _slope;
        private bool _behind;

        public void Set(Value x, LinearParams inner, Tensor h, Tensor a, bool behind, LinearParams outer, Value residual, Param? gamma,
            Tensor? rowScale)
        {
            (_x, _inner, _h, _a, _behind, _slope) = (x, inner, h, a, behind, null);
            Set(outer, residual, gamma, rowScale);
        }

        protected override Tensor Input => _a;

        protected override void Product(Tape t, Tensor branch, bool weights)
        {
            if (weights) t.Backend.LinearBackward(Grad.None, t.GradFor(Layer.Weight), t.GradFor(Layer.Bias), branch, _a, Layer.Weight.Operand);
            if (!_behind) return;
            Tensor dh = t.Scratch(_h.Shape, _h.DType);
            t.Backend.LinearGeluBackward(dh, branch, Layer.Weight.Operand, _h);
            _slope = dh;
        }

        protected override void Rest(Tape t)
        {
            if (_slope is not { } dh) return;
            t.Backend.LinearBackward(t.GradFor(_x), t.GradFor(_inner.Weight), t.GradFor(_inner.Bias), dh, _x.Data, _inner.Weight.Operand);
            t.Done(dh);
            _slope = null;
        }
    }
}
