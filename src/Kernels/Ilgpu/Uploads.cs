using ILGPU;
using ILGPU.Runtime;
using ILGPU.Runtime.CPU;
using ILGPU.Runtime.Cuda;

namespace MimEngine.Kernels.Ilgpu;

internal sealed partial class IlgpuBackend : IUploadDevice
{
    private readonly HostBlock?[] _hostBlocks = new HostBlock?[UploadRing.Slots];
    private readonly DeviceStorage?[] _deviceBlocks = new DeviceStorage?[UploadRing.LargeSlots];
    private readonly AcceleratorStream? _copies;
    private readonly CudaMarks? _marks;
    private readonly UploadRing? _ring;

    /// <summary>
    /// CUDA and the simulator stage uploads. OpenCL does not: ILGPU copies a whole host block there, whatever part of it was asked for, and has
    /// no marks.
    /// </summary>
    private static bool Stages(Accelerator accelerator) => accelerator is CPUAccelerator or CudaAccelerator;

    public override void Upload(Tensor destination, ReadOnlySpan<byte> source)
    {
        if (source.Length != destination.Bytes)
            throw new ArgumentException($"Upload: {source.Length} bytes into a tensor of {destination.Bytes}.");
        if (source.Length == 0) return;
        try
        {
            if (_ring is not null) _ring.Upload(destination, source);
            else CopyAndWait(Bytes(destination), source);
        }
        catch (AcceleratorException e) { throw Lost(e); }
    }

    private unsafe void CopyAndWait(ArrayView<byte> to, ReadOnlySpan<byte> from)
    {
        Call();
        // ILGPU takes an address and pins nothing.
        fixed (byte* first = from)
        {
            to.CopyFromCPUUnsafeAsync(_accelerator.DefaultStream, ref *first, from.Length);
            _accelerator.DefaultStream.Synchronize();
        }
    }

    Span<byte> IUploadDevice.Host(int slot, int bytes)
    {
        if (_hostBlocks[slot] is { } there && there.Bytes >= bytes) return there.Span;
        Synchronize();
        GiveBack(_hostBlocks[slot]);
        _hostBlocks[slot] = null;
        try
        {
            Call();
            _hostBlocks[slot] = new HostBlock(_accelerator, Math.Max(bytes, 1 << 12));
        }
        catch (Exception e) when (OutOfMemory(e))
        {
            throw new DeviceMemoryException($"device '{Name}': {bytes:N0} bytes of page-locked host memory were asked for, and the system refused them "
                + $"({IlgpuProvider.OneLine(e)}). A smaller batch needs less.", e);
        }
        if (slot < UploadRing.LargeSlots)
        {
            _deviceBlocks[slot]?.Dispose();
            _deviceBlocks[slot] = null;
            _deviceBlocks[slot] = (DeviceStorage)Allocate(bytes);
            Synchronize();   // new memory is cleared on the compute queue; copies do not wait for that by themselves
        }
        return _hostBlocks[slot]!.Span;
    }

    void IUploadDevice.Send(int slot, int bytes)
    {
        Call();
        _deviceBlocks[slot]!.View.SubView(0, bytes).CopyFrom(_copies!, _hostBlocks[slot]!.View.SubView(0, bytes));
    }

    void IUploadDevice.Place(int slot, Tensor destination, long offset, int bytes)
    {
        Call();
        Bytes(destination).SubView(offset, bytes).CopyFrom(_accelerator.DefaultStream, _deviceBlocks[slot]!.View.SubView(0, bytes));
    }

    void IUploadDevice.Put(int slot, Tensor destination, long offset, int bytes)
    {
        Call();
        Bytes(destination).SubView(offset, bytes).CopyFrom(_accelerator.DefaultStream, _hostBlocks[slot]!.View.SubView(0, bytes));
    }

    void IUploadDevice.Mark(DeviceQueue queue, int mark) => _marks?.Set(mark, Stream(queue));

    void IUploadDevice.Await(DeviceQueue queue, int mark) => _marks?.Hold(Stream(queue), mark);

    void IUploadDevice.Await(int mark) => _marks?.Wait(mark);

    private AcceleratorStream Stream(DeviceQueue queue) => queue == DeviceQueue.Copies ? _copies! : _accelerator.DefaultStream;

    private long StagedBytes
    {
        get
        {
            long bytes = 0;
            foreach (DeviceStorage? block in _deviceBlocks) bytes += block?.Bytes ?? 0;
            return bytes;
        }
    }

    /// <summary>The device has done everything, or is lost.</summary>
    private void FreeStaging()
    {
        foreach (DeviceStorage? block in _deviceBlocks) block?.Dispose();
        foreach (HostBlock? block in _hostBlocks) GiveBack(block);
        GiveBack(_marks);
        GiveBack(_copies);
    }
}
