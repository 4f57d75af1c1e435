namespace MimEngine.Kernels;

public abstract partial class Backend
{
    /// <summary>y = softmax(q·kᵀ/√D + bias)·v for each image and head (Vaswani et al. 2017, section 3.2).</summary>
    /// <param name="y">(B, N, C) of qkv's type, written, heads side by side.</param>
    /// <param name="lse">(B, H, N) float32, written, kept for backward: ln Σ exp of each row of logits.</param>
    /// <param name="qkv">(B, N, 3·C) Real or Branch: q, k, v of all heads, each C wide; head h owns columns [h·D, (h+1)·D).</param>
    /// <param name="bias">(H, N, N) float32 added to the scaled logits, shared by the batch, or none.</param>
    /// <remarks>4·B·N²·C flops. No more of the N×N matrix exists than a backend's tile.</remarks>
    public abstract void AttentionForward(Tensor y, Tensor lse, Tensor qkv, int heads, Tensor? bias);

    /// <summary>
    /// With p = exp(logits − lse) recomputed: dv = pᵀ·dy; ds = p ⊙ (dy·vᵀ − rowsum(dy ⊙ y)); dq = ds·k/√D; dk = dsᵀ·q/√D;
    /// dbias = Σ over the batch of ds, in batch order.
    /// </summary>
    /// <param name="dqkv">(B, N, 3·C) of qkv's type, as dy and y are.</param>
    /// <param name="dbias">(H, N, N) float32.</param>
    /// <remarks>10·B·N²·C flops. Dao et al. 2022, algorithm 4.</remarks>
    public abstract void AttentionBackward(Grad dqkv, Grad dbias, Tensor dy, Tensor y, Tensor lse, Tensor qkv, int heads, Tensor? bias);

    /// <summary>
    /// Expands a relative position table to a bias: bias[h, i, j] = table[index(i, j), h] (SPEC B.3, Bao et al. 2021).
    /// With G patches a side, patch i at (r, c): index = (r_i − r_j + G − 1)·(2G − 1) + (c_i − c_j + G − 1);
    /// with R = (2G − 1)² + 3: cls → patch R − 3, patch → cls R − 2, cls → cls R − 1. Token 0 is [cls].
    /// </summary>
    /// <param name="bias">(H, 1 + G², 1 + G²) float32, written.</param>
    /// <param name="table">(R, H) float32.</param>
    public abstract void RelativePositionBiasForward(Tensor bias, Tensor table, int grid);

    /// <summary>dtable[r, h] = Σ over (i, j) with index(i, j) = r of dbias[h, i, j], in raster order of (i, j).</summary>
    public abstract void RelativePositionBiasBackward(Grad dtable, Tensor dbias, int grid);

    /// <summary>The N×N matrices that <see cref="AttentionForward"/> never makes, for those who look at them: p = softmax(q·kᵀ/√D + bias).</summary>
    /// <param name="p">(B, H, N, N) float32, written.</param>
    /// <param name="qkv">(B, N, 3·C) Real or Branch.</param>
    /// <param name="bias">(H, N, N) float32 or none.</param>
    public abstract void AttentionProbabilities(Tensor p, Tensor qkv, int heads, Tensor? bias);

    /// <summary>
    /// What [cls] looks at, without the N×N matrix: a[b, l] = mean over heads of softmax(q_0·kᵀ/√D + bias_0)[N − L + l], the first row only
    /// (Kakogeorgiou et al. 2022, AttMask, section 3.2; SPEC E.5). Values of one image add up to 1 less [cls]'s own share.
    /// </summary>
    /// <param name="a">(B, L) float32, written.</param>
    /// <param name="qkv">(B, N, 3·C).</param>
    /// <param name="bias">(H, N, N) float32 or none.</param>
    /// <remarks>2·B·N·C flops: one row in N of <see cref="AttentionForward"/>'s logits. No gradient.</remarks>
    public abstract void ClsAttention(Tensor a, Tensor qkv, int heads, Tensor? bias);

    /// <summary>
    /// A weight for each of the last L tokens out of attention: r[b, j] = Σ_h Σ_i mix[b, h, i]·attention[b, h, i, N − L + j];
    /// w = gain·r, or with renormalise w = gain·r/sums, sums = Σ_j r + eps (SPEC D.2).
    /// </summary>
    /// <param name="w">(B, L) float32, written.</param>
    /// <param name="sums">(B) float32, written, kept for backward; 1 without renormalise.</param>
    /// <param name="attention">(B, H, N, N) float32.</param>
    /// <param name="mix">(B, H, N) float32: which heads and queries count, and how much.</param>
    public abstract void MixAttentionForward(Tensor w, Tensor sums, Tensor attention, Tensor mix, float gain, bool renormalise, float eps);

    /// <summary>
    /// dr_j = gain·dw_j, or with renormalise dr_j = (gain·dw_j − Σ_k dw_k·w_k)/sums; dattention[b, h, i, N − L + j] = mix[b, h, i]·dr[b, j],
    /// 0 on the columns before when written.
    /// </summary>
    public abstract void MixAttentionBackward(Grad dattention, Tensor dw, Tensor w, Tensor sums, Tensor mix, float gain, bool renormalise);
}
