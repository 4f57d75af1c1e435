using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;

namespace MimEngine.Engine.Probing;

/// <summary>An encoder that only looks: pictures to pooled features of one place, without gradients.</summary>
public sealed class FrozenEncoder : IDisposable
{
    // 32 MB for one activation of all tokens: large enough for full products, small enough for any machine that trains the same network.
    private const long ActivationElements = 8L << 20;

    private readonly Backend _backend;
    private readonly VisionTransformer _encoder;
    private readonly ParamSet _params = new();
    private readonly Arena _arena;
    private readonly Tape _tape;
    private readonly FeaturePlace _place;
    private readonly int _chunk;

    /// <summary>Parameters are zeros until <see cref="Initialise"/> or <see cref="Load"/>.</summary>
    /// <param name="place">Its block lies in 1 … depth.</param>
    public FrozenEncoder(Backend backend, VitConfig config, FeaturePlace place) : this(backend, config, place, Planned(config, place)) { }

    private FrozenEncoder(Backend backend, VitConfig config, FeaturePlace place, long arenaBytes)
    {
        (_backend, _place) = (backend, place);
        _encoder = new VisionTransformer(_params, config);
        _params.Allocate(backend, seed: null, gradients: false);
        _chunk = (int)Math.Clamp(ActivationElements / ((long)config.Tokens * config.Width), 1, 256);
        _arena = new Arena(backend, arenaBytes);
        _tape = new Tape(backend, _arena);
    }

    /// <summary>Channels of a feature.</summary>
    public int Width => _encoder.Width;

    public FeaturePlace Place => _place;

    /// <summary>Sets the parameters a run of this seed starts from.</summary>
    public void Initialise(ulong seed) => _params.Initialise(_backend, seed);

    /// <summary>Loads named float32 arrays, all or nothing.</summary>
    /// <param name="headNames">Tensors that belong to the run's heads; they are left aside.</param>
    /// <exception cref="WeightFileException">A parameter is missing, a tensor unexpected, or a number of elements differs.</exception>
    public LoadReport Load(IReadOnlyDictionary<string, float[]> weights, string source, IReadOnlySet<string>? headNames = null)
        => Load(weights.Keys, (name, p) => weights[name].Length == p.DeclaredShape.Count ? null
            : $"'{name}' has {weights[name].Length} elements, its parameter is {p.DeclaredShape}", name => weights[name], source, headNames);

    /// <summary>Loads the tensors of a file whose names start with <paramref name="prefix"/>, all or nothing, shapes checked.</summary>
    /// <exception cref="WeightFileException">A parameter is missing, a tensor unexpected or of another shape.</exception>
    public LoadReport Load(SafeTensors file, string prefix, IReadOnlySet<string>? headNames = null)
        => Load(file.Entries.Where(e => e.Name.StartsWith(prefix, StringComparison.Ordinal)).Select(e => e.Name[prefix.Length..]),
            (name, p) => Misfit.Of(name, file[prefix + name].Shape, p.DeclaredShape, _encoder.Config),
            name => file.Floats(prefix + name), file.File, headNames);

    /// <summary>Features of pictures.</summary>
    /// <param name="features">(count, C), written.</param>
    /// <param name="crops">(count, 3, S, S) u8, planar.</param>
    public void Encode(Span<float> features, ReadOnlySpan<byte> crops, int count)
    {
        int picture = 3 * _encoder.Config.ImagePixels * _encoder.Config.ImagePixels;
        for (int first = 0; first < count; first += _chunk)
        {
            int n = Math.Min(_chunk, count - first);
            (Tensor bytes, Tensor images) = Inputs();
            _backend.Upload(bytes.Slice(0, n), crops.Slice(first * picture, n * picture));
            _backend.NormalizeImages(images, bytes, Normalization.Mean, Normalization.Std);
            Pool(features.Slice(first * Width, n * Width), images, n);
        }
    }

    /// <summary>Features of pictures that are normalised already.</summary>
    /// <param name="images">(count, 3, S, S) float32.</param>
    public void Encode(Span<float> features, ReadOnlySpan<float> images, int count)
    {
        int picture = 3 * _encoder.Config.ImagePixels * _encoder.Config.ImagePixels;
        for (int first = 0; first < count; first += _chunk)
        {
            int n = Math.Min(_chunk, count - first);
            (_, Tensor chunk) = Inputs();
            if (n < _chunk) _backend.Fill(chunk, 0f);
            Transfer.Upload(_backend, chunk.Slice(0, n), images.Slice(first * picture, n * picture));
            Pool(features.Slice(first * Width, n * Width), chunk, n);
        }
    }

    public void Dispose()
    {
        _arena.Dispose();
        _params.Dispose();
    }

    /// <summary>Every pass has the same shapes; of a short one, the rest is computed and thrown away.</summary>
    private (Tensor Bytes, Tensor Images) Inputs()
    {
        var shape = new Shape(_chunk, 3, _encoder.Config.ImagePixels, _encoder.Config.ImagePixels);
        return (_tape.Keep(shape, DType.U8), _tape.Keep(shape));
    }

    private void Pool(Span<float> features, Tensor images, int count)
    {
        _tape.BeginNoGrad();
        EncodedTokens tokens = _encoder.Encode(_tape, images, new EncodeRequest(LastBlock: _place.Block, SkipFinalNorm: !_place.FinalNorm));
        Value pooled = _place.Pooling == Pooling.Cls ? _tape.SliceTokens(tokens.All, 0, 1) : _tape.MeanTokens(tokens.All, tokens.Prefix);
        _tape.EndNoGrad();
        Transfer.Download(_backend, features, pooled.Data.Slice(0, count));
        _tape.Reset();
    }

    private LoadReport Load(IEnumerable<string> names, Func<string, Param, string?> fault, Func<string, float[]> values, string source,
        IReadOnlySet<string>? headNames)
    {
        List<string> matched = [], unexpected = [], misshapen = [], ofHeads = [];
        HashSet<string> seen = [];
        foreach (string name in names)
        {
            if (!_params.Contains(name))
            {
                (headNames?.Contains(name) == true ? ofHeads : unexpected).Add(name);
                continue;
            }
            seen.Add(name);
            if (fault(name, _params[name]) is { } sentence) misshapen.Add(sentence);
            else matched.Add(name);
        }
        var report = new LoadReport
        {
            Matched = matched,
            Missing = [.. _params.Params.Select(p => p.Name).Where(name => !seen.Contains(name))],
            Unexpected = unexpected,
            Misshapen = misshapen,
            OfHeads = ofHeads,
        };
        report.Require(source);
        foreach (string name in matched) ParamSet.Set(_backend, _params[name], values(name));
        return report;
    }

    private static long Planned(VitConfig config, FeaturePlace place)
    {
        using var nothing = new NullBackend();
        using var dry = new FrozenEncoder(nothing, config, place, 1L << 50);
        dry.Encode(new float[dry.Width], new byte[3 * config.ImagePixels * config.ImagePixels], 1);
        return dry._arena.Peak;
    }
}
