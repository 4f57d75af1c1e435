using System.Runtime.InteropServices;
using MimEngine.Kernels;

namespace MimEngine.Engine.Autograd;

/// <summary>One recorded operation. Instances are kept by the tape and used again by the next step, so that recording allocates nothing.</summary>
public abstract class Node
{
    internal Value Output = null!;
    internal int FirstRented;

    /// <summary>Turns the gradient of the output into gradients of the inputs.</summary>
    public abstract void Backward(Tape t);

    /// <summary>A loss starts a gradient instead of passing one on.</summary>
    public virtual bool IsLoss => false;

    /// <summary>Gives back what only backward would have given back; called when a step is forgotten without it.</summary>
    public virtual void Abandon(Tape t) { }
}

/// <summary>What a recorded stretch of network keeps for backward.</summary>
public enum Recompute : byte
{
    /// <summary>Everything: fastest.</summary>
    None,

    /// <summary>Its input only; the stretch runs again during backward (Chen et al. 2016).</summary>
    Block,
}

/// <summary>A piece of network as one unit of recomputation and of inference memory.</summary>
/// <typeparam name="TState">What this pass gives it beside x: biases, stochastic-depth factors.</typeparam>
public interface IStretch<TState>
{
    /// <summary>Must be pure: the same output every time it runs with the same x and state.</summary>
    Value Forward(Tape t, Value x, TState state);
}

/// <summary>
/// The autograd: a list of fused layers, recorded forward and unwound backward. A node owns the memory rented while it ran; unwinding it
/// gives that memory back, so a step's memory is the stack of its nodes. Nothing here allocates once every node has been seen.
/// </summary>
public sealed class Tape(Backend backend, Arena arena, Recompute recompute = Recompute.None)
{
    private readonly List<Node> _nodes = [];                          // recorded and not yet unwound
    private readonly Dictionary<Type, Stack<Node>> _spare = [];       // instances to use again
    private readonly List<Value> _values = [];                        // instances of the last steps, by position
    private readonly List<Tensor> _rented = [];   // what live nodes own, in order
    private int _valueCount, _noGrad;

    public Backend Backend => backend;
    public Arena Arena => arena;

    /// <summary>False inside <see cref="NoGrad"/>.</summary>
    public bool Recording => _noGrad == 0;

    /// <summary>An activation; its memory lives until the op that made it has been unwound.</summary>
    public Value New(Shape shape, bool needsGrad) => New(shape, needsGrad, backend.Real);

    /// <inheritdoc cref="New(Shape, bool)"/>
    /// <param name="dtype">Of the activation and of its gradient: <see cref="Backend.Real"/> or <see cref="Backend.Branch"/>.</param>
    public Value New(Shape shape, bool needsGrad, DType dtype) => Wrap(Keep(shape, dtype), needsGrad && Recording);

    /// <summary>Memory kept for backward beside the activation: statistics, log-sum-exps.</summary>
    public Tensor Keep(Shape shape) => Keep(shape, backend.Real);

    /// <inheritdoc cref="Keep(Shape)"/>
    public Tensor Keep(Shape shape, DType dtype)
    {
        Tensor tensor = arena.Rent(shape, dtype);
        _rented.Add(tensor);
        return tensor;
    }

    /// <summary>Memory for the current op only; give it back with <see cref="Done"/>.</summary>
    public Tensor Scratch(Shape shape) => arena.Rent(shape, backend.Real);

    /// <inheritdoc cref="Scratch(Shape)"/>
    public Tensor Scratch(Shape shape, DType dtype) => arena.Rent(shape, dtype);

    public void Done(Tensor scratch) => arena.Return(scratch);

    /// <summary>A tensor owned by somebody else, as an input.</summary>
    public Value Input(Tensor data, bool needsGrad = false) => Wrap(data, needsGrad);

    /// <summary>Number of rented pieces: taken before an op's first <see cref="New"/>, handed to <see cref="Record{TNode}"/>.</summary>
    public int Mark => _rented.Count;

    /// <summary>
    /// Records the op that made <paramref name="output"/> and everything rented since <paramref name="mark"/>, and returns its node for
    /// the op to fill; null when nothing upstream needs a gradient.
    /// </summary>
    public TNode? Record<TNode>(Value output, int mark) where TNode : Node, new()
    {
        if (!Recording || !output.NeedsGrad) return null;
        TNode node = Spare(typeof(TNode)).TryPop(out Node? used) ? (TNode)used : new TNode();
        (node.Output, node.FirstRented) = (output, mark);
        _nodes.Add(node);
        return node;
    }

    /// <summary>Where the gradient of <paramref name="x"/> goes: nowhere, a first touch that writes, or one that accumulates.</summary>
    public Grad GradFor(Value? x)
    {
        if (x is null || !x.NeedsGrad) return Grad.None;
        if (x is Param p)
        {
            bool first = !p.Written;
            p.Written = true;
            if (first) p.Lender?.Lend(p);
            return new Grad(p.Gradient, first ? GradMode.Write : GradMode.Accumulate);
        }
        if (x.Gradient is { } known) return Grad.Add(known);
        Tensor fresh = arena.Rent(x.Shape, x.Data.DType);
        x.Gradient = fresh;
        return Grad.Write(fresh);
    }

    /// <summary>The finished gradient of an op's output.</summary>
    public Tensor GradOf(Value y) => y.Gradient ?? throw new InvalidOperationException("An output without gradient was asked for it.");

    /// <summary>Gives y's gradient to x as it is: without a copy if x has none yet.</summary>
    public void HandOver(Value y, Value x)
    {
        if (!x.NeedsGrad) return;
        if (x.Gradient is null && x is not Param)
        {
            x.Gradient = GradOf(y).Reshape(x.Shape);
            y.Gradient = null;
        }
        else
        {
            Grad into = GradFor(x);
            backend.AddScaled(into.Into, GradOf(y), 1f, into.Accumulate ? 1f : 0f);
        }
    }

    /// <summary>Runs a stretch of network: recorded plainly, recorded as one node that runs again in backward, or without gradient.</summary>
    public Value Stretch<TState>(IStretch<TState> body, Value x, TState state)
    {
        if (Recording && recompute == Recompute.None) return body.Forward(this, x, state);
        int mark = Mark;
        bool record = Recording;
        _noGrad++;
        Value y = body.Forward(this, x, state);
        _noGrad--;
        KeepOnly(y, mark);
        if (record)
        {
            y.NeedsGrad = true;
            Record<StretchNode<TState>>(y, mark)!.Set(body, x, state);
        }
        return y;
    }

    /// <summary>Until <see cref="EndNoGrad"/>, ops record nothing.</summary>
    public void BeginNoGrad() => _noGrad++;

    public void EndNoGrad() => _noGrad--;

    /// <summary>
    /// Gives back what was rented since <paramref name="mark"/>: for a pass without gradient whose results lie in memory rented before.
    /// </summary>
    public void Forget(int mark)
    {
        if (Recording) throw new InvalidOperationException("Only a pass without gradient can be forgotten; Backward needs the others.");
        Release(mark);
    }

    /// <summary>Unwinds everything recorded, from the losses, returning memory as it goes.</summary>
    public void Backward() => Unwind(0);

    /// <summary>Forgets the step: returns what is still rented, but for gradients that lie in the arena.</summary>
    public void Reset()
    {
        for (int i = 0; i < _valueCount; i++) ReturnGradient(_values[i]);
        Release(0);
        foreach (Node node in _nodes)
        {
            node.Abandon(this);
            Spare(node.GetType()).Push(node);
        }
        _nodes.Clear();
        _valueCount = 0;
    }

    private void Unwind(int floor)
    {
        while (_nodes.Count > floor)
        {
            Node node = _nodes[^1];
            _nodes.RemoveAt(_nodes.Count - 1);
            if (node.IsLoss || node.Output.Gradient is not null) node.Backward(this);
            ReturnGradient(node.Output);
            Release(node.FirstRented);
            Spare(node.GetType()).Push(node);
        }
    }

    private Value Wrap(Tensor data, bool needsGrad)
    {
        if (_valueCount == _values.Count) _values.Add(new Value());
        Value v = _values[_valueCount++];
        (v.Data, v.NeedsGrad, v.Gradient) = (data, needsGrad, null);
        return v;
    }

    private Stack<Node> Spare(Type type)
    {
        ref Stack<Node>? stack = ref CollectionsMarshal.GetValueRefOrAddDefault(_spare, type, out _);
        return stack ??= new Stack<Node>();
    }

    private void ReturnGradient(Value v)
    {
        if (v.Gradient is not { } gradient) return;
        arena.Return(gradient);
        v.Gradient = null;
    }

    private void Release(int first)
    {
        for (int i = _rented.Count - 1; i >= first; i--) arena.Return(_rented[i]);
        _rented.RemoveRange(first, _rented.Count - first);
    }

    private void KeepOnly(Value y, int mark)
    {
        for (int i = mark; i < _rented.Count; i++)
            if (_rented[i].ByteOffset != y.Data.ByteOffset) arena.Return(_rented[i]);
        _rented.RemoveRange(mark, _rented.Count - mark);
        _rented.Add(y.Data);
    }

    private sealed class StretchNode<TState> : Node
    {
        private IStretch<TState> _body = null!;
        private Value _x = null!;
        private TState _state = default!;

        public void Set(IStretch<TState> body, Value x, TState state) => (_body, _x, _state) = (body, x, state);

        public override void Backward(Tape t)
        {
            int floor = t._nodes.Count;
            Value again = _body.Forward(t, _x, _state);
            (again.Gradient, Output.Gradient) = (Output.Gradient, null);
            t.Unwind(floor);
        }
    }
}
