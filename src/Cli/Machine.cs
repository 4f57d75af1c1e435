using System.Reflection;
using System.Runtime.InteropServices;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;

namespace MimEngine.Cli;

/// <summary>What the engine may not ask for itself: version, machine, clock.</summary>
internal static class Machine
{
    public static string Version
        => typeof(Machine).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion ?? "unknown";

    /// <summary>Seconds since 1970.</summary>
    public static double UnixSeconds() => (DateTime.UtcNow - DateTime.UnixEpoch).TotalSeconds;

    /// <summary>Name of the processor, as the system tells it.</summary>
    public static string CpuName()
    {
        string name = RuntimeInformation.ProcessArchitecture.ToString();
        if (!File.Exists("/proc/cpuinfo")) return name;
        string? line = File.ReadLines("/proc/cpuinfo").FirstOrDefault(l => l.StartsWith("model name", StringComparison.Ordinal));
        return line?[(line.IndexOf(':') + 1)..].Trim() ?? name;
    }

    /// <summary>How a run was started, for environment.json.</summary>
    /// <param name="step">Updates done before this start.</param>
    public static EnvironmentRecord Environment(Backend backend, string[] commandLine, long step) => new(Version,
        RuntimeInformation.FrameworkDescription, RuntimeInformation.OSDescription, CpuName(), $"{backend.Name}: {backend.Description}",
        backend is CpuBackend cpu ? cpu.Threads : 0, (backend as CpuBackend)?.Level.ToString() ?? "",
        "mim " + string.Join(' ', commandLine.Select(Quoted)),
        DateTime.UtcNow.ToString("yyyy-MM-dd'T'HH:mm:ss'Z'", System.Globalization.CultureInfo.InvariantCulture), step);

    private static string Quoted(string word) => word.Length > 0 && word.All(c => char.IsAsciiLetterOrDigit(c) || "-_=./:,+".Contains(c))
        ? word : $"'{word.Replace("'", @"'\''")}'";
}
