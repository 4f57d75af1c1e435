using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Kernels;

namespace MimEngine.Engine.Probing;

/// <summary>Keeps the attention of one block.</summary>
internal sealed class AttentionTap(Backend backend, Shape shape, int wanted) : IBlockWatch, IDisposable
{
    private readonly Storage _storage = backend.Allocate(shape.Count * backend.Real.Size());

    public Tensor Probabilities => new(_storage, 0, shape, backend.Real);

    public void Attended(Tape t, int block, Tensor before, Tensor qkv, int heads, Tensor? bias, Tensor? gamma, Tensor after)
    {
        if (block == wanted) backend.AttentionProbabilities(Probabilities, qkv, heads, bias);
    }

    public void Dispose() => _storage.Dispose();
}

/// <summary>Keeps [cls] after the blocks before the last: what enters the next one.</summary>
/// <param name="last">1-based block whose output is the last of the four.</param>
internal sealed class BlockTap(Backend backend, Shape shape, int last) : IBlockWatch, IDisposable
{
    private const int Kept = Aggregation.LastBlocks - 1;
    private readonly Storage _storage = backend.Allocate(Kept * shape.Count * backend.Real.Size());

    /// <summary>After block last − 3 + <paramref name="i"/>.</summary>
    public Tensor Cls(int i) => new(_storage, i * shape.Count * backend.Real.Size(), shape, backend.Real);

    public void Attended(Tape t, int block, Tensor before, Tensor qkv, int heads, Tensor? bias, Tensor? gamma, Tensor after)
    {
        int i = block - (last - Kept);
        if (i >= 0 && i < Kept) backend.SliceTokensForward(Cls(i), before, 0);
    }

    public void Dispose() => _storage.Dispose();
}
