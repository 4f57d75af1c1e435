using MimEngine.Engine.Autograd;
using MimEngine.Engine.Data;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;

namespace MimEngine.Engine.Experiments;

/// <summary>What a user asks of a check.</summary>
public sealed record DeviceCheckOptions
{
    /// <summary>The experiment whose network, batch and first step are compared; not read when <see cref="Run"/> is given.</summary>
    public PretrainConfig Config { get; init; } = Recipes.Kamim();

    /// <summary>The device that is compared with the CPU.</summary>
    public required string Device { get; init; }

    /// <summary>Compute threads of the CPU; 0 = all.</summary>
    public int Threads { get; init; }

    /// <summary>A run folder: its experiment, and the parameters and moments of its newest checkpoint.</summary>
    public string? Run { get; init; }
}

/// <summary>One tensor on both devices.</summary>
/// <param name="Stage">"forward", "loss", "backward" or "update".</param>
/// <param name="Name">"tokens after block 3", or a parameter.</param>
/// <param name="Error">Norm of the difference over the norm of the CPU's; infinite where either holds what is not finite.</param>
/// <param name="Largest">Largest difference of one element.</param>
/// <param name="Limit">What <paramref name="Error"/> may be.</param>
public sealed record CheckedTensor(string Stage, string Name, double Error, double Largest, double Limit)
{
    public bool Drifts => !(Error <= Limit);
}

/// <summary>How a device compares with the CPU, in the order in which a step computes.</summary>
public sealed record DeviceCheckResult(string Device, string Dataset, int Batch, IReadOnlyList<CheckedTensor> Tensors)
{
    /// <summary>The first tensor of the step that is further off than its limit, or none.</summary>
    public CheckedTensor? FirstDrift => Tensors.FirstOrDefault(t => t.Drifts);
}

/// <summary>
/// One training step on the CPU and on another device, from the same parameters and pictures: tokens after every block, losses, gradients
/// in the order backward makes them, and parameters after one update with the CPU's gradients.
/// </summary>
public static class DeviceCheck
{
    /// <summary>Limits of ‖device − CPU‖/‖CPU‖ at each stage.</summary>
    internal sealed record Limits(double Forward, double Loss, double Gradient, double Update);

    /// <summary>Of a device that computes in float32. Gradients sum thousands of products in another order.</summary>
    internal static readonly Limits Floats = new(1e-4, 1e-5, 1e-4, 1e-5);

    /// <summary>
    /// Of one that stores and multiplies bfloat16, against float32 on the CPU: a rounding is up to 1/256, and gradients have passed through it
    /// twice a layer. The update is of float32 masters and stays as near as ever.
    /// </summary>
    internal static readonly Limits Halves = new(2e-2, 5e-3, 5e-2, 1e-5);

    /// <exception cref="DeviceException">The device is absent, refused, lost or full.</exception>
    /// <exception cref="RunException">The run cannot be read.</exception>
    public static DeviceCheckResult Execute(DeviceCheckOptions options)
    {
        PretrainConfig config = options.Run is { } run
            ? ConfigJson.Read<PretrainConfig>(RunDirectory.ReadConfig(run), Path.Combine(run, "config.json")) : options.Config;
        config.Validate();
        using IDataset dataset = Datasets.Open(config.Data, Split.Train);
        using var loader = new Loader(new LoaderConfig(dataset, new AugmentedViews(config), config.Run.Batch)
        {
            Seed = config.Run.Seed,
            EndStep = 1,
        });
        byte[] pixels = loader.Next().Filled.ToArray();
        using Backend device = Backend.Open(options.Device, options.Threads, config.Run.Precision), cpu = Backend.Open("cpu", options.Threads);
        return new DeviceCheckResult(device.Description, dataset.Name, config.Run.Batch,
            Compare(cpu, device, config, pixels, options.Run, config.Run.Precision == Precision.BF16 ? Halves : Floats));
    }

    /// <summary>Compares one step; the second backend is the one in doubt.</summary>
    internal static List<CheckedTensor> Compare(Backend cpu, Backend device, PretrainConfig config, byte[] pixels, string? run,
        Limits? given = null)
    {
        Limits limits = given ?? Floats;
        using Pretrainer right = new(cpu, config, Arena(cpu)), tested = new(device, config, Arena(device));
        if (run is not null)
        {
            Restore(cpu, right, run);
            Restore(device, tested, run);
        }
        List<CheckedTensor> all = [];
        for (int block = 1; block <= right.Model.Encoder.Depth; block++)
            all.Add(Measure("forward", $"tokens after block {block}", right.Tokens(pixels, 0, block), tested.Tokens(pixels, 0, block), limits.Forward));
        right.Pass(pixels, 0, firstPass: true);
        tested.Pass(pixels, 0, firstPass: true);
        for (int i = right.Model.Params.Params.Count - 1; i >= 0; i--)
        {
            (Param a, Param b) = (right.Model.Params.Params[i], tested.Model.Params.Params[i]);
            if (!a.Written) continue;
            float[] gradient = Transfer.Floats(cpu, a.Gradient);
            all.Add(Measure("backward", a.Name, gradient, Transfer.Floats(device, b.Gradient), limits.Gradient));
            // The update is judged by itself: Adam's first step is the sign of a gradient, also of one that is rounding noise about 0.
            Transfer.Upload(device, b.Gradient, gradient);
        }
        right.Update(config.Optim.Rate);
        tested.Update(config.Optim.Rate);
        float[] losses = right.ReadOut(1).Losses, others = tested.ReadOut(1).Losses;
        int afterForward = right.Model.Encoder.Depth;
        for (int i = 0; i < losses.Length; i++)
            all.Insert(afterForward + i, Measure("loss", config.Terms[i].Name, [losses[i]], [others[i]], limits.Loss));
        foreach ((Param a, Param b) in right.Model.Params.Params.Zip(tested.Model.Params.Params))
            if (a.Written) all.Add(Measure("update", a.Name, Transfer.Floats(cpu, a.Data), Transfer.Floats(device, b.Data), limits.Update));
        return all;

        long Arena(Backend backend) => MemoryPlan.Of(config with
        {
            Run = config.Run with { Precision = backend.Branch == DType.BF16 ? Precision.BF16 : Precision.F32 },
        }).ArenaBytes;
    }

    private static CheckedTensor Measure(string stage, string name, float[] expected, float[] actual, double limit)
    {
        double difference = 0, norm = 0, largest = 0;
        for (int i = 0; i < expected.Length; i++)
        {
            double d = (double)actual[i] - expected[i];
            difference += d * d;
            norm += (double)expected[i] * expected[i];
            largest = Math.Max(largest, Math.Abs(d));
        }
        double error = difference == 0 ? 0 : Math.Sqrt(difference / norm);
        return new CheckedTensor(stage, name, double.IsFinite(error) ? error : double.PositiveInfinity, largest, limit);
    }

    private static void Restore(Backend backend, Pretrainer pretrainer, string run)
    {
        (Checkpoint? newest, _) = Checkpoint.Latest(Path.Combine(run, "checkpoints"));
        using (newest ?? throw new RunException($"{run}: there is no checkpoint that verifies; check the experiment itself, without --run."))
            new RunState(backend, pretrainer).Load(newest.Tensors);
    }
}
