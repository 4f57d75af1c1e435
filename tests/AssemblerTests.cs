using System.Collections.Concurrent;
using System.Diagnostics;
using System.Text.RegularExpressions;
using MimEngine.Kernels;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Every kernel's PTX through NVIDIA's assembler, for the oldest and the newest GPU it is meant for. Skipped where there is no ptxas.</summary>
[TestFixture]
public class AssemblerTests
{
    /// <summary>Bytes of registers that one kernel may put aside in memory.</summary>
    private const int MostSpilled = 256;

    [TestCase("sm_80")]
    [TestCase("sm_90")]
    public void Ptxas_takes_every_kernel_and_keeps_it_in_registers(string architecture)
    {
        if (BackendLoader.WhyAbsent is { } why) Assert.Ignore(why);
        string? assembler = (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator).Append("/usr/local/cuda/bin")
            .Select(folder => Path.Combine(folder, "ptxas")).FirstOrDefault(File.Exists);
        if (assembler is null) Assert.Ignore("there is no ptxas on this machine (CUDA's toolkit has it; Debian: nvidia-cuda-toolkit)");
        string folder = Directory.CreateTempSubdirectory("mim-ptxas-").FullName;
        ConcurrentBag<string> wrong = [];
        ConcurrentBag<(string Kernel, int Registers, int Spilled)> all = [];
        try
        {
            EmittedKernel[] kernels = [.. BackendLoader.Provider!.Emit().Where(k => k.Language.StartsWith("PTX"))];
            Parallel.ForEach(kernels.Select((k, i) => (k, i)), new ParallelOptions { MaxDegreeOfParallelism = 2 }, one =>
            {
                string file = Path.Combine(folder, $"{one.i}.ptx");
                File.WriteAllText(file, one.k.Text);
                using Process process = Process.Start(new ProcessStartInfo(assembler, ["-v", "-arch=" + architecture, file, "-o", file + ".cubin"])
                    { RedirectStandardError = true, RedirectStandardOutput = true })!;
                string report = process.StandardError.ReadToEnd() + process.StandardOutput.ReadToEnd();
                process.WaitForExit();
                int Number(string pattern) => Regex.Match(report, pattern) is { Success: true } m ? int.Parse(m.Groups[1].Value) : -1;
                int registers = Number(@"Used (\d+) registers"), spilled = Number(@"(\d+) bytes spill stores");
                all.Add((one.k.Kernel, registers, spilled));
                if (process.ExitCode != 0 || registers < 0 || spilled > MostSpilled) wrong.Add($"{one.k.Kernel}: {report.Trim()}");
            });
        }
        finally { Directory.Delete(folder, recursive: true); }
        foreach ((string kernel, int registers, int spilled) in all.OrderByDescending(k => k.Registers).Take(15))
            TestContext.Out.WriteLine($"{kernel}: {registers} registers, {spilled} bytes of them in memory");
        Assert.That(all, Has.Count.GreaterThan(100));
        Assert.That(wrong, Is.Empty);
    }
}
