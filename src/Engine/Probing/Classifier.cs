using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Optim;
using MimEngine.Kernels;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace MimEngine.Engine.Probing;

/// <summary>
/// The trained part of a probe: (AbMILP where it gets tokens) + (optional BatchNorm without affine parameters) + Linear, with its optimiser.
/// Several linear layers may be trained side by side on the same features, as one product: they share all but their weights and rates.
/// </summary>
/// <remarks>BatchNorm uses the statistics of one pass; its running variance has Bessel's correction (SPEC C.3, J.18).</remarks>
public sealed class Classifier : IDisposable
{
    private const float Eps = 1e-6f, StatisticsMomentum = 0.1f;

    private readonly Backend _backend;
    private readonly ProbeConfig _config;
    private readonly AbMilp? _aggregator;
    private readonly LinearParams _head;
    private readonly Optimizer _optimizer;
    private readonly Arena _arena;
    private readonly Tape _tape;
    private readonly Storage _storage;
    private readonly Tensor _lossSum;
    private readonly FeaturePart _part;
    private readonly float[] _repeated;
    private int _passes;

    /// <param name="width">Channels of a feature, C.</param>
    /// <param name="classes">K.</param>
    public Classifier(Backend backend, ProbeConfig config, int width, int classes)
        : this(backend, config, new FeaturePart(config.Pooling, 0, 1, width), grid: 0, classes) { }

    /// <param name="part">What it reads of a row of features.</param>
    /// <param name="grid">Patches a side; for tokens.</param>
    /// <param name="probes">Linear layers side by side, P; 1 for tokens, whose aggregation is learned too.</param>
    public Classifier(Backend backend, ProbeConfig config, FeaturePart part, int grid, int classes, int probes = 1)
        : this(backend, config, part, grid, classes, probes, Planned(backend, config, part, grid, classes, probes)) { }

    private Classifier(Backend backend, ProbeConfig config, FeaturePart part, int grid, int classes, int probes, long arenaBytes)
    {
        if (part.Tokens > 1 && probes > 1) throw new ArgumentException("Learned aggregations cannot share one product.");
        (_backend, _config, _part, Classes, Probes) = (backend, config, part, classes, probes);
        int width = part.Width;
        Params = new ParamSet(probes);
        _head = ClassHead.Declare(Params, width, classes, config.Init);
        if (part.Tokens > 1) _aggregator = new AbMilp(Params, config.AbMilp, width, grid, part.Tokens - grid * grid);
        Params.Allocate(backend, config.Seed);
        _optimizer = new Optimizer(backend, Params, config.Optim);
        _arena = new Arena(backend, arenaBytes);
        _tape = new Tape(backend, _arena);
        int size = backend.Real.Size();
        _storage = backend.Allocate((2L * width + 1) * size);
        RunningMean = new Tensor(_storage, 0, new Shape(width), backend.Real);
        RunningVariance = new Tensor(_storage, (long)width * size, new Shape(width), backend.Real);
        _lossSum = new Tensor(_storage, 2L * width * size, new Shape(1), backend.Real);
        _repeated = new float[probes > 1 ? config.Batch * probes * classes : 0];
        backend.Fill(RunningVariance, 1f);
    }

    public int Classes { get; }

    /// <summary>Linear layers side by side, P.</summary>
    public int Probes { get; }

    /// <summary>"head.weight" (P·K, C), "head.bias" (P·K), and the aggregation's.</summary>
    public ParamSet Params { get; }

    /// <summary>(C): what evaluation subtracts.</summary>
    public Tensor RunningMean { get; }

    /// <summary>(C).</summary>
    public Tensor RunningVariance { get; }

    /// <summary>One pass of an update: loss and gradients of a batch.</summary>
    /// <param name="features">(B, part length), B the config's batch.</param>
    /// <param name="targets">(B, K): one-hot or mixed rows.</param>
    /// <param name="firstPass">Gradients are overwritten instead of added to.</param>
    /// <param name="losses">(P) mean cross-entropy of this pass, written; or empty, which costs nothing.</param>
    public void Pass(ReadOnlySpan<float> features, ReadOnlySpan<float> targets, bool firstPass, Span<double> losses = default)
    {
        if (firstPass) Params.BeginUpdate();
        Tensor x = Uploaded(features, Input(_config.Batch)), rows = Uploaded(Repeated(targets), new Shape(_config.Batch * Probes, Classes));
        Value logits = _tape.Reshape(Forward(x, training: true), rows.Shape);
        // The mean runs over P·B rows: times P, every layer has the gradient it would have alone.
        Value loss = _tape.CrossEntropyLoss(logits, rows, (float)Probes / _config.Accumulate);
        _backend.AddScaled(_lossSum, loss.Data, (float)_config.Accumulate / Probes, 1f);
        _passes++;
        if (losses.Length > 0) Losses(losses, Transfer.Floats(_backend, logits.Data), targets);
        _tape.Backward();
        _tape.Reset();
    }

    /// <summary>Updates at this learning rate.</summary>
    public void Update(double rate) => _optimizer.Step(rate);

    /// <summary>Updates each layer at its own rate.</summary>
    public void Update(ReadOnlySpan<double> rates) => _optimizer.Step(rates);

    /// <summary>Mean cross-entropy of the passes since the last call, over all layers.</summary>
    public double MeanLoss()
    {
        float sum = Transfer.Floats(_backend, _lossSum)[0];
        _backend.Fill(_lossSum, 0f);
        (int passes, _passes) = (_passes, 0);
        return sum / Math.Max(1, passes);
    }

    /// <summary>(rows, P·K) logits of features, under the running statistics.</summary>
    public void Logits(Span<float> logits, ReadOnlySpan<float> features)
    {
        int batch = _config.Batch, count = features.Length / _part.Length, each = Probes * Classes;
        for (int first = 0; first < count; first += batch)
        {
            int n = Math.Min(batch, count - first);
            Tensor x = _tape.Keep(Input(batch));
            if (n < batch) _backend.Fill(x, 0f);
            Transfer.Upload(_backend, x.Slice(0, n), features.Slice(first * _part.Length, n * _part.Length));
            _tape.BeginNoGrad();
            Value y = Forward(x, training: false);
            _tape.EndNoGrad();
            Transfer.Download(_backend, logits.Slice(first * each, n * each), y.Data.Slice(0, n));
            _tape.Reset();
        }
    }

    public void Dispose()
    {
        _optimizer.Dispose();
        _arena.Dispose();
        _storage.Dispose();
        Params.Dispose();
    }

    private Value Forward(Tensor x, bool training)
    {
        Value y = _tape.Input(x);
        if (_aggregator is not null) y = _aggregator.Forward(_tape, y).Pooled;
        if (_config.BatchNorm) y = _tape.BatchNorm(y, RunningMean, RunningVariance, Eps, StatisticsMomentum, training);
        return _tape.Linear(y, _head);
    }

    private Shape Input(int rows) => _part.Tokens > 1 ? new Shape(rows, _part.Tokens, _part.Width) : new Shape(rows, _part.Width);

    private Tensor Uploaded(ReadOnlySpan<float> values, Shape shape)
    {
        Tensor tensor = _tape.Keep(shape);
        Transfer.Upload(_backend, tensor, values);
        return tensor;
    }

    /// <summary>Each row of targets once a layer.</summary>
    private ReadOnlySpan<float> Repeated(ReadOnlySpan<float> targets)
    {
        if (Probes == 1) return targets;
        for (int row = 0; row < _config.Batch; row++)
        {
            Span<float> rows = _repeated.AsSpan(row * Probes * Classes, Probes * Classes);
            targets.Slice(row * Classes, Classes).CopyTo(rows);
            for (int done = Classes; done < rows.Length; done *= 2)   // what is there doubles
                rows[..Math.Min(done, rows.Length - done)].CopyTo(rows[done..]);
        }
        return _repeated;
    }

    /// <summary>Of logits that are not needed any more.</summary>
    private void Losses(Span<double> losses, float[] logits, ReadOnlySpan<float> targets)
    {
        losses.Clear();
        for (int row = 0; row < _config.Batch * Probes; row++)
        {
            Span<float> x = logits.AsSpan(row * Classes, Classes);
            ReadOnlySpan<float> y = targets.Slice(row / Probes * Classes, Classes);
            TensorPrimitives.Subtract(x, TensorPrimitives.Max<float>(x), x);   // a NaN anywhere is the largest
            losses[row % Probes] -= TensorPrimitives.Dot<float>(x, y) / _config.Batch;
        }
        TensorPrimitives.Exp(logits, logits);
        for (int row = 0; row < _config.Batch * Probes; row++)
        {
            float mass = TensorPrimitives.Sum(targets.Slice(row / Probes * Classes, Classes));
            losses[row % Probes] += mass * Math.Log(TensorPrimitives.Sum<float>(logits.AsSpan(row * Classes, Classes))) / _config.Batch;
        }
    }

    private static long Planned(Backend backend, ProbeConfig config, FeaturePart part, int grid, int classes, int probes)
    {
        using var nothing = NullBackend.Like(backend);
        using var dry = new Classifier(nothing, config, part, grid, classes, probes, 1L << 50);
        float[] features = new float[config.Batch * part.Length], rows = new float[config.Batch * classes];
        dry.Pass(features, rows, firstPass: true);
        dry.Logits(new float[config.Batch * probes * classes], features);
        return dry._arena.Peak;
    }
}
