using MimEngine.Engine.Autograd;
using MimEngine.Kernels;

namespace MimEngine.Engine.Nn;

/// <summary>Looks into blocks while they run; changes nothing. What it keeps it copies into memory of its own.</summary>
public interface IBlockWatch
{
    /// <summary>A block's attention has been added to the residual stream.</summary>
    /// <param name="block">From 0.</param>
    /// <param name="before">(B, N, C): the residual stream that entered.</param>
    /// <param name="qkv">(B, N, 3·C), of the backend's Branch type.</param>
    /// <param name="bias">(H, N, N) or none.</param>
    /// <param name="gamma">(C) LayerScale of the branch, or none.</param>
    /// <param name="after">(B, N, C): before plus gamma times the attention branch.</param>
    void Attended(Tape t, int block, Tensor before, Tensor qkv, int heads, Tensor? bias, Tensor? gamma, Tensor after);
}
