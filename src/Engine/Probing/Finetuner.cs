using MimEngine.Engine.Autograd;
using MimEngine.Engine.Data;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Optim;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;

namespace MimEngine.Engine.Probing;

/// <summary>
/// One step of fine-tuning: crops → erasing and mixing → network → cross-entropy → backward → clip → update → average. The only state besides
/// the slabs is the step number.
/// </summary>
public sealed class Finetuner : IDisposable
{
    private readonly Backend _backend;
    private readonly FinetuneConfig _config;
    private readonly FinetuneModel? _average;
    private readonly Tape _tape, _scoring;
    private readonly Arena _guest;
    private readonly Storage _sumStorage;
    private readonly Tensor _lossSum;
    private readonly float[] _images, _targets, _dropScales, _normalized;
    private long _summed;
    private bool _warm;

    /// <param name="arenaBytes">Memory of a step, as <see cref="Planned"/> forecasts it.</param>
    /// <param name="seed">Draws initial parameters; none leaves zeros, for a checkpoint or a plan.</param>
    public Finetuner(Backend backend, FinetuneConfig config, int classes, long arenaBytes, ulong? seed)
    {
        (_backend, _config) = (backend, config);
        Arena = new Arena(backend, arenaBytes);
        Model = new FinetuneModel(config, classes);
        Model.Params.Allocate(backend, seed, lender: config.Loop.Accumulate == 1 ? new ArenaGradients(Arena) : null);
        int depth = config.Encoder.Depth;
        Optimizer = new Optimizer(backend, Model.Params, config.Optim,
            config.LayerDecay == 1f ? null : name => LayerDecay.ScaleOf(name, depth, config.LayerDecay));
        if (config.Ema > 0)
        {
            _average = new FinetuneModel(config, classes);
            _average.Params.Allocate(backend, seed, gradients: false);
        }
        _tape = new Tape(backend, Arena, config.Loop.Recompute);
        _guest = Arena.Guest();   // scores come between steps, in the same memory
        _scoring = new Tape(backend, _guest);
        _sumStorage = backend.Allocate(backend.Real.Size());
        _lossSum = new Tensor(_sumStorage, 0, new Shape(1), backend.Real);
        int pixels = config.Encoder.ImagePixels;
        _images = new float[checked(config.Loop.Batch * 3 * pixels * pixels)];
        _targets = new float[config.Loop.Batch * classes];
        _dropScales = new float[Model.Encoder.DropRows * config.Loop.Batch];
        _normalized = [.. Enumerable.Range(0, 3 * 256).Select(i => (i % 256 / 255f - Normalization.Mean[i / 256]) / Normalization.Std[i / 256])];
    }

    public FinetuneModel Model { get; }
    public Optimizer Optimizer { get; }
    public Arena Arena { get; }

    /// <summary>The averaged parameters, where Ema asks for them.</summary>
    public ParamSet? Average => _average?.Params;

    /// <summary>One pass of an update. Call it Accumulate times, then <see cref="Update"/>.</summary>
    /// <param name="crops">(B, 3, S, S) U8, planar.</param>
    /// <param name="labels">(B).</param>
    /// <param name="batchNumber">Number of this batch since the run's beginning; names its random numbers.</param>
    /// <param name="firstPass">Gradients are overwritten instead of added to.</param>
    public void Pass(ReadOnlySpan<byte> crops, ReadOnlySpan<int> labels, long batchNumber, bool firstPass)
    {
        int b = _config.Loop.Batch;
        if (firstPass) Model.Params.BeginUpdate();
        Prepare(crops, labels, batchNumber);
        Tensor images = Uploaded(_images, Images), targets = Uploaded(_targets, new Shape(b, Model.Classes));
        Tensor? drops = null;
        if (_dropScales.Length > 0)
        {
            StochasticDepth.Draw(_dropScales, Model.Encoder, b, new Rng(_config.Loop.Seed, RandomStream.DropPath, (ulong)batchNumber));
            drops = Uploaded(_dropScales, new Shape(Model.Encoder.DropRows, b));
        }
        Value loss = _tape.CrossEntropyLoss(Model.Logits(_tape, images, drops), targets, 1f / _config.Loop.Accumulate);
        _backend.AddScaled(_lossSum, loss.Data, 1f, 1f);
        _tape.Backward();
        _tape.Reset();
    }

    /// <summary>Clips, updates at this learning rate, and moves the average.</summary>
    public void Update(double rate)
    {
        Optimizer.Step(rate);
        if (Average is { } average) _backend.AddScaled(average.Master, Model.Params.Master, 1f - _config.Ema, _config.Ema);
        _summed++;
        if (_warm) return;
        _warm = true;
        Arena.Freeze();
    }

    /// <summary>Starts the average at the parameters as they are.</summary>
    public void BeginAverage()
    {
        if (Average is { } average) _backend.Copy(average.Master, Model.Params.Master);
    }

    /// <summary>Mean loss since the last call, and the last gradient norm; waits for the device.</summary>
    /// <exception cref="NonFiniteException">Either is not a number.</exception>
    public StepReadout ReadOut(long step)
    {
        float loss = Transfer.Floats(_backend, _lossSum)[0] / Math.Max(1, _summed), norm = Transfer.Floats(_backend, Optimizer.GradientNorm)[0];
        (long updates, _summed) = (_summed, 0);
        _backend.Fill(_lossSum, 0f);
        if (!float.IsFinite(loss) || !float.IsFinite(norm))
            throw new NonFiniteException($"Fine-tuning stopped: {(float.IsFinite(loss) ? $"the gradient norm is {norm}" : $"the loss is {loss}")} "
                + $"between steps {step - updates + 1} and {step}; a lower optim.rate usually helps; the last checkpoint is intact.");
        return new StepReadout([loss], [], norm, updates);
    }

    /// <summary>Class scores of test pictures, by the averaged weights where there are such.</summary>
    /// <param name="logits">(count, K), written.</param>
    /// <param name="crops">(count, 3, S, S) U8; count at most the batch.</param>
    public void Logits(Span<float> logits, ReadOnlySpan<byte> crops, int count)
    {
        Average?.RefreshOperands(_backend);
        Tensor u8 = _scoring.Keep(Images, DType.U8), images = _scoring.Keep(Images);
        _backend.Upload(u8.Slice(0, count), crops);
        _backend.NormalizeImages(images, u8, Normalization.Mean, Normalization.Std);
        _scoring.BeginNoGrad();
        Value y = (_average ?? Model).Logits(_scoring, images, dropScales: null);
        _scoring.EndNoGrad();
        Transfer.Download(_backend, logits, y.Data.Slice(0, count));
        _scoring.Reset();
    }

    /// <summary>Bytes of the arena that a step and a score of this configuration need.</summary>
    public static long Planned(Backend backend, FinetuneConfig config, int classes)
    {
        using var nothing = NullBackend.Like(backend);
        using var dry = new Finetuner(nothing, config, classes, 1L << 50, seed: null);
        int pixels = config.Encoder.ImagePixels;
        byte[] crops = new byte[checked(config.Loop.Batch * 3 * pixels * pixels)];
        dry.Pass(crops, new int[config.Loop.Batch], 0, firstPass: true);
        dry.Logits(new float[config.Loop.Batch * classes], crops, config.Loop.Batch);
        return Math.Max(dry.Arena.Peak, dry._guest.Peak);
    }

    public void Dispose()
    {
        Optimizer.Dispose();
        Arena.Dispose();
        Model.Dispose();
        _average?.Dispose();
        _sumStorage.Dispose();
    }

    private Shape Images => new(_config.Loop.Batch, 3, _config.Encoder.ImagePixels, _config.Encoder.ImagePixels);

    /// <summary>Bytes to normalised, erased, mixed pictures, and labels to target rows. Erasing comes before mixing, as in timm.</summary>
    private void Prepare(ReadOnlySpan<byte> crops, ReadOnlySpan<int> labels, long batchNumber)
    {
        int b = _config.Loop.Batch, s = _config.Encoder.ImagePixels, plane = s * s;
        for (int p = 0; p < 3 * b; p++)
        {
            ReadOnlySpan<float> table = _normalized.AsSpan(p % 3 * 256, 256);
            ReadOnlySpan<byte> from = crops.Slice(p * plane, plane);
            Span<float> to = _images.AsSpan(p * plane, plane);
            for (int i = 0; i < from.Length; i++) to[i] = table[from[i]];
        }
        if (_config.Erasing > 0)
            for (int i = 0; i < b; i++)
            {
                RngSequence erase = new Rng(_config.Loop.Seed, RandomStream.Erase, (ulong)(batchNumber * b + i)).Start();
                PixelErasing.Apply(_images.AsSpan(i * 3 * plane, 3 * plane), s, _config.Erasing, ref erase);
            }
        RngSequence random = new Rng(_config.Loop.Seed, RandomStream.Mixup, (ulong)batchNumber).Start();
        Mixing mixing = _config.Mix.Draw(ref random, s, s);
        if (mixing.Lambda < 1f) mixing.Apply(_images, b, 3, s, s);
        mixing.Targets(_targets, labels, Model.Classes, _config.Mix.Smoothing);
    }

    private Tensor Uploaded(ReadOnlySpan<float> values, Shape shape)
    {
        Tensor tensor = _tape.Keep(shape);
        Transfer.Upload(_backend, tensor, values);
        return tensor;
    }
}
