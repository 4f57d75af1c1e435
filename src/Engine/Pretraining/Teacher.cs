using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Kernels;

namespace MimEngine.Engine.Pretraining;

/// <summary>
/// A network that follows another as the running mean of its parameters (Tarvainen and Valpola 2017; DINO section 3.1), sees whole
/// pictures and takes no gradient.
/// </summary>
public sealed record TeacherConfig
{
    /// <summary>Share of itself that the teacher keeps in the first update.</summary>
    public double Momentum { get; init; } = 0.996;

    /// <summary>Share at the end; between them half a cosine.</summary>
    public double MomentumEnd { get; init; } = 1;

    /// <summary>
    /// Its patches use the [cls] term's last layer though the student's have their own, which the teacher then never follows: what iBOT's
    /// released code does by default (SPEC E.1).
    /// </summary>
    public bool SharedHead { get; init; }

    /// <exception cref="ConfigException">One sentence.</exception>
    public void Validate(Term[] terms)
    {
        if (!(Momentum is >= 0 and <= 1 && MomentumEnd is >= 0 and <= 1))
            throw new ConfigException($"teacher.momentum and momentumEnd are {Momentum} and {MomentumEnd}; both lie in [0, 1].");
        if (!SharedHead) return;
        foreach (Term t in terms)
            if (t.Head is SharedPrototypes { Prototypes: > 0 } s && terms.FirstOrDefault(o => o.Name == s.With)?.Head is PrototypeHead owner
                && owner.Prototypes != s.Prototypes)
                throw new ConfigException($"teacher.sharedHead is true, but term '{s.With}' has {owner.Prototypes} prototypes and '{t.Name}' {s.Prototypes}; "
                    + "one layer cannot answer both.");
    }
}

/// <summary>The teacher of a run: its network, the centres of what it says, and what it said about this pass.</summary>
public sealed class Teacher : IDisposable
{
    private readonly Backend _backend;
    private readonly ParamSet _student;
    private readonly (long To, long From, int Length)[] _runs;
    private readonly Storage? _storage;
    private readonly int[] _places;
    private readonly Tensor[] _centers, _logits;
    private readonly Term[] _terms;

    public Teacher(Backend backend, PretrainConfig config, ParamSet student)
    {
        (_backend, _student) = (backend, student);
        // Its heads are those whose answers somebody learns from.
        _terms = [.. config.Terms.Where(t => t.Target is TeacherTokens)
            .Select(t => config.Teacher!.SharedHead && t.Head is SharedPrototypes s ? t with { Head = s with { Prototypes = 0 } } : t)];
        _places = [.. config.Terms.Select(t => Array.FindIndex(_terms, o => o.Name == t.Name))];
        Model = new MimModel(config with { Terms = _terms });
        Model.Params.Allocate(backend, seed: null, gradients: false);
        _runs = Runs();
        int[] counts = [.. _terms.Select(Prototypes)];
        _logits = new Tensor[_terms.Length];
        _centers = new Tensor[_terms.Length];
        if (_terms.Length == 0) return;
        int size = backend.Real.Size();
        _storage = backend.Allocate((long)counts.Sum() * size);
        long at = 0;
        for (int i = 0; i < counts.Length; i++, at += counts[i - 1]) _centers[i] = new Tensor(_storage, at * size, new Shape(counts[i]), backend.Real);
    }

    public MimModel Model { get; }

    /// <summary>Centres by the name of their term, (K).</summary>
    public IEnumerable<(string Term, Tensor Center)> Centers => _terms.Select((t, i) => (t.Name, _centers[i]));

    /// <summary>Becomes momentum·itself + (1 − momentum)·student, parameter by parameter of the same name.</summary>
    public void Follow(double momentum)
    {
        foreach ((long to, long from, int length) in _runs)
            _backend.AddScaled(Piece(Model.Params.Master, to, length), Piece(_student.Master, from, length), (float)(1 - momentum), (float)momentum);
        Model.Params.RefreshOperands(_backend);
    }

    /// <summary>Looks at whole pictures and keeps its logits for <see cref="Answer"/> until the pass ends.</summary>
    /// <param name="images">(V·B, 3, S, S) normalised.</param>
    public void Look(Tape t, Tensor images, in EncodeRequest request)
    {
        int rows = images.Shape.D0, patches = Model.Encoder.Grid * Model.Encoder.Grid;
        for (int i = 0; i < _terms.Length; i++)
            _logits[i] = t.Keep(new Shape(rows, _terms[i].On == TokenChoice.Cls ? 1 : patches, (int)_centers[i].Count));
        t.BeginNoGrad();
        int mark = t.Mark;
        EncodedTokens tokens = Model.Encoder.Encode(t, images, request);
        Model.See(t, tokens, clsOnly: false, firstOfPass: true);
        for (int i = 0; i < _terms.Length; i++) _backend.Copy(_logits[i], Model.Logits(t, tokens, i).Data);
        t.Forget(mark);
        t.EndNoGrad();
    }

    /// <summary>
    /// The teacher's distributions for a term of the experiment, in the memory of its logits; then the centre takes these logits in, to be
    /// used by the next pass (SPEC E.3).
    /// </summary>
    /// <param name="entropy">(1), written: their mean entropy.</param>
    /// <param name="weights">(rows) or none; rows of weight 0 hold no distribution, but their logits count in the centre.</param>
    public Tensor Answer(Tape t, int term, Tensor entropy, Tensor? weights, int epoch)
    {
        int i = _places[term];
        (Tensor logits, Tensor center, var target) = (_logits[i], _centers[i], (TeacherTokens)_terms[i].Target);
        Tensor mean = t.Scratch(center.Shape);
        _backend.UpdateCenter(mean, logits, 0f);
        _backend.TeacherTargets(logits, entropy, logits, center, weights, (float)target.TemperatureIn(epoch));
        _backend.AddScaled(center, mean, 1f - target.CenterMomentum, target.CenterMomentum);
        t.Done(mean);
        return logits;
    }

    public void Dispose()
    {
        Model.Dispose();
        _storage?.Dispose();
    }

    private int Prototypes(Term term) => term.Head switch
    {
        PrototypeHead head => head.Prototypes,
        SharedPrototypes { Prototypes: > 0 } own => own.Prototypes,
        SharedPrototypes shared => Prototypes(Array.Find(_terms, t => t.Name == shared.With)!),
        _ => throw new InvalidOperationException($"{term.Head} predicts no prototypes."),
    };

    /// <summary>Parameters that both have, neighbours in both slabs as one piece.</summary>
    private (long, long, int)[] Runs()
    {
        List<(long To, long From, int Length)> runs = [];
        ParamSet own = Model.Params;
        foreach (Param p in own.Params)
        {
            (long to, long from, int length) = (own.Offset(p), _student.Offset(_student[p.Name]), (int)p.DeclaredShape.Count);
            if (runs.Count > 0 && runs[^1] is var last && to - last.To == from - last.From && from > last.From && from - last.From - last.Length < 16)
                runs[^1] = last with { Length = checked((int)(to - last.To)) + length };
            else runs.Add((to, from, length));
        }
        return [.. runs];
    }

    private static Tensor Piece(Tensor slab, long first, int length)
        => slab with { ByteOffset = slab.ByteOffset + first * slab.DType.Size(), Shape = new Shape(length) };
}
