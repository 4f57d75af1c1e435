using MimEngine.Kernels;

namespace MimEngine.Engine.Autograd;

/// <summary>Scale and shift of a LayerNorm, and its epsilon.</summary>
public sealed record NormParams(Param Gamma, Param Beta, float Eps);

public static partial class Ops
{
    /// <summary>y = (x − mean)·rstd·γ + β along each row.</summary>
    /// <param name="to">Type of y: <see cref="Backend.Branch"/> before a product of a block; none = <see cref="Backend.Real"/>.</param>
    public static Value LayerNorm(this Tape t, Value x, NormParams p, DType? to = null)
    {
        if (x.Shape.Cols != p.Gamma.DeclaredShape.D0)
            throw new ArgumentException($"LayerNorm: x is {x.Shape} but '{p.Gamma.Name}' is {p.Gamma.DeclaredShape}; columns must match.");
        int mark = t.Mark;
        Tensor mean = t.Keep(new Shape(x.Shape.Rows)), rstd = t.Keep(new Shape(x.Shape.Rows));
        Value y = t.New(x.Shape, x.NeedsGrad || p.Gamma.NeedsGrad, to ?? t.Backend.Real);
        t.Backend.LayerNormForward(y.Data, mean, rstd, x.Data, p.Gamma.Data, p.Beta.Data, p.Eps);
        t.Record<LayerNormNode>(y, mark)?.Set(x, p, mean, rstd);
        return y;
    }

    private sealed class LayerNormNode : Node
    {
        private Value _x = null!;
        private NormParams _p = null!;
        private Tensor _mean, _rstd;

        public void Set(Value x, NormParams p, Tensor mean, Tensor rstd) => (_x, _p, _mean, _rstd) = (x, p, mean, rstd);

        public override void Backward(Tape t) => t.Backend.LayerNormBackward(t.GradFor(_x), t.GradFor(_p.Gamma), t.GradFor(_p.Beta),
            t.GradOf(Output), _x.Data, _mean, _rstd, _p.Gamma.Data);
    }

    /// <summary>Batch statistics without affine parameters; running statistics are updated in training.</summary>
    public static Value BatchNorm(this Tape t, Value x, Tensor runningMean, Tensor runningVariance, float eps, float momentum, bool training)
    {
        int mark = t.Mark;
        Tensor mean = t.Keep(new Shape(x.Shape.Cols)), rstd = t.Keep(new Shape(x.Shape.Cols));
        Value y = t.New(x.Shape, x.NeedsGrad);
        t.Backend.BatchNormForward(y.Data, mean, rstd, runningMean, runningVariance, x.Data, eps, momentum, training);
        t.Record<BatchNormNode>(y, mark)?.Set(x, mean, rstd, training);
        return y;
    }

    private sealed class BatchNormNode : Node
    {
        private Value _x = null!;
        private Tensor _mean, _rstd;
        private bool _training;

        public void Set(Value x, Tensor mean, Tensor rstd, bool training) => (_x, _mean, _rstd, _training) = (x, mean, rstd, training);

        public override void Backward(Tape t)
            => t.Backend.BatchNormBackward(t.GradFor(_x), t.GradOf(Output), _x.Data, _mean, _rstd, _training);
    }

    /// <summary>Softmax along each row.</summary>
    public static Value Softmax(this Tape t, Value x)
    {
        int mark = t.Mark;
        Value y = t.New(x.Shape, x.NeedsGrad);
        t.Backend.SoftmaxForward(y.Data, x.Data);
        t.Record<SoftmaxNode>(y, mark)?.Set(x);
        return y;
    }

    private sealed class SoftmaxNode : Node
    {
        private Value _x = null!;

        public void Set(Value x) => _x = x;

        public override void Backward(Tape t) => t.Backend.SoftmaxBackward(t.GradFor(_x), t.GradOf(Output), Output.Data);
    }

    /// <summary>tanh or ReLU.</summary>
    public static Value Activate(this Tape t, Value x, Activation kind)
    {
        int mark = t.Mark;
        Value y = t.New(x.Shape, x.NeedsGrad);
        t.Backend.ActivateForward(y.Data, x.Data, kind);
        t.Record<ActivateNode>(y, mark)?.Set(x, kind);
        return y;
    }

    private sealed class ActivateNode : Node
    {
        private Value _x = null!;
        private Activation _kind;

        public void Set(Value x, Activation kind) => (_x, _kind) = (x, kind);

        public override void Backward(Tape t) => t.Backend.ActivateBackward(t.GradFor(_x), t.GradOf(Output), Output.Data, _kind);
    }

    /// <summary>The same numbers under another shape of as many elements; shares x's memory.</summary>
    public static Value Reshape(this Tape t, Value x, Shape shape)
    {
        int mark = t.Mark;
        Value y = t.Input(x.Data.Reshape(shape), x.NeedsGrad && t.Recording);
        t.Record<ReshapeNode>(y, mark)?.Set(x);
        return y;
    }

    private sealed class ReshapeNode : Node
    {
        private Value _x = null!;

        public void Set(Value x) => _x = x;

        public override void Backward(Tape t) => t.HandOver(Output, _x);
    }
}
