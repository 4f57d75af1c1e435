using MimEngine.Kernels.Ptx;

namespace MimEngine.Kernels.Ilgpu;

/// <summary>What launches emitted PTX: CUDA's driver, or a test's model of the machine in its place.</summary>
internal interface IEmittedDriver : IDisposable
{
    /// <summary>The kernel, written and loaded at its first use.</summary>
    /// <exception cref="DeviceException">The driver refuses it.</exception>
    LoadedKernel Kernel(EmittedKey key, Func<EmittedKey, PtxKernel> write);

    /// <summary>Queues a kernel behind what was queued before. Every parameter takes one entry, float32 as its bits.</summary>
    void Launch(LoadedKernel kernel, long groups, int slices, ReadOnlySpan<ulong> parameters);
}

/// <summary>A kernel that is ready, with the driver's handles.</summary>
internal sealed record LoadedKernel(PtxKernel Source, nint Module, nint Function);

/// <summary>Emitted kernels on the simulator's memory, run by a test.</summary>
internal sealed class ModelledDriver(IPtxRunner runner) : IEmittedDriver
{
    private readonly Dictionary<EmittedKey, LoadedKernel> _kernels = [];

    public LoadedKernel Kernel(EmittedKey key, Func<EmittedKey, PtxKernel> write)
        => _kernels.TryGetValue(key, out LoadedKernel? known) ? known : _kernels[key] = new LoadedKernel(write(key), 0, 0);

    public void Launch(LoadedKernel kernel, long groups, int slices, ReadOnlySpan<ulong> parameters)
    {
        if (groups > 0) runner.Run(kernel.Source, groups, slices, parameters);
    }

    public void Dispose() => _kernels.Clear();
}
