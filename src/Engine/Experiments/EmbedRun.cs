using System.Globalization;
using System.Text;
using MimEngine.Engine.Data;
using MimEngine.Engine.Imaging;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Probing;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;

namespace MimEngine.Engine.Experiments;

/// <summary>What a user asks of an embedding.</summary>
public sealed record EmbedOptions : DeviceOptions
{
    /// <summary>A run folder or one checkpoint file of a run.</summary>
    public required string Run { get; init; }

    /// <summary>Folder for features.npy, index.csv and embed.json.</summary>
    public required string Out { get; init; }

    /// <summary>Pictures; none = those of the run.</summary>
    public string? Data { get; init; }

    public Split Split { get; init; } = Split.All;

    /// <summary>1-based block whose output is read; 0 = the last.</summary>
    public int Block { get; init; }

    /// <summary>How tokens become one vector; none = all tokens as they are.</summary>
    public Pooling? Pooling { get; init; } = Probing.Pooling.MeanPatches;

    /// <summary>Apply the encoder's final LayerNorm, where it has one.</summary>
    public bool FinalNorm { get; init; } = true;
}

/// <summary>What an embedding wrote, and of what: <c>embed.json</c>.</summary>
public sealed record EmbedReport
{
    public required string Checkpoint { get; init; }
    public required long Step { get; init; }
    public required string Data { get; init; }
    public required int Pictures { get; init; }

    /// <summary>Vectors of a picture: 1, or its tokens, [cls] first.</summary>
    public required int Tokens { get; init; }

    /// <summary>Numbers of a vector.</summary>
    public required int Width { get; init; }

    public required int Block { get; init; }
    public required bool FinalNorm { get; init; }
    /// <summary>None = all tokens.</summary>
    public required Pooling? Pooling { get; init; }

    /// <summary>Side of the square that pictures are resized to.</summary>
    public required int Pixels { get; init; }

    public required IReadOnlyList<string> Notes { get; init; }
}

/// <summary>
/// Features of pictures → <c>features.npy</c>, (N, C) or (N, tokens, C) float32, and <c>index.csv</c>, which says what picture each row is.
/// </summary>
public static class EmbedRun
{
    private const int Batch = 256;

    /// <exception cref="RunException">No such run, or the folder cannot be written.</exception>
    /// <exception cref="WeightFileException">The checkpoint does not fit the run's encoder.</exception>
    /// <exception cref="ConfigException">No such block.</exception>
    /// <exception cref="DataException">The data cannot be used.</exception>
    /// <exception cref="OperationCanceledException">The user stopped it; nothing was written.</exception>
    public static EmbedReport Execute(EmbedOptions options, Action<int, int> progress, CancellationToken stop = default)
    {
        using TrainedRun trained = TrainedRun.Open(options.Run);
        VitConfig vit = trained.Config.Encoder;
        if (options.Block < 0 || options.Block > vit.Depth)
            throw new ConfigException($"--block is {options.Block}, but this encoder has {vit.Depth}; choose 1 … {vit.Depth}, 0 being the last.");
        using IDataset data = Datasets.Open(options.Data ?? trained.Config.Data, options.Split);
        using Backend backend = Backend.Open(options.Device, options.Threads);
        if (options.Pooling is Pooling.AbMilp or Pooling.Oracle)
            throw new ConfigException($"--pooling {ConfigJson.Word(options.Pooling.Value)} needs more than this encoder: a classifier that learns "
                + "it, or a second run; see mim probe --beside.");
        if (options.Pooling?.Window() > vit.Grid)
            throw new ConfigException($"--pooling {ConfigJson.Word(options.Pooling.Value)} reads {options.Pooling.Value.Window()} patches a side, "
                + $"but this encoder has {vit.Grid}.");
        // What AbMILP is given is every token.
        var place = new FeaturePlace(options.Block == 0 ? vit.Depth : options.Block, options.FinalNorm && vit.FinalNorm,
            options.Pooling ?? Pooling.AbMilp);
        using var encoder = new FrozenEncoder(backend, vit, place);
        trained.LoadInto(encoder);
        try
        {
            Directory.CreateDirectory(options.Out);
            List<string> notes = [.. trained.Notes];
            int[] ids = Write(options, encoder, data, vit.ImagePixels, progress, notes, stop);
            DiskFiles.Replace(DiskFiles.Instance, Path.Combine(options.Out, "index.csv"), Encoding.UTF8.GetBytes(Index(data, ids)));
            var report = new EmbedReport
            {
                Checkpoint = trained.Checkpoint.File,
                Step = trained.Checkpoint.Header.Step,
                Data = data.Name,
                Pictures = data.Count,
                Tokens = encoder.Row.Parts[0].Tokens,
                Width = encoder.Row.Parts[0].Width,
                Block = place.Block,
                FinalNorm = place.FinalNorm,
                Pooling = options.Pooling,
                Pixels = vit.ImagePixels,
                Notes = notes,
            };
            DiskFiles.Replace(DiskFiles.Instance, Path.Combine(options.Out, "embed.json"), Encoding.UTF8.GetBytes(ConfigJson.Write(report)));
            return report;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new RunException($"{options.Out}: the features were not written ({e.Message.TrimEnd('.')}).", e);
        }
    }

    /// <summary>Writes the features; returns which picture each row is, since an unreadable one is replaced by the next.</summary>
    private static int[] Write(EmbedOptions options, FrozenEncoder encoder, IDataset data, int pixels, Action<int, int> progress,
        List<string> notes, CancellationToken stop)
    {
        int[] ids = new int[data.Count];
        float[] features = new float[checked(Math.Min(Batch, data.Count) * encoder.Width)];
        FeaturePart part = encoder.Row.Parts[0];
        string path = Path.Combine(options.Out, "features.npy");
        using NpyWriter writer = part.Tokens == 1 ? new(path, data.Count, part.Width) : new(path, data.Count, part.Tokens, part.Width);
        using var loader = new Loader(new LoaderConfig(data, new AugmentedViews(AugmentConfig.Resize, pixels), Batch)
        {
            Order = LoaderOrder.InOrder,
            EndStep = (data.Count + Batch - 1L) / Batch,
            Threads = options.LoaderThreads,
        });
        for (int done = 0; done < data.Count;)
        {
            stop.ThrowIfCancellationRequested();
            Batch batch = loader.Next();
            Span<float> rows = features.AsSpan(0, batch.Count * encoder.Width);
            encoder.Encode(rows, batch.Filled, batch.Count);
            writer.Write(rows);
            batch.Ids.AsSpan(0, batch.Count).CopyTo(ids.AsSpan(done));
            done += batch.Count;
            loader.Return(batch);
            progress(done, data.Count);
        }
        if (loader.Corrupt.Report() is { Length: > 0 } sentence) notes.Add(sentence);
        writer.Complete();
        return ids;
    }

    private static string Index(IDataset data, int[] ids)
    {
        StringBuilder csv = new("row,picture,label,class\n");
        for (int row = 0; row < ids.Length; row++)
        {
            int label = data.Label(ids[row]);
            string name = label >= 0 && label < data.Classes.Count ? data.Classes[label] : "";
            csv.Append(CultureInfo.InvariantCulture, $"{row},{Cell(data.PictureName(ids[row]))},{(label < 0 ? "" : label)},{Cell(name)}\n");
        }
        return csv.ToString();
    }

    private static string Cell(string text) => text.AsSpan().IndexOfAny(",\"\n\r") < 0 ? text : $"\"{text.Replace("\"", "\"\"")}\"";
}
