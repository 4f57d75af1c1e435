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
        string[] names = ["cpu", "cuda", "opencl", "sim"];
        display.Table("Devices", ["name", "usable", "what it is"], [.. names.Select(name => Row(name, threads))]);
        display.Line($"CPU: {Machine.CpuName()}. Choose with --device NAME; the cpu is the default.");
        display.Line($"--precision bf16 on the cpu: {CpuBackend.Bf16Description}.");
        display.Line(ImageFile.WhyNoJpeg is { } why ? $"Pictures: PNG; no JPEG: {why}" : "Pictures: PNG and JPEG can be read here.");
        return 0;
    }

    private static string[] Row(string name, int threads)
    {
        try
        {
            using Backend backend = Backend.Open(name, threads);
            return [name, "yes", backend.Description];
        }
        catch (DeviceException e) { return [name, "no", e.Message]; }
    }
}
