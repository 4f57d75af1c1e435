namespace MimEngine.Kernels;

public sealed partial class TimedBackend
{
    public override void SquaredNorms(Tensor norms, Tensor gradient, ReadOnlySpan<UpdateSegment> segments)
    {
        long start = Start();
        inner.SquaredNorms(norms, gradient, segments);
        Stop(start, OpCost.SquaredNorms(gradient.Count), gradient.Shape);
    }

    public override void ClipScales(Tensor scales, Tensor total, Tensor norms, float max, bool perSegment)
    {
        long start = Start();
        inner.ClipScales(scales, total, norms, max, perSegment);
        Stop(start, OpCost.ClipScales(scales.Count), scales.Shape);
    }

    public override void AdamWStep(Tensor p, Tensor m, Tensor v, Tensor? copy, Tensor gradient, Tensor? scales,
        ReadOnlySpan<UpdateSegment> segments, float beta1, float beta2, float eps)
    {
        long start = Start();
        inner.AdamWStep(p, m, v, copy, gradient, scales, segments, beta1, beta2, eps);
        Stop(start, OpCost.AdamWStep(p.Count, Size(copy)), p.Shape);
    }

    public override void LarsStep(Tensor p, Tensor mu, Tensor? copy, Tensor gradient, Tensor? scales,
        ReadOnlySpan<UpdateSegment> segments, float momentum, float trust)
    {
        long start = Start();
        inner.LarsStep(p, mu, copy, gradient, scales, segments, momentum, trust);
        Stop(start, OpCost.LarsStep(p.Count, Size(copy)), p.Shape);
    }

    public override void SgdStep(Tensor p, Tensor mu, Tensor? copy, Tensor gradient, Tensor? scales,
        ReadOnlySpan<UpdateSegment> segments, float momentum)
    {
        long start = Start();
        inner.SgdStep(p, mu, copy, gradient, scales, segments, momentum);
        Stop(start, OpCost.SgdStep(p.Count, Size(copy)), p.Shape);
    }
}
