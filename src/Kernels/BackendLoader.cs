using System.Reflection;
using System.Runtime.Loader;

namespace MimEngine.Kernels;

/// <summary>One device that a backend found, usable or not.</summary>
/// <param name="Name">As a user types it: "cuda:0".</param>
/// <param name="Description">Hardware, for people.</param>
/// <param name="MemoryBytes">Memory of the device; 0 = unknown.</param>
/// <param name="WhyRefused">Why it cannot be used, or none.</param>
public sealed record DeviceReport(string Name, string Description, long MemoryBytes, string? WhyRefused);

/// <summary>The text of one kernel for one kind of device.</summary>
/// <param name="Kernel">The kernel's type.</param>
/// <param name="Language">"PTX" or "OpenCL C".</param>
/// <param name="Text">The source that a driver would be given.</param>
public sealed record EmittedKernel(string Kernel, string Language, string Text);

/// <summary>What a separate backend assembly offers. Its one public type with a parameterless constructor implements this.</summary>
public interface IBackendProvider
{
    /// <summary>Every device of every kind it knows, also refused ones; a kind without devices gives one line that says why.</summary>
    IReadOnlyList<DeviceReport> Devices();

    /// <summary>Opens a device.</summary>
    /// <exception cref="DeviceException">It is absent or refused, or has not the precision.</exception>
    Backend Open(string name, Precision precision);

    /// <summary>Every kernel as text, without a device.</summary>
    IEnumerable<EmittedKernel> Emit();
}

/// <summary>Finds backends that are separate assemblies: the ILGPU one (CUDA, OpenCL, simulator), in backends/ilgpu/ beside the program.</summary>
public static class BackendLoader
{
    private const string AssemblyFile = "MimEngine.Kernels.Ilgpu.dll", ReasonFile = "left-out.txt";

    /// <summary>Names that a GPU backend answers to.</summary>
    private static readonly string[] s_gpuNames = ["cuda", "opencl", "sim", "simulator"];

    private static readonly Lock s_gate = new();
    private static IBackendProvider? s_provider;
    private static string? s_whyAbsent;

    /// <summary>Why no GPU backend can be opened, as one clause; none when it is there.</summary>
    public static string? WhyAbsent
    {
        get
        {
            _ = Provider;
            return s_whyAbsent;
        }
    }

    /// <summary>The GPU backend, loaded on first use, or none; then <see cref="WhyAbsent"/> says why.</summary>
    public static IBackendProvider? Provider
    {
        get
        {
            lock (s_gate)
            {
                if (s_provider is null && s_whyAbsent is null) Load(Path.Combine(AppContext.BaseDirectory, "backends", "ilgpu"));
                return s_provider;
            }
        }
    }

    internal static Backend Open(string name, Precision precision)
    {
        string kind = name.Split(':')[0];
        if (!s_gpuNames.Contains(kind))
            throw new DeviceException($"device '{name}' is unknown. Known devices: cpu, cuda, cuda:N, opencl, opencl:N, sim.");
        return Provider?.Open(name, precision)
            ?? throw new DeviceException($"device '{name}': {WhyAbsent}. The cpu device needs nothing: use --device cpu.");
    }

    private static void Load(string folder)
    {
        string assembly = Path.Combine(folder, AssemblyFile), reason = Path.Combine(folder, ReasonFile);
        if (!File.Exists(assembly))
        {
            s_whyAbsent = File.Exists(reason)
                ? $"this build has no GPU backend ({File.ReadAllText(reason).Trim().TrimEnd('.')})"
                : "this build has no GPU backend";
            return;
        }
        try
        {
            Type provider = new Folder(folder).LoadFromAssemblyPath(assembly).GetExportedTypes()
                .Single(t => typeof(IBackendProvider).IsAssignableFrom(t) && !t.IsAbstract);
            s_provider = (IBackendProvider)Activator.CreateInstance(provider)!;
        }
        catch (Exception e) when (e is IOException or BadImageFormatException or TypeLoadException or ReflectionTypeLoadException
            or MissingMethodException or TargetInvocationException or InvalidOperationException)
        {
            s_whyAbsent = $"the GPU backend in {folder} cannot be loaded: {e.Message.ReplaceLineEndings(" ").TrimEnd('.')}";
        }
    }

    /// <summary>Loads the backend's own libraries from its folder; this assembly stays the one that is running.</summary>
    private sealed class Folder(string path) : AssemblyLoadContext("ilgpu")
    {
        protected override Assembly? Load(AssemblyName name)
            => name.Name == typeof(Backend).Assembly.GetName().Name ? typeof(Backend).Assembly
                : File.Exists(Path.Combine(path, name.Name + ".dll")) ? LoadFromAssemblyPath(Path.Combine(path, name.Name + ".dll")) : null;
    }
}
