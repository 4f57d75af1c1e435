namespace MimEngine.Kernels;

public abstract partial class Backend
{
    /// <summary>y = x·wᵀ + b.</summary>
    /// <param name="y">(M, N) Real or Branch, written.</param>
    /// <param name="x">(M, K) Real or Branch.</param>
    /// <param name="w">(N, K) Real or Branch, stored [out, in] as PyTorch stores it.</param>
    /// <param name="b">(N) float32 or none.</param>
    /// <remarks>2·M·N·K flops. M is the product of all leading extents.</remarks>
    public abstract void LinearForward(Tensor y, Tensor x, Tensor w, Tensor? b);

    /// <summary>dx = dy·w, dw = dyᵀ·x, db = Σ over rows of dy; each written, accumulated or left out as its Grad says.</summary>
    /// <param name="dx">(M, K) Real or Branch.</param>
    /// <param name="dw">(N, K) float32.</param>
    /// <param name="db">(N) float32.</param>
    /// <param name="dy">(M, N) Real or Branch.</param>
    /// <param name="x">(M, K) Real or Branch.</param>
    /// <param name="w">(N, K) Real or Branch.</param>
    /// <remarks>4·M·N·K flops when both products are wanted. Sums over M run in a fixed order whatever the thread count.</remarks>
    public abstract void LinearBackward(Grad dx, Grad dw, Grad db, Tensor dy, Tensor x, Tensor w);

    /// <summary>y = 0.5·x·(1 + erf(x/√2)), the exact GELU (Hendrycks and Gimpel 2016). y and x are of one type, Real or Branch.</summary>
    /// <remarks>On the CPU the absolute error is below 1.2e-7·max(1, |x|), the relative error below 2e-6 from −5 on.</remarks>
    public abstract void GeluForward(Tensor y, Tensor x);

    /// <summary>
    /// dx = dy·(Φ(x) + x·φ(x)), Φ and φ the standard normal distribution and density. dx may be dy's memory when it is written. All three
    /// are of one type, Real or Branch.
    /// </summary>
    /// <remarks>On the CPU the absolute error of GELU′ is below 3e-7.</remarks>
    public abstract void GeluBackward(Grad dx, Tensor dy, Tensor x);

    /// <summary>
    /// h = x·wᵀ + b; y = GELU(h). h, the pre-activation, is kept for backward. y and h are of one type, Real or Branch, x and w each of
    /// either; y may be the GELU of h before or after h is rounded to its type.
    /// </summary>
    public virtual void LinearGeluForward(Tensor y, Tensor h, Tensor x, Tensor w, Tensor? b)
    {
        LinearForward(h, x, w, b);
        GeluForward(y, h);
    }

    /// <summary>dh = (dy·w) ∘ GELU′(h): the gradient of a product whose input was GELU(h), taken back to before the GELU.</summary>
    /// <param name="dh">(M, K) of h's type, written; not dy's memory.</param>
    /// <param name="dy">(M, N) Real or Branch.</param>
    /// <param name="w">(N, K) Real or Branch.</param>
    /// <param name="h">(M, K) Real or Branch: what <see cref="LinearGeluForward"/> kept.</param>
    /// <remarks>dh may be rounded once, or once more before it is multiplied by GELU′. 2·M·N·K flops and a slope of GELU each.</remarks>
    public virtual void LinearGeluBackward(Tensor dh, Tensor dy, Tensor w, Tensor h)
    {
        LinearBackward(Grad.Write(dh), Grad.None, Grad.None, dy, h, w);
        GeluBackward(Grad.Write(dh), dh, h);
    }

    /// <summary>
    /// y = residual + rowScale ⊙ gamma ⊙ (x·wᵀ + b): the end of a residual branch with LayerScale (Touvron et al. 2021)
    /// and stochastic depth (Huang et al. 2016).
    /// </summary>
    /// <param name="y">(M, N) float32, written; may be <paramref name="residual"/>'s memory.</param>
    /// <param name="x">(M, K) Real or Branch.</param>
    /// <param name="w">(N, K) Real or Branch.</param>
    /// <param name="residual">(M, N) float32.</param>
    /// <param name="gamma">(N) float32 LayerScale, or none for 1.</param>
    /// <param name="rowScale">(B) float32, one factor for each group of M/B rows (0 or 1/keep), or none for 1.</param>
    public virtual void LinearResidualForward(Tensor y, Tensor x, Tensor w, Tensor? b, Tensor residual, Tensor? gamma, Tensor? rowScale)
    {
        if (y == residual) throw new NotSupportedException("The composed LinearResidual needs y and residual apart.");
        LinearForward(y, x, w, b);
        ScaleAddForward(y, residual, gamma, rowScale);
    }

    /// <summary>In place: y = residual + rowScale ⊙ gamma ⊙ y. Shapes as in <see cref="LinearResidualForward"/>.</summary>
    public abstract void ScaleAddForward(Tensor y, Tensor residual, Tensor? gamma, Tensor? rowScale);

    /// <summary>dx = rowScale ⊙ gamma ⊙ dy and, when <paramref name="scaled"/> is given, scaled = rowScale ⊙ dy.</summary>
    /// <param name="branch">(M, N) Real or Branch, written: the gradient of the branch x·wᵀ + b.</param>
    /// <param name="scaled">(M, N) of branch's type, written, or none: rowScale ⊙ dy without gamma, from which gamma's gradient is made.</param>
    /// <param name="dy">(M, N) float32.</param>
    public abstract void ScaleAddBackward(Tensor branch, Tensor? scaled, Tensor dy, Tensor? gamma, Tensor? rowScale);

    /// <summary>
    /// Gradient of gamma and of a LayerScaled weight from the products without gamma:
    /// dgamma_n = Σ_k w_nk·raw_nk + b_n·rawBias_n; dw_n· = gamma_n·raw_n·; db_n = gamma_n·rawBias_n.
    /// </summary>
    /// <param name="raw">(N, K) float32: (rowScale ⊙ dy)ᵀ·x.</param>
    /// <param name="rawBias">(N) float32: column sums of rowScale ⊙ dy.</param>
    /// <param name="w">(N, K) float32, the master.</param>
    /// <remarks>Since branch_mn = Σ_k x_mk·w_nk + b_n, the branch's output is needed neither kept nor recomputed. 3·N·K flops.</remarks>
    public abstract void LayerScaleBackward(Grad dgamma, Grad dw, Grad db, Tensor raw, Tensor rawBias, Tensor w, Tensor? b, Tensor gamma);
}
