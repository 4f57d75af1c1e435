using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Optim;
using MimEngine.Kernels;

namespace MimEngine.Engine.Probing;

/// <summary>The trained part of a linear probe: (optional BatchNorm without affine parameters) + Linear, with its optimiser.</summary>
/// <remarks>BatchNorm uses the statistics of one pass; its running variance has Bessel's correction (SPEC C.3, J.18).</remarks>
public sealed class Classifier : IDisposable
{
    private const float Eps = 1e-6f, StatisticsMomentum = 0.1f;

    private readonly Backend _backend;
    private readonly ProbeConfig _config;
    private readonly LinearParams _head;
    private readonly Optimizer _optimizer;
    private readonly Arena _arena;
    private readonly Tape _tape;
    private readonly Storage _storage;
    private readonly Tensor _lossSum;
    private readonly int _width;
    private int _passes;

    /// <param name="width">Channels of a feature, C.</param>
    /// <param name="classes">K.</param>
    public Classifier(Backend backend, ProbeConfig config, int width, int classes)
        : this(backend, config, width, classes, Planned(config, width, classes)) { }

    private Classifier(Backend backend, ProbeConfig config, int width, int classes, long arenaBytes)
    {
        (_backend, _config, _width, Classes) = (backend, config, width, classes);
        Init uniform = new Init.Uniform(1f / MathF.Sqrt(width));
        _head = Params.Linear("head", width, classes, config.Init == ClassifierInit.Mae ? new Init.TruncatedNormal(0.01f) : uniform,
            biasInit: uniform);
        Params.Allocate(backend, config.Seed);
        _optimizer = new Optimizer(backend, Params, config.Optim);
        _arena = new Arena(backend, arenaBytes);
        _tape = new Tape(backend, _arena);
        int size = backend.Real.Size();
        _storage = backend.Allocate((2L * width + 1) * size);
        RunningMean = new Tensor(_storage, 0, new Shape(width), backend.Real);
        RunningVariance = new Tensor(_storage, (long)width * size, new Shape(width), backend.Real);
        _lossSum = new Tensor(_storage, 2L * width * size, new Shape(1), backend.Real);
        backend.Fill(RunningVariance, 1f);
    }

    public int Classes { get; }

    /// <summary>"head.weight" (K, C) and "head.bias" (K).</summary>
    public ParamSet Params { get; } = new();

    /// <summary>(C): what evaluation subtracts.</summary>
    public Tensor RunningMean { get; }

    /// <summary>(C).</summary>
    public Tensor RunningVariance { get; }

    /// <summary>One pass of an update: loss and gradients of a batch.</summary>
    /// <param name="features">(B, C), B the config's batch.</param>
    /// <param name="targets">(B, K): one-hot or mixed rows.</param>
    /// <param name="firstPass">Gradients are overwritten instead of added to.</param>
    public void Pass(ReadOnlySpan<float> features, ReadOnlySpan<float> targets, bool firstPass)
    {
        if (firstPass) Params.BeginUpdate();
        Tensor x = Uploaded(features, _width), rows = Uploaded(targets, Classes);
        Value loss = _tape.CrossEntropyLoss(Forward(x, training: true), rows, 1f / _config.Accumulate);
        _backend.AddScaled(_lossSum, loss.Data, _config.Accumulate, 1f);
        _passes++;
        _tape.Backward();
        _tape.Reset();
    }

    /// <summary>Updates at this learning rate.</summary>
    public void Update(double rate) => _optimizer.Step(rate);

    /// <summary>Mean cross-entropy of the passes since the last call.</summary>
    public double MeanLoss()
    {
        float sum = Transfer.Floats(_backend, _lossSum)[0];
        _backend.Fill(_lossSum, 0f);
        (int passes, _passes) = (_passes, 0);
        return sum / Math.Max(1, passes);
    }

    /// <summary>(rows, K) logits of features, under the running statistics.</summary>
    public void Logits(Span<float> logits, ReadOnlySpan<float> features)
    {
        int batch = _config.Batch, count = features.Length / _width;
        for (int first = 0; first < count; first += batch)
        {
            int n = Math.Min(batch, count - first);
            Tensor x = _tape.Keep(new Shape(batch, _width));
            if (n < batch) _backend.Fill(x, 0f);
            Transfer.Upload(_backend, x.Slice(0, n), features.Slice(first * _width, n * _width));
            _tape.BeginNoGrad();
            Value y = Forward(x, training: false);
            _tape.EndNoGrad();
            Transfer.Download(_backend, logits.Slice(first * Classes, n * Classes), y.Data.Slice(0, n));
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
        if (_config.BatchNorm) y = _tape.BatchNorm(y, RunningMean, RunningVariance, Eps, StatisticsMomentum, training);
        return _tape.Linear(y, _head);
    }

    private Tensor Uploaded(ReadOnlySpan<float> values, int cols)
    {
        Tensor tensor = _tape.Keep(new Shape(_config.Batch, cols));
        Transfer.Upload(_backend, tensor, values);
        return tensor;
    }

    private static long Planned(ProbeConfig config, int width, int classes)
    {
        using var nothing = new NullBackend();
        using var dry = new Classifier(nothing, config, width, classes, 1L << 50);
        float[] features = new float[config.Batch * width], rows = new float[config.Batch * classes];
        dry.Pass(features, rows, firstPass: true);
        dry.Logits(rows, features);
        return dry._arena.Peak;
    }
}
