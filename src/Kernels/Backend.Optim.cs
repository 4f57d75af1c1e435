namespace MimEngine.Kernels;

/// <summary>One parameter's place in the slabs and what this step does to it. Skipped parameters are simply not in the list.</summary>
/// <param name="Offset">First element in the slab.</param>
/// <param name="Length">Elements.</param>
/// <param name="LearningRate">Of this step, layer decay and groups applied.</param>
/// <param name="WeightDecay">Of this step; 0 = none.</param>
/// <param name="Step">1-based count of updates this parameter has had, this one included (Adam's t).</param>
/// <param name="Trust">LARS only: whether decay and the trust ratio apply (false for vectors, SPEC C.3).</param>
public readonly record struct UpdateSegment(long Offset, int Length, float LearningRate, float WeightDecay, int Step, bool Trust = true)
{
    /// <summary>First element of its gradient; the same as in the slabs unless gradients lie elsewhere.</summary>
    public long GradientOffset { get; init; } = Offset;
}

public abstract partial class Backend
{
    /// <summary>norms[i] = Σ g² over segment i, each in a fixed order.</summary>
    /// <param name="norms">(number of segments) float32, written.</param>
    /// <param name="gradient">the gradient slab, or the memory in which <see cref="UpdateSegment.GradientOffset"/> counts; so for all updates.</param>
    public abstract void SquaredNorms(Tensor norms, Tensor gradient, ReadOnlySpan<UpdateSegment> segments);

    /// <summary>
    /// scales[i] = min(1, max/(‖g‖ + 1e-6)): the same ‖g‖ = √Σ norms for all segments, or each segment's own.
    /// </summary>
    /// <param name="scales">(S) float32, written.</param>
    /// <param name="total">(1) float32, written: the global norm √Σ norms before clipping.</param>
    /// <param name="norms">(S) float32 from <see cref="SquaredNorms"/>.</param>
    /// <param name="max">The bound; 0 or less = no clipping: scales are 1.</param>
    public abstract void ClipScales(Tensor scales, Tensor total, Tensor norms, float max, bool perSegment);

    /// <summary>
    /// AdamW (Loshchilov and Hutter 2019, PyTorch's form), for each segment with its lr, decay and t, g = scale·gradient:
    /// p ← p·(1 − lr·decay); m ← β1·m + (1 − β1)·g; v ← β2·v + (1 − β2)·g²;
    /// p ← p − lr/(1 − β1^t) · m / (√v/√(1 − β2^t) + eps).
    /// </summary>
    /// <param name="p">master slab, updated. m, v: moment slabs, updated.</param>
    /// <param name="copy">
    /// BF16 slab that products read, or none: the updated elements are written there in the same pass, rounded to nearest even as
    /// <see cref="Cast"/> rounds; nothing else in it is touched.
    /// </param>
    /// <param name="beta1">
    /// Meant as the decimal that was written: 0.9f is 0.9. From the exact double of 0.999f, 1 − β2 would be off by 1.3e-5.
    /// </param>
    /// <param name="beta2">Likewise.</param>
    /// <param name="scales">(S) float32, one a segment in list order, or none for 1.</param>
    public abstract void AdamWStep(Tensor p, Tensor m, Tensor v, Tensor? copy, Tensor gradient, Tensor? scales,
        ReadOnlySpan<UpdateSegment> segments, float beta1, float beta2, float eps);

    /// <summary>
    /// LARS as MAE's linear probe has it (You et al. 2017; SPEC C.3): where Trust, g ← g + decay·p, then g ← g·q with
    /// q = trust·‖p‖/‖g‖ if both norms are positive, else 1; mu ← momentum·mu + g; p ← p − lr·mu. Elsewhere plain momentum, no decay.
    /// </summary>
    /// <param name="copy">As in <see cref="AdamWStep"/>.</param>
    public abstract void LarsStep(Tensor p, Tensor mu, Tensor? copy, Tensor gradient, Tensor? scales, ReadOnlySpan<UpdateSegment> segments,
        float momentum, float trust);

    /// <summary>SGD, PyTorch's form: g ← g + decay·p; mu ← momentum·mu + g (mu = g at t = 1); p ← p − lr·mu.</summary>
    /// <param name="copy">As in <see cref="AdamWStep"/>.</param>
    public abstract void SgdStep(Tensor p, Tensor mu, Tensor? copy, Tensor gradient, Tensor? scales, ReadOnlySpan<UpdateSegment> segments,
        float momentum);
}
