using MimEngine.Engine.Autograd;
using MimEngine.Kernels;

namespace MimEngine.Engine.Optim;

/// <summary>
/// AdamW, LARS or SGD over the parameter slab, one kernel call an update. Parameters whose gradient nobody wrote are left alone: no decay,
/// no moment, no step count, as PyTorch leaves a parameter without gradient.
/// </summary>
public sealed class Optimizer : IDisposable
{
    private const float LarsTrust = 0.001f;
    private readonly Backend _backend;
    private readonly ParamSet _params;
    private readonly OptimConfig _config;
    private readonly Storage _storage;
    private readonly UpdateSegment[] _segments;
    private readonly Tensor _norms, _scales;
    private readonly float[] _rateScales;
    private int _active;

    /// <param name="rateScale">Factor of a parameter's rate by its name: layer decay; none = 1.</param>
    public Optimizer(Backend backend, ParamSet parameters, OptimConfig config, Func<string, float>? rateScale = null)
    {
        (_backend, _params, _config) = (backend, parameters, config);
        int moments = config.Kind == OptimizerKind.AdamW ? 2 : 1, size = backend.Real.Size();
        int count = parameters.Params.Count * parameters.Parts;
        long slab = parameters.SlabElements;
        _storage = backend.Allocate((slab * moments + 2 * count + 1) * size);
        Tensor at(long first, long n) => new(_storage, first * size, new Shape(checked((int)n)), backend.Real);
        Moment1 = at(0, slab);
        if (moments == 2) Moment2 = at(slab, slab);
        _norms = at(slab * moments, count);
        _scales = at(slab * moments + count, count);
        GradientNorm = at(slab * moments + 2 * count, 1);
        StepCounts = new int[parameters.Params.Count];
        _segments = new UpdateSegment[count];
        _rateScales = [.. parameters.Params.Select(p => rateScale?.Invoke(p.Name) ?? 1f)];
    }

    /// <summary>First moment (AdamW) or momentum buffer, (SlabElements).</summary>
    public Tensor Moment1 { get; }

    /// <summary>Second moment of AdamW.</summary>
    public Tensor? Moment2 { get; }

    /// <summary>Updates that each parameter has had.</summary>
    public int[] StepCounts { get; }

    /// <summary>(1): the global gradient norm of the last update, before clipping; of networks side by side, the last one's.</summary>
    public Tensor GradientNorm { get; }

    /// <summary>Whether weight decay touches a parameter under a rule.</summary>
    public static bool Decays(DecayRule rule, string name, Shape shape) => rule switch
    {
        DecayRule.Everything => true,
        DecayRule.NotVectors => shape.Rank > 1,
        DecayRule.NotVectorsClsPositions => shape.Rank > 1 && name is not ("cls_token" or "pos_embed"),
        _ => throw new ArgumentOutOfRangeException(nameof(rule)),
    };

    /// <summary>One update at this rate: clear absent entries, clip, step; gradients in the arena are given back.</summary>
    /// <param name="weightDecay">Weight decay of this update; none = the configuration's.</param>
    public void Step(double rate, float? weightDecay = null) => Step([rate], weightDecay);

    /// <summary>One update of networks side by side, each clipped by its own norm and moved at its own rate.</summary>
    /// <param name="rates">One for each of <see cref="ParamSet.Parts"/>.</param>
    public void Step(ReadOnlySpan<double> rates, float? weightDecay = null)
    {
        float decay = weightDecay ?? _config.WeightDecay;
        if (rates.Length != _params.Parts) throw new ArgumentException($"{rates.Length} rates for {_params.Parts} networks.");
        _params.ClearAbsent(_backend);
        // By index: an enumerator of an interface would be an object a step.
        for (int i = 0; i < _params.Params.Count; i++)
            if (_params.Params[i].Written) StepCounts[i]++;
        _active = 0;
        for (int part = 0; part < rates.Length; part++)
            for (int i = 0; i < _params.Params.Count; i++)
            {
                Param p = _params.Params[i];
                if (!p.Written) continue;
                int length = (int)p.DeclaredShape.Count / rates.Length;
                bool decays = Decays(_config.Decay, p.Name, p.DeclaredShape);
                long first = (long)part * length;
                _segments[_active++] = new UpdateSegment(_params.Offset(p) + first, length, (float)(rates[part] * _rateScales[i]),
                    decays ? decay : 0f, StepCounts[i], Trust: p.DeclaredShape.Rank > 1) { GradientOffset = _params.GradientOffset(p) + first };
            }
        ReadOnlySpan<UpdateSegment> segments = _segments.AsSpan(0, _active);
        Tensor norms = _norms.Slice(0, _active), scales = _scales.Slice(0, _active), gradient = _params.GradientMemory;
        _backend.SquaredNorms(norms, gradient, segments);
        int each = _active / rates.Length;
        for (int part = 0; part < rates.Length; part++)
            _backend.ClipScales(scales.Slice(part * each, each), GradientNorm, norms.Slice(part * each, each), _config.ClipNorm,
                _config.ClipEachParameter);
        switch (_config.Kind)
        {
            case OptimizerKind.AdamW:
                _backend.AdamWStep(_params.Master, Moment1, Moment2!.Value, _params.Compute, gradient, scales, segments,
                    _config.Beta1, _config.Beta2, _config.Eps);
                break;
            case OptimizerKind.Lars:
                _backend.LarsStep(_params.Master, Moment1, _params.Compute, gradient, scales, segments, _config.Momentum, LarsTrust);
                break;
            default:
                _backend.SgdStep(_params.Master, Moment1, _params.Compute, gradient, scales, segments, _config.Momentum);
                break;
        }
        _params.Lent?.GiveBack();
    }

    /// <summary>Scales the gradient to the clipping norm where it is longer, in place: between the passes of an update.</summary>
    public void ClipGradient()
    {
        int active = 0;
        for (int i = 0; i < _params.Params.Count; i++)
            if (_params.Params[i] is { Written: true } p)
                _segments[active++] = new UpdateSegment(_params.GradientOffset(p), (int)p.DeclaredShape.Count, 0f, 0f, 0, Trust: false);
        if (active == 0) return;
        Tensor norms = _norms.Slice(0, active), scales = _scales.Slice(0, active);
        _backend.SquaredNorms(norms, _params.GradientMemory, _segments.AsSpan(0, active));
        _backend.ClipScales(scales, GradientNorm, norms, _config.ClipNorm, perSegment: false);
        Span<byte> bytes = stackalloc byte[sizeof(double)];
        int size = _backend.Real.Size();
        _backend.Download(bytes[..size], scales.Slice(0, 1));
        float scale = size == sizeof(double) ? (float)BitConverter.ToDouble(bytes) : BitConverter.ToSingle(bytes);
        // Not "< 1": a norm that is not a number must reach the update and be reported there.
        if (scale == 1f) return;
        for (int i = 0; i < _params.Params.Count; i++)
            if (_params.Params[i] is { Written: true } p) _backend.AddScaled(p.Gradient, p.Gradient, scale, 0f);
    }

    public void Dispose() => _storage.Dispose();
}
