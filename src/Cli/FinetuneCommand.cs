using System.CommandLine;
using System.Globalization;
using MimEngine.Engine.Experiments;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Probing;

namespace MimEngine.Cli;

/// <summary><c>mim finetune</c>: a pretrained encoder and a classifier trained end to end, or the rest of such a run.</summary>
internal static class FinetuneCommand
{
    public static Command Build(Terminal terminal)
    {
        Option<string?> run = Options.Text("--run", "RUN", "The pretraining run: a folder, whose newest whole checkpoint is the start, or one "
            + "checkpoint file. mim import makes one of somebody else's weights.");
        Option<string?> data = Options.Data("Labelled pictures with train and test splits. [those of the run]");
        Option<string?> preset = Options.Text("--preset", "NAME", $"Settings to start from: {string.Join(", ", FinetunePresets.ByName.Keys)}. "
            + "[small-ft up to 64 pixels, mae-ft above]");
        Option<long?> pixels = Options.Number("--pixels", "N", "Side of the crops; position tables are resized. [the run's]", least: 1);
        Option<long?> epochs = Options.Number("--epochs", "N",
            "Passes over the pictures; the schedule spans them, with rates for short runs. [the preset's]", least: 1);
        Option<long?> batch = Options.Number("--batch", "N", "Pictures of one pass through the network. [the preset's]", least: 1);
        Option<long?> seed = Options.Number("--seed", "N", "Names every random number; the same seed gives the same bits. [0]");
        Option<bool> beside = Options.Flag("--beside-untrained",
            "Then train the same network from the weights the run started from: what pretraining was worth.");
        Option<string?> precision = Options.Text("--precision", "f32|bf16", "What matrix products multiply. [f32]");
        Option<string[]> set = Options.Set("--set layerDecay=0.65 --set mix.mixup=0.8 --set encoder.dropPath=0.1; config.json shows them all");
        Option<string?> output = Options.Text("--out", "RUN", "Folder of the new run; absent or empty. [runs/finetune-NNN]");
        Option<string?> device = Options.Device();
        Option<string?> resume = Options.Text("--resume", "RUN", "Continues a fine-tuning run to the same bits as if it had never stopped; takes "
            + "no other setting but --data, should the pictures have moved.");
        Option<long?> threads = Options.Threads(), loaders = Options.LoaderThreads();
        Command command = new("finetune",
            "Trains a pretrained encoder end to end with a linear classifier and scores it on the test pictures after every epoch. Writes a run "
            + "folder: config.json, metrics.jsonl, TensorBoard events, checkpoints/, finetune.json. Ctrl+C finishes the step and saves.");
        Option[] settings = [run, preset, pixels, epochs, batch, seed, beside, precision, set, output];
        foreach (Option option in (Option[])[run, data, .. settings[1..], resume, device, threads, loaders]) command.Add(option);
        command.SetAction(parsed =>
        {
            string? old = parsed.GetValue(resume), from = parsed.GetValue(run), where = parsed.GetValue(data);
            if (old is not null && settings.FirstOrDefault(o => parsed.GetResult(o) is { Implicit: false }) is { } other)
                throw new UsageException($"{other.Name} cannot go with --resume: a run continues with the settings in its config.json.");
            if (old is null && from is null)
                throw new UsageException("finetune needs --run RUN, the pretraining run to start from, or --resume RUN to continue.");
            FinetuneConfig config = new();
            if (old is null)
            {
                if (parsed.GetValue(preset) is { } name && !FinetunePresets.ByName.ContainsKey(name))
                    throw new UsageException($"--preset {name}: there is no such preset" + UsageError.OrKnown(name, FinetunePresets.ByName.Keys));
                config = FinetuneOptions.ConfigFor(from!, parsed.GetValue(preset), where, (int?)parsed.GetValue(pixels), parsed.GetValue(epochs),
                    parsed.GetValue(batch) is { } pictures ? (int)Math.Min(pictures, 1 << 20) : null);
                config = config with
                {
                    Beside = parsed.GetValue(beside),
                    Loop = config.Loop with { Seed = (ulong?)parsed.GetValue(seed) ?? config.Loop.Seed },
                };
                if (parsed.GetValue(precision) is { } word)
                    config = word is "f32" or "bf16" ? ConfigJson.Set(config, "loop.precision", word)
                        : throw new UsageException($"--precision {word}: there is f32 and bf16.");
                config = Options.Apply(config, parsed.GetValue(set));
                config.Validate();
            }
            string[] words = [.. parsed.Tokens.Select(t => t.Value)];
            return Run(terminal, new FinetuneOptions
            {
                Config = config,
                Device = parsed.GetValue(device) ?? "cpu",
                Threads = (int)(parsed.GetValue(threads) ?? 0),
                LoaderThreads = (int)(parsed.GetValue(loaders) ?? 1),
                Out = parsed.GetValue(output),
                Resume = old,
                Data = old is null ? null : where,
                Environment = (backend, step) => Machine.Environment(backend, words, step),
                Clock = Machine.UnixSeconds,
            });
        });
        return command;
    }

    private static int Run(Terminal terminal, FinetuneOptions options)
    {
        IDisplay display = terminal.Display();
        FinetuneReport? report = null;
        display.Follow("step", show => report = FinetuneRun.Execute(options, new Observer(display, show), terminal.Stop.Token));
        FinetuneReport r = report!;
        display.Table($"{r.TestData}: {r.TestPictures} pictures, {r.Classes} classes; the majority class scores {Percent(r.MajorityRate)} %",
            ["start", "step", "top-1 %", "± se", "top-5 %", "best epoch %", "test loss"],
            [.. r.Rows.Select(row => new[]
            {
                ConfigJson.Word(row.Start), $"{row.Step}", Percent(row.Last.Top1), Percent(row.StandardError), Percent(row.Last.Top5),
                Percent(row.Best.Top1), Words.Short(row.Last.Loss),
            })]);
        if (r.Gap() is { } gap)
            display.Line(string.Create(CultureInfo.InvariantCulture,
                $"Pretraining: {100 * gap.Difference:+0.00;-0.00} points over the untrained start, {gap.StandardErrors:0.0} standard errors."));
        string folder = r.Rows[0].Folder;
        bool stopped = r.Rows.Any(row => row.Interrupted);
        display.Line(stopped ? $"Stopped. Continue with: mim finetune --resume {folder}"
            : $"The whole report: {Path.Combine(folder, "finetune.json")}");
        return stopped && terminal.Stop.ExitCode != 0 ? terminal.Stop.ExitCode : 0;
    }

    private static string Percent(double share) => (100 * share).ToString("0.00", CultureInfo.InvariantCulture);

    private sealed class Observer(IDisplay display, Action<Progress> report) : IFinetuneObserver
    {
        private string _score = "";

        public void Started(FinetuneBeginning start)
        {
            (VitConfig vit, FinetuneLoop loop) = (start.Config.Encoder, start.Config.Loop);
            string batch = loop.Accumulate > 1 ? $"{loop.Batch} × {loop.Accumulate}" : $"{loop.Batch}";
            _score = "";
            display.Line($"{start.Config.Preset} from {ConfigJson.Word(start.Config.Start)} weights on {start.TrainName}: {start.TrainPictures} "
                + $"pictures, {start.Classes} classes, {vit.ImagePixels} px, batch {batch}, {start.StepsPerEpoch} steps an epoch.");
            if (start.Loaded is { } loaded) display.Line($"{loaded}");
            display.Line($"Network: {Words.Count(start.Parameters)} parameters, {vit.Width} wide, {vit.Depth} deep. {start.Device}; "
                + $"{Words.Bytes(start.Bytes)} of memory.");
            display.Line($"Run folder: {start.Folder}"
                + (start.FirstStep == 0 ? "" : $", continued at step {start.FirstStep} of {start.TotalSteps}"));
        }

        public void Progress(PretrainProgress p)
        {
            string wait = p.DataWait.ToString("P0", CultureInfo.InvariantCulture);
            string epoch = p.Epoch.ToString("0.0", CultureInfo.InvariantCulture);
            report(new(p.Step, p.TotalSteps, p.Remaining, $"epoch {epoch}  loss {Words.Short(p.Loss)}  lr {Words.Short(p.Rate)}  "
                + $"{Words.Count(p.ImagesPerSecond)} img/s  data wait {wait}{_score}"));
        }

        public void Scored(FinetuneStart start, FinetuneScore score)
        {
            _score = $"  top-1 {Percent(score.Top1)} %";
            display.Line($"epoch {score.Epoch.ToString("0.0", CultureInfo.InvariantCulture)}, from {ConfigJson.Word(start)} weights: top-1 "
                + $"{Percent(score.Top1)} %, top-5 {Percent(score.Top5)} %, test loss {Words.Short(score.Loss)}");
        }

        public void Note(string sentence) => display.Warn(sentence);
    }
}
