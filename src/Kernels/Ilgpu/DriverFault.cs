using ILGPU.Runtime.Cuda;
using MimEngine.Kernels.Ptx;

namespace MimEngine.Kernels.Ilgpu;

/// <summary>What a test has a device's driver do: fail at a call and at all after it, as a lost one does.</summary>
internal sealed class DriverFault(long calls, string message)
{
    public long Calls { get; private set; }

    /// <summary>Kernels are neither compiled nor launched.</summary>
    public bool Skips { get; init; }

    /// <summary>Runs emitted kernels in CUDA's place.</summary>
    public IPtxRunner? Runner { get; init; }

    public void Call()
    {
        if (++Calls > calls) throw new CudaException(message);
    }
}
