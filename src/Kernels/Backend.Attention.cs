namespace MimEngine.Kernels;

public abstract partial class Backend
{
    /// <summary>y = softmax(q·kᵀ/√D + bias)·v for each image and head (Vaswani et al. 2017, section 3.2).</summary>
    /// <param name="y">(B, N, C) written, heads side by side.</param>
    /// <param name="lse">(B, H, N) float32, written, kept for backward: ln Σ exp of each row of logits.</param>
    /// <param name="qkv">(B, N, 3·C): q, k, v of all heads, each C wide; head h owns columns [h·D, (h+1)·D).</param>
    /// <param name="bias">(H, N, N) float32 added to the scaled logits, shared by the batch, or none.</param>
    /// <remarks>4·B·N²·C flops. No more of the N×N matrix exists than a backend's tile.</remarks>
    public abstract void AttentionForward(Tensor y, Tensor lse, Tensor qkv, int heads, Tensor? bias);

    /// <summary>
    /// With p = exp(logits − lse) recomputed: dv = pᵀ·dy; ds = p ⊙ (dy·vᵀ − rowsum(dy ⊙ y)); dq = ds·k/√D; dk = dsᵀ·q/√D;
    /// dbias = Σ over the batch of ds, in batch order.
    /// </summary>
    /// <param name="dqkv">(B, N, 3·C).</param>
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
}
