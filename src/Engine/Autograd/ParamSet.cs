using MimEngine.Kernels;

namespace MimEngine.Engine.Autograd;

/// <summary>
/// Named parameters on slabs of device memory: values, gradients (unless they lie in the arena), and whatever the optimiser adds. Add
/// everything, allocate once, then train.
/// </summary>
/// <param name="parts">
/// Networks of one shape held side by side: every parameter is declared for one and is that many along its first axis, all starting alike.
/// </param>
public sealed class ParamSet(int parts = 1) : IDisposable
{
    // Every parameter starts on a 64-byte line, so that vector loads never straddle two of them.
    private const int Alignment = 16;

    private readonly List<Param> _params = [];
    private readonly List<long> _offsets = [];
    private readonly List<(Param Param, int First, int Rows)> _absent = [];
    private readonly Dictionary<string, Param> _byName = [];
    private Storage? _storage;
    private long _elements;

    /// <summary>All parameters, in the order they were added.</summary>
    public IReadOnlyList<Param> Params => _params;

    /// <summary>Networks side by side.</summary>
    public int Parts => parts;

    /// <summary>Number of learned numbers.</summary>
    public long Count { get; private set; }

    /// <summary>Elements of one slab, the alignment gaps included.</summary>
    public long SlabElements => _elements;

    /// <summary>The value slab, (SlabElements).</summary>
    public Tensor Master { get; private set; }

    /// <summary>
    /// (SlabElements) BF16: the rounded copy of the masters that products read, or none where they read the masters. Whoever changes a master
    /// renews the copy: optimisers in the same pass, <see cref="Set"/> by itself, others by <see cref="RefreshOperands"/>.
    /// </summary>
    public Tensor? Compute { get; private set; }

    /// <summary>The gradient slab, (SlabElements); nothing where gradients lie in the arena.</summary>
    public Tensor Gradient { get; private set; }

    /// <summary>Gradients in the arena instead of a slab.</summary>
    public ArenaGradients? Lent { get; private set; }

    /// <summary>What <see cref="GradientOffset"/> counts in: the slab, or the stretch of the arena that holds all gradients of this moment.</summary>
    public Tensor GradientMemory => Lent?.Memory ?? Gradient;

    /// <summary>First element of a parameter's gradient in <see cref="GradientMemory"/>.</summary>
    public long GradientOffset(Param param) => Lent?.Offset(param) ?? Offset(param);

    /// <summary>First element of a parameter in the slabs.</summary>
    public long Offset(Param param) => _offsets[param.Segment];

    /// <summary>The parameter of that name.</summary>
    /// <exception cref="KeyNotFoundException">There is none.</exception>
    public Param this[string name] => _byName.TryGetValue(name, out Param? p) ? p
        : throw new KeyNotFoundException($"There is no parameter '{name}' among the {_params.Count} of this network.");

    public bool Contains(string name) => _byName.ContainsKey(name);

    /// <summary>Declares a parameter; before <see cref="Allocate"/>.</summary>
    public Param Add(string name, Shape shape, Init init)
    {
        if (_storage is not null) throw new InvalidOperationException($"'{name}' was added after the slabs were allocated.");
        shape = shape.Rank switch
        {
            1 => new Shape(parts * shape.D0),
            2 => new Shape(parts * shape.D0, shape.D1),
            3 => new Shape(parts * shape.D0, shape.D1, shape.D2),
            _ => new Shape(parts * shape.D0, shape.D1, shape.D2, shape.D3),
        };
        var param = new Param(name, shape, _params.Count, init) { NeedsGrad = true };
        if (!_byName.TryAdd(name, param)) throw new ArgumentException($"There are two parameters '{name}'.");
        _params.Add(param);
        _offsets.Add(_elements);
        _elements += (shape.Count + Alignment - 1) / Alignment * Alignment;
        Count += shape.Count;
        return param;
    }

    /// <summary>
    /// Declares entries [first, first + rows) of a parameter absent from the published model: they start at 0 and their gradient is
    /// cleared before every update, so that no optimiser moves them. (SimMIM's qkv bias has no key part.)
    /// </summary>
    public void Absent(Param param, int first, int rows) => _absent.Add((param, first, rows));

    /// <summary>Allocates the slabs and initialises every parameter from <paramref name="seed"/>, or leaves zeros without one.</summary>
    /// <param name="gradients">False = never trained.</param>
    /// <param name="lender">Where gradients lie while there are any; none = in a slab.</param>
    public void Allocate(Backend backend, ulong? seed, bool gradients = true, ArenaGradients? lender = null)
    {
        Lent = lender;
        gradients &= lender is null;
        if (_storage is not null) throw new InvalidOperationException("The slabs exist already.");
        int slabs = gradients ? 2 : 1, size = backend.Real.Size(), half = backend.Branch == backend.Real ? 0 : backend.Branch.Size();
        _storage = backend.Allocate(Math.Max(1, _elements) * (slabs * size + half));
        int elements = checked((int)_elements);
        Master = new Tensor(_storage, 0, new Shape(elements), backend.Real);
        if (gradients) Gradient = new Tensor(_storage, _elements * size, new Shape(elements), backend.Real);
        if (half > 0) Compute = new Tensor(_storage, _elements * slabs * size, new Shape(elements), backend.Branch);
        foreach (Param p in _params)
        {
            p.Data = View(Master, p, size);
            p.Operand = Compute is { } copy ? View(copy, p, half) : p.Data;
            if (gradients) p.Place = View(Gradient, p, size);
            p.Lender = lender;
        }
        if (seed is { } s) Initialise(backend, s);
    }

    /// <summary>Sets every parameter to its initial value under <paramref name="seed"/>.</summary>
    public void Initialise(Backend backend, ulong seed)
    {
        foreach (Param p in _params)
        {
            RngSequence rng = new Rng(seed, RandomStream.Init, (ulong)p.Segment).Start();
            float[] values = new float[p.DeclaredShape.Count];
            int one = values.Length / parts;
            p.Init.Fill(values.AsSpan(0, one), ref rng);
            for (int part = 1; part < parts; part++) values.AsSpan(0, one).CopyTo(values.AsSpan(part * one));
            Set(backend, p, values);
        }
        foreach ((Param p, int first, int rows) in _absent) backend.Fill(p.Data.Slice(first, rows), 0f);
        RefreshOperands(backend);
    }

    /// <summary>Renews what products read, after <see cref="Master"/> was changed as a whole.</summary>
    public void RefreshOperands(Backend backend)
    {
        if (Compute is { } copy) backend.Cast(copy, Master);
    }

    /// <summary>Overwrites one parameter.</summary>
    public static void Set(Backend backend, Param param, ReadOnlySpan<float> values)
    {
        if (values.Length != param.Data.Count)
            throw new ArgumentException($"'{param.Name}' is {param.DeclaredShape}; {values.Length} numbers were given.");
        Transfer.Upload(backend, param.Data, values);
        if (param.Operand != param.Data) backend.Cast(param.Operand, param.Data);
    }

    /// <summary>Forgets which gradients were written: the next backward overwrites.</summary>
    public void BeginUpdate()
    {
        Lent?.GiveBack();
        foreach (Param p in _params) p.Written = false;
    }

    /// <summary>Clears the gradient of every entry declared <see cref="Absent"/>.</summary>
    public void ClearAbsent(Backend backend)
    {
        foreach ((Param p, int first, int rows) in _absent)
            if (p.Written) backend.Fill(p.Gradient.Slice(first, rows), 0f);
    }

    public void Dispose() => _storage?.Dispose();

    private Tensor View(Tensor slab, Param p, int size)
        => slab with { ByteOffset = slab.ByteOffset + _offsets[p.Segment] * size, Shape = p.DeclaredShape };
}
