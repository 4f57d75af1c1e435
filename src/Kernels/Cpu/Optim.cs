namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    public override void SquaredNorms(Tensor norms, Tensor gradient,
        ReadOnlySpan<UpdateSegment> segments) => throw new NotImplementedException();
    public override void ClipScales(Tensor scales, Tensor total, Tensor norms, float max,
        bool perSegment) => throw new NotImplementedException();
    public override void AdamWStep(Tensor p, Tensor m, Tensor v, Tensor gradient, Tensor? scales,
        ReadOnlySpan<UpdateSegment> segments, float beta1, float beta2, float eps) => throw new NotImplementedException();
    public override void LarsStep(Tensor p, Tensor mu, Tensor gradient, Tensor? scales, ReadOnlySpan<UpdateSegment> segments,
        float momentum, float trust) => throw new NotImplementedException();
    public override void SgdStep(Tensor p, Tensor mu, Tensor gradient, Tensor? scales, ReadOnlySpan<UpdateSegment> segments,
        float momentum) => throw new NotImplementedException();
}
