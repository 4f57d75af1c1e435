using System.Diagnostics;
using MimEngine.Engine.Data;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;

namespace MimEngine.Engine.Experiments;

/// <summary>What a profile is asked for.</summary>
public sealed record ProfileOptions : DeviceOptions
{
    public required PretrainConfig Config { get; init; }

    /// <summary>Updates measured, after two that are not: they compile, and grow memory.</summary>
    public int Updates { get; init; } = 5;
}

/// <summary>What the machine does at best, measured in the same run; null where it was not.</summary>
/// <param name="GigaFlops">The CPU: float32 multiply-adds in registers, 2 flops each. Other devices: the fastest square float32 product.</param>
/// <param name="Bf16GigaFlops">The CPU: bfloat16 products of operands in the first cache. Other devices: the fastest square product.</param>
/// <param name="GigaBytes">A large copy, bytes read plus written.</param>
public sealed record Roofs(double? GigaFlops, double? Bf16GigaFlops, double? GigaBytes);

/// <summary>One kind of call in one update.</summary>
/// <param name="Milliseconds">Of all these calls in one update.</param>
/// <param name="BestMilliseconds">What they would take if every one were as fast as the fastest.</param>
/// <param name="Share">Of the update's wall time.</param>
/// <param name="OfRoof">
/// The larger of its flops over the flop roof and its bytes over the copy roof; over 1 where operands stay in caches. Products use
/// the bfloat16 roof when the run does.
/// </param>
public sealed record ProfileRow(string Operation, string Shape, double Calls, double Milliseconds, double BestMilliseconds, double Share,
    double GigaFlops, double GigaBytes, double? OfRoof);

/// <summary>Where the time of an update goes.</summary>
/// <param name="DataWaitMilliseconds">Waited for pictures.</param>
/// <param name="HostMilliseconds">Neither in an operation nor waiting: masks, the tape, the loop.</param>
/// <param name="ModelGigaFlops">Flops of <see cref="StepCost"/> over the wall time.</param>
public sealed record ProfileReport(string Recipe, string Device, Precision Precision, int Threads, int Batch, int Updates, double MillisecondsAnUpdate,
    double ImagesPerSecond, double ModelGigaFlops, double DataWaitMilliseconds, double HostMilliseconds, Roofs Roofs, IReadOnlyList<ProfileRow> Rows);

/// <summary>Runs some updates of an experiment with a stopwatch around every operation.</summary>
public static class ProfileRun
{
    private const int WarmUps = 2;

    /// <exception cref="DeviceException">The device cannot.</exception>
    /// <exception cref="DataException">The pictures cannot be read.</exception>
    public static ProfileReport Execute(ProfileOptions options)
    {
        PretrainConfig config = options.Config;
        config.Validate();
        using IDataset dataset = Datasets.Open(config.Data, Split.Train);
        using Backend backend = Backend.Open(options.Device, options.Threads, config.Run.Precision);
        var timed = new TimedBackend(backend);
        MemoryPlan plan = MemoryPlan.Of(config, options.Device, options.Threads);
        using var pretrainer = new Pretrainer(timed, config, plan.ArenaBytes);
        int passes = config.Run.Accumulate, images = config.Run.Batch * passes;
        using var loader = new Loader(new LoaderConfig(dataset, new AugmentedViews(config), config.Run.Batch)
        {
            Seed = config.Run.Seed, EndStep = (long)(WarmUps + options.Updates) * passes, Threads = options.LoaderThreads,
        });
        int threads = (backend as CpuBackend)?.Threads ?? 0;
        Roofs roofs = Measure(backend, threads, config.Run.Precision);
        double waited = 0;
        long start = 0;
        for (int update = 0; update < WarmUps + options.Updates; update++)
        {
            if (update == WarmUps)
            {
                timed.Clear();
                (waited, start) = (loader.WaitSeconds, Stopwatch.GetTimestamp());
            }
            for (int pass = 0; pass < passes; pass++)
            {
                Batch batch = loader.Next();
                pretrainer.Pass(batch.Filled, update * passes + pass, firstPass: pass == 0, batch.FilledMarks);
                loader.Return(batch);
            }
            pretrainer.Update(1e-6);
        }
        backend.Synchronize();
        double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds / options.Updates;
        waited = (loader.WaitSeconds - waited) / options.Updates;
        _ = pretrainer.ReadOut(options.Updates);
        if (backend is CpuBackend) roofs = Higher(roofs, Measure(backend, threads, config.Run.Precision));
        IReadOnlyList<OpTime> times = [.. timed.Times.Where(t => t.Calls >= options.Updates)];
        double busy = times.Sum(t => t.Seconds) / options.Updates;
        double flops = StepCost.Of(config).Total * images;
        return new ProfileReport(config.Recipe, backend.Description, config.Run.Precision, threads, config.Run.Batch, options.Updates, seconds * 1e3,
            images / seconds, flops / seconds / 1e9, waited * 1e3, Math.Max(0, seconds - busy - waited) * 1e3, roofs,
            [.. times.Select(t => Row(t, options.Updates, seconds, roofs, config.Run.Precision))]);
    }

    private static ProfileRow Row(OpTime t, int updates, double seconds, Roofs roofs, Precision precision)
    {
        bool halves = precision == Precision.BF16 && t.Cost.Name.StartsWith("Linear", StringComparison.Ordinal) && roofs.Bf16GigaFlops is not null;
        double? flops = t.GigaFlops / (halves ? roofs.Bf16GigaFlops : roofs.GigaFlops), bytes = t.GigaBytes / roofs.GigaBytes;
        return new(t.Cost.Name, t.Shape.ToString(), (double)t.Calls / updates, t.Seconds / updates * 1e3, t.Best * t.Calls / updates * 1e3,
            t.Seconds / updates / seconds, t.GigaFlops, t.GigaBytes, flops is { } f && bytes is { } b ? Math.Max(f, b) : flops ?? bytes);
    }

    private static Roofs Measure(Backend backend, int threads, Precision precision)
    {
        if (backend is not CpuBackend) return DeviceRoof.Measure(backend, precision == Precision.BF16);
        using var roof = new CpuRoof(threads);
        Roofs best = new(0, null, 0);
        for (int i = 0; i < 3; i++) best = Higher(best, new(roof.Fma(), roof.Bf16(), roof.Copy()));
        return best;
    }

    private static Roofs Higher(Roofs a, Roofs b) => new(Max(a.GigaFlops, b.GigaFlops), Max(a.Bf16GigaFlops, b.Bf16GigaFlops), Max(a.GigaBytes, b.GigaBytes));

    private static double? Max(double? a, double? b) => a > b ? a : b ?? a;
}
