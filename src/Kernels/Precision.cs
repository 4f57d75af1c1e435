namespace MimEngine.Kernels;

/// <summary>
/// What matrix products multiply. Everything is stored and summed in float32 either way, attention's inner products included; weights, moments and
/// checkpoints do not change, so a run may be continued in the other precision.
/// </summary>
public enum Precision : byte
{
    F32,

    /// <summary>Both operands are rounded to bfloat16 (8 bits of mantissa, float32's range), nearest even.</summary>
    BF16,
}
