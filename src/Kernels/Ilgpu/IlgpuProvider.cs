using System.Runtime.InteropServices;
using ILGPU;
using ILGPU.Backends.OpenCL;
using ILGPU.Runtime;
using ILGPU.Runtime.CPU;
using ILGPU.Runtime.Cuda;
using ILGPU.Runtime.OpenCL;
using MimEngine.Kernels.Ptx;

namespace MimEngine.Kernels.Ilgpu;

/// <summary>The devices that ILGPU reaches: CUDA, OpenCL, and its simulator of a GPU on the CPU.</summary>
public sealed class IlgpuProvider : IBackendProvider, ITestedDriver
{
    private const string Simulator = "sim";

    /// <summary>What a test does to the driver of the next device, and did to that of the one before.</summary>
    private DriverFault? _next, _last;

    static IlgpuProvider() => FindLibraries();

    public IReadOnlyList<DeviceReport> Devices() => [.. Cuda(), .. OpenCl(),
        new DeviceReport(Simulator, "ILGPU's simulator: one group of 16 threads on the CPU, for checking kernels; slow", 0, null)];

    public Backend Open(string name, Precision precision)
    {
        string[] parts = name.Split(':');
        int index = 0;
        if (parts.Length > 2 || parts.Length == 2 && (!int.TryParse(parts[1], out index) || index < 0))
            throw new DeviceException($"device '{name}': after the colon comes the number of a device, as in {parts[0]}:1.");
        return parts[0] switch
        {
            "cuda" => OpenGpu<CudaDevice>(name, index, precision, b => b.Cuda(), Cuda),
            "opencl" => OpenGpu<CLDevice>(name, index, precision, b => b.OpenCL(), OpenCl),
            _ => OpenSimulator(precision),
        };
    }

    public IEnumerable<EmittedKernel> Emit() => Emission.All();

    void ITestedDriver.FailNext(long calls, string message) => _next = new DriverFault(calls, message);

    void ITestedDriver.SkipLaunchesOfNext(IPtxRunner? runner) => _next = new DriverFault(long.MaxValue, "") { Skips = true, Runner = runner };

    void ITestedDriver.RunEmittedOfNext(IPtxRunner runner) => _next = new DriverFault(long.MaxValue, "") { Runner = runner };

    long ITestedDriver.CallsOfLast => _last?.Calls ?? 0;

    private DriverFault? TakeFault()
    {
        if (_next is null) return null;
        (_last, _next) = (_next, null);
        return _last;
    }

    private IlgpuBackend OpenSimulator(Precision precision)
    {
        Context context = Context.Create(b => b.CPU(CPUDeviceKind.Default).Optimize(OptimizationLevel.O1));
        return new IlgpuBackend(Simulator, context, context.GetCPUDevice(0).CreateAccelerator(context), precision, TakeFault());
    }

    /// <summary>Numbers count the usable devices of a kind, in the order of <see cref="Devices"/>.</summary>
    private IlgpuBackend OpenGpu<TDevice>(string name, int index, Precision precision,
        Action<Context.Builder> register, Func<IEnumerable<DeviceReport>> list) where TDevice : Device
    {
        Context context = Context.Create(b =>
        {
            b.Optimize(OptimizationLevel.O2);
            register(b);
        });
        var devices = context.GetDevices<TDevice>();
        if (index >= devices.Count)
        {
            context.Dispose();
            string known = devices.Count > 0 ? $"the last one is {name.Split(':')[0]}:{devices.Count - 1}"
                : string.Join("; ", list().Select(d => d.WhyRefused).Where(w => w is not null).Distinct());
            throw new DeviceException($"device '{name}' is not there: {known}. 'mim devices' lists what can be used.");
        }
        try
        {
            return new IlgpuBackend(name, context, devices[index].CreateAccelerator(context), precision, TakeFault());
        }
        catch (Exception e)
        {
            string device = devices[index].Name;
            context.Dispose();
            if (e is AcceleratorException or NotSupportedException)
                throw new DeviceException($"device '{name}' ({device}) refused to start: {OneLine(e)}", e);
            throw;
        }
    }

    private static string OpenClLibrary => OperatingSystem.IsWindows() ? "OpenCL" : "libOpenCL.so.1";

    /// <summary>Drivers install libcuda.so.1 and libOpenCL.so.1; ILGPU asks for names without a number, which belong to developers' packages.</summary>
    private static void FindLibraries()
    {
        // Under Windows' Linux ILGPU looks for CUDA by itself, in /usr/lib/wsl/lib.
        bool wsl = Directory.Exists("/usr/lib/wsl/lib");
        try
        {
            NativeLibrary.SetDllImportResolver(typeof(Context).Assembly, (name, assembly, path) =>
            {
                string? library = name == "cuda" && !wsl ? CudaDriver.Library : name == "OpenCL" ? OpenClLibrary : null;
                return library is not null && NativeLibrary.TryLoad(library, out nint found) ? found : 0;
            });
        }
        catch (InvalidOperationException)
        {
            // Somebody else resolves for ILGPU already.
        }
    }

    private static IEnumerable<DeviceReport> Cuda()
    {
        if (!NativeLibrary.TryLoad(CudaDriver.Library, out nint handle))
            return [new DeviceReport("cuda", "NVIDIA GPUs", 0, $"there is no NVIDIA driver ({CudaDriver.Library}) on this machine")];
        NativeLibrary.Free(handle);
        using Context context = Context.Create(b => b.Cuda());
        List<DeviceReport> found = [];
        foreach (CudaDevice d in context.GetDevices<CudaDevice>()) found.Add(new DeviceReport($"cuda:{found.Count}", d.Name, d.MemorySize, null));
        return found.Count > 0 ? found : [new DeviceReport("cuda", "NVIDIA GPUs", 0,
            "the NVIDIA driver is there but shows no device that ILGPU 1.5.3 can use (no GPU, no permission, or a driver that is too old)")];
    }

    private static IEnumerable<DeviceReport> OpenCl()
    {
        if (!NativeLibrary.TryLoad(OpenClLibrary, out nint handle) && !NativeLibrary.TryLoad("libOpenCL.so", out handle))
            return [new DeviceReport("opencl", "OpenCL devices", 0, $"there is no OpenCL driver ({OpenClLibrary}) on this machine")];
        NativeLibrary.Free(handle);
        List<DeviceReport> all = [];
        int usable = 0;
        foreach (CLDevice d in CLDevice.GetDevices(_ => true).OfType<CLDevice>())
        {
            string? why = d.CLStdVersion < CLBackend.MinimumVersion
                ? $"its OpenCL C is {d.CLStdVersion}; ILGPU needs {CLBackend.MinimumVersion} or newer"
                : !d.Capabilities.GenericAddressSpace ? "its driver lacks OpenCL's generic address space, which ILGPU needs" : null;
            all.Add(new DeviceReport(why is null ? $"opencl:{usable++}" : "opencl", $"{d.Name} ({d.PlatformName})", d.MemorySize, why));
        }
        return all.Count > 0 ? all : [new DeviceReport("opencl", "OpenCL devices", 0, "the OpenCL loader is there but shows no device")];
    }

    internal static string OneLine(Exception e) => e.Message.ReplaceLineEndings(" ").Trim();
}
