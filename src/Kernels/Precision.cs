namespace MimEngine.Kernels;

/// <summary>
/// What matrix products multiply, and what lies between them in a block. The residual stream, statistics, softmax, losses, parameter gradients,
/// moments and master weights are float32 either way, and every sum of a product is; checkpoints hold masters only, so a run may be continued
/// in the other precision.
/// </summary>
public enum Precision : byte
{
    F32,

    /// <summary>
    /// Operands of products have bfloat16's 8 bits of mantissa (and float32's range), nearest even. What lies between the products of a block
    /// (<see cref="Backend.Branch"/>), its gradients, and the copy of the weights that products read are stored so.
    /// </summary>
    BF16,
}
