using System.CommandLine;
using MimEngine.Engine.Imaging;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;

namespace MimEngine.Cli;

/// <summary><c>mim devices</c>: what this machine and this build can compute on, and why not on the rest.</summary>
internal static class DevicesCommand
{
    public static Command Build(Terminal terminal)
    {
        Option<long?> threads = Options.Threads();
        Command command = new("devices", "Lists the devices a run can compute on, and says why others are missing.") { threads };
        command.SetAction(parsed => Run(terminal.Display(), (int)(parsed.GetValue(threads) ?? 0)));
        return command;
    }

    private static int Run(IDisplay display, int threads)
    {
        List<string[]> rows = [];
        using (Backend cpu = Backend.Open("cpu", threads)) rows.Add(["cpu", "yes", cpu.Description, ""]);
        if (BackendLoader.Provider is { } provider)
            rows.AddRange(provider.Devices().Select(d => new[] { d.Name, d.WhyRefused is null ? "yes" : "no",
                d.WhyRefused is null ? d.Description : $"{d.Description}: {d.WhyRefused}", d.MemoryBytes > 0 ? Words.Bytes(d.MemoryBytes) : "" }));
        else
            rows.AddRange(new[] { "cuda", "opencl", "sim" }.Select(name => new[] { name, "no", BackendLoader.WhyAbsent!, "" }));
        display.Table("Devices", ["name", "usable", "what it is", "memory"], rows);
        display.Line($"CPU: {Machine.CpuName()}. Choose with --device NAME; the cpu is the default.");
        display.Line($"--precision bf16 on the cpu: {CpuBackend.Bf16Description}.");
        display.Line(ImageFile.WhyNoJpeg is { } why ? $"Pictures: PNG; no JPEG: {why}" : "Pictures: PNG and JPEG can be read here.");
        return 0;
    }
}
