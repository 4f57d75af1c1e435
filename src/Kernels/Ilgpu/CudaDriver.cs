using System.Runtime.InteropServices;
using ILGPU;
using ILGPU.Runtime;
using ILGPU.Runtime.Cuda;
using MimEngine.Kernels.Ptx;

namespace MimEngine.Kernels.Ilgpu;

/// <summary>
/// Emitted PTX on a CUDA device: what ILGPU's own kernels cannot have, more than 48 KB of shared memory and the tensor cores. Kernels are
/// handed to the driver when they are first used, and kept.
/// </summary>
internal sealed unsafe class CudaDriver : IEmittedDriver
{
    /// <summary>What a grid may have along y.</summary>
    public const int MostSlices = 65_535;

    private const int MaxDynamicSharedSize = 8, MostParameters = 16;

    /// <summary>Drivers install libcuda.so.1; the name without a version, which ILGPU asks for, belongs to developers' packages.</summary>
    public static string Library => OperatingSystem.IsWindows() ? "nvcuda" : "libcuda.so.1";

    private readonly CudaAccelerator _accelerator;
    private readonly Dictionary<EmittedKey, LoadedKernel> _kernels = [];
    private readonly nint _library;
    private readonly delegate* unmanaged<nint, int, int, int> _setAttribute;

    private CudaDriver(CudaAccelerator accelerator, nint library)
    {
        (_accelerator, _library) = (accelerator, library);
        _setAttribute = (delegate* unmanaged<nint, int, int, int>)NativeLibrary.GetExport(library, "cuFuncSetAttribute");
    }

    /// <summary>None on devices without bfloat16 tensor cores (compute capability below 8.0) and on other kinds of device.</summary>
    public static CudaDriver? For(Accelerator accelerator)
        => accelerator is CudaAccelerator cuda && cuda.Architecture.Major >= 8 && NativeLibrary.TryLoad(Library, out nint library)
            ? new CudaDriver(cuda, library) : null;

    public LoadedKernel Kernel(EmittedKey key, Func<EmittedKey, PtxKernel> write)
    {
        if (_kernels.TryGetValue(key, out LoadedKernel? known)) return known;
        PtxKernel kernel = write(key);
        _accelerator.Bind();
        CudaError error = CudaAPI.CurrentAPI.LoadModule(out nint module, kernel.Text, out string? log);
        nint function = 0;
        if (error == CudaError.CUDA_SUCCESS) error = CudaAPI.CurrentAPI.GetModuleFunction(out function, module, kernel.Name);
        if (error == CudaError.CUDA_SUCCESS && kernel.SharedBytes > 0) error = (CudaError)_setAttribute(function, MaxDynamicSharedSize, kernel.SharedBytes);
        if (!IsRefusal(error)) CudaException.ThrowIfFailed(error);
        if (error != CudaError.CUDA_SUCCESS)
            throw new DeviceException($"{_accelerator.Name}: the driver refuses the kernel {kernel.Name} ({error}{Reason(log)}). --precision f32 does without tensor cores.");
        return _kernels[key] = new LoadedKernel(kernel, module, function);
    }

    public void Launch(LoadedKernel kernel, long groups, int slices, ReadOnlySpan<ulong> parameters)
    {
        if (groups == 0) return;
        if (parameters.Length != kernel.Source.Parameters.Count)
            throw new InvalidOperationException($"{kernel.Source.Name} takes {kernel.Source.Parameters.Count} parameters; {parameters.Length} were given.");
        ulong* values = stackalloc ulong[MostParameters];
        void** addresses = stackalloc void*[MostParameters];
        for (int i = 0; i < parameters.Length; i++)
        {
            values[i] = parameters[i];
            addresses[i] = values + i;
        }
        _accelerator.Bind();
        CudaException.ThrowIfFailed(CudaAPI.CurrentAPI.LaunchKernel(kernel.Function, checked((int)groups), slices, 1,
            kernel.Source.Threads, 1, 1, kernel.Source.SharedBytes, ((CudaStream)_accelerator.DefaultStream).StreamPtr, (nint)addresses, 0));
    }

    public void Dispose()
    {
        _accelerator.Bind();
        foreach (LoadedKernel k in _kernels.Values) CudaAPI.CurrentAPI.DestroyModule(k.Module);
        _kernels.Clear();
        NativeLibrary.Free(_library);
    }

    /// <summary>
    /// Of this kernel: bad values, images and sources, a missing entry. All else is what an earlier kernel left behind, or a device that is gone.
    /// </summary>
    private static bool IsRefusal(CudaError error) => (int)error is 1 or >= 200 and < 214 or > 214 and < 400 or 500 or 801;

    private static string Reason(string? log) => log?.Trim('\0', ' ', '\n') is { Length: > 0 } text ? ": " + text.ReplaceLineEndings(" ") : "";
}
