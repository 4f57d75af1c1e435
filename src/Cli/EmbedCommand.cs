using System.CommandLine;
using MimEngine.Engine.Data;
using MimEngine.Engine.Experiments;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Probing;

namespace MimEngine.Cli;

/// <summary><c>mim embed</c>: features of pictures for other programs.</summary>
internal static class EmbedCommand
{
    private const string Tokens = "tokens";

    private static readonly Dictionary<string, Split> s_splits = new() { ["all"] = Split.All, ["train"] = Split.Train, ["test"] = Split.Test };

    public static Command Build(Terminal terminal)
    {
        Option<string?> run = Options.Text("--run", "RUN", "A run folder, trained here or imported, or one checkpoint file of a run.");
        Option<string?> output = Options.Text("--out", "FOLDER", "Where to write features.npy, index.csv and embed.json.");
        Option<string?> data = Options.Data("Pictures: a folder, a .mimpack file, CIFAR .bin or idx files. [those of the run]");
        Option<string?> split = Options.Text("--split", "NAME", "all, train or test. [all]");
        Option<string?> pooling = Options.Text("--pooling", "NAME",
            "How a picture's tokens become one vector: mean-patches, cls, mean-head and the other aggregations of 'mim probe --beside'; "
            + "or tokens, all of them as they are. [mean-patches]");
        Option<long?> block = Options.Number("--block", "N", "Block whose output is read, from 1; 0 is the last. [0]");
        Option<bool> raw = Options.Flag("--no-final-norm", "Read the block's output as it is, without the encoder's final LayerNorm.");
        Option<string?> device = Options.Device();
        Option<long?> threads = Options.Threads(), loaders = Options.LoaderThreads();
        run.Required = output.Required = true;
        Command command = new("embed",
            "Writes one feature vector a picture: features.npy, float32 (pictures, channels) for NumPy, and index.csv, which says what picture "
            + "and class each row is. Pictures are resized to the encoder's square.")
            { run, data, split, block, pooling, raw, output, device, threads, loaders };
        command.SetAction(parsed => Run(terminal, new EmbedOptions
        {
            Run = parsed.GetValue(run)!,
            Out = parsed.GetValue(output)!,
            Data = parsed.GetValue(data),
            Split = Chosen(s_splits, "--split", parsed.GetValue(split)),
            Pooling = Aggregation(parsed.GetValue(pooling)),
            Block = (int)Math.Min(parsed.GetValue(block) ?? 0, int.MaxValue),
            FinalNorm = !parsed.GetValue(raw),
            Device = parsed.GetValue(device) ?? "cpu",
            Threads = (int)(parsed.GetValue(threads) ?? 0),
            LoaderThreads = (int)(parsed.GetValue(loaders) ?? 1),
        }));
        return command;
    }

    private static T Chosen<T>(Dictionary<string, T> known, string option, string? word) => word is null ? known.First().Value
        : known.TryGetValue(word, out T? value) ? value : throw new UsageException($"{option} {word}: write {string.Join(" or ", known.Keys)}.");

    private static Pooling? Aggregation(string? word) => word switch
    {
        null => Pooling.MeanPatches,
        Tokens => null,
        _ => ConfigJson.Choice<Pooling>(word) ?? throw new UsageException($"--pooling {word}: there is no such aggregation"
            + UsageError.OrKnown(word, [Tokens, .. Enum.GetValues<Pooling>().Select(ConfigJson.Word)])),
    };

    private static int Run(Terminal terminal, EmbedOptions options)
    {
        IDisplay display = terminal.Display();
        EmbedReport? report = null;
        display.Follow("picture", show => report = EmbedRun.Execute(options, (done, total) => show(new(done, total, null, "")),
            terminal.Stop.Token));
        EmbedReport r = report!;
        foreach (string note in r.Notes) display.Warn(note);
        string shape = r.Pooling is null ? $"{r.Pictures}, {r.Tokens}, {r.Width}" : $"{r.Pictures}, {r.Width}";
        display.Line($"{options.Out}: features.npy ({shape}) of {r.Data}, block {r.Block}, {(r.FinalNorm ? "with" : "without")} the final norm, "
            + $"{(r.Pooling is { } pooling ? ConfigJson.Word(pooling) : Tokens)}; index.csv names the rows.");
        return 0;
    }
}
