namespace MimEngine.Kernels;

/// <summary>Finds backends that are separate assemblies: the ILGPU one (CUDA, OpenCL, simulator), where it was built.</summary>
public static class BackendLoader
{
    /// <summary>Names that a GPU backend answers to.</summary>
    private static readonly string[] s_gpuNames = ["cuda", "opencl", "sim"];

    /// <summary>Why no GPU backend can be opened, as one clause.</summary>
    public static string WhyAbsent => "this build has no GPU backend";

    internal static Backend Open(string name)
    {
        string kind = name.Split(':')[0];
        if (s_gpuNames.Contains(kind))
            throw new DeviceException($"device '{name}': {WhyAbsent}. The cpu device needs nothing: use --device cpu.");
        throw new DeviceException($"device '{name}' is unknown. Known devices: cpu, cuda, cuda:N, opencl, opencl:N, sim.");
    }
}
