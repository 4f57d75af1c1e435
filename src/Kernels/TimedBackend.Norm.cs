namespace MimEngine.Kernels;

public sealed partial class TimedBackend
{
    public override void LayerNormForward(Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor gamma, Tensor beta, float eps)
    {
        long start = Start();
        inner.LayerNormForward(y, mean, rstd, x, gamma, beta, eps);
        Stop(start, OpCost.LayerNormForward(x.Shape.Rows, x.Shape.Cols, Size(y)), x.Shape);
    }

    public override void LayerNormBackward(Grad dx, Grad dgamma, Grad dbeta, Tensor dy, Tensor x, Tensor mean, Tensor rstd, Tensor gamma)
    {
        long start = Start();
        inner.LayerNormBackward(dx, dgamma, dbeta, dy, x, mean, rstd, gamma);
        Stop(start, OpCost.LayerNormBackward(x.Shape.Rows, x.Shape.Cols, Size(dy)), x.Shape);
    }

    public override void SoftmaxForward(Tensor y, Tensor x)
    {
        long start = Start();
        inner.SoftmaxForward(y, x);
        Stop(start, OpCost.SoftmaxForward(x.Shape.Rows, x.Shape.Cols), x.Shape);
    }

    public override void SoftmaxBackward(Grad dx, Tensor dy, Tensor y)
    {
        long start = Start();
        inner.SoftmaxBackward(dx, dy, y);
        Stop(start, OpCost.SoftmaxBackward(y.Shape.Rows, y.Shape.Cols), y.Shape);
    }

    public override void BatchNormForward(Tensor y, Tensor mean, Tensor rstd, Tensor runningMean, Tensor runningVariance, Tensor x,
        float eps, float momentum, bool training)
    {
        long start = Start();
        inner.BatchNormForward(y, mean, rstd, runningMean, runningVariance, x, eps, momentum, training);
        Stop(start, OpCost.BatchNormForward(x.Shape.Rows, x.Shape.Cols), x.Shape);
    }

    public override void BatchNormBackward(Grad dx, Tensor dy, Tensor x, Tensor mean, Tensor rstd, bool training)
    {
        long start = Start();
        inner.BatchNormBackward(dx, dy, x, mean, rstd, training);
        Stop(start, OpCost.BatchNormBackward(x.Shape.Rows, x.Shape.Cols), x.Shape);
    }

    public override void ActivateForward(Tensor y, Tensor x, Activation kind)
    {
        long start = Start();
        inner.ActivateForward(y, x, kind);
        Stop(start, Moved(nameof(ActivateForward), y, x), x.Shape);
    }

    public override void ActivateBackward(Grad dx, Tensor dy, Tensor y, Activation kind)
    {
        long start = Start();
        inner.ActivateBackward(dx, dy, y, kind);
        Stop(start, Moved(nameof(ActivateBackward), Of(dx), dy, y), y.Shape);
    }
}
