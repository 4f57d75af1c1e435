using System.CommandLine;
using System.Globalization;
using MimEngine.Engine.Experiments;
using MimEngine.Engine.Pretraining;

namespace MimEngine.Cli;

/// <summary><c>mim check</c>: does a device compute what the CPU computes?</summary>
internal static class CheckCommand
{
    private const int ShownRows = 12;

    public static Command Build(Terminal terminal)
    {
        ExperimentOptions experiment = new();
        Option<string?> device = Options.Device();
        Option<long?> threads = Options.Threads();
        Option<string?> run = Options.Text("--run", "RUN", "Checks a run's own experiment, from its newest checkpoint; takes no other setting.");
        Command command = new("check",
            "Computes one training step on the CPU and on another device and compares them, layer by layer: tokens after every block, "
            + "losses, gradients, parameters after one update. Names the first tensor that is off. Takes the options of 'mim pretrain'.");
        experiment.AddTo(command);
        foreach (Option option in new Option[] { device, threads, run }) command.Add(option);
        command.SetAction(parsed =>
        {
            string? folder = parsed.GetValue(run);
            if (folder is not null && experiment.Given(parsed).FirstOrDefault() is { } other)
                throw new UsageException($"{other} cannot go with --run: a run is checked with the settings in its config.json.");
            return Run(terminal.Display(), new DeviceCheckOptions
            {
                Config = folder is null ? experiment.Resolve(parsed) : new(),
                Device = parsed.GetValue(device) ?? throw new UsageException("--device is missing: which device is to be compared with the CPU?"),
                Threads = (int)(parsed.GetValue(threads) ?? 0),
                Run = folder,
            });
        });
        return command;
    }

    private static int Run(IDisplay display, DeviceCheckOptions options)
    {
        DeviceCheckResult result = DeviceCheck.Execute(options);
        display.Line($"CPU against {result.Device}; a batch of {result.Batch} from {result.Dataset}.");
        display.Table("Largest error of each stage", ["stage", "tensors", "worst", "relative error", "largest difference", "limit"],
            [.. result.Tensors.GroupBy(t => t.Stage).Select(g => (Count: g.Count(), Worst: g.MaxBy(t => t.Error)!))
                .Select(g => new[] { g.Worst.Stage, g.Count.ToString(), g.Worst.Name, Small(g.Worst.Error), Small(g.Worst.Largest),
                    Small(g.Worst.Limit) })]);
        display.Table($"The {ShownRows} tensors that differ most", ["stage", "tensor", "relative error", "largest difference"],
            [.. result.Tensors.OrderByDescending(t => t.Error / t.Limit).Take(ShownRows)
                .Select(t => new[] { t.Stage, t.Name, Small(t.Error), Small(t.Largest) })]);
        if (result.FirstDrift is not { } first)
        {
            display.Line($"All {result.Tensors.Count} tensors agree.");
            return 0;
        }
        display.Warn($"the first tensor that drifts is {first.Name} ({first.Stage}): relative error {Small(first.Error)}, allowed are "
            + $"{Small(first.Limit)}; {result.Tensors.Count(t => t.Drifts)} of {result.Tensors.Count} tensors drift.");
        return 1;
    }

    private static string Small(double error) => error.ToString("0.0e+0", CultureInfo.InvariantCulture);
}
