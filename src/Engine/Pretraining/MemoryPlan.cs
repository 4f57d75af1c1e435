using MimEngine.Engine.Autograd;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;

namespace MimEngine.Engine.Pretraining;

/// <summary>One activation of a step: how many bytes at once, how often.</summary>
public readonly record struct PlannedActivation(Shape Shape, long Bytes, int Count);

/// <summary>What an experiment needs before any of it is allocated, from one step that computes nothing.</summary>
public sealed record MemoryPlan
{
    /// <summary>Learned numbers.</summary>
    public required long Parameters { get; init; }

    /// <summary>Values and optimiser moments; gradients too where an update sums them over several passes.</summary>
    public required long SlabBytes { get; init; }

    /// <summary>
    /// Activations, their gradients, pictures, masks and, where an update is one pass, the parameters' gradients: the arena's capacity.
    /// </summary>
    public required long ArenaBytes { get; init; }

    /// <summary>The backend's own packing and scratch buffers.</summary>
    public required long ScratchBytes { get; init; }

    /// <summary>The ten largest kinds of activation.</summary>
    public required IReadOnlyList<PlannedActivation> Largest { get; init; }

    /// <summary>What is kept to look at the run while it trains: k-NN's encoder and bank.</summary>
    public long WatchBytes { get; init; }

    public long TotalBytes => SlabBytes + ArenaBytes + ScratchBytes + WatchBytes;

    /// <summary>Runs one step of the experiment on backends that do nothing.</summary>
    /// <param name="device">"cpu" adds what its kernels keep beside tensors.</param>
    /// <param name="watch">Does once on a backend what a look at the run does; none = nobody looks.</param>
    public static MemoryPlan Of(PretrainConfig config, string device = "cpu", int threads = 0, Action<Backend>? watch = null)
    {
        const long Unlimited = 1L << 50;
        Dictionary<(Shape Shape, long Bytes), int> kinds = [];
        using var nothing = new NullBackend(config.Run.Precision);
        long arena;
        using (var pretrainer = new Pretrainer(nothing, config, Unlimited, initialise: false))
        {
            pretrainer.Arena.Rented = (shape, bytes) =>
                kinds[(shape, bytes)] = kinds.GetValueOrDefault((shape, bytes)) + 1;
            OneUpdate(pretrainer, config);
            arena = pretrainer.Arena.Peak;
            using var beside = new NullBackend(config.Run.Precision);
            watch?.Invoke(beside);
            (long slabs, long parameters) = (nothing.AllocatedBytes - Unlimited, pretrainer.Model.Params.Count);
            return new MemoryPlan
            {
                Parameters = parameters,
                SlabBytes = slabs,
                ArenaBytes = arena,
                ScratchBytes = device == "cpu" ? CpuScratch(config, arena, threads, watch) : 0,
                WatchBytes = beside.AllocatedBytes,
                Largest = [.. kinds.Select(k => new PlannedActivation(k.Key.Shape, k.Key.Bytes, k.Value))
                    .OrderByDescending(a => a.Bytes * a.Count).Take(10)],
            };
        }
    }

    /// <summary>A CPU that runs no kernel still asks for its scratch; memory nobody touches costs nothing.</summary>
    private static long CpuScratch(PretrainConfig config, long arenaBytes, int threads, Action<Backend>? watch)
    {
        using CpuBackend dry = CpuBackend.Dry(threads, config.Run.Precision);
        using var pretrainer = new Pretrainer(dry, config, arenaBytes, initialise: false);
        OneUpdate(pretrainer, config);
        watch?.Invoke(dry);
        return dry.OwnBytes;
    }

    private static void OneUpdate(Pretrainer pretrainer, PretrainConfig config)
    {
        int s = config.Encoder.ImagePixels;
        pretrainer.Pass(new byte[config.BatchBytes], 0, firstPass: true, new byte[config.Run.Batch * s * s]);
        pretrainer.Update(0);
    }
}
