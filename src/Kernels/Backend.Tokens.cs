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
}
