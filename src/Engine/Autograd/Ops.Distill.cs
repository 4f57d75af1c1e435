using MimEngine.Kernels;

namespace MimEngine.Engine.Autograd;

/// <summary>Which views learn from which, and how sharp; see Backend.DistillLoss.</summary>
/// <param name="Rows">Rows of one view.</param>
/// <param name="FirstView">Number of the student's first view among the views of a picture.</param>
public readonly record struct DistillOptions(int Rows, int FirstView, ViewPairing Pairing, float Temperature, float Scale);

public static partial class Ops
{
    /// <summary>y = gain·x/max(‖x‖₂, eps) along each row.</summary>
    /// <param name="gain">One number a row, or none for 1.</param>
    public static Value L2Normalize(this Tape t, Value x, Value? gain = null, float eps = 1e-12f)
    {
        if (gain is not null && gain.Shape.Count != x.Shape.Rows)
            throw new ArgumentException($"L2Normalize: x is {x.Shape} but the gains are {gain.Shape}; there must be one a row.");
        int mark = t.Mark;
        Tensor norms = t.Keep(new Shape(x.Shape.Rows));
        Value y = t.New(x.Shape, x.NeedsGrad || gain is { NeedsGrad: true });
        t.Backend.L2NormalizeForward(y.Data, norms, x.Data, gain?.Data, eps);
        t.Record<L2NormalizeNode>(y, mark)?.Set(x, gain, norms, eps);
        return y;
    }

    private sealed class L2NormalizeNode : Node
    {
        private Value _x = null!;
        private Value? _gain;
        private Tensor _norms;
        private float _eps;

        public void Set(Value x, Value? gain, Tensor norms, float eps) => (_x, _gain, _norms, _eps) = (x, gain, norms, eps);

        public override void Backward(Tape t)
            => t.Backend.L2NormalizeBackward(t.GradFor(_x), t.GradFor(_gain), t.GradOf(Output), _x.Data, _norms, _gain?.Data, _eps);
    }

    /// <summary>y = γ·x + β, one of each a column.</summary>
    public static Value ScaleShift(this Tape t, Value x, Param gamma, Param beta)
    {
        if (x.Shape.Cols != gamma.DeclaredShape.D0)
            throw new ArgumentException($"ScaleShift: x is {x.Shape} but '{gamma.Name}' is {gamma.DeclaredShape}; columns must match.");
        int mark = t.Mark;
        Value y = t.New(x.Shape, x.NeedsGrad || gamma.NeedsGrad);
        t.Backend.ScaleShiftForward(y.Data, x.Data, gamma.Data, beta.Data);
        t.Record<ScaleShiftNode>(y, mark)?.Set(x, gamma, beta);
        return y;
    }

    private sealed class ScaleShiftNode : Node
    {
        private Value _x = null!;
        private Param _gamma = null!, _beta = null!;

        public void Set(Value x, Param gamma, Param beta) => (_x, _gamma, _beta) = (x, gamma, beta);

        public override void Backward(Tape t) => t.Backend.ScaleShiftBackward(t.GradFor(_x), t.GradFor(_gamma), t.GradFor(_beta),
            t.GradOf(Output), _x.Data, _gamma.Data);
    }

    /// <summary>y = GELU(x).</summary>
    public static Value Gelu(this Tape t, Value x)
    {
        int mark = t.Mark;
        Value y = t.New(x.Shape, x.NeedsGrad);
        t.Backend.GeluForward(y.Data, x.Data);
        t.Record<GeluNode>(y, mark)?.Set(x);
        return y;
    }

    private sealed class GeluNode : Node
    {
        private Value _x = null!;

        public void Set(Value x) => _x = x;

        public override void Backward(Tape t) => t.Backend.GeluBackward(t.GradFor(_x), t.GradOf(Output), _x.Data);
    }

    /// <summary>y = x·wᵀ for a matrix that is itself computed.</summary>
    /// <param name="w">(N, K).</param>
    public static Value Project(this Tape t, Value x, Value w)
    {
        if (w.Shape.Rank != 2 || x.Shape.Cols != w.Shape.D1)
            throw new ArgumentException($"Project: x is {x.Shape} but w is {w.Shape}; columns must match.");
        int mark = t.Mark;
        Shape shape = x.Shape.Rank == 3 ? new Shape(x.Shape.D0, x.Shape.D1, w.Shape.D0) : new Shape(x.Shape.Rows, w.Shape.D0);
        Value y = t.New(shape, x.NeedsGrad || w.NeedsGrad);
        t.Backend.LinearForward(y.Data, x.Data, w.Data, null);
        t.Record<ProjectNode>(y, mark)?.Set(x, w);
        return y;
    }

    private sealed class ProjectNode : Node
    {
        private Value _x = null!, _w = null!;

        public void Set(Value x, Value w) => (_x, _w) = (x, w);

        public override void Backward(Tape t)
            => t.Backend.LinearBackward(t.GradFor(_x), t.GradFor(_w), Grad.None, t.GradOf(Output), _x.Data, _w.Data);
    }

    /// <summary>Cross-entropy of the student's softmax against a teacher's, view by view; (1). The gradient is made with it.</summary>
    /// <param name="student">(V·M, K), view-major.</param>
    /// <param name="targets">(Q·M, K) from Backend.TeacherTargets.</param>
    /// <param name="weights">(V·M) or none for 1/M.</param>
    public static Value DistillLoss(this Tape t, Value student, Tensor targets, Tensor? weights, in DistillOptions o)
    {
        if (student.Shape.Cols != targets.Shape.Cols || student.Shape.Rows % o.Rows != 0 || targets.Shape.Rows % o.Rows != 0)
            throw new ArgumentException($"DistillLoss: the student says {student.Shape}, the teacher {targets.Shape}; prototypes must be as many, "
                + $"and rows multiples of {o.Rows}.");
        int mark = t.Mark;
        Value loss = t.New(new Shape(1), student.NeedsGrad);
        Tensor? gradient = loss.NeedsGrad ? t.Scratch(student.Shape) : null;
        t.Backend.DistillLoss(loss.Data, gradient, student.Data, targets, weights, o.Rows, o.FirstView, o.Pairing, o.Temperature, o.Scale);
        t.Record<LossNode>(loss, mark)?.Set(student, gradient!.Value);
        return loss;
    }
}
