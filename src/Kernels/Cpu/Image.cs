namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    public override void NormalizeImages(Tensor y, Tensor x, ReadOnlySpan<float> mean,
        ReadOnlySpan<float> std) => throw new NotImplementedException();
    public override void Luma(Tensor gray, Tensor images, LumaWeights weights) => throw new NotImplementedException();
    public override void FastKeypoints(Tensor keypoints, Tensor gray, int threshold, FastType type,
        bool suppress) => throw new NotImplementedException();
    public override void MarkKeypoints(Tensor marks, Tensor keypoints, Mark mark) => throw new NotImplementedException();
    public override void BoxDensity(Tensor density, Tensor marks, int cell) => throw new NotImplementedException();
    public override void KeypointWeights(Tensor weights, Tensor density, float temperature) => throw new NotImplementedException();
}
