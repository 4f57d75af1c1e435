using System.CommandLine;
using MimEngine.Engine.Experiments;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Runs;

namespace MimEngine.Cli;

/// <summary><c>mim import</c>: somebody else's weights become a run folder.</summary>
internal static class ImportCommand
{
    private const int Named = 4;

    public static Command Build(Terminal terminal)
    {
        Option<string?> weights = Options.Text("--weights", "FILE",
            "A PyTorch file (.pth, read without running anything in it), a .safetensors file, or a folder with model.safetensors and config.json.");
        Option<string?> output = Options.Text("--out", "RUN", "Folder of the run to make; absent or empty.");
        Option<string?> key = Options.Text("--key", "NAME",
            "Where in the file the encoder lies: model, teacher, student, state_dict. [teacher, else model, else what is there]");
        Option<string?> size = Options.Text("--vit", "SIZE",
            $"The size it must have: {string.Join(", ", VitConfig.Sizes.Keys)}. [whatever the file has]");
        Option<long?> heads = Options.Number("--heads", "N", "Attention heads, which no tensor tells. [those of the published size]", least: 1);
        Option<long?> pixels = Options.Number("--pixels", "N",
            "Side of the pictures to read; tables of positions are resized. [the file's]", least: 1);
        Option<string?> data = Options.Data("Pictures that probes of this run read when not told others. [embedded Fashion-MNIST]");
        Option<bool> lenient = Options.Flag("--lenient",
            "Leave tensors aside that the encoder has no parameter for, instead of refusing the file.");
        weights.Required = output.Required = true;
        Command command = new("import",
            "Reads an encoder that was trained elsewhere, with MAE, SimMIM, KAMIM, iBOT, DINO or timm, and makes a run folder of it, which "
            + "probe, embed and export read. Every tensor is accounted for; import.json in the folder has the whole report.")
            { weights, output, key, size, heads, pixels, data, lenient };
        command.SetAction(parsed => Run(terminal.Display(), new ImportOptions
        {
            Weights = parsed.GetValue(weights)!,
            Out = parsed.GetValue(output)!,
            Key = parsed.GetValue(key),
            Data = parsed.GetValue(data),
            Lenient = parsed.GetValue(lenient),
            Wish = new EncoderWish
            {
                Heads = (int?)parsed.GetValue(heads),
                Pixels = (int?)parsed.GetValue(pixels),
                Size = Known(parsed.GetValue(size)),
            },
        }));
        return command;
    }

    private static string? Known(string? size) => size is null || VitConfig.Sizes.ContainsKey(size) ? size
        : throw new UsageException($"--vit {size}: there is no such size" + UsageError.OrKnown(size, VitConfig.Sizes.Keys));

    private static int Run(IDisplay display, ImportOptions options)
    {
        ImportReport r = ImportRun.Execute(options);
        VitConfig vit = r.Encoder;
        string place = r.Place.Length > 0 ? $" under '{r.Place}'" : "";
        display.Table($"{r.File}{place}: {vit.Width} wide, {vit.Depth} deep, {vit.Heads} heads, patches of {vit.PatchPixels} px, "
            + $"{vit.ImagePixels} px", ["tensors", "number", "which"],
        [
            ["matched", $"{r.Matched.Count}", ""],
            ["missing", $"{r.Missing.Count}", r.Missing.Count == 0 ? "" : $"{Listed(r.Missing)} (0 now; only pretraining reads it)"],
            ["unexpected", $"{r.Unexpected.Count}", Listed(r.Unexpected)],
            ["resized", $"{r.Resized.Count}", Listed(r.Resized)],
            ["left aside", $"{r.LeftAside.Count}", Listed(r.LeftAside)],
            ["look freshly initialised", $"{r.LooksFresh.Count}", Listed([.. r.LooksFresh.Select(t => $"{t.Name}: {t.Look}")])],
        ]);
        if (r.LooksUntrained)
            display.Warn($"{r.FreshMatrices} of {r.Matrices} matrices look freshly initialised: this encoder seems to be untrained.");
        if (options.Wish.Heads is null && vit.RelativeBias == RelativeBias.None)
            display.Line($"Heads: {vit.Heads}, as encoders {vit.Width} wide have unless config.json or --heads says otherwise.");
        display.Line($"What does it know? mim probe --run {options.Out}");
        return 0;
    }

    private static string Listed(IReadOnlyList<string> names)
        => string.Join(", ", names.Take(Named)) + (names.Count > Named ? $" and {names.Count - Named} more" : "");
}
