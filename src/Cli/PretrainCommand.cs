using System.CommandLine;
using System.Globalization;
using MimEngine.Engine.Experiments;
using MimEngine.Engine.Runs;

namespace MimEngine.Cli;

/// <summary><c>mim pretrain</c>: a new run, or the rest of one.</summary>
internal static class PretrainCommand
{
    public static Command Build(Terminal terminal)
    {
        ExperimentOptions experiment = new();
        Option<string?> device = Options.Device(), output = Options.Text("--out", "RUN", "Folder of the new run; absent or empty. [runs/RECIPE-NNN]"),
            resume = Options.Text("--resume", "RUN", "Continues a run to the same bits as if it had never stopped; takes no other setting but --data, "
                + "should the pictures have moved.");
        Option<long?> threads = Options.Threads(), loaders = Options.LoaderThreads();
        Command command = new("pretrain", "Trains an encoder to fill in the hidden parts of pictures. Writes a run folder: config.json, metrics.jsonl, "
            + "TensorBoard events, checkpoints/, pictures/. Ctrl+C finishes the step and saves; --resume continues.");
        experiment.AddTo(command);
        foreach (Option option in new Option[] { device, threads, loaders, output, resume }) command.Add(option);
        command.SetAction(parsed =>
        {
            string? run = parsed.GetValue(resume);
            if (run is not null && experiment.Given(parsed).Concat(parsed.GetResult(output) is null ? [] : ["--out"]).FirstOrDefault(o => o != "--data") is { } other)
                throw new UsageException($"{other} cannot go with --resume: a run continues with the settings in its config.json.");
            string? data = parsed.GetValue(experiment.DataPath);
            string[] words = [.. parsed.Tokens.Select(t => t.Value)];
            return Run(terminal, new PretrainOptions
            {
                Config = run is null ? experiment.Resolve(parsed) : new(),
                Device = parsed.GetValue(device) ?? "cpu",
                Threads = (int)(parsed.GetValue(threads) ?? 0),
                LoaderThreads = (int)(parsed.GetValue(loaders) ?? 1),
                Out = parsed.GetValue(output),
                Resume = run,
                Data = run is null ? null : data,
                Environment = (backend, step) => Machine.Environment(backend, words, step),
                Clock = Machine.UnixSeconds,
            });
        });
        return command;
    }

    private static int Run(Terminal terminal, PretrainOptions options)
    {
        IDisplay display = terminal.Display();
        PretrainResult? result = null;
        display.Follow("step", report => result = PretrainRun.Execute(options, new Observer(display, report), terminal.Stop.Token));
        PretrainResult done = result!;
        foreach (string picture in done.Pictures.TakeLast(1)) display.Line($"Reconstructions: {picture}");
        display.Line($"{(done.Interrupted ? "Stopped" : "Done")} at step {done.Step}: loss {Words.Short(done.Loss)}, {Words.Duration(TimeSpan.FromSeconds(done.Seconds))}, "
            + $"{Words.Count(done.ImagesPerSecond)} img/s, {Words.Bytes(done.AllocatedBytes)} used of {Words.Bytes(done.PlannedBytes)} planned.");
        display.Line(done.Interrupted ? $"Continue with: mim pretrain --resume {done.Folder}" : $"What did it learn? mim probe --run {done.Folder}");
        return done.Interrupted && terminal.Stop.ExitCode != 0 ? terminal.Stop.ExitCode : 0;
    }

    private sealed class Observer(IDisplay display, Action<Progress> report) : IPretrainObserver
    {
        public void Started(PretrainStart start)
        {
            display.Line($"{start.Config.Recipe} on {start.Dataset}: {start.Pictures} pictures, {start.Config.Encoder.ImagePixels} px, "
                + $"batch {start.Config.Run.Batch}{(start.Config.Run.Accumulate > 1 ? $" × {start.Config.Run.Accumulate}" : "")}, {start.StepsPerEpoch} steps an epoch.");
            display.Line($"Encoder: {Words.Count(start.Plan.Parameters)} parameters, {start.Config.Encoder.Width} wide, {start.Config.Encoder.Depth} deep. "
                + $"{start.Device}; {Words.Bytes(start.Plan.TotalBytes)} of memory.");
            display.Line(start.FirstStep == 0 ? $"Run folder: {start.Folder}" : $"Run folder: {start.Folder}, continued at step {start.FirstStep} of {start.TotalSteps}");
        }

        public void Progress(PretrainProgress p) => report(new(p.Step, p.TotalSteps, p.Remaining, string.Create(CultureInfo.InvariantCulture,
            $"epoch {p.Epoch:0.0}  loss {Words.Short(p.Loss)}  lr {Words.Short(p.Rate)}  {Words.Count(p.ImagesPerSecond)} img/s  data wait {p.DataWait:P0}")));

        public void Note(string sentence) => display.Warn(sentence);
    }
}
