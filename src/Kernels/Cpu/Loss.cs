namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    public override void MaskedPixelLoss(Tensor loss, Tensor? dprediction, Tensor prediction, Tensor images, Tensor hidden,
        Tensor? weights, int patch, PixelOrder order, PixelDistance distance, bool divideByWeights, float eps, float scale) => throw new NotImplementedException();
    public override void CrossEntropyLoss(Tensor loss, Tensor? dlogits, Tensor logits, Tensor targets,
        float scale) => throw new NotImplementedException();
}
