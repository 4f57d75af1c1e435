using MimEngine.Kernels;

namespace MimEngine.Engine.Autograd;

/// <summary>A tensor that takes part in differentiation.</summary>
public class Value
{
    /// <summary>
    /// The numbers: the backend's Real type, or its Branch type between the products of a block. The gradient has the same type.
    /// </summary>
    public Tensor Data { get; internal set; }

    /// <summary>Whether anything upstream wants a gradient.</summary>
    public bool NeedsGrad { get; internal set; }

    /// <summary>d loss / d this, while backward runs; null before anyone wrote it and after it was used.</summary>
    internal Tensor? Gradient { get; set; }

    public Shape Shape => Data.Shape;
}

/// <summary>A learned tensor: a named range of the parameter slabs.</summary>
public sealed class Param : Value
{
    internal Param(string name, Shape shape, int segment, Init init)
        => (Name, DeclaredShape, Segment, Init) = (name, shape, segment, init);

    /// <summary>timm's name, "blocks.3.attn.qkv.weight".</summary>
    public string Name { get; }

    /// <summary>Shape before the slabs exist.</summary>
    public Shape DeclaredShape { get; }

    /// <summary>Place in <see cref="ParamSet.Segments"/>.</summary>
    public int Segment { get; }

    /// <summary>How it starts.</summary>
    public Init Init { get; }

    /// <summary>What products read: its range of the compute slab where there is one, else <see cref="Value.Data"/>, the master.</summary>
    public Tensor Operand { get; internal set; }

    /// <summary>
    /// d loss / d this: its range of the gradient slab or, where its network has <see cref="ArenaGradients"/>, a piece of the arena. Holds sums
    /// once <see cref="Written"/>.
    /// </summary>
    /// <exception cref="InvalidOperationException">It has no memory now.</exception>
    public new Tensor Gradient => Place ?? throw new InvalidOperationException(
        $"'{Name}' has no gradient now: it lies in the arena from backward to the end of the update only.");

    /// <summary>Where <see cref="Gradient"/> lies, if anywhere.</summary>
    internal Tensor? Place { get; set; }

    /// <summary>Who finds a place for the gradient when it is first written; none = the slab, once and for all.</summary>
    internal ArenaGradients? Lender { get; set; }

    /// <summary>Whether backward put a gradient there since <see cref="ParamSet.BeginUpdate"/>. Unwritten parameters are not updated.</summary>
    public bool Written { get; internal set; }

    /// <summary>False = not trained: no gradient is computed for it.</summary>
    public bool Trained
    {
        get => NeedsGrad;
        set => NeedsGrad = value;
    }
}
