namespace MimEngine.Kernels;

public sealed partial class TimedBackend
{
    public override void L2NormalizeForward(Tensor y, Tensor norms, Tensor x, Tensor? gain, float eps)
    {
        long start = Start();
        inner.L2NormalizeForward(y, norms, x, gain, eps);
        Stop(start, OpCost.L2NormalizeForward(x.Shape.Rows, x.Shape.Cols), x.Shape);
    }

    public override void L2NormalizeBackward(Grad dx, Grad dgain, Tensor dy, Tensor x, Tensor norms, Tensor? gain, float eps)
    {
        long start = Start();
        inner.L2NormalizeBackward(dx, dgain, dy, x, norms, gain, eps);
        Stop(start, OpCost.L2NormalizeBackward(x.Shape.Rows, x.Shape.Cols), x.Shape);
    }

    public override void ScaleShiftForward(Tensor y, Tensor x, Tensor gamma, Tensor beta)
    {
        long start = Start();
        inner.ScaleShiftForward(y, x, gamma, beta);
        Stop(start, OpCost.ScaleShiftForward(x.Shape.Rows, x.Shape.Cols), x.Shape);
    }

    public override void ScaleShiftBackward(Grad dx, Grad dgamma, Grad dbeta, Tensor dy, Tensor x, Tensor gamma)
    {
        long start = Start();
        inner.ScaleShiftBackward(dx, dgamma, dbeta, dy, x, gamma);
        Stop(start, OpCost.ScaleShiftBackward(x.Shape.Rows, x.Shape.Cols), x.Shape);
    }

    public override void TeacherTargets(Tensor targets, Tensor entropy, Tensor logits, Tensor center, Tensor? weights, float temperature)
    {
        long start = Start();
        inner.TeacherTargets(targets, entropy, logits, center, weights, temperature);
        Stop(start, OpCost.TeacherTargets(logits.Shape.Rows, logits.Shape.Cols), logits.Shape);
    }

    public override void DistillLoss(Tensor loss, Tensor? dstudent, Tensor student, Tensor targets, Tensor? weights, int rows, int firstView,
        ViewPairing pairing, float temperature, float scale)
    {
        long start = Start();
        inner.DistillLoss(loss, dstudent, student, targets, weights, rows, firstView, pairing, temperature, scale);
        Stop(start, OpCost.DistillLoss(student.Shape.Rows, targets.Shape.Rows, student.Shape.Cols), student.Shape);
    }

    public override void UpdateCenter(Tensor center, Tensor x, float momentum)
    {
        long start = Start();
        inner.UpdateCenter(center, x, momentum);
        Stop(start, OpCost.UpdateCenter(x.Shape.Rows, x.Shape.Cols), x.Shape);
    }
}
