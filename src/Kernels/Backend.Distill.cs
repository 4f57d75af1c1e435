namespace MimEngine.Kernels;

/// <summary>Which views of a picture a student's view learns from.</summary>
public enum ViewPairing : byte
{
    /// <summary>Every teacher view but its own: [cls] tokens (DINO; Caron et al. 2021, equation 3).</summary>
    Cross,

    /// <summary>The same view: hidden patches (iBOT; Zhou et al. 2022, equation 2).</summary>
    Same,
}

public abstract partial class Backend
{
    /// <summary>y = gain·x/max(‖x‖₂, eps) along each row.</summary>
    /// <param name="y">(M, C) written.</param>
    /// <param name="norms">(M) float32, written, kept for backward: max(‖x‖₂, eps).</param>
    /// <param name="x">(M, C).</param>
    /// <param name="gain">(M) float32, one a row, or none for 1: with it y is a weight-normalised matrix (Salimans and Kingma 2016).</param>
    public abstract void L2NormalizeForward(Tensor y, Tensor norms, Tensor x, Tensor? gain, float eps);

    /// <summary>
    /// With u = x/norms: dgain = Σ dy·u; dx = gain/norms·(dy − u·Σ dy·u), and without the second term where the norm was below eps.
    /// </summary>
    /// <param name="dgain">(M) float32.</param>
    public abstract void L2NormalizeBackward(Grad dx, Grad dgain, Tensor dy, Tensor x, Tensor norms, Tensor? gain, float eps);

    /// <summary>y = γ·x + β, γ and β one a column: the affine half of batch normalisation.</summary>
    /// <param name="y">(M, C) written.</param>
    /// <param name="gamma">(C) float32.</param>
    /// <param name="beta">(C) float32.</param>
    public abstract void ScaleShiftForward(Tensor y, Tensor x, Tensor gamma, Tensor beta);

    /// <summary>dx = γ·dy; dγ = Σ rows dy·x; dβ = Σ rows dy. Sums over rows run in a fixed order.</summary>
    public abstract void ScaleShiftBackward(Grad dx, Grad dgamma, Grad dbeta, Tensor dy, Tensor x, Tensor gamma);

    /// <summary>
    /// What a teacher says: targets = softmax((logits − center)/temperature) along each row, and the mean entropy of these rows,
    /// Σ_r w_r·(−Σ_k target_k·ln target_k), w_r = weights or 1/M. Rows of weight 0 are not computed.
    /// </summary>
    /// <param name="targets">(M, K) written, but for rows of weight 0; may be the logits' memory.</param>
    /// <param name="entropy">(1) float32, written.</param>
    /// <param name="logits">(M, K).</param>
    /// <param name="center">(K) float32.</param>
    /// <param name="weights">(M) float32 or none.</param>
    /// <remarks>Centring and sharpening: DINO section 3.1. Entropy is 0 or ln K when a run has collapsed.</remarks>
    public abstract void TeacherTargets(Tensor targets, Tensor entropy, Tensor logits, Tensor center, Tensor? weights, float temperature);

    /// <summary>
    /// loss = scale·Σ w[v, m]·H(targets[q, m], student[v, m]) over the student's views v, rows m, and the teacher's views q that pair with v;
    /// H(p, s) = −Σ_k p_k·ln softmax(s/temperature)_k. The gradient comes with it:
    /// scale·w/temperature·Σ_q (softmax(s/temperature)·Σ_k p − p).
    /// </summary>
    /// <param name="loss">(1) float32, written.</param>
    /// <param name="dstudent">(V·M, K) written with the gradient (0 where w is 0), or none.</param>
    /// <param name="student">(V·M, K), view-major.</param>
    /// <param name="targets">(Q·M, K) from <see cref="TeacherTargets"/>, view-major.</param>
    /// <param name="weights">(V·M) float32, or none for 1/M.</param>
    /// <param name="rows">M: rows of one view.</param>
    /// <param name="firstView">Number of the student's first view among the views of a picture.</param>
    /// <remarks>A student's row crosses memory once: its softmax, loss and gradient are made while it lies in a cache.</remarks>
    public abstract void DistillLoss(Tensor loss, Tensor? dstudent, Tensor student, Tensor targets, Tensor? weights, int rows, int firstView,
        ViewPairing pairing, float temperature, float scale);

    /// <summary>center ← momentum·center + (1 − momentum)·mean over rows of x. With momentum 0, center may hold NaN.</summary>
    /// <param name="center">(K) float32, updated.</param>
    /// <param name="x">(M, K): raw logits.</param>
    public abstract void UpdateCenter(Tensor center, Tensor x, float momentum);
}
