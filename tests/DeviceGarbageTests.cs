using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;
using MimEngine.Kernels.Ptx;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>What a warm step on a device leaves to the garbage collector.</summary>
[TestFixture]
public class DeviceGarbageTests
{
    /// <summary>Without the launches themselves: ILGPU makes objects of each on its simulator.</summary>
    [Test]
    public void The_hosts_own_work_makes_none([Values("kamim", "simmim", "mae", "dino")] string recipe, [Values] Precision precision, [Values] bool emitted)
    {
        if (BackendLoader.WhyAbsent is { } why) Assert.Ignore(why);
        ((ITestedDriver)BackendLoader.Provider!).SkipLaunchesOfNext(emitted ? new Nothing() : null);
        using Backend device = Backend.Open("sim", precision: precision);
        PretrainConfig config = StepTests.Config(recipe);
        // Lines and heads that the emitted kernels of normalisation and attention take.
        config = config with { Run = config.Run with { Batch = 2, Precision = precision }, Encoder = config.Encoder with { Width = 128, Heads = 4 } };
        using var pretrainer = new Pretrainer(device, config, MemoryPlan.Of(config).ArenaBytes);
        byte[] pixels = new byte[config.BatchBytes];
        long least = long.MaxValue;
        for (int step = 0; step < 8; step++)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            pretrainer.Pass(pixels, step, firstPass: true);
            pretrainer.Update(1e-4);
            if (step >= 3) least = Math.Min(least, GC.GetAllocatedBytesForCurrentThread() - before);
        }
        Assert.That(least, Is.Zero);
    }

    private sealed class Nothing : IPtxRunner
    {
        public void Run(PtxKernel kernel, long groups, int slices, ReadOnlySpan<ulong> parameters) { }
    }
}
