using System.CommandLine;
using MimEngine.Engine.Analysis;
using MimEngine.Engine.Data;
using MimEngine.Engine.Experiments;
using MimEngine.Engine.Imaging;
using MimEngine.Engine.Pretraining;
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
        Option<long?> count = Options.Number("--count", "N", $"Crops to draw, up to {MostCrops}. [8]", least: 1);
        Command command = new("show-masks",
            "Draws the first crops of a run exactly as training would see them: crop, what the encoder sees, the weight of "
            + "each pixel as a heat map, and both together. Takes the options of 'mim pretrain'.");
        experiment.AddTo(command);
        foreach (Option option in new Option[] { device, count, output }) command.Add(option);
        command.SetAction(parsed => Run(terminal.Display(), experiment.Resolve(parsed), parsed.GetValue(device) ?? "cpu",
            (int)Math.Min(parsed.GetValue(count) ?? 8, MostCrops), parsed.GetValue(output) ?? "masks.png"));
        return command;
    }

    private static int Run(IDisplay display, PretrainConfig config, string device, int count, string output)
    {
        using Backend backend = Backend.Open(device);
        using IDataset dataset = Datasets.Open(config.Data, Split.Train);
        count = Math.Min(count, dataset.Count);
        AugmentedViews views = new(config.Augment, config.Encoder.ImagePixels);
        using Loader loader = new(new LoaderConfig(dataset, views, count) { Seed = config.Run.Seed, EndStep = 1 });
        Batch batch = loader.Next();
        MaskSheet sheet = MaskSheet.Draw(backend, config, batch.Filled, count);
        try
        {
            File.WriteAllBytes(output, Png.Encode(sheet.Image));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new RunException($"{output}: the picture was not written ({e.Message.TrimEnd('.')}).", e);
        }
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
}
