using MimEngine.Engine.Autograd;
using MimEngine.Engine.Imaging;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Optim;
using MimEngine.Kernels;

namespace MimEngine.Engine.Pretraining;

/// <summary>What happened since the last read-out.</summary>
/// <param name="Losses">Mean of each term over the updates read.</param>
/// <param name="GradientNorm">Of the last update, before clipping.</param>
public readonly record struct StepReadout(float[] Losses, float GradientNorm, long Updates);

/// <summary>
/// One pretraining step: crops → weights and masks → encoder → heads and losses → backward → clip → update. The only state besides the
/// parameter slabs and the optimiser's is the step number.
/// </summary>
public sealed class Pretrainer : IDisposable
{
    private readonly Backend _backend;
    private readonly PretrainConfig _config;
    private readonly Tape _tape;
    private readonly Storage _sumStorage;
    private readonly Tensor _lossSums;
    private readonly byte[] _hidden;
    private readonly float[] _dropScales;
    private readonly int _visible;
    private readonly CropMarker? _marker;
    private byte[] _marks = [];
    private long _summed;
    private bool _warm;

    /// <param name="arenaBytes">Activation memory, as <see cref="MemoryPlan"/> forecasts it.</param>
    /// <param name="initialise">Draw initial parameters; false leaves zeros, for a checkpoint or a plan.</param>
    public Pretrainer(Backend backend, PretrainConfig config, long arenaBytes, bool initialise = true)
    {
        (_backend, _config) = (backend, config);
        Model = new MimModel(config);
        Model.Params.Allocate(backend, initialise ? config.Run.Seed : null);
        Optimizer = new Optimizer(backend, Model.Params, config.Optim);
        Arena = new Arena(backend, arenaBytes);
        _tape = new Tape(backend, Arena, config.Run.Recompute);
        _sumStorage = backend.Allocate(config.Terms.Length * backend.Real.Size());
        _lossSums = new Tensor(_sumStorage, 0, new Shape(config.Terms.Length), backend.Real);
        _hidden = new byte[config.Run.Batch * Model.Encoder.Grid * Model.Encoder.Grid];
        _visible = config.Masking.Visible(Model.Encoder.Grid, Model.Encoder.TokenPixels);
        _dropScales = new float[Model.Encoder.DropRows * config.Run.Batch];
        _marker = config.NewMarker();
    }

    public MimModel Model { get; }
    public Optimizer Optimizer { get; }
    public Arena Arena { get; }

    /// <summary>
    /// One pass of an update. Call it Accumulate times, then <see cref="Update"/>.
    /// </summary>
    /// <param name="pixels">(B, 3, S, S) U8 crops, planar.</param>
    /// <param name="batchNumber">Number of this batch since the run's beginning: update · Accumulate + pass. Names its random numbers.</param>
    /// <param name="firstPass">Gradients are overwritten instead of added to.</param>
    /// <param name="marks">(B, S, S) U8 where a weighting marks crops on the host; none = this call marks them, on its own thread.</param>
    public void Pass(ReadOnlySpan<byte> pixels, long batchNumber, bool firstPass, ReadOnlySpan<byte> marks = default)
    {
        int b = _config.Run.Batch, s = _config.Encoder.ImagePixels;
        if (firstPass) Model.Params.BeginUpdate();
        else if (_config.Optim.ClipEachPass) Optimizer.ClipGradient();
        var shape = new Shape(b, 3, s, s);
        Tensor crops = _tape.Keep(shape, DType.U8), images = _tape.Keep(shape);
        _backend.Upload(crops, pixels);
        _backend.NormalizeImages(images, crops, Normalization.Mean, Normalization.Std);
        Tensor? marked = Marks(pixels, marks);
        Tensor hidden = DrawMasks(batchNumber);
        EncodedTokens tokens = Model.Encoder.Encode(_tape, images, new EncodeRequest(hidden, DrawDropScales(batchNumber), Visible: _visible));
        for (int term = 0; term < _config.Terms.Length; term++)
        {
            Value loss = Model.Loss(_tape, tokens, term, crops, images, hidden, 1f / _config.Run.Accumulate, marked);
            _backend.AddScaled(_lossSums.Slice(term, 1), loss.Data, 1f, 1f);
        }
        _tape.Backward();
        _tape.Reset();
    }

    /// <summary>Tokens after a block for one batch, without gradient, downloaded; the final normalisation follows the last block.</summary>
    /// <param name="block">1 … depth.</param>
    public float[] Tokens(ReadOnlySpan<byte> pixels, long batchNumber, int block)
    {
        int b = _config.Run.Batch, s = _config.Encoder.ImagePixels;
        var shape = new Shape(b, 3, s, s);
        _tape.BeginNoGrad();
        Tensor crops = _tape.Keep(shape, DType.U8), images = _tape.Keep(shape);
        _backend.Upload(crops, pixels);
        _backend.NormalizeImages(images, crops, Normalization.Mean, Normalization.Std);
        var request = new EncodeRequest(DrawMasks(batchNumber), DrawDropScales(batchNumber), block, block < Model.Encoder.Depth, _visible);
        float[] tokens = Transfer.Floats(_backend, Model.Encoder.Encode(_tape, images, request).All.Data);
        _tape.EndNoGrad();
        _tape.Reset();
        return tokens;
    }

    /// <summary>Clips and updates at this learning rate.</summary>
    public void Update(double rate)
    {
        Optimizer.Step(rate);
        _summed++;
        if (_warm) return;
        Arena.Freeze();
        _warm = true;
    }

    /// <summary>Mean losses since the last call, and the last gradient norm; waits for the device.</summary>
    /// <exception cref="NonFiniteException">A loss or the gradient norm is not a number; names the first parameter that is not.</exception>
    public StepReadout ReadOut(long step)
    {
        float[] losses = Transfer.Floats(_backend, _lossSums);
        float norm = Transfer.Floats(_backend, Optimizer.GradientNorm)[0];
        for (int i = 0; i < losses.Length; i++) losses[i] /= Math.Max(1, _summed);
        (long updates, _summed) = (_summed, 0);
        _backend.Fill(_lossSums, 0f);
        for (int i = 0; i < losses.Length; i++)
            if (!float.IsFinite(losses[i])) throw NotFinite($"loss '{_config.Terms[i].Name}' is {losses[i]}", step, updates);
        if (!float.IsFinite(norm)) throw NotFinite($"the gradient norm is {norm}", step, updates);
        return new StepReadout(losses, norm, updates);
    }

    public void Dispose()
    {
        Model.Dispose();
        Optimizer.Dispose();
        Arena.Dispose();
        _sumStorage.Dispose();
    }

    private Tensor? Marks(ReadOnlySpan<byte> pixels, ReadOnlySpan<byte> marks)
    {
        if (_marker is null) return null;
        int b = _config.Run.Batch, s = _config.Encoder.ImagePixels, plane = s * s;
        if (marks.IsEmpty)
        {
            if (_marks.Length == 0) _marks = new byte[b * plane];
            for (int i = 0; i < b; i++) _marker.Paint(_marks.AsSpan(i * plane, plane), pixels.Slice(3 * i * plane, 3 * plane), s);
            marks = _marks;
        }
        Tensor device = _tape.Keep(new Shape(b, s, s), DType.U8);
        _backend.Upload(device, marks);
        return device;
    }

    /// <summary>(B, L) U8 on the device, drawn on the host: one name a crop, so masks depend on nothing but seed and place in the run.</summary>
    private Tensor DrawMasks(long batchNumber)
    {
        int b = _config.Run.Batch, grid = Model.Encoder.Grid, patches = grid * grid;
        for (int i = 0; i < b; i++)
        {
            var request = new MaskRequest
            {
                Grid = grid,
                PatchPixels = Model.Encoder.TokenPixels,
                Crop = new Rng(_config.Run.Seed, RandomStream.Mask, (ulong)(batchNumber * b + i)),
            };
            _config.Masking.Sample(request, _hidden.AsSpan(i * patches, patches));
        }
        Tensor hidden = _tape.Keep(new Shape(b, patches), DType.U8);
        _backend.Upload(hidden, _hidden);
        return hidden;
    }

    /// <summary>(2·depth, B): 0 for a dropped branch, else 1/(1 − p), or none without stochastic depth.</summary>
    private Tensor? DrawDropScales(long batchNumber)
    {
        int rows = Model.Encoder.DropRows, b = _config.Run.Batch;
        if (rows == 0) return null;
        StochasticDepth.Draw(_dropScales, Model.Encoder, b, new Rng(_config.Run.Seed, RandomStream.DropPath, (ulong)batchNumber));
        Tensor scales = _tape.Keep(new Shape(rows, b));
        Transfer.Upload(_backend, scales, _dropScales);
        return scales;
    }

    private NonFiniteException NotFinite(string what, long step, long updates)
    {
        string first = "no parameter is affected yet";
        foreach (Param p in Model.Params.Params)
        {
            bool badGradient = Array.Exists(Transfer.Floats(_backend, p.Gradient), v => !float.IsFinite(v));
            bool badValue = Array.Exists(Transfer.Floats(_backend, p.Data), v => !float.IsFinite(v));
            if (!badGradient && !badValue) continue;
            first = $"the first tensor that is not finite is {(badValue ? "the parameter" : "the gradient of")} '{p.Name}'";
            break;
        }
        return new NonFiniteException($"Training stopped: {what} between steps {step - updates + 1} and {step}; {first}. "
            + "A lower optim.rate or a smaller optim.clipNorm usually helps; the last checkpoint is intact.");
    }
}

/// <summary>A loss or gradient that is NaN or infinite. The message is one sentence for the user.</summary>
public sealed class NonFiniteException(string message) : Exception(message);
