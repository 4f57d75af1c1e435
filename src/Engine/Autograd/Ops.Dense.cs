using MimEngine.Kernels;

namespace MimEngine.Engine.Autograd;

/// <summary>A weight and its bias: the parameters of one linear layer, [out, in] and [out].</summary>
public sealed record LinearParams(Param Weight, Param? Bias)
{
    public int Outputs => Weight.DeclaredShape.D0;
    public int Inputs => Weight.DeclaredShape.Cols;
}

/// <summary>The differentiable operations: allocate, call the backend, record. One partial file a family.</summary>
public static partial class Ops
{
    /// <summary>y = x·wᵀ + b.</summary>
    /// <param name="to">Type of y: <see cref="Backend.Branch"/> between the products of a block; none = <see cref="Backend.Real"/>.</param>
    public static Value Linear(this Tape t, Value x, LinearParams p, DType? to = null)
    {
        int mark = t.Mark;
        Value y = t.New(LinearShape(x, p), x.NeedsGrad || p.Weight.NeedsGrad, to ?? t.Backend.Real);
        t.Backend.LinearForward(y.Data, x.Data, p.Weight.Operand, p.Bias?.Data);
        t.Record<LinearNode>(y, mark)?.Set(x, p);
        return y;
    }

    private sealed class LinearNode : Node
    {
        private Value _x = null!;
        private LinearParams _p = null!;

        public void Set(Value x, LinearParams p) => (_x, _p) = (x, p);

        public override void Backward(Tape t) => t.Backend.LinearBackward(t.GradFor(_x), t.GradFor(_p.Weight), t.GradFor(_p.Bias),
            t.GradOf(Output), _x.Data, _p.Weight.Operand);
    }

    /// <summary>y = GELU(x·wᵀ + b), of the backend's Branch type; the pre-activation is kept.</summary>
    public static Value LinearGelu(this Tape t, Value x, LinearParams p)
    {
        int mark = t.Mark;
        Shape shape = LinearShape(x, p);
        Tensor h = t.Keep(shape, t.Backend.Branch);
        Value y = t.New(shape, x.NeedsGrad || p.Weight.NeedsGrad, t.Backend.Branch);
        t.Backend.LinearGeluForward(y.Data, h, x.Data, p.Weight.Operand, p.Bias?.Data);
        t.Record<LinearGeluNode>(y, mark)?.Set(x, p, h);
        return y;
    }

    private sealed class LinearGeluNode : Node
    {
        private Value _x = null!;
        private LinearParams _p = null!;
        private Tensor _h;

        public void Set(Value x, LinearParams p, Tensor h) => (_x, _p, _h) = (x, p, h);

        public override void Backward(Tape t)
        {
            Tensor dh = t.GradOf(Output);   // nobody reads the gradient of y again: dh takes its memory
            t.Backend.GeluBackward(Grad.Write(dh), dh, _h);
            t.Backend.LinearBackward(t.GradFor(_x), t.GradFor(_p.Weight), t.GradFor(_p.Bias), dh, _x.Data, _p.Weight.Operand);
        }
    }

    /// <summary>y = residual + rowScale ⊙ gamma ⊙ (x·wᵀ + b).</summary>
    /// <param name="gamma">(N) LayerScale or none.</param>
    /// <param name="rowScale">(B) stochastic depth: 0 or 1/keep for each image, or none.</param>
    public static Value LinearResidual(this Tape t, Value x, LinearParams p, Value residual, Param? gamma = null, Tensor? rowScale = null)
    {
        int mark = t.Mark;
        Shape shape = LinearShape(x, p);
        if (residual.Shape.Count != shape.Count)
            throw new ArgumentException($"LinearResidual: the branch is {shape} but the residual is {residual.Shape}.");
        Value y = t.New(residual.Shape, x.NeedsGrad || residual.NeedsGrad || p.Weight.NeedsGrad);
        t.Backend.LinearResidualForward(y.Data, x.Data, p.Weight.Operand, p.Bias?.Data, residual.Data, gamma?.Data, rowScale);
        t.Record<LinearResidualNode>(y, mark)?.Set(x, p, residual, gamma, rowScale);
        return y;
    }

    private sealed class LinearResidualNode : ResidualNode
    {
        private Value _x = null!;

        public void Set(Value x, LinearParams p, Value residual, Param? gamma, Tensor? rowScale)
        {
            _x = x;
            Set(p, residual, gamma, rowScale);
        }

        protected override Tensor Input => _x.Data;

        protected override void Product(Tape t, Tensor branch, bool weights)
            => t.Backend.LinearBackward(t.GradFor(_x), weights ? t.GradFor(Layer.Weight) : Grad.None,
                weights ? t.GradFor(Layer.Bias) : Grad.None, branch, _x.Data, Layer.Weight.Operand);
    }

    /// <summary>The end of a residual branch, whatever made the last layer's input.</summary>
    private abstract class ResidualNode : Node
    {
        private Value _residual = null!;
        private Param? _gamma;
        private Tensor? _rowScale;

        protected LinearParams Layer { get; private set; } = null!;

        protected void Set(LinearParams p, Value residual, Param? gamma, Tensor? rowScale)
            => (Layer, _residual, _gamma, _rowScale) = (p, residual, gamma, rowScale);

        /// <summary>What the last layer multiplied.</summary>
        protected abstract Tensor Input { get; }

        /// <summary>The gradient of the branch to the last layer's input and, if asked, to its weight and bias.</summary>
        protected abstract void Product(Tape t, Tensor branch, bool weights);

        /// <summary>What remains of the branch's backward once the last layer's is done.</summary>
        protected virtual void Rest(Tape t) { }

        public override void Backward(Tape t)
        {
            Tensor dy = t.GradOf(Output);
            if (_gamma is null && _rowScale is null) Product(t, dy, weights: true);
            else if (_gamma is not { NeedsGrad: true } gamma)
            {
                Tensor branch = t.Scratch(dy.Shape, t.Backend.Branch);
                t.Backend.ScaleAddBackward(branch, null, dy, _gamma?.Data, _rowScale);
                Product(t, branch, weights: true);
                t.Done(branch);
            }
            else LayerScaled(t, dy, gamma);
            Rest(t);
            t.HandOver(Output, _residual);
        }

        /// <summary>gamma's gradient comes out of the weight gradient taken without gamma; see Backend.LayerScaleBackward.</summary>
        private void LayerScaled(Tape t, Tensor dy, Param gamma)
        {
            Tensor branch = t.Scratch(dy.Shape, t.Backend.Branch), scaled = _rowScale is null ? dy : t.Scratch(dy.Shape, t.Backend.Branch);
            t.Backend.ScaleAddBackward(branch, _rowScale is null ? null : scaled, dy, gamma.Data, _rowScale);
            Product(t, branch, weights: false);
            t.Done(branch);
            Tensor raw = t.Scratch(Layer.Weight.Shape), rawBias = t.Scratch(gamma.Shape);
            t.Backend.LinearBackward(Grad.None, Grad.Write(raw), Grad.Write(rawBias), scaled, Input, Layer.Weight.Operand);
            if (_rowScale is not null) t.Done(scaled);
            t.Backend.LayerScaleBackward(t.GradFor(gamma), t.GradFor(Layer.Weight), t.GradFor(Layer.Bias), raw, rawBias, Layer.Weight.Data,
                Layer.Bias?.Data, gamma.Data);
            t.Done(raw);
            t.Done(rawBias);
        }
    }

    /// <summary>y = a + b, of the same shape.</summary>
    public static Value Add(this Tape t, Value a, Value b)
    {
        if (a.Shape != b.Shape) throw new ArgumentException($"Add: {a.Shape} and {b.Shape} differ.");
        int mark = t.Mark;
        Value y = t.New(a.Shape, a.NeedsGrad || b.NeedsGrad);
        t.Backend.Copy(y.Data, a.Data);
        t.Backend.AddScaled(y.Data, b.Data, 1f, 1f);
        t.Record<AddNode>(y, mark)?.Set(a, b);
        return y;
    }

    private sealed class AddNode : Node
    {
        private Value _a = null!, _b = null!;

        public void Set(Value a, Value b) => (_a, _b) = (a, b);

        public override void Backward(Tape t)
        {
            Tensor dy = t.GradOf(Output);
            Grad da = t.GradFor(_a);
            if (da.Wanted) t.Backend.AddScaled(da.Into, dy, 1f, da.Accumulate ? 1f : 0f);
            t.HandOver(Output, _b);
        }
    }

    private static Shape LinearShape(Value x, LinearParams p)
    {
        if (x.Shape.Cols != p.Inputs)
            throw new ArgumentException($"Linear: x is {x.Shape} but '{p.Weight.Name}' is {p.Weight.DeclaredShape}; columns must match.");
        return WithCols(x.Shape, p.Outputs);
    }

    private static Shape WithCols(Shape s, int cols) => s.Rank switch
    {
        1 => new Shape(cols),
        2 => new Shape(s.D0, cols),
        3 => new Shape(s.D0, s.D1, cols),
        _ => new Shape(s.D0, s.D1, s.D2, cols),
    };
}
