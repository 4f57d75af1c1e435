using System.CommandLine;
using System.Globalization;
using MimEngine.Engine.Experiments;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Runs;

namespace MimEngine.Cli;

/// <summary><c>mim pretrain</c>: a new run, or the rest of one.</summary>
internal static class PretrainCommand
{
    public static Command Build(Terminal terminal)
    {
        ExperimentOptions experiment = new();
        Option<string?> device = Options.Device();
        Option<string?> output = Options.Text("--out", "RUN", "Folder of the new run; absent or empty. [runs/RECIPE-NNN]");
        Option<string?> resume = Options.Text("--resume", "RUN", "Continues a run to the same bits as if it had never stopped; takes no "
            + "other setting but --data, should the pictures have moved.");
        Option<long?> threads = Options.Threads(), loaders = Options.LoaderThreads();
        Command command = new("pretrain",
            "Trains an encoder to fill in the hidden parts of pictures. Writes a run folder: config.json, metrics.jsonl, "
            + "TensorBoard events, checkpoints/, pictures/. Ctrl+C finishes the step and saves; --resume continues.");
        experiment.AddTo(command);
        foreach (Option option in new Option[] { device, threads, loaders, output, resume }) command.Add(option);
        command.SetAction(parsed =>
        {
            string? run = parsed.GetValue(resume);
            IEnumerable<string> given = experiment.Given(parsed).Concat(parsed.GetResult(output) is null ? [] : ["--out"]);
            if (run is not null && given.FirstOrDefault(o => o != "--data") is { } other)
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
        display.Line($"{(done.Interrupted ? "Stopped" : "Done")} at step {done.Step}: loss {Words.Short(done.Loss)}, "
            + $"{Words.Duration(TimeSpan.FromSeconds(done.Seconds))}, {Words.Count(done.ImagesPerSecond)} img/s, "
            + $"{Words.Bytes(done.AllocatedBytes)} used of {Words.Bytes(done.PlannedBytes)} planned.");
        display.Line(done.Interrupted ? $"Continue with: mim pretrain --resume {done.Folder}"
            : $"What did it learn? mim probe --run {done.Folder}");
        return done.Interrupted && terminal.Stop.ExitCode != 0 ? terminal.Stop.ExitCode : 0;
    }

    private sealed class Observer(IDisplay display, Action<Progress> report) : IPretrainObserver
    {
        public void Started(PretrainStart start)
        {
            (VitConfig vit, RunConfig run) = (start.Config.Encoder, start.Config.Run);
            string batch = run.Accumulate > 1 ? $"{run.Batch} × {run.Accumulate}" : $"{run.Batch}";
            display.Line($"{start.Config.Recipe} on {start.Dataset}: {start.Pictures} pictures, {vit.ImagePixels} px, batch {batch}, "
                + $"{start.StepsPerEpoch} steps an epoch.");
            display.Line($"Encoder: {Words.Count(start.Plan.Parameters)} parameters, {vit.Width} wide, {vit.Depth} deep. "
                + $"{start.Device}; {Words.Bytes(start.Plan.TotalBytes)} of memory.");
            display.Line($"Run folder: {start.Folder}"
                + (start.FirstStep == 0 ? "" : $", continued at step {start.FirstStep} of {start.TotalSteps}"));
        }

        public void Progress(PretrainProgress p)
        {
            string wait = p.DataWait.ToString("P0", CultureInfo.InvariantCulture);
            string epoch = p.Epoch.ToString("0.0", CultureInfo.InvariantCulture);
            report(new(p.Step, p.TotalSteps, p.Remaining, $"epoch {epoch}  loss {Words.Short(p.Loss)}  lr {Words.Short(p.Rate)}  "
                + $"{Words.Count(p.ImagesPerSecond)} img/s  data wait {wait}"));
        }

        public void Note(string sentence) => display.Warn(sentence);
    }
}
