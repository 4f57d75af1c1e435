using MimEngine.Engine.Autograd;
using MimEngine.Kernels;

namespace MimEngine.Engine.Nn;

/// <summary>Takes [cls]'s attention of one block out of a pass while it runs: no pass of its own, no N×N matrix (SPEC E.5).</summary>
public sealed class ClsAttentionWatch : IBlockWatch
{
    /// <summary>The block, from 0.</summary>
    public int Block { get; set; }

    /// <summary>(B, L) float32, written; the caller's, and rented before the pass, so that it outlives the pass's own memory.</summary>
    public Tensor Into { get; set; }

    /// <inheritdoc/>
    public void Attended(Tape t, int block, Tensor before, Tensor qkv, int heads, Tensor? bias, Tensor? gamma, Tensor after)
    {
        if (block == Block) t.Backend.ClsAttention(Into, qkv, heads, bias);
    }
}
