namespace MimEngine.Kernels;

public sealed partial class TimedBackend
{
    public override void LinearForward(Tensor y, Tensor x, Tensor w, Tensor? b)
    {
        long start = Start();
        inner.LinearForward(y, x, w, b);
        Stop(start, OpCost.LinearForward(x.Shape.Rows, w.Shape.Rows, w.Shape.Cols, Size(x), Size(w), Size(y)), new Shape(x.Shape.Rows, w.Shape.Rows, w.Shape.Cols));
    }

    public override void LinearBackward(Grad dx, Grad dw, Grad db, Tensor dy, Tensor x, Tensor w)
    {
        long start = Start();
        inner.LinearBackward(dx, dw, db, dy, x, w);
        Stop(start, OpCost.LinearBackward(x.Shape.Rows, w.Shape.Rows, w.Shape.Cols, dx.Wanted, dw.Wanted, db.Wanted, Size(Of(dx)), Size(dy),
            Size(x), Size(w)),
            new Shape(x.Shape.Rows, w.Shape.Rows, w.Shape.Cols));
    }

    public override void LinearGeluForward(Tensor y, Tensor h, Tensor x, Tensor w, Tensor? b)
    {
        long start = Start();
        inner.LinearGeluForward(y, h, x, w, b);
        Stop(start, OpCost.LinearGeluForward(x.Shape.Rows, w.Shape.Rows, w.Shape.Cols, Size(x), Size(w), Size(y)),
            new Shape(x.Shape.Rows, w.Shape.Rows, w.Shape.Cols));
    }

    public override void LinearGeluBackward(Tensor dh, Tensor dy, Tensor w, Tensor h)
    {
        long start = Start();
        inner.LinearGeluBackward(dh, dy, w, h);
        Stop(start, OpCost.LinearGeluBackward(dy.Shape.Rows, w.Shape.Rows, w.Shape.Cols, Size(dy), Size(w), Size(h)),
            new Shape(dy.Shape.Rows, w.Shape.Rows, w.Shape.Cols));
    }

    public override void LinearResidualForward(Tensor y, Tensor x, Tensor w, Tensor? b, Tensor residual, Tensor? gamma, Tensor? rowScale)
    {
        long start = Start();
        inner.LinearResidualForward(y, x, w, b, residual, gamma, rowScale);
        Stop(start, OpCost.LinearResidualForward(x.Shape.Rows, w.Shape.Rows, w.Shape.Cols, Size(x), Size(w)),
            new Shape(x.Shape.Rows, w.Shape.Rows, w.Shape.Cols));
    }

    public override void GeluForward(Tensor y, Tensor x)
    {
        long start = Start();
        inner.GeluForward(y, x);
        Stop(start, OpCost.GeluForward(y.Count, Size(y)), y.Shape);
    }

    public override void GeluBackward(Grad dx, Tensor dy, Tensor x)
    {
        long start = Start();
        inner.GeluBackward(dx, dy, x);
        Stop(start, OpCost.GeluBackward(x.Count, Size(x)), x.Shape);
    }

    public override void ScaleAddForward(Tensor y, Tensor residual, Tensor? gamma, Tensor? rowScale)
    {
        long start = Start();
        inner.ScaleAddForward(y, residual, gamma, rowScale);
        Stop(start, OpCost.ScaleAddForward(y.Shape.Rows, y.Shape.Cols), y.Shape);
    }

    public override void ScaleAddBackward(Tensor branch, Tensor? scaled, Tensor dy, Tensor? gamma, Tensor? rowScale)
    {
        long start = Start();
        inner.ScaleAddBackward(branch, scaled, dy, gamma, rowScale);
        Stop(start, OpCost.ScaleAddBackward(dy.Shape.Rows, dy.Shape.Cols, scaled is not null, Size(branch)), dy.Shape);
    }

    public override void LayerScaleBackward(Grad dgamma, Grad dw, Grad db, Tensor raw, Tensor rawBias, Tensor w, Tensor? b, Tensor gamma)
    {
        long start = Start();
        inner.LayerScaleBackward(dgamma, dw, db, raw, rawBias, w, b, gamma);
        Stop(start, OpCost.LayerScaleBackward(w.Shape.Rows, w.Shape.Cols), w.Shape);
    }
}
