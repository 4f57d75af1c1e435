namespace MimEngine.Kernels;

/// <summary>A pointwise nonlinearity of small heads; the blocks' own is <see cref="Backend.GeluForward"/>.</summary>
public enum Activation : byte { Tanh, Relu }

public abstract partial class Backend
{
    /// <summary>y = (x − mean)·rstd·γ + β along each row.</summary>
    /// <param name="y">(M, C) Real or Branch, written.</param>
    /// <param name="mean">(M) float32, written, kept for backward.</param>
    /// <param name="rstd">(M) float32, written, kept for backward: 1/√(variance + eps), variance over C without Bessel's correction.</param>
    /// <param name="x">(M, C) float32.</param>
    /// <param name="gamma">(C) float32.</param>
    /// <param name="beta">(C) float32.</param>
    /// <remarks>
    /// The variance is the mean of squared deviations from a mean of part of the row, corrected by their own mean: at most 3 bits of 24 are lost, and a
    /// constant row gives exactly β. 8·M·C flops. Ba et al. 2016, section 3.
    /// </remarks>
    public abstract void LayerNormForward(Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor gamma, Tensor beta, float eps);

    /// <summary>
    /// With x̂ = (x − mean)·rstd and g = dy·γ: dx = rstd·(g − mean(g) − x̂·mean(g·x̂)); dγ = Σ rows dy·x̂; dβ = Σ rows dy.
    /// </summary>
    /// <param name="dx">(M, C) float32.</param>
    /// <param name="dy">(M, C) Real or Branch.</param>
    /// <param name="x">(M, C) float32.</param>
    public abstract void LayerNormBackward(Grad dx, Grad dgamma, Grad dbeta, Tensor dy, Tensor x, Tensor mean, Tensor rstd, Tensor gamma);

    /// <summary>y = exp(x − max)/Σ exp(x − max) along each row. A row of −∞ only gives NaN, as in PyTorch.</summary>
    /// <remarks>On the CPU the exponential's relative error is below 2e-7; below exp(−87.33) it is 0.</remarks>
    public abstract void SoftmaxForward(Tensor y, Tensor x);

    /// <summary>dx = y·(dy − Σ dy·y) along each row.</summary>
    public abstract void SoftmaxBackward(Grad dx, Tensor dy, Tensor y);

    /// <summary>
    /// y = (x − mean)·rstd over the batch axis, without affine parameters: the first layer of the MAE-style linear probe.
    /// Training: mean and biased variance of this batch, and running ← (1 − momentum)·running + momentum·batch, the running
    /// variance with Bessel's correction. Evaluation: the running statistics.
    /// </summary>
    /// <param name="y">(B, C) written.</param>
    /// <param name="mean">(C) float32, written: the mean that was used.</param>
    /// <param name="rstd">(C) float32, written: 1/√(variance + eps) that was used.</param>
    /// <param name="runningMean">(C) float32, updated in training, read in evaluation.</param>
    /// <param name="runningVariance">(C) float32, likewise.</param>
    /// <remarks>Ioffe and Szegedy 2015; SPEC J.18.</remarks>
    public abstract void BatchNormForward(Tensor y, Tensor mean, Tensor rstd, Tensor runningMean, Tensor runningVariance, Tensor x,
        float eps, float momentum, bool training);

    /// <summary>Training: dx = rstd·(dy − mean(dy) − x̂·mean(dy·x̂)) over the batch axis. Evaluation: dx = rstd·dy.</summary>
    public abstract void BatchNormBackward(Grad dx, Tensor dy, Tensor x, Tensor mean, Tensor rstd, bool training);

    /// <summary>y = tanh(x) or max(x, 0), element for element. On the CPU tanh's relative error is below 3e-7.</summary>
    public abstract void ActivateForward(Tensor y, Tensor x, Activation kind);

    /// <summary>From the output: dx = dy·(1 − y²) for tanh; dx = dy where y &gt; 0, else 0, for ReLU.</summary>
    public abstract void ActivateBackward(Grad dx, Tensor dy, Tensor y, Activation kind);
}
