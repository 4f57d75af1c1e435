namespace MimEngine.Kernels;

/// <summary>Distance between a predicted and a true pixel.</summary>
public enum PixelDistance : byte { L1, L2 }

public abstract partial class Backend
{
    /// <summary>
    /// loss = scale · Σ W·|x − x̂|^p·M / (ΣM·3 + 3·eps) over images, channels and pixels; M is 1 on hidden patches, W the pixel's
    /// weight. The denominator counts each hidden pixel once and ignores W (SPEC A.6, B.2). The gradient comes with it.
    /// </summary>
    /// <param name="loss">(1) float32, written.</param>
    /// <param name="dprediction">(B, L, 3·P²), written with the gradient of <paramref name="loss"/> (0 on visible patches), or none.
    /// sign(0) = 0 for L1.</param>
    /// <param name="prediction">(B, L, 3·P²) in <paramref name="order"/>.</param>
    /// <param name="images">(B, 3, S, S) float32, normalised.</param>
    /// <param name="hidden">(B, L) U8.</param>
    /// <param name="weights">(B, S/w, S/w) float32, indexed by pixel, or none for 1. w need not be the patch size.</param>
    /// <param name="divideByWeights">Divide by 3·(Σ W·M + eps) instead: the experiment of SPEC J.9.</param>
    /// <remarks>Sums run in double or by fixed chunks, so that thread counts give the same bits. eps is 1e-5 in all originals.</remarks>
    public abstract void MaskedPixelLoss(Tensor loss, Tensor? dprediction, Tensor prediction, Tensor images, Tensor hidden, Tensor? weights,
        int patch, PixelOrder order, PixelDistance distance, bool divideByWeights, float eps, float scale);

    /// <summary>loss = −scale · mean over rows of Σ_k target_k · log softmax(logits)_k; natural log; the gradient comes with it.</summary>
    /// <param name="loss">(1) float32, written.</param>
    /// <param name="dlogits">(B, K) written: scale·(softmax·Σ_k target − target)/B, or none.</param>
    /// <param name="logits">(B, K).</param>
    /// <param name="targets">(B, K) float32: one-hot, smoothed or mixed rows.</param>
    public abstract void CrossEntropyLoss(Tensor loss, Tensor? dlogits, Tensor logits, Tensor targets, float scale);
}
