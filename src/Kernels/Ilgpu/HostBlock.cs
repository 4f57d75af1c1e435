using ILGPU;
using ILGPU.Runtime;
using ILGPU.Runtime.CPU;
using ILGPU.Runtime.Cuda;

namespace MimEngine.Kernels.Ilgpu;

/// <summary>
/// Host memory that a device copies from by itself, page-locked where the device is a GPU. CUDA's own allocation: memory registered afterwards, as
/// ILGPU does it, shares pages with its neighbours, and a page can be registered once only.
/// </summary>
internal sealed unsafe class HostBlock : IDisposable
{
    private readonly CudaAccelerator? _cuda;
    private readonly CPUMemoryBuffer _buffer;
    private nint _address;

    public HostBlock(Accelerator accelerator, int bytes)
    {
        _cuda = accelerator as CudaAccelerator;
        if (_cuda is null) _buffer = CPUMemoryBuffer.Create(accelerator, bytes, 1);
        else
        {
            _cuda.Bind();
            CudaException.ThrowIfFailed(CudaAPI.CurrentAPI.AllocateHostMemory(out _address, bytes));
            _buffer = CPUMemoryBuffer.Create(accelerator, _address, bytes, 1);
        }
        (View, Bytes) = (_buffer.AsRawArrayView(), bytes);
    }

    public int Bytes { get; }

    public ArrayView<byte> View { get; }

    public Span<byte> Span => new((void*)View.LoadEffectiveAddressAsPtr(), Bytes);

    public void Dispose()
    {
        _buffer.Dispose();
        if (_cuda is null || _address == 0) return;
        _cuda.Bind();
        (nint address, _address) = (_address, 0);
        CudaException.ThrowIfFailed(CudaAPI.CurrentAPI.FreeHostMemory(address));
    }
}
