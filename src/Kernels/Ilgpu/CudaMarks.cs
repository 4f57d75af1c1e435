using System.Runtime.InteropServices;
using ILGPU.Runtime;
using ILGPU.Runtime.Cuda;

namespace MimEngine.Kernels.Ilgpu;

/// <summary>CUDA's events: marks in a stream that the host or another stream can wait for. ILGPU's own make objects and keep times.</summary>
internal sealed unsafe class CudaMarks : IDisposable
{
    private readonly CudaAccelerator _accelerator;
    private readonly nint[] _events;
    private readonly nint _library;
    private readonly delegate* unmanaged<nint, nint, uint, int> _streamWaits;

    public CudaMarks(CudaAccelerator accelerator, int count)
    {
        (_accelerator, _events) = (accelerator, new nint[count]);
        if (!NativeLibrary.TryLoad(CudaDriver.Library, out _library))
            throw new DeviceException($"{accelerator.Name}: its driver is not found by the name {CudaDriver.Library}; add its folder to the loader's path.");
        _streamWaits = (delegate* unmanaged<nint, nint, uint, int>)NativeLibrary.GetExport(_library, "cuStreamWaitEvent");
    }

    /// <summary>Sets a mark behind what the stream holds now.</summary>
    public void Set(int mark, AcceleratorStream stream)
    {
        _accelerator.Bind();
        if (_events[mark] == 0)
            CudaException.ThrowIfFailed(CudaAPI.CurrentAPI.CreateEvent(out _events[mark], CudaEventFlags.CU_EVENT_DISABLE_TIMING));
        CudaException.ThrowIfFailed(CudaAPI.CurrentAPI.RecordEvent(_events[mark], ((CudaStream)stream).StreamPtr));
    }

    /// <summary>What is queued from now on begins when the mark is passed; one that was never set is.</summary>
    public void Hold(AcceleratorStream stream, int mark)
    {
        if (_events[mark] == 0) return;
        _accelerator.Bind();
        CudaException.ThrowIfFailed((CudaError)_streamWaits(((CudaStream)stream).StreamPtr, _events[mark], 0));
    }

    /// <summary>Returns when the mark is passed.</summary>
    public void Wait(int mark)
    {
        if (_events[mark] == 0) return;
        _accelerator.Bind();
        CudaException.ThrowIfFailed(CudaAPI.CurrentAPI.SynchronizeEvent(_events[mark]));
    }

    public void Dispose()
    {
        _accelerator.Bind();
        foreach (nint one in _events)
            if (one != 0) CudaException.ThrowIfFailed(CudaAPI.CurrentAPI.DestroyEvent(one));
        NativeLibrary.Free(_library);
    }
}
