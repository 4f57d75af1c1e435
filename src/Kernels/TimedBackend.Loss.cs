namespace MimEngine.Kernels;

public sealed partial class TimedBackend
{
    public override void MaskedPixelLoss(Tensor loss, Tensor? dprediction, Tensor prediction, Tensor images, Tensor hidden,
        Tensor? weights, int patch, PixelOrder order, PixelDistance distance, bool divideByWeights, float eps, float scale)
    {
        long start = Start();
        inner.MaskedPixelLoss(loss, dprediction, prediction, images, hidden, weights, patch, order, distance, divideByWeights, eps,
            scale);
        Stop(start, Moved(nameof(MaskedPixelLoss), dprediction, prediction, images, hidden, weights), prediction.Shape);
    }

    public override void CrossEntropyLoss(Tensor loss, Tensor? dlogits, Tensor logits, Tensor targets, float scale)
    {
        long start = Start();
        inner.CrossEntropyLoss(loss, dlogits, logits, targets, scale);
        Stop(start, Moved(nameof(CrossEntropyLoss), dlogits, logits, targets), logits.Shape);
    }

    public override void NormalizePatches(Tensor y, Tensor x, int patch, float eps)
    {
        long start = Start();
        inner.NormalizePatches(y, x, patch, eps);
        Stop(start, Moved(nameof(NormalizePatches), y, x), x.Shape);
    }
}
