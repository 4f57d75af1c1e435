namespace MimEngine.Kernels;

/// <summary>Order of the 3·P·P numbers of one patch.</summary>
public enum PixelOrder : byte
{
    /// <summary>(channel, row, column): a flattened convolution kernel, SimMIM's and KAMIM's head.</summary>
    ChannelSlowest,

    /// <summary>(row, column, channel): MAE's patchify.</summary>
    ChannelFastest,
}

public abstract partial class Backend
{
    /// <summary>Cuts images into patches, patch index row-major.</summary>
    /// <param name="patches">(B, L, 3·P²) written, L = (S/P)·(S/P).</param>
    /// <param name="images">(B, 3, S, S) float32, rows × columns; both extents are multiples of P.</param>
    public abstract void Patchify(Tensor patches, Tensor images, int patch, PixelOrder order);

    /// <summary>The inverse of <see cref="Patchify"/>.</summary>
    public abstract void Unpatchify(Tensor images, Tensor patches, int patch, PixelOrder order);

    /// <summary>
    /// Builds the token sequence: y[b, 0] = cls + pos[0]; y[b, 1 + l] = (hidden[b, l] ? mask : x[b, l]) + pos[1 + l].
    /// Without cls there is no prefix row and pos starts at patch 0. Without pos nothing is added; without hidden nothing is replaced.
    /// </summary>
    /// <param name="y">(B, prefix + L, C) written.</param>
    /// <param name="x">(B, L, C) patch embeddings.</param>
    /// <param name="cls">(C) float32 or none.</param>
    /// <param name="mask">(C) float32; needed when hidden is given.</param>
    /// <param name="hidden">(B, L) U8, 1 = hidden, or none.</param>
    /// <param name="pos">(prefix + L, C) float32 or none.</param>
    /// <remarks>Replacement comes before positions: SimMIM section 3.2, SPEC A.7.1 and B.2.</remarks>
    public abstract void AssembleTokensForward(Tensor y, Tensor x, Tensor? cls, Tensor? mask, Tensor? hidden, Tensor? pos);

    /// <summary>dx = dy on visible patches and 0 on hidden ones; dcls, dmask and dpos sum dy over the batch in batch order.</summary>
    public abstract void AssembleTokensBackward(Grad dx, Grad dcls, Grad dmask, Grad dpos, Tensor dy, Tensor? hidden);

    /// <summary>y[b, i] = x[b, first + i]: a run of tokens of every image.</summary>
    /// <param name="y">(B, n, C) written.</param>
    /// <param name="x">(B, N, C), first + n ≤ N.</param>
    public abstract void SliceTokensForward(Tensor y, Tensor x, int first);

    /// <summary>dx[b, first + i] = dy[b, i]; when written, all other rows become 0.</summary>
    public abstract void SliceTokensBackward(Grad dx, Tensor dy, int first);

    /// <summary>y[b] = mean over i ≥ first of x[b, i].</summary>
    /// <param name="y">(B, C) written.</param>
    /// <param name="x">(B, N, C).</param>
    public abstract void MeanTokensForward(Tensor y, Tensor x, int first);

    /// <summary>dx[b, i] = dy[b]/(N − first) for i ≥ first; when written, rows before become 0.</summary>
    public abstract void MeanTokensBackward(Grad dx, Tensor dy, int first);

    /// <summary>
    /// y[b] = the prefix rows of x[b], then its visible patches in raster order: what MAE's encoder sees (He et al. 2022, section 3).
    /// </summary>
    /// <param name="y">(B, prefix + V, C) written; prefix = N − L, and every image has exactly V visible patches.</param>
    /// <param name="x">(B, N, C).</param>
    /// <param name="hidden">(B, L) U8, 1 = hidden.</param>
    /// <remarks>The original keeps them in shuffled order, which nothing after it can notice: positions were added before.</remarks>
    public abstract void GatherVisibleForward(Tensor y, Tensor x, Tensor hidden);

    /// <summary>dx = dy on prefix rows and visible patches; when written, hidden patches become 0.</summary>
    public abstract void GatherVisibleBackward(Grad dx, Tensor dy, Tensor hidden);

    /// <summary>The way back: prefix rows and visible patches of x at their places, the mask token at hidden ones.</summary>
    /// <param name="y">(B, N, C) written.</param>
    /// <param name="x">(B, prefix + V, C).</param>
    /// <param name="mask">(C) float32.</param>
    /// <param name="hidden">(B, L) U8; prefix = N − L.</param>
    public abstract void ScatterVisibleForward(Tensor y, Tensor x, Tensor mask, Tensor hidden);

    /// <summary>dx = dy on prefix rows and visible patches; dmask = Σ dy over hidden patches, images in batch order.</summary>
    public abstract void ScatterVisibleBackward(Grad dx, Grad dmask, Tensor dy, Tensor hidden);

    /// <summary>y[b] = Σ_n w[b, n]·x[b, first + n], first = N − W: a weighted sum of each image's last W tokens.</summary>
    /// <param name="y">(B, C) written.</param>
    /// <param name="x">(B, N, C).</param>
    /// <param name="w">(B, W) float32.</param>
    public abstract void PoolTokensForward(Tensor y, Tensor x, Tensor w);

    /// <summary>dx[b, first + n] = w[b, n]·dy[b] (rows before become 0 when written); dw[b, n] = Σ_c dy[b, c]·x[b, first + n, c].</summary>
    public abstract void PoolTokensBackward(Grad dx, Grad dw, Tensor dy, Tensor x, Tensor w);
}
