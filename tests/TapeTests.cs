using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>The tape through whole networks: gradients against finite differences on the oracle, memory, recomputation.</summary>
[TestFixture]
public class TapeTests
{
    private const double Tolerance = 1e-6, Step = 3e-4;
    private const int Images = 2;
    private const long Room = 64 << 20;

    /// <summary>The variants a ViT has, at width 8 and depth 2: what each adds to the gradient's way.</summary>
    private static readonly (string Name, VitConfig Config, bool Drop)[] s_networks =
    [
        ("plain", Vit(), false),
        ("plain, no final norm, no positions", Vit() with { FinalNorm = false, Positions = Positions.None, QkvBias = QkvBias.None }, false),
        ("official SimMIM", Vit() with
        {
            Positions = Positions.None, RelativeBias = RelativeBias.Shared, QkvBias = QkvBias.NoKey, LayerScale = 0.1f, DropPath = 0.5f,
        }, true),
        ("every bias, layer scale", Vit() with { RelativeBias = RelativeBias.SharedAndPerBlock, LayerScale = 0.1f }, false),
        ("a bias a block, stochastic depth", Vit() with { RelativeBias = RelativeBias.PerBlock, DropPath = 0.5f }, true),
    ];

    public static IEnumerable<string> Networks => s_networks.Select(n => n.Name);

    [Test]
    public void The_gradient_of_a_whole_network_is_the_derivative_of_its_loss([ValueSource(nameof(Networks))] string name)
    {
        using var backend = new OracleBackend();
        PixelDistance distance = name == "plain" ? PixelDistance.L2 : PixelDistance.L1;
        using var network = new Network(backend, s_networks.First(n => n.Name == name), Recompute.None, distance);
        network.Gradients();
        double[][] exact = [.. network.Params.Params.Select(p => Transfer.Doubles(backend, p.Gradient))];
        for (int i = 0; i < exact.Length; i++)
        {
            Param param = network.Params.Params[i];
            double[] numeric = Differences(param.Data, network.Loss);
            string? difference = Agreement.Difference(exact[i], numeric, Tolerance);
            if (difference is not null) Assert.Fail($"{name}: gradient of '{param.Name}' {param.DeclaredShape} {difference}");
        }
    }

    [Test]
    public void Recomputing_blocks_gives_the_same_bits([ValueSource(nameof(Networks))] string name)
    {
        CpuBackend cpu = Cpu.Open(Simd.Best);
        (string, VitConfig, bool) spec = s_networks.First(n => n.Name == name);
        using var keeps = new Network(cpu, spec, Recompute.None, PixelDistance.L1);
        using var repeats = new Network(cpu, spec, Recompute.Block, PixelDistance.L1);
        keeps.Gradients();
        repeats.Gradients();
        Assert.That(Transfer.Floats(cpu, repeats.Params.Gradient), Is.EqualTo(Transfer.Floats(cpu, keeps.Params.Gradient)));
        Assert.That(repeats.Arena.Peak, Is.LessThan(keeps.Arena.Peak), "recomputing saves memory");
    }

    [Test]
    public void A_step_returns_all_memory_and_the_second_rents_nothing_new([ValueSource(nameof(Networks))] string name,
        [Values] Recompute recompute)
    {
        using var backend = new OracleBackend();
        using var network = new Network(backend, s_networks.First(n => n.Name == name), recompute, PixelDistance.L1);
        network.Gradients();
        Assert.That(network.Arena.Live, Is.Zero);
        long peak = network.Arena.Peak;
        network.Arena.Freeze();
        network.Gradients();
        Assert.That((network.Arena.Live, network.Arena.Peak), Is.EqualTo((0L, peak)));
    }

    [Test]
    public void A_second_pass_adds_its_gradients([ValueSource(nameof(Networks))] string name)
    {
        using var backend = new OracleBackend();
        using var network = new Network(backend, s_networks.First(n => n.Name == name), Recompute.None, PixelDistance.L2);
        network.Gradients();
        double[] once = Transfer.Doubles(backend, network.Params.Gradient);
        network.Gradients(first: false);
        string? difference = Agreement.Difference(Transfer.Doubles(backend, network.Params.Gradient), Array.ConvertAll(once, v
            => 2 * v), 1e-14);
        Assert.That(difference, Is.Null);
    }

    [Test]
    public void A_parameter_that_is_not_trained_gets_no_gradient_and_changes_no_other()
    {
        using var backend = new OracleBackend();
        using var network = new Network(backend, s_networks[0], Recompute.None, PixelDistance.L2);
        network.Gradients();
        Param frozen = network.Params["blocks.0.mlp.fc1.weight"], other = network.Params["blocks.0.attn.qkv.weight"];
        double[] before = Transfer.Doubles(backend, other.Gradient);
        frozen.Trained = false;
        backend.Fill(network.Params.Gradient, float.NaN);
        network.Gradients();
        Assert.That(frozen.Written, Is.False);
        Assert.That(Transfer.Doubles(backend, frozen.Gradient), Is.All.NaN);
        Assert.That(Transfer.Doubles(backend, other.Gradient), Is.EqualTo(before));
    }

    /// <summary>Ops beside the ViT, values used several times, and two losses at once.</summary>
    [Test]
    public void The_gradient_of_a_graph_with_shared_values_and_two_losses_is_the_derivative()
    {
        using var backend = new OracleBackend();
        using var p = new ParamSet();
        LinearParams first = p.Linear("first", 6, 8, Init.Zeros), second = p.Linear("second", 8, 8, Init.Zeros);
        NormParams norm = p.Norm("norm", 8, 1e-5f);
        LinearParams classes = p.Linear("classes", 8, 5, Init.Zeros);
        p.Allocate(backend, seed: null);
        Randomise(backend, p.Master, 0.4);
        using var arena = new Arena(backend, Room);
        var tape = new Tape(backend, arena);
        Tensor x = Drawn(backend, new Shape(3, 4, 6), Draws.Normal()), targets = Drawn(backend, new Shape(3, 5), Draws.Distributions());
        Tensor runningMean = Drawn(backend, new Shape(8), Draws.Constant(0)), runningVariance = Drawn(backend, new Shape(8),
            Draws.Constant(1));

        double Run(bool backward)
        {
            p.BeginUpdate();
            Value h = tape.Linear(tape.Input(x), first);
            Value twice = tape.Add(h, h);                                       // one value, both operands
            Value g = tape.LayerNorm(twice, norm);
            Value r = tape.LinearResidual(tape.LinearGelu(g, second), second, twice);   // a layer used twice; a residual used before
            Value soft = tape.Softmax(tape.Add(r, h));
            Value pooled = tape.Add(tape.MeanTokens(soft, 1), tape.MeanTokens(r, 0));
            Value normal = tape.BatchNorm(pooled, runningMean, runningVariance, 1e-3f, 0.1f, training: true);
            Value loss = tape.CrossEntropyLoss(tape.Linear(normal, classes), targets, 0.7f);
            Value other = tape.CrossEntropyLoss(tape.Linear(pooled, classes), targets, 0.3f);
            double sum = loss.Data.Host<double>()[0] + other.Data.Host<double>()[0];
            if (backward) tape.Backward();
            tape.Reset();
            Assert.That(arena.Live, Is.Zero);
            return sum;
        }

        Run(backward: true);
        double[][] exact = [.. p.Params.Select(q => Transfer.Doubles(backend, q.Gradient))];
        for (int i = 0; i < exact.Length; i++)
        {
            string? difference = Agreement.Difference(exact[i], Differences(p.Params[i].Data, () => Run(backward: false)), Tolerance);
            if (difference is not null) Assert.Fail($"gradient of '{p.Params[i].Name}' {difference}");
        }
    }

    /// <summary>An MLP as one node and as two layers: the same numbers and gradients, frozen parts, LayerScale and stochastic depth included.</summary>
    [Test]
    public void An_mlp_is_its_two_layers([Values] bool scaled, [Values] bool dropped, [Values] bool frozen)
    {
        using var backend = new OracleBackend();
        using var p = new ParamSet();
        LinearParams first = p.Linear("first", 6, 9, Init.Zeros), second = p.Linear("second", 9, 6, Init.Zeros);
        NormParams norm = p.Norm("norm", 6, 1e-5f);
        Param gamma = p.Add("gamma", new Shape(6), Init.Ones);
        p.Allocate(backend, seed: null);
        Randomise(backend, p.Master, 0.4);
        first.Weight.Trained = second.Weight.Trained = !frozen;
        using var arena = new Arena(backend, Room);
        var tape = new Tape(backend, arena);
        Tensor x = Drawn(backend, new Shape(3, 4, 6), Draws.Normal()), targets = Drawn(backend, new Shape(3, 6), Draws.Distributions());
        Tensor rows = Drawn(backend, new Shape(3), Draws.DropPath(0.7));

        double[][] Run(bool whole)
        {
            p.BeginUpdate();
            backend.Fill(p.Gradient, 0f);
            Value r = tape.Input(x), n = tape.LayerNorm(r, norm);
            Param? g = scaled ? gamma : null;
            Tensor? s = dropped ? rows : null;
            Value y = whole ? tape.Mlp(n, first, second, n, g, s) : tape.LinearResidual(tape.LinearGelu(n, first), second, n, g, s);
            double[] made = Transfer.Doubles(backend, y.Data);
            tape.CrossEntropyLoss(tape.MeanTokens(y, 0), targets, 1f);
            tape.Backward();
            tape.Reset();
            Assert.That(arena.Live, Is.Zero);
            return [made, .. p.Params.Select(q => Transfer.Doubles(backend, q.Gradient))];
        }

        double[][] apart = Run(whole: false), one = Run(whole: true);
        for (int i = 0; i < apart.Length; i++) Assert.That(one[i], Is.EqualTo(apart[i]).Within(1e-12), i == 0 ? "output" : p.Params[i - 1].Name);
        Assert.That(apart[^1].Any(v => v != 0), Is.EqualTo(scaled), "gamma");
    }

    private static VitConfig Vit() => new()
    {
        ImagePixels = 6, PatchPixels = 2, Width = 8, Depth = 2, Heads = 2, MlpRatio = 2, LayerNormEps = 1e-5f,
    };

    /// <summary>Fourth-order central differences of a scalar by every element of a tensor; see GradientTests for the step.</summary>
    private static double[] Differences(Tensor x, Func<double> value)
    {
        double[] numeric = new double[x.Count];
        for (int i = 0; i < numeric.Length; i++)
        {
            double near = At(i, Step) - At(i, -Step), far = At(i, 2 * Step) - At(i, -2 * Step);
            numeric[i] = (8 * near - far) / (12 * Step);
        }
        return numeric;

        double At(int i, double by)
        {
            double kept = x.Host<double>()[i];
            x.Host<double>()[i] = kept + by;
            double at = value();
            x.Host<double>()[i] = kept;
            return at;
        }
    }

    private static Tensor Drawn(Backend backend, Shape shape, Draw draw, DType? dtype = null)
    {
        DType type = dtype ?? backend.Real;
        double[] values = new double[shape.Count];
        RngSequence random = new Rng(7, RandomStream.Test, (ulong)shape.Count).Start();
        draw(values, ref random, shape);
        var tensor = new Tensor(backend.Allocate(shape.Count * type.Size()), 0, shape, type);
        if (type == DType.U8) backend.Upload(tensor, Array.ConvertAll(values, v => (byte)v));
        else Transfer.Upload(backend, tensor, Array.ConvertAll(values, v => (float)v));
        return tensor;
    }

    private static void Randomise(Backend backend, Tensor slab, double deviation)
    {
        double[] values = new double[slab.Count];
        RngSequence random = new Rng(3, RandomStream.Test, 0).Start();
        Draws.Normal(0, deviation)(values, ref random, slab.Shape);
        Transfer.Upload(backend, slab, Array.ConvertAll(values, v => (float)v));
    }

    /// <summary>A small ViT with a pixel head on fixed pictures; no parameter is zero, so that no gradient's way is closed.</summary>
    private sealed class Network : IDisposable
    {
        private readonly Backend _backend;
        private readonly Tape _tape;
        private readonly VisionTransformer _vit;
        private readonly IPixelPredictor _head;
        private readonly Tensor _pictures, _targets, _hidden, _weights;
        private readonly Tensor? _drops;
        private readonly PixelDistance _distance;

        public Network(Backend backend, (string Name, VitConfig Config, bool Drop) spec, Recompute recompute, PixelDistance distance)
        {
            (_backend, _distance) = (backend, distance);
            VitConfig c = spec.Config;
            Params = new ParamSet();
            _vit = new VisionTransformer(Params, c);
            _head = (IPixelPredictor)new LinearPixelHead().Build(Params, _vit);
            Params.Allocate(backend, seed: null);
            Randomise(backend, Params.Master, 0.3);
            Arena = new Arena(backend, Room);
            _tape = new Tape(backend, Arena, recompute);
            _pictures = Drawn(backend, new Shape(Images, 3, c.ImagePixels, c.ImagePixels), Draws.Normal());
            // Targets of magnitude 20: no prediction comes near one, so L1 has a slope everywhere.
            _targets = Drawn(backend, _pictures.Shape, Draws.TwoSided(20, 21));
            _hidden = Drawn(backend, new Shape(Images, _vit.Grid * _vit.Grid), Draws.Bits(0.6), DType.U8);
            _weights = Drawn(backend, new Shape(Images, 3, 3), Draws.Uniform(1, 3));
            if (spec.Drop) _drops = Drawn(backend, new Shape(_vit.DropRows, Images), Draws.DropPath(0.6));
        }

        public ParamSet Params { get; }
        public Arena Arena { get; }

        public double Loss() => Pass(backward: false);

        public void Gradients(bool first = true)
        {
            if (first) Params.BeginUpdate();
            Pass(backward: true);
        }

        public void Dispose()
        {
            Params.Dispose();
            Arena.Dispose();
        }

        private double Pass(bool backward)
        {
            EncodedTokens tokens = _vit.Encode(_tape, _pictures, new EncodeRequest(_hidden, _drops));
            Value loss = new PixelTarget(_distance).Loss(_tape, _head.Predict(_tape, tokens),
                new TermInputs(_targets, _hidden, _weights, _vit.TokenPixels, _head.Order, 0.5f));
            double value = Transfer.Doubles(_backend, loss.Data)[0];
            if (backward) _tape.Backward();
            _tape.Reset();
            return value;
        }
    }
}
