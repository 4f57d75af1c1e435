namespace MimEngine.Kernels.Cpu.Emitted;

/// <summary>One vector of 16 queries, all keys: what attention does between its products. Rows are in bytes.</summary>
internal unsafe struct SlopeColumn
{
    /// <summary>Scores, a key a row; they become exponentials.</summary>
    public float* S;
    public nint Row, Keys;

    /// <summary>The logits' scale, in units of ln 2.</summary>
    public float Scale;

    /// <summary>16 numbers each. Forward, written: the largest logit and the sum of the exponentials; backward, read: −lse in units of ln 2, and δ.</summary>
    public float* First, Second;

    /// <summary>Backward: dp, as far apart as S's rows; becomes ds.</summary>
    public float* Dp;

    /// <summary>bfloat16 only. Rows of keys of p and ds (backward); pairs of keys of p (forward) or ds (backward).</summary>
    public ushort* P, Ds;
    public nint HalfRow;
    public uint* Pairs;
    public nint PairRow;
}
