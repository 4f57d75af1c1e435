using System.CommandLine;
using System.Globalization;
using MimEngine.Engine.Experiments;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Probing;

namespace MimEngine.Cli;

/// <summary><c>mim probe</c>: what a pretrained encoder knows, beside the same encoder untrained.</summary>
internal static class ProbeCommand
{
    public static Command Build(Terminal terminal)
    {
        Option<string?> run = Options.Text("--run", "RUN",
            "A run folder, whose newest whole checkpoint is probed, or one checkpoint file.");
        Option<string?> data = Options.Data("Labelled pictures with train and test splits. [those of the run]");
        Option<string?> preset = Options.Text("--probe", "NAME",
            $"How to probe: {string.Join(", ", ProbePresets.ByName.Keys)}. [{ProbePresets.ByName.Keys.First()}]");
        Option<string?> only = Options.Text("--only", "KIND", "knn or linear: leaves the other out."), device = Options.Device();
        Option<string?> beside = Options.Text("--beside", "LIST",
            "More aggregations trained on the same pass, as cls,mean-patches,ab-milp: their accuracies beside each other. [the preset's]");
        Option<string?> rates = Options.Text("--rates", "LIST", "Peak learning rates trained side by side, as 0.8,1.6,3.2. [the preset's]");
        Option<long?> block = Options.Number("--block", "N", "Block whose output is read, from 1; 0 is the last. [the preset's]");
        Option<long?> epochs = Options.Number("--epochs", "N", "Passes of the linear probe. [the preset's]", least: 1);
        Option<long?> seed = Options.Number("--seed", "N", "Of the probe's shuffles and start. [0]");
        Option<string?> shots = Options.Text("--shots", "LIST",
            "Low-shot k-NN with so many labelled pictures of each class, as 1,5,10,20: mean and deviation of five supports. [none]");
        Option<string?> masked = Options.Text("--masked", "LIST",
            "Test pictures again with so large a share of their most attended patches black, as 0.1,0.3,0.5,0.7. [none]");
        Option<string?> attentioner = Options.Text("--attentioner", "RUN", "Whose attention --masked reads. [the run that is probed]");
        Option<long?> threads = Options.Threads(), loaders = Options.LoaderThreads();
        Option<string[]> set = Options.Set("--set pooling=cls --set optim.rate=0.1");
        run.Required = true;
        Command command = new("probe",
            "Freezes a pretrained encoder and asks what its features tell: weighted k-NN and a linear classifier, always beside the "
            + "encoder the run started from. Writes probes/…json into the run folder.");
        Option[] all = [run, data, preset, beside, rates, only, shots, masked, attentioner, block, epochs, seed, set, device, threads, loaders];
        foreach (Option option in all) command.Add(option);
        command.SetAction(parsed =>
        {
            string? kind = parsed.GetValue(only);
            if (kind is not (null or "knn" or "linear")) throw new UsageException($"--only {kind}: write knn or linear.");
            ProbeConfig config = Named(parsed.GetValue(preset));
            config = config with
            {
                Block = (int?)parsed.GetValue(block) ?? config.Block,
                Epochs = (int?)parsed.GetValue(epochs) ?? config.Epochs,
                Seed = (ulong?)parsed.GetValue(seed) ?? config.Seed,
                Rates = parsed.GetValue(rates) is { } list ? Rates(list) : config.Rates,
            };
            if (parsed.GetValue(shots) is { } few) config = config with { Shots = [.. Numbers("--shots", few, "1,5,10,20").Select(v => (int)v)] };
            if (parsed.GetValue(masked) is { } shares) config = config with { Masked = Numbers("--masked", shares, "0.1,0.3,0.5") };
            if (parsed.GetValue(attentioner) is { } eyes) config = config with { Attentioner = eyes };
            config = Options.Apply(config, parsed.GetValue(set));
            if (parsed.GetValue(beside) is { } more) config = config with { Beside = [.. Poolings(more).Where(p => p != config.Pooling)] };
            return Run(terminal, new ProbeOptions
            {
                Run = parsed.GetValue(run)!,
                Data = parsed.GetValue(data),
                Device = parsed.GetValue(device) ?? "cpu",
                Threads = (int)(parsed.GetValue(threads) ?? 0),
                LoaderThreads = (int)(parsed.GetValue(loaders) ?? 1),
                Knn = kind != "linear",
                Linear = kind != "knn",
                Config = config,
            });
        });
        return command;
    }

    private static IEnumerable<Pooling> Poolings(string list) => list.Split(',', StringSplitOptions.TrimEntries).Distinct().Select(word =>
        ConfigJson.Choice<Pooling>(word) ?? throw new UsageException($"--beside {word}: there is no such aggregation"
            + UsageError.OrKnown(word, Enum.GetValues<Pooling>().Select(ConfigJson.Word))));

    private static double[] Rates(string list) => Numbers("--rates", list, "0.8,1.6,3.2");

    private static double[] Numbers(string option, string list, string like) => [.. list.Split(',', StringSplitOptions.TrimEntries).Select(word =>
        double.TryParse(word, NumberStyles.Float, CultureInfo.InvariantCulture, out double number) ? number
            : throw new UsageException($"{option} {word}: is not a number; write them as {like}."))];

    private static ProbeConfig Named(string? name) => name is null ? ProbePresets.ByName.First().Value()
        : ProbePresets.ByName.TryGetValue(name, out Func<ProbeConfig>? make) ? make()
        : throw new ConfigException($"--probe {name}: there is no such probe" + UsageError.OrKnown(name, ProbePresets.ByName.Keys));

    private static int Run(Terminal terminal, ProbeOptions options)
    {
        IDisplay display = terminal.Display();
        ProbeReport? report = null;
        display.Follow("", show => report = ProbeRun.Execute(options, new Observer(display, show), terminal.Stop.Token));
        ProbeReport r = report!;
        string title = $"{r.Recipe}, step {r.Step}, on {r.TestData} ({r.TestPictures} pictures, {r.Classes} classes; the majority class "
            + $"scores {Percent(r.MajorityRate)} %)";
        display.Table(title, ["probe", "encoder", "top-1 %", "± se", "top-5 %", "best epoch %"], [.. r.Rows.Select(Row)]);
        foreach (ProbeGap gap in r.Gaps)
        {
            string points = (100 * gap.Difference).ToString("+0.00;-0.00", CultureInfo.InvariantCulture);
            string errors = gap.StandardErrors.ToString("0.0", CultureInfo.InvariantCulture);
            display.Line($"{gap.Name}: {points} points against random-init, {errors} standard errors"
                + (gap.WithinNoise ? ": within noise." : "."));
        }
        if (r.Aggregations.Count > 1)
            display.Table("Aggregations, each at the rate that scores best on these test pictures",
                ["aggregation", "rate", "pretrained %", "random-init %", "over [cls]", "standard errors"],
                [.. r.Aggregations.Select(a => new[]
                {
                    ConfigJson.Word(a.Pooling), Words.Short(a.Rate), Percent(a.Top1), Percent(a.RandomTop1),
                    a.OverCls is { } over ? (100 * over).ToString("+0.00;-0.00", CultureInfo.InvariantCulture) : "–",
                    a.StandardErrors is { } errors ? errors.ToString("0.0", CultureInfo.InvariantCulture) : "–",
                })]);
        if (r.LowShot.Count > 0)
            display.Table("Low-shot k-NN: mean ± deviation of five supports", ["pictures a class", "k", "encoder", "top-1 %", "± sd", "supports"],
                [.. r.LowShot.Select(s => new[]
                {
                    s.Shots.ToString(CultureInfo.InvariantCulture), s.Neighbours.ToString(CultureInfo.InvariantCulture), s.Encoder, Percent(s.Mean),
                    Percent(s.Deviation), s.Draws.Length.ToString(CultureInfo.InvariantCulture),
                })]);
        if (r.Masked.Count > 0)
            display.Table("Test pictures without their most attended patches, top-1 %",
                ["probe", "encoder", .. r.Config.Masked.Select(m => Percent(m) + " % black")],
                [.. r.Masked.GroupBy(m => (m.Name, m.Encoder)).Select(g => (string[])
                    [g.Key.Name, g.Key.Encoder, .. r.Config.Masked.Select(m => Percent(g.First(row => row.Ratio == m).Top1))])]);
        display.Line($"Features: {r.FeatureSentence}. The whole report is in the run's folder probes/.");
        return 0;
    }

    private static string[] Row(ProbeRow row) =>
    [
        row.Name, row.Encoder, Percent(row.Top1), Percent(row.StandardError), Percent(row.Top5),
        row.BestTop1 is { } best ? Percent(best) : "–",
    ];

    private static string Percent(double share) => (100 * share).ToString("0.00", CultureInfo.InvariantCulture);

    private sealed class Observer(IDisplay display, Action<Progress> report) : IProbeObserver
    {
        public void Progress(string what, int done, int total) => report(new(done, total, null, what));

        public void Epoch(string encoder, SideProbe probe, ProbeEpoch epoch, int epochs) => report(new(epoch.Epoch, epochs, null,
            $"linear probe, {encoder}, {ConfigJson.Word(probe.Pooling)}: loss {Words.Short(epoch.Loss)}, top-1 {Percent(epoch.Top1)} %"));

        public void Note(string sentence) => display.Warn(sentence);
    }
}
