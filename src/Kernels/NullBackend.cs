namespace MimEngine.Kernels;

/// <summary>Does nothing, owns nothing: forecasts memory (every allocation is counted, none is made) and shows the host's own overhead.</summary>
/// <param name="precision">Of the run that is planned.</param>
public sealed class NullBackend(Precision precision = Precision.F32) : Backend
{
    private sealed class Nowhere(long bytes) : Storage(bytes)
    {
        public override void Dispose() { }
    }

    /// <summary>One that stores what another would: for planning its memory.</summary>
    public static NullBackend Like(Backend other) => new(other.Branch == DType.BF16 ? Precision.BF16 : Precision.F32);

    private long _allocated;

    public override string Name => "null";
    public override string Description => "no device: plans memory, computes nothing";

    public override DType Branch => precision == Precision.BF16 ? DType.BF16 : Real;

    /// <summary>Bytes asked for so far.</summary>
    public override long AllocatedBytes => _allocated;

    public override Storage Allocate(long bytes)
    {
        _allocated += bytes;
        return new Nowhere(bytes);
    }

    public override void Upload(Tensor destination, ReadOnlySpan<byte> source) { }
    public override void Download(Span<byte> destination, Tensor source) => destination.Clear();
    public override void Fill(Tensor y, float value) { }
    public override void Copy(Tensor y, Tensor x) { }
    public override void Cast(Tensor y, Tensor x) { }
    public override void AddScaled(Tensor y, Tensor x, float a, float b) { }
    public override void Dispose() { }

    public override void LinearForward(Tensor y, Tensor x, Tensor w, Tensor? b) { }
    public override void LinearBackward(Grad dx, Grad dw, Grad db, Tensor dy, Tensor x, Tensor w) { }
    public override void GeluForward(Tensor y, Tensor x) { }
    public override void GeluBackward(Grad dx, Tensor dy, Tensor x) { }
    public override void ScaleAddForward(Tensor y, Tensor residual, Tensor? gamma, Tensor? rowScale) { }
    public override void ScaleAddBackward(Tensor branch, Tensor? scaled, Tensor dy, Tensor? gamma, Tensor? rowScale) { }
    public override void LayerScaleBackward(Grad dgamma, Grad dw, Grad db, Tensor raw, Tensor rawBias, Tensor w, Tensor? b,
        Tensor gamma) { }

    public override void LayerNormForward(Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor gamma, Tensor beta, float eps) { }
    public override void LayerNormBackward(Grad dx, Grad dgamma, Grad dbeta, Tensor dy, Tensor x, Tensor mean, Tensor rstd,
        Tensor gamma) { }
    public override void SoftmaxForward(Tensor y, Tensor x) { }
    public override void SoftmaxBackward(Grad dx, Tensor dy, Tensor y) { }
    public override void ActivateForward(Tensor y, Tensor x, Activation kind) { }
    public override void ActivateBackward(Grad dx, Tensor dy, Tensor y, Activation kind) { }
    public override void BatchNormForward(Tensor y, Tensor mean, Tensor rstd, Tensor runningMean, Tensor runningVariance,
        Tensor x, float eps, float momentum, bool training) { }
    public override void BatchNormBackward(Grad dx, Tensor dy, Tensor x, Tensor mean, Tensor rstd, bool training) { }

    public override void AttentionForward(Tensor y, Tensor lse, Tensor qkv, int heads, Tensor? bias) { }
    public override void AttentionBackward(Grad dqkv, Grad dbias, Tensor dy, Tensor y, Tensor lse, Tensor qkv, int heads,
        Tensor? bias) { }
    public override void RelativePositionBiasForward(Tensor bias, Tensor table, int grid) { }
    public override void RelativePositionBiasBackward(Grad dtable, Tensor dbias, int grid) { }

    public override void AttentionProbabilities(Tensor p, Tensor qkv, int heads, Tensor? bias) { }
    public override void ClsAttention(Tensor a, Tensor qkv, int heads, Tensor? bias) { }
    public override void ResizePositionsForward(Tensor y, Tensor table, in GridResize resize) { }
    public override void ResizePositionsBackward(Grad dtable, Tensor dy, in GridResize resize) { }
    public override void MixAttentionForward(Tensor w, Tensor sums, Tensor attention, Tensor mix, float gain, bool renormalise,
        float eps) { }
    public override void MixAttentionBackward(Grad dattention, Tensor dw, Tensor w, Tensor sums, Tensor mix, float gain,
        bool renormalise) { }

    public override void Patchify(Tensor patches, Tensor images, int patch, PixelOrder order) { }
    public override void Unpatchify(Tensor images, Tensor patches, int patch, PixelOrder order) { }
    public override void AssembleTokensForward(Tensor y, Tensor x, Tensor? cls, Tensor? mask, Tensor? hidden, Tensor? pos) { }
    public override void AssembleTokensBackward(Grad dx, Grad dcls, Grad dmask, Grad dpos, Tensor dy, Tensor? hidden) { }
    public override void SliceTokensForward(Tensor y, Tensor x, int first) { }
    public override void SliceTokensBackward(Grad dx, Tensor dy, int first) { }
    public override void MeanTokensForward(Tensor y, Tensor x, int first) { }
    public override void MeanTokensBackward(Grad dx, Tensor dy, int first) { }

    public override void GatherVisibleForward(Tensor y, Tensor x, Tensor hidden) { }
    public override void GatherVisibleBackward(Grad dx, Tensor dy, Tensor hidden) { }
    public override void ScatterVisibleForward(Tensor y, Tensor x, Tensor mask, Tensor hidden) { }
    public override void ScatterVisibleBackward(Grad dx, Grad dmask, Tensor dy, Tensor hidden) { }
    public override void PoolTokensForward(Tensor y, Tensor x, Tensor w) { }
    public override void PoolTokensBackward(Grad dx, Grad dw, Tensor dy, Tensor x, Tensor w) { }

    public override void MaskedPixelLoss(Tensor loss, Tensor? dprediction, Tensor prediction, Tensor images, Tensor hidden,
        Tensor? weights, int patch, PixelOrder order, PixelDistance distance, bool divideByWeights, float eps, float scale) { }
    public override void CrossEntropyLoss(Tensor loss, Tensor? dlogits, Tensor logits, Tensor targets, float scale) { }

    public override void L2NormalizeForward(Tensor y, Tensor norms, Tensor x, Tensor? gain, float eps) { }
    public override void L2NormalizeBackward(Grad dx, Grad dgain, Tensor dy, Tensor x, Tensor norms, Tensor? gain, float eps) { }
    public override void ScaleShiftForward(Tensor y, Tensor x, Tensor gamma, Tensor beta) { }
    public override void ScaleShiftBackward(Grad dx, Grad dgamma, Grad dbeta, Tensor dy, Tensor x, Tensor gamma) { }
    public override void TeacherTargets(Tensor targets, Tensor entropy, Tensor logits, Tensor center, Tensor? weights,
        float temperature) { }
    public override void DistillLoss(Tensor loss, Tensor? dstudent, Tensor student, Tensor targets, Tensor? weights, int rows,
        int firstView, ViewPairing pairing, float temperature, float scale) { }
    public override void UpdateCenter(Tensor center, Tensor x, float momentum) { }

    public override void SquaredNorms(Tensor norms, Tensor gradient, ReadOnlySpan<UpdateSegment> segments) { }
    public override void ClipScales(Tensor scales, Tensor total, Tensor norms, float max, bool perSegment) { }
    public override void AdamWStep(Tensor p, Tensor m, Tensor v, Tensor? copy, Tensor gradient, Tensor? scales,
        ReadOnlySpan<UpdateSegment> segments, float beta1, float beta2, float eps) { }
    public override void LarsStep(Tensor p, Tensor mu, Tensor? copy, Tensor gradient, Tensor? scales,
        ReadOnlySpan<UpdateSegment> segments, float momentum, float trust) { }
    public override void SgdStep(Tensor p, Tensor mu, Tensor? copy, Tensor gradient, Tensor? scales,
        ReadOnlySpan<UpdateSegment> segments, float momentum) { }

    public override void NormalizeImages(Tensor y, Tensor x, ReadOnlySpan<float> mean, ReadOnlySpan<float> std) { }
    public override void NormalizePatches(Tensor y, Tensor x, int patch, float eps) { }
    public override void Luma(Tensor gray, Tensor images, LumaWeights weights) { }
    public override void FastKeypoints(Tensor keypoints, Tensor gray, int threshold, FastType type, bool suppress) { }
    public override void MarkKeypoints(Tensor marks, Tensor keypoints, Mark mark) { }
    public override void BoxDensity(Tensor density, Tensor marks, int cell) { }
    public override void KeypointWeights(Tensor weights, Tensor density, float temperature) { }
}
