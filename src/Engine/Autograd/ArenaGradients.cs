using MimEngine.Kernels;

namespace MimEngine.Engine.Autograd;

/// <summary>
/// Gradients of parameters without a slab of their own: each takes a piece of the arena when backward first writes it, and all are given back
/// when the update is over. Backward frees a block's activations before it writes the gradients of the block below, so most gradients lie where
/// activations were, and a step needs room for the larger of the two instead of both.
/// </summary>
/// <remarks>
/// For updates of one pass. Gradients that outlive a pass would lie scattered over the memory of the next one's activations: a slab is better there.
/// </remarks>
public sealed class ArenaGradients(Arena arena)
{
    private readonly List<Param> _held = [];
    private long _first, _end;   // bytes of the arena between which all held gradients lie

    /// <summary>Everything from the first to the last gradient held, and what lies between them.</summary>
    public Tensor Memory
    {
        get
        {
            if (_held.Count == 0) return default;
            // In rows of a cache line: single numbers of a large arena do not fit 32 bits.
            Tensor any = _held[0].Gradient;
            int columns = Arena.Alignment / any.DType.Size();
            return any with { ByteOffset = _first, Shape = new Shape(checked((int)((_end - _first) / Arena.Alignment)), columns) };
        }
    }

    /// <summary>First element of a held gradient in <see cref="Memory"/>.</summary>
    public long Offset(Param param) => (param.Gradient.ByteOffset - _first) / param.Gradient.DType.Size();

    /// <summary>Finds a place for a gradient that is about to be written for the first time.</summary>
    internal void Lend(Param param)
    {
        if (param.Place is not null) return;
        Tensor gradient = arena.RentHigh(param.Shape, param.Data.DType);
        (long first, long end) = (gradient.ByteOffset, gradient.ByteOffset + Arena.Rounded(gradient.Bytes));
        (_first, _end) = _held.Count == 0 ? (first, end) : (Math.Min(_first, first), Math.Max(_end, end));
        param.Place = gradient;
        _held.Add(param);
    }

    /// <summary>The update is over: the memory is free.</summary>
    public void GiveBack()
    {
        foreach (Param p in _held)
        {
            arena.Return(p.Gradient);
            p.Place = null;
        }
        _held.Clear();
    }
}
