using System.Globalization;
using System.Text;
using MimEngine.Engine.Analysis;
using MimEngine.Engine.Data;
using MimEngine.Engine.Imaging;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Probing;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;

namespace MimEngine.Engine.Experiments;

/// <summary>What a user asks of an analysis.</summary>
public sealed record AnalyzeOptions : DeviceOptions
{
    /// <summary>A run folder or one checkpoint of a run, trained here or imported.</summary>
    public required string Run { get; init; }

    /// <summary>Pictures; none = those the run was trained on.</summary>
    public string? Data { get; init; }

    /// <summary>Pictures to look at.</summary>
    public int Count { get; init; } = 64;
}

/// <summary>Attention of a trained encoder, block by block, beside the same network untrained.</summary>
public sealed record AttentionReport
{
    public required string Checkpoint { get; init; }
    public required long Step { get; init; }
    public required string Recipe { get; init; }
    public required string Pictures { get; init; }
    public required int Count { get; init; }
    public required VitConfig Encoder { get; init; }
    public required LoadReport Loaded { get; init; }
    public required BlockStatistics[] Trained { get; init; }
    public required BlockStatistics[] RandomInit { get; init; }

    /// <summary>
    /// Whether distance and NMI of every block lie within three standard errors of the untrained network's: then the curves say nothing, and
    /// one should ask whether the weights were loaded at all (SPEC A.11).
    /// </summary>
    public required bool LooksUntrained { get; init; }

    /// <summary>The JSON file and the picture.</summary>
    public required string[] Files { get; init; }
}

/// <summary>Looks at a run's attention and writes analysis/attention-step-….json and .png into its folder.</summary>
public static class AnalyzeRun
{
    /// <exception cref="RunException">No such run, or the report cannot be written.</exception>
    /// <exception cref="WeightFileException">The checkpoint does not fit.</exception>
    /// <exception cref="DataException">The data cannot be used.</exception>
    public static AttentionReport Execute(AnalyzeOptions options, Action<string> note)
    {
        using TrainedRun run = TrainedRun.Open(options.Run);
        foreach (string sentence in run.Notes) note(sentence);
        VitConfig vit = run.Config.Encoder;
        string? path = options.Data ?? run.Config.Data;
        using IDataset data = Datasets.Open(path, Datasets.Has(path, Split.Test) ? Split.Test : Split.Train);
        int count = Math.Min(options.Count, data.Count);
        byte[] crops = Crops(data, vit.ImagePixels, count, options.LoaderThreads);
        using Backend backend = Backend.Open(options.Device, options.Threads);
        using var encoder = new FrozenEncoder(backend, vit, new FeaturePlace(vit.Depth, vit.FinalNorm, Pooling.MeanPatches));
        LoadReport loaded = run.LoadInto(encoder);
        using var trained = new AttentionWatch(backend, vit.ImagePixels / vit.PatchPixels, vit.PatchPixels, count) { KeepMaps = true };
        encoder.Look(crops, count, trained);
        encoder.Initialise(run.Config.Run.Seed);
        using var random = new AttentionWatch(backend, vit.ImagePixels / vit.PatchPixels, vit.PatchPixels, count);
        encoder.Look(crops, count, random);
        BlockStatistics[] own = trained.Blocks(), control = random.Blocks();
        string step = run.Checkpoint.Header.Step.ToString("00000000", CultureInfo.InvariantCulture);
        string stem = Path.Combine(run.Folder, "analysis", "attention-step-" + step);
        var report = new AttentionReport
        {
            Checkpoint = run.Checkpoint.File,
            Step = run.Checkpoint.Header.Step,
            Recipe = run.Config.Recipe,
            Pictures = data.Name,
            Count = count,
            Encoder = vit,
            Loaded = loaded,
            Trained = own,
            RandomInit = control,
            LooksUntrained = own.Zip(control).All(p => Near(p.First.Mean.Distance, p.First.DistanceError, p.Second.Mean.Distance, p.Second.DistanceError)
                && Near(p.First.Mean.Nmi, p.First.NmiError, p.Second.Mean.Nmi, p.Second.NmiError)),
            Files = [stem + ".json", stem + ".png"],
        };
        int picture = 3 * vit.ImagePixels * vit.ImagePixels;
        RgbImage sheet = AttentionSheet.Draw(crops.AsSpan(0, picture), vit.ImagePixels, vit.ImagePixels / vit.PatchPixels, own, trained.Maps);
        Save(report.Files[0], Encoding.UTF8.GetBytes(ConfigJson.Write(report)));
        Save(report.Files[1], Png.Encode(sheet));
        return report;
    }

    private static bool Near(double a, double errorA, double b, double errorB)
        => Math.Abs(a - b) <= 3 * Math.Sqrt(errorA * errorA + errorB * errorB) + 1e-9;

    private static byte[] Crops(IDataset data, int pixels, int count, int threads)
    {
        using var loader = new Loader(new LoaderConfig(data, new AugmentedViews(AugmentConfig.Evaluation, pixels), count)
        {
            Order = LoaderOrder.InOrder, EndStep = 1, Threads = threads,
        });
        return loader.Next().Filled.ToArray();
    }

    private static void Save(string file, byte[] bytes)
    {
        try
        {
            Directory.CreateDirectory(Path.GetDirectoryName(file)!);
            DiskFiles.Replace(DiskFiles.Instance, file, bytes);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new RunException($"{file}: the report was not written ({e.Message.TrimEnd('.')}).", e);
        }
    }
}
