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
    private readonly FrozenEncoder? _oracle;
    private readonly IBlockWatch? _tap;
    private readonly int _chunk;
    private float[] _part = [];

    /// <summary>Parameters are zeros until <see cref="Initialise"/> or <see cref="Load"/>.</summary>
    /// <param name="place">Its block lies in 1 … depth.</param>
    /// <param name="beside">More aggregations of the same place, after the place's own in each row of features.</param>
    /// <param name="oracle">Whose attention <see cref="Pooling.Oracle"/> reads; not disposed here.</param>
    public FrozenEncoder(Backend backend, VitConfig config, FeaturePlace place, IReadOnlyList<Pooling>? beside = null,
        FrozenEncoder? oracle = null) : this(backend, config, place, beside ?? [], oracle, Planned(backend, config, place, beside ?? [], oracle)) { }

    private FrozenEncoder(Backend backend, VitConfig config, FeaturePlace place, IReadOnlyList<Pooling> beside, FrozenEncoder? oracle,
        long arenaBytes)
    {
        (_backend, _place, _oracle) = (backend, place, oracle);
        Row = new FeatureRow(beside.Prepend(place.Pooling), config);
        _encoder = new VisionTransformer(_params, config);
        _params.Allocate(backend, seed: null, gradients: false);
        // An oracle looks at the same pictures at a time.
        _chunk = oracle?._chunk ?? (int)Math.Clamp(ActivationElements / ((long)config.Tokens * config.Width), 1, 256);
        if (Row.Parts.Any(p => p.Pooling.ReadsAttention()) || place.Pooling == Pooling.Oracle)
            _tap = new AttentionTap(backend, new Shape(_chunk, config.Heads, config.Tokens, config.Tokens), place.Block - 1);
        if (Row.Parts.Any(p => p.Pooling == Pooling.ClsOfLastBlocks))
        {
            if (_tap is not null) throw new ConfigException("Probe: cls-of-last-blocks cannot stand beside aggregations by attention; probe them apart.");
            _tap = new BlockTap(backend, new Shape(_chunk, 1, config.Width), place.Block);
        }
        _arena = new Arena(backend, arenaBytes);
        _tape = new Tape(backend, _arena);
    }

    /// <summary>Numbers of a row of features.</summary>
    public int Width => Row.Width;

    /// <summary>Which aggregation stands where in a row of features.</summary>
    public FeatureRow Row { get; }

    public FeaturePlace Place => _place;

    /// <summary>Whether it has a parameter of that name.</summary>
    public bool Has(string name) => _params.Contains(name);

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

    /// <summary>Runs the blocks up to the place's on pictures for somebody who looks into them; the last pass is filled up with anything.</summary>
    /// <param name="crops">(count, 3, S, S) u8, planar.</param>
    public void Look(ReadOnlySpan<byte> crops, int count, IBlockWatch watch)
    {
        int picture = 3 * _encoder.Config.ImagePixels * _encoder.Config.ImagePixels;
        for (int first = 0; first < count; first += _chunk)
        {
            int n = Math.Min(_chunk, count - first);
            (Tensor bytes, Tensor images) = Inputs();
            _backend.Upload(bytes.Slice(0, n), crops.Slice(first * picture, n * picture));
            _backend.NormalizeImages(images, bytes, Normalization.Mean, Normalization.Std);
            Look(images, watch);
        }
    }

    /// <summary>The same on one pass of pictures that are normalised already.</summary>
    /// <param name="images">(count, 3, S, S) float32; count at most what a pass holds.</param>
    public void Look(ReadOnlySpan<float> images, int count, IBlockWatch watch)
    {
        (_, Tensor chunk) = Inputs();
        _backend.Fill(chunk, 0f);
        Transfer.Upload(_backend, chunk.Slice(0, count), images);
        Look(chunk, watch);
    }

    private void Look(Tensor images, IBlockWatch watch)
    {
        _tape.BeginNoGrad();
        _encoder.Encode(_tape, images, new EncodeRequest(LastBlock: _place.Block, SkipFinalNorm: !_place.FinalNorm, Watch: watch));
        _tape.EndNoGrad();
        _tape.Reset();
    }

    public void Dispose()
    {
        (_tap as IDisposable)?.Dispose();
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
        EncodedTokens tokens = Tokens(_tape, images);
        foreach (FeaturePart part in Row.Parts)
        {
            if (part.Pooling == Pooling.ClsOfLastBlocks)
            {
                for (int i = 0; i < Aggregation.LastBlocks; i++) Put(features, ClsOf(tokens.All, i), part.Offset + i * _encoder.Width, count);
                continue;
            }
            Value pooled = part.Pooling == Pooling.AbMilp ? tokens.All
                : Aggregation.Pool(_tape, part.Pooling, tokens.All, Attention(part.Pooling, images), tokens.Prefix, tokens.Grid);
            if (Row.Parts.Count == 1)
            {
                Transfer.Download(_backend, features, pooled.Data.Slice(0, count));
                continue;
            }
            Put(features, pooled, part.Offset, count);
        }
        _tape.EndNoGrad();
        _tape.Reset();
    }

    /// <summary>Rows of one pooling to their place in the rows of features.</summary>
    private void Put(Span<float> features, Value pooled, int offset, int count)
    {
        int length = (int)(pooled.Data.Count / pooled.Data.Shape.D0);
        if (_part.Length < count * length) _part = new float[_chunk * length];
        Transfer.Download(_backend, _part.AsSpan(0, count * length), pooled.Data.Slice(0, count));
        for (int i = 0; i < count; i++) _part.AsSpan(i * length, length).CopyTo(features[(i * Row.Width + offset)..]);
    }

    /// <summary>(chunk, 1, C): [cls] after one of the last blocks, the deepest last, normalised as the place says.</summary>
    private Value ClsOf(Value tokens, int block)
    {
        if (block == Aggregation.LastBlocks - 1) return _tape.SliceTokens(tokens, 0, 1);
        Value cls = _tape.Input(((BlockTap)_tap!).Cls(block));
        return _place.FinalNorm ? _encoder.Normalize(_tape, cls) : cls;
    }

    /// <summary>What [cls] looks at in the last block, mean over heads: (count, L), written.</summary>
    /// <param name="crops">(count, 3, S, S) u8, planar.</param>
    public void ClsAttention(Span<float> attention, ReadOnlySpan<byte> crops, int count)
    {
        int picture = 3 * _encoder.Config.ImagePixels * _encoder.Config.ImagePixels, patches = _encoder.Grid * _encoder.Grid;
        for (int first = 0; first < count; first += _chunk)
        {
            int n = Math.Min(_chunk, count - first);
            (Tensor bytes, Tensor images) = Inputs();
            Tensor into = _tape.Keep(new Shape(_chunk, patches));
            _backend.Upload(bytes.Slice(0, n), crops.Slice(first * picture, n * picture));
            _backend.NormalizeImages(images, bytes, Normalization.Mean, Normalization.Std);
            _tape.BeginNoGrad();
            _encoder.Encode(_tape, images, new EncodeRequest(Watch: new ClsAttentionWatch { Block = _encoder.Depth - 1, Into = into }));
            _tape.EndNoGrad();
            Transfer.Download(_backend, attention.Slice(first * patches, n * patches), into.Slice(0, n));
            _tape.Reset();
        }
    }

    private EncodedTokens Tokens(Tape t, Tensor images)
        => _encoder.Encode(t, images, new EncodeRequest(LastBlock: _place.Block, SkipFinalNorm: !_place.FinalNorm, Watch: _tap));

    /// <summary>(chunk, H, N, N) of this encoder's block, or of the oracle's.</summary>
    private Value? Attention(Pooling pooling, Tensor images)
    {
        if (!pooling.ReadsAttention()) return null;
        if (pooling != Pooling.Oracle) return _tape.Input(((AttentionTap)_tap!).Probabilities);
        FrozenEncoder oracle = _oracle ?? throw new ArgumentException("Pooling by an oracle needs one.");
        oracle._tape.BeginNoGrad();
        oracle.Tokens(oracle._tape, images);
        oracle._tape.EndNoGrad();
        oracle._tape.Reset();
        return _tape.Input(((AttentionTap)oracle._tap!).Probabilities);
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

    private static long Planned(Backend backend, VitConfig config, FeaturePlace place, IReadOnlyList<Pooling> beside, FrozenEncoder? oracle)
    {
        using var nothing = NullBackend.Like(backend);
        using FrozenEncoder? other = oracle is null ? null : new FrozenEncoder(nothing, oracle._encoder.Config, oracle._place, [], null, 1L << 50);
        using var dry = new FrozenEncoder(nothing, config, place, beside, other, 1L << 50);
        byte[] picture = new byte[3 * config.ImagePixels * config.ImagePixels];
        dry.Encode(new float[dry.Width], picture, 1);
        dry.ClsAttention(new float[dry._encoder.Grid * dry._encoder.Grid], picture, 1);
        return dry._arena.Peak;
    }
}
