using System.CommandLine;
using System.Globalization;
using MimEngine.Engine.Analysis;
using MimEngine.Engine.Experiments;

namespace MimEngine.Cli;

/// <summary><c>mim analyze</c>: what the attention of a trained encoder does, beside the same encoder untrained.</summary>
internal static class AnalyzeCommand
{
    public static Command Build(Terminal terminal)
    {
        Option<string?> run = Options.Text("--run", "RUN", "A run folder, whose newest whole checkpoint is looked at, or one checkpoint file.");
        Option<string?> data = Options.Data("Pictures to look at. [those of the run]"), device = Options.Device();
        Option<long?> count = Options.Number("--count", "N", "Pictures. [64]", least: 1);
        Option<long?> threads = Options.Threads(), loaders = Options.LoaderThreads();
        run.Required = true;
        Command command = new("analyze",
            "Attention statistics of every block and head: how far patches look, whether they look alike (NMI), how selective they are "
            + "(entropy), what [cls] takes from them. Writes analysis/attention-….json and one picture into the run folder.");
        foreach (Option option in new Option[] { run, data, count, device, threads, loaders }) command.Add(option);
        command.SetAction(parsed =>
        {
            IDisplay display = terminal.Display();
            AttentionReport r = AnalyzeRun.Execute(new AnalyzeOptions
            {
                Run = parsed.GetValue(run)!,
                Data = parsed.GetValue(data),
                Device = parsed.GetValue(device) ?? "cpu",
                Threads = (int)(parsed.GetValue(threads) ?? 0),
                LoaderThreads = (int)(parsed.GetValue(loaders) ?? 1),
                Count = (int)Math.Min(parsed.GetValue(count) ?? 64, 4096),
            }, display.Warn);
            display.Table($"{r.Recipe}, step {r.Step}: attention on {r.Count} pictures of {r.Pictures} (random-init in brackets)",
                ["block", "distance px", "NMI", "entropy of patches", "entropy of [cls]", "patch to [cls]", "branch / stream"],
                [.. r.Trained.Zip(r.RandomInit).Select(p => Row(p.First, p.Second))]);
            if (r.LooksUntrained)
                display.Warn("Distance and NMI of every block are within three standard errors of the untrained encoder's: these curves show no training.");
            display.Line($"{r.Files[0]}: all statistics by block and head.");
            display.Line($"{r.Files[1]}: a row a block; bars are heads (height distance, brightness NMI), then what [cls] attends to, head by head.");
            return 0;
        });
        return command;
    }

    private static string[] Row(BlockStatistics own, BlockStatistics random)
    {
        string pair(Func<HeadStatistics, double> of, string format) => Pair(of(own.Mean), of(random.Mean), format);
        return
        [
            own.Block.ToString(CultureInfo.InvariantCulture), pair(s => s.Distance, "0.00"), pair(s => s.Nmi, "0.000"),
            pair(s => s.PatchEntropy, "0.00"), pair(s => s.ClsEntropy, "0.00"), pair(s => s.PatchCls, "0.000"),
            Pair(own.PatchMagnitude, random.PatchMagnitude, "0.00"),
        ];
    }

    private static string Pair(double own, double random, string format)
        => $"{own.ToString(format, CultureInfo.InvariantCulture)} ({random.ToString(format, CultureInfo.InvariantCulture)})";
}
