using System.Runtime.InteropServices;
using MimEngine.Kernels;

namespace MimEngine.Tests;

/// <summary>What an operation does with one of its operands.</summary>
internal enum Role : byte
{
    /// <summary>Read; must be the same bytes afterwards.</summary>
    Input,

    /// <summary>Read and changed in place.</summary>
    Update,

    /// <summary>Written, whatever it held: poisoned with NaN before the call.</summary>
    Output,

    /// <summary>Handed over as a Grad: poisoned and written, or added to what was there, or left out.</summary>
    Gradient,
}

/// <summary>Fills values by its own rule from a named random sequence.</summary>
internal delegate void Draw(Span<double> values, ref RngSequence random, Shape shape);

/// <summary>One operand. <see cref="Floor"/> is the size of an element below which an error counts as rounding: 0 = none.</summary>
internal sealed record Slot(string Name, Shape Shape, DType DType, Role Role, double[] Values, double Floor = 0);

/// <summary>One call on a backend with everything it reads and writes: the unit of parity, thread and edge tests.</summary>
internal sealed record OpCall(string Name, IReadOnlyList<Slot> Slots, Action<Backend, Operands> Run, double Tolerance)
{
    public IEnumerable<string> Gradients => Slots.Where(s => s.Role == Role.Gradient).Select(s => s.Name);

    /// <summary>All written; all accumulated; each one left out in turn.</summary>
    public IEnumerable<GradModes> Modes()
    {
        yield return new GradModes(GradMode.Write, null);
        if (!Gradients.Any()) yield break;
        yield return new GradModes(GradMode.Accumulate, null);
        foreach (string name in Gradients) yield return new GradModes(GradMode.Write, name);
    }

    public override string ToString() => Name;
}

/// <summary>How the gradients of one run are asked for.</summary>
internal sealed record GradModes(GradMode All, string? LeftOut)
{
    public GradMode this[string name] => name == LeftOut ? GradMode.None : All;
    public override string ToString() => LeftOut is null ? $"{All}" : $"{All} without {LeftOut}";
}

/// <summary>
/// One line of the table: an operation's operands, its forward call and, where it has one, its backward call. The gradient of input x
/// is called dx; the upstream gradient of the first output y is called dy.
/// </summary>
internal sealed class OpCase(string name, double tolerance = 1e-5)
{
    private double _tolerance = tolerance;
    private readonly HashSet<string> _halves = [];
    private readonly List<(Slot Slot, bool Differentiable)> _slots = [];
    private readonly List<Slot> _backwardOutputs = [];
    private readonly Dictionary<string, double> _gradientFloors = [];

    public string Name { get; private set; } = name;
    public Action<Backend, Operands>? Forward { get; private set; }
    public Action<Backend, Operands>? Backward { get; private set; }

    /// <summary>A scalar output, the output that holds its gradient, and the input it is the gradient of; for losses.</summary>
    public (string Loss, string Gradient, string Of)? OwnGradient { get; private set; }

    public IEnumerable<Slot> Slots => _slots.Select(s => s.Slot);
    public IEnumerable<Slot> Differentiable => _slots.Where(s => s.Differentiable).Select(s => s.Slot);
    public Slot Primary => Slots.First(s => s.Role == Role.Output);

    public OpCase Input(string name, Shape shape, Draw? draw = null) => Add(name, shape, DType.F32, Role.Input, draw, true);
    public OpCase Constant(string name, Shape shape, Draw? draw = null) => Add(name, shape, DType.F32, Role.Input, draw, false);
    public OpCase Bytes(string name, Shape shape, Draw draw) => Add(name, shape, DType.U8, Role.Input, draw, false);
    public OpCase Update(string name, Shape shape, Draw? draw = null) => Add(name, shape, DType.F32, Role.Update, draw, false);
    public OpCase Output(string name, Shape shape) => Add(name, shape, DType.F32, Role.Output, null, false);
    public OpCase OutputBytes(string name, Shape shape) => Add(name, shape, DType.U8, Role.Output, null, false);
    public OpCase Gradient(string name, Shape shape) => Add(name, shape, DType.F32, Role.Gradient, null, false);
    public OpCase When(bool condition, Func<OpCase, OpCase> more) => condition ? more(this) : this;

    /// <summary>
    /// These operands, gradients included by their own names, are bfloat16; their values are rounded to it, so that a result in float32 is as
    /// near to the oracle's as ever.
    /// </summary>
    public OpCase Halves(params string[] names)
    {
        _halves.UnionWith(names);
        Name += $", bf16 {string.Join(' ', names)}";
        for (int i = 0; i < _slots.Count; i++) _slots[i] = (Stored(_slots[i].Slot), _slots[i].Differentiable);
        for (int i = 0; i < _backwardOutputs.Count; i++) _backwardOutputs[i] = Stored(_backwardOutputs[i]);
        return this;
    }

    /// <summary>Whether an operand is bfloat16.</summary>
    public bool HasHalves => _halves.Count > 0;

    /// <summary>A tolerance for a case whose float32 results come out of bfloat16 ones of its own.</summary>
    public OpCase Within(double tolerance)
    {
        _tolerance = tolerance;
        return this;
    }

    private Slot Stored(Slot slot) => _halves.Contains(slot.Name)
        ? slot with { DType = DType.BF16, Values = Array.ConvertAll(slot.Values, v => (double)Bf16.Round((float)v)) } : slot;

    /// <summary>An intermediate that the backward calls write.</summary>
    public OpCase BackwardOutput(string name, Shape shape)
    {
        _backwardOutputs.Add(new Slot(name, shape, DType.F32, Role.Output, []));
        return this;
    }

    /// <summary>The size of the summands of gradient d<paramref name="name"/>, where the sum may cancel to nothing.</summary>
    public OpCase SummandsOf(string name, double size)
    {
        _gradientFloors[name] = size;
        return this;
    }

    public OpCase Run(Action<Backend, Operands> forward)
    {
        Forward = forward;
        return this;
    }

    public OpCase Back(Action<Backend, Operands> backward)
    {
        Backward = backward;
        return this;
    }

    public OpCase Loss(string loss, string gradient, string of)
    {
        OwnGradient = (loss, gradient, of);
        return this;
    }

    /// <summary>The forward call, then the backward call on what the oracle's forward left.</summary>
    public IEnumerable<OpCall> Calls()
    {
        yield return ForwardCall();
        if (Backward is not null) yield return BackwardCall();
    }

    public OpCall ForwardCall() => new(Name, [.. Slots], Forward!, _tolerance);

    public OpCall BackwardCall()
    {
        using var oracle = new OracleBackend();
        Results forward = ForwardCall().Execute(oracle, new GradModes(GradMode.Write, null));
        List<Slot> slots = [];
        foreach ((Slot slot, bool differentiable) in _slots)
        {
            slots.Add(slot.Role == Role.Input ? slot : slot with { Role = Role.Input, Values = RoundToFloat(forward.Values(slot.Name)) });
            slots[^1] = Stored(slots[^1]);
            if (differentiable)
                slots.Add(Stored(new Slot("d" + slot.Name, slot.Shape, DType.F32, Role.Gradient, Values("d" + slot.Name, slot.Shape, null,
                    DType.F32),
                    _gradientFloors.GetValueOrDefault(slot.Name))));
        }
        slots.Add(Stored(new Slot("d" + Primary.Name, Primary.Shape, DType.F32, Role.Input, Values("d" + Primary.Name, Primary.Shape, null,
            DType.F32))));
        slots.AddRange(_backwardOutputs);
        return new OpCall(Name + ", backward", slots, Backward!, _tolerance);
    }

    public override string ToString() => Name;

    private OpCase Add(string name, Shape shape, DType dtype, Role role, Draw? draw, bool differentiable)
    {
        double[] values = role == Role.Output ? [] : Values(name, shape, draw, dtype);
        _slots.Add((new Slot(name, shape, dtype, role, values), differentiable));
        return this;
    }

    private double[] Values(string name, Shape shape, Draw? draw, DType dtype)
    {
        double[] values = new double[shape.Count];
        RngSequence random = new Rng(Hash(Name), RandomStream.Test, Hash(name)).Start();
        (draw ?? Draws.Normal())(values, ref random, shape);
        return dtype == DType.U8 ? values : RoundToFloat(values);
    }

    private static double[] RoundToFloat(double[] values) => Array.ConvertAll(values, v => (double)(float)v);

    /// <summary>FNV-1a: the same on every machine, unlike string.GetHashCode.</summary>
    private static ulong Hash(string text) => text.Aggregate(14695981039346656037UL, (h, c) => (h ^ c) * 1099511628211UL);
}

/// <summary>The operands of a running call, by name.</summary>
internal sealed class Operands(IReadOnlyDictionary<string, Tensor> tensors, GradModes modes)
{
    public Tensor this[string name] => tensors[name];
    public Tensor? Maybe(string name) => tensors.TryGetValue(name, out Tensor t) ? t : null;

    /// <summary>The Grad called <paramref name="name"/>; none where the case has no such operand or this run leaves it out.</summary>
    public Grad Grad(string name)
        => tensors.TryGetValue(name, out Tensor t) && modes[name] != GradMode.None ? new Grad(t, modes[name]) : Kernels.Grad.None;
}

/// <summary>The bytes of every operand after a call.</summary>
internal sealed class Results(IReadOnlyDictionary<string, (DType DType, byte[] Bytes)> operands)
{
    public byte[] Bytes(string name) => operands[name].Bytes;

    public double[] Values(string name) => operands[name] switch
    {
        (DType.F64, var bytes) => MemoryMarshal.Cast<byte, double>(bytes).ToArray(),
        (DType.BF16, var bytes) => Array.ConvertAll(MemoryMarshal.Cast<byte, ushort>(bytes).ToArray(), v => (double)Bf16.Widen(v)),
        (DType.F32, var bytes) => Array.ConvertAll(MemoryMarshal.Cast<byte, float>(bytes).ToArray(), v => (double)v),
        (_, var bytes) => Array.ConvertAll(bytes, v => (double)v),
    };
}

/// <summary>Runs calls on a backend.</summary>
internal static class OpExecution
{
    /// <summary>Where operand number <paramref name="index"/> of a call lives; none = memory of the backend's own.</summary>
    public delegate (Storage Storage, long Offset) Place(int index, long bytes);

    public static Results Execute(this OpCall call, Backend backend, GradModes modes, Place? place = null)
    {
        Dictionary<string, Tensor> tensors = [];
        List<Storage> owned = [];
        foreach (Slot slot in call.Slots)
        {
            DType dtype = slot.DType is (DType.F32 or DType.BF16) && backend is OracleBackend ? DType.F64 : slot.DType;
            long bytes = slot.Shape.Count * dtype.Size();
            (Storage storage, long offset) = place is null ? (backend.Allocate(bytes), 0) : place(tensors.Count, bytes);
            if (place is null) owned.Add(storage);
            Tensor tensor = tensors[slot.Name] = new Tensor(storage, offset, slot.Shape, dtype);
            bool poisoned = slot.Role == Role.Output || slot.Role == Role.Gradient && modes[slot.Name] != GradMode.Accumulate;
            backend.Upload(tensor, Encode(slot, dtype, poisoned));
        }
        call.Run(backend, new Operands(tensors, modes));
        Dictionary<string, (DType, byte[])> results = [];
        foreach ((string name, Tensor tensor) in tensors)
        {
            byte[] bytes = new byte[tensor.Bytes];
            backend.Download(bytes, tensor);
            results[name] = (tensor.DType, bytes);
        }
        foreach (Storage storage in owned) storage.Dispose();
        return new Results(results);
    }

    internal static byte[] Encode(Slot slot, DType dtype, bool poisoned)
    {
        const byte strayByte = 0xA5;
        int n = (int)slot.Shape.Count;
        if (dtype == DType.U8) return poisoned ? [.. Enumerable.Repeat(strayByte, n)] : Array.ConvertAll(slot.Values, v => (byte)v);
        double[] values = poisoned ? [.. Enumerable.Repeat(double.NaN, n)] : slot.Values;
        if (dtype == DType.BF16) return MemoryMarshal.AsBytes<ushort>(Array.ConvertAll(values, v => Bf16.Narrow((float)v))).ToArray();
        return dtype == DType.F64
            ? MemoryMarshal.AsBytes<double>(values).ToArray()
            : MemoryMarshal.AsBytes<float>(Array.ConvertAll(values, v => (float)v)).ToArray();
    }
}
