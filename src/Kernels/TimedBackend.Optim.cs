namespace MimEngine.Kernels;

public sealed partial class TimedBackend
{
    public override void SquaredNorms(Tensor norms, Tensor gradient, ReadOnlySpan<UpdateSegment> segments)
    {
        Shape n = Elements(segments);
        long start = Start();
        inner.SquaredNorms(norms, gradient, segments);
        Stop(start, OpCost.SquaredNorms(n.Count), n);
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
        Shape n = Elements(segments);
        long start = Start();
        inner.AdamWStep(p, m, v, copy, gradient, scales, segments, beta1, beta2, eps);
        Stop(start, OpCost.AdamWStep(n.Count, Size(copy)), n);
    }

    public override void LarsStep(Tensor p, Tensor mu, Tensor? copy, Tensor gradient, Tensor? scales,
        ReadOnlySpan<UpdateSegment> segments, float momentum, float trust)
    {
        Shape n = Elements(segments);
        long start = Start();
        inner.LarsStep(p, mu, copy, gradient, scales, segments, momentum, trust);
        Stop(start, OpCost.LarsStep(n.Count, Size(copy)), n);
    }

    public override void SgdStep(Tensor p, Tensor mu, Tensor? copy, Tensor gradient, Tensor? scales,
        ReadOnlySpan<UpdateSegment> segments, float momentum)
    {
        Shape n = Elements(segments);
        long start = Start();
        inner.SgdStep(p, mu, copy, gradient, scales, segments, momentum);
        Stop(start, OpCost.SgdStep(n.Count, Size(copy)), n);
    }

    /// <summary>What an update touches: not the gaps of a slab, nor what lies between gradients in an arena.</summary>
    private static Shape Elements(ReadOnlySpan<UpdateSegment> segments)
    {
        int sum = 0;
        foreach (ref readonly UpdateSegment s in segments) sum += s.Length;
        return new Shape(sum);
    }
}
