using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Probing;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;

namespace MimEngine.Engine.Experiments;

/// <summary>What a user asked of fine-tuning beside the configuration itself.</summary>
public sealed record FinetuneOptions : TrainingOptions
{
    /// <summary>Of a new run; a resumed one has its own.</summary>
    public FinetuneConfig Config { get; init; } = new();

    /// <summary>A preset made for the encoder of a run.</summary>
    /// <param name="run">A run folder, or one checkpoint file of a run.</param>
    /// <param name="preset">Its name; none = the one for pictures of this size.</param>
    /// <param name="data">Labelled pictures; none = those of the run.</param>
    /// <param name="pixels">Side of the crops; none = the run's.</param>
    /// <param name="epochs">Length, with rates for short runs; none = the preset's.</param>
    /// <param name="batch">Pictures of one pass; none = the preset's.</param>
    /// <exception cref="RunException">There is no such run.</exception>
    /// <exception cref="ConfigException">There is no such preset.</exception>
    public static FinetuneConfig ConfigFor(string run, string? preset = null, string? data = null, int? pixels = null, double? epochs = null,
        int? batch = null)
    {
        using TrainedRun trained = TrainedRun.Open(run);
        VitConfig encoder = trained.Config.Encoder;
        if (pixels is { } side)
        {
            if (side < encoder.PatchPixels || side % encoder.PatchPixels != 0)
                throw new ConfigException($"--pixels {side}: the run's patches of {encoder.PatchPixels} pixels do not tile it; use a multiple.");
            encoder = encoder with { ImagePixels = side };
        }
        preset ??= FinetunePresets.NameFor(encoder);
        if (!FinetunePresets.ByName.TryGetValue(preset, out Func<VitConfig, FinetuneConfig>? make))
            throw new ConfigException($"There is no preset '{preset}'; choose one of {string.Join(", ", FinetunePresets.ByName.Keys)}.");
        // Full paths, so that the run can be continued from any folder.
        FinetuneConfig config = make(encoder) with
        {
            Run = Path.GetFullPath(run),
            Data = data is null ? trained.Config.Data : Path.GetFullPath(data),
        };
        if (epochs is { } passes) config = FinetunePresets.Short(config, passes, batch ?? config.Loop.Batch);
        return batch is { } size ? config with { Loop = config.Loop with { Batch = size } } : config;
    }
}

/// <summary>What is known before the first step.</summary>
public sealed record FinetuneBeginning(string Folder, FinetuneConfig Config, string Device, string TrainName, int TrainPictures, string TestName,
    int TestPictures, int Classes, long Parameters, long Bytes, FinetuneLoaded? Loaded, long FirstStep, long TotalSteps, int StepsPerEpoch);

/// <summary>Told what fine-tuning does.</summary>
public interface IFinetuneObserver
{
    void Started(FinetuneBeginning start);
    void Progress(PretrainProgress progress);
    void Scored(FinetuneStart start, FinetuneScore score);
    void Note(string sentence);
}
