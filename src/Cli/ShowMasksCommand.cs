using System.CommandLine;
using MimEngine.Engine.Analysis;
using MimEngine.Engine.Data;
using MimEngine.Engine.Experiments;
using MimEngine.Engine.Imaging;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Probing;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;

namespace MimEngine.Cli;

/// <summary><c>mim show-masks</c>: what a run hides and weighs, as a picture, before anything is trained.</summary>
internal static class ShowMasksCommand
{
    private const int MostCrops = 64;

    public static Command Build(Terminal terminal)
    {
        ExperimentOptions experiment = new();
        Option<string?> device = Options.Device();
        Option<string?> output = Options.Text("--out", "FILE", "The PNG file to write; replaced if it exists. [masks.png]");
        Option<string?> run = Options.Text("--run", "RUN", "A run whose teacher looks at the crops. [none: an untrained one, where masks need attention]");
        Option<long?> count = Options.Number("--count", "N", $"Crops to draw, up to {MostCrops}. [8]", least: 1);
        Command command = new("show-masks",
            "Draws the first crops of a run exactly as training would see them: crop, what the encoder sees, the weight of "
            + "each pixel as a heat map, and both together. With --run, or where masks depend on a teacher: crop, what its [cls] attends to, "
            + "and what AttMask-High, -Hint and -Low would hide. Takes the options of 'mim pretrain'.");
        experiment.AddTo(command);
        foreach (Option option in new Option[] { run, device, count, output }) command.Add(option);
        command.SetAction(parsed => Run(parsed.GetValue(run), terminal.Display(), experiment.Resolve(parsed), parsed.GetValue(device) ?? "cpu",
            (int)Math.Min(parsed.GetValue(count) ?? 8, MostCrops), parsed.GetValue(output) ?? "masks.png"));
        return command;
    }

    private static int Run(string? run, IDisplay display, PretrainConfig config, string device, int count, string output)
    {
        using TrainedRun? trained = run is null ? null : TrainedRun.Open(run);
        if (trained is not null) config = trained.Config;
        using Backend backend = Backend.Open(device);
        using IDataset dataset = Datasets.Open(config.Data, Split.Train);
        count = Math.Min(count, dataset.Count);
        AugmentedViews views = new(config.Augment, config.Encoder.ImagePixels);
        using Loader loader = new(new LoaderConfig(dataset, views, count) { Seed = config.Run.Seed, EndStep = 1 });
        Batch batch = loader.Next();
        if (trained is not null || config.Masking.NeedsAttention) return Attend(display, backend, config, trained, batch, output);
        MaskSheet sheet = MaskSheet.Draw(backend, config, batch.Filled, count);
        Save(output, sheet.Image);
        display.Table($"First crops of {config.Recipe} on {dataset.Name}", ["picture", "hidden patches", "mean weight", "largest weight"],
        [
            .. sheet.Rows.Select((row, i) => new[]
            {
                $"#{batch.Ids[i]}", $"{row.Hidden} of {row.Patches}", Words.Short(row.MeanWeight), Words.Short(row.LargestWeight),
            }),
        ]);
        if (loader.Corrupt.Report() is { Length: > 0 } sentence) display.Warn(sentence);
        display.Line($"{output}: columns are crop, what the encoder sees, weights (bright counts more), weights over the crop.");
        return 0;
    }

    /// <summary>What a teacher attends to and what AttMask would hide.</summary>
    private static int Attend(IDisplay display, Backend backend, PretrainConfig config, TrainedRun? trained, Batch batch, string output)
    {
        VitConfig vit = config.Encoder;
        using var teacher = new FrozenEncoder(backend, vit, new FeaturePlace(vit.Depth, vit.FinalNorm, Pooling.Cls));
        if (trained is not null) trained.LoadInto(teacher);
        else teacher.Initialise(config.Run.Seed);
        int patches = vit.ImagePixels / vit.PatchPixels * (vit.ImagePixels / vit.PatchPixels);
        float[] attention = new float[batch.Count * patches];
        teacher.ClsAttention(attention, batch.Globals, batch.Count);
        (RgbImage image, IReadOnlyList<int[]> hidden) = AttentionStrip.Draw(config, batch.Globals, attention);
        Save(output, image);
        string who = trained is null ? "an untrained teacher" : $"the teacher of step {trained.Checkpoint.Header.Step}";
        display.Table($"Crops of {config.Recipe} as {who} sees them, {patches} patches", ["picture", "largest attention", "high hides", "hint hides", "low hides"],
        [
            .. hidden.Select((h, i) => new[]
            {
                $"#{batch.Ids[i]}", Words.Short(attention.AsSpan(i * patches, patches).ToArray().Max()), $"{h[0]}", $"{h[1]}", $"{h[2]}",
            }),
        ]);
        display.Line($"{output}: columns are crop, [cls] attention (bright is more), and what high, hint and low hide (grey).");
        return 0;
    }

    private static void Save(string output, RgbImage image)
    {
        try
        {
            File.WriteAllBytes(output, Png.Encode(image));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new RunException($"{output}: the picture was not written ({e.Message.TrimEnd('.')}).", e);
        }
    }
}
