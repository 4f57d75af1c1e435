using System.Text;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Probing;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;

namespace MimEngine.Engine.Experiments;

/// <summary>A run on the disk, pretrained here, fine-tuned or imported: its configuration and its newest checkpoint that verifies.</summary>
public sealed class TrainedRun : IDisposable
{
    private const string StudentPrefix = "params/", TeacherPrefix = "teacher/";

    private TrainedRun(string folder, Checkpoint checkpoint, IReadOnlyList<string> notes)
    {
        (Folder, Checkpoint, Notes) = (folder, checkpoint, notes);
        string file = Path.Combine(folder, "config.json"), json = ReadText(file);
        if (FinetuneConfig.IsIn(json))
        {
            FinetuneConfig tuned = ConfigJson.Read<FinetuneConfig>(json, file);
            tuned.Validate();
            Config = new PretrainConfig { Recipe = "finetuned", Data = tuned.Data, Encoder = tuned.Encoder };
            using var model = new FinetuneModel(tuned, classes: 2);
            _heads = [.. model.Params.Params.Skip(model.EncoderParams).Select(p => p.Name)];
            return;
        }
        Config = ConfigJson.Read<PretrainConfig>(json, file);
        Config.Validate();
        _heads = HeadNames();
    }

    private readonly HashSet<string> _heads;

    public string Folder { get; }

    /// <summary>The run's configuration; of a fine-tuned one what concerns the encoder, as if it had been pretrained so.</summary>
    public PretrainConfig Config { get; }
    public Checkpoint Checkpoint { get; }

    /// <summary>Where the weights to look at lie: a run with a teacher is judged by it, as DINO and iBOT are.</summary>
    private string Prefix => Config.Teacher is not null && Checkpoint.Tensors.Entries.Any(e => e.Name.StartsWith(TeacherPrefix, StringComparison.Ordinal))
        ? TeacherPrefix : StudentPrefix;

    /// <summary>Sentences about newer checkpoints that were passed over.</summary>
    public IReadOnlyList<string> Notes { get; }

    /// <param name="run">A run folder, or one checkpoint file of a run.</param>
    /// <exception cref="RunException">No such run, or it has no checkpoint.</exception>
    /// <exception cref="WeightFileException">The checkpoint is damaged.</exception>
    /// <exception cref="ConfigException">The run's configuration makes no sense.</exception>
    public static TrainedRun Open(string run)
    {
        (string folder, Checkpoint checkpoint, IReadOnlyList<string> skipped) = Locate(run);
        try
        {
            return new TrainedRun(folder, checkpoint, skipped);
        }
        catch
        {
            checkpoint.Dispose();
            throw;
        }
    }

    /// <summary>Puts the checkpoint's encoder into another of the same architecture, all or nothing.</summary>
    /// <exception cref="WeightFileException">It does not fit.</exception>
    public LoadReport LoadInto(FrozenEncoder encoder) => encoder.Load(Checkpoint.Tensors, Prefix, _heads);

    /// <summary>The encoder's parameters by name, each with its values.</summary>
    /// <exception cref="WeightFileException">One is missing or of another shape.</exception>
    public Dictionary<string, float[]> EncoderValues()
    {
        Dictionary<string, float[]> values = [];
        using var encoder = new Autograd.ParamSet();
        _ = new VisionTransformer(encoder, Config.Encoder);
        foreach (Autograd.Param p in encoder.Params)
        {
            TensorEntry entry = Checkpoint.Tensors[Prefix + p.Name];
            if (Misfit.Of(p.Name, entry.Shape, p.DeclaredShape, Config.Encoder) is { } clause)
                throw new WeightFileException($"{Checkpoint.File}: the weights do not fit this encoder: {clause}.");
            values.Add(p.Name, Checkpoint.Tensors.Floats(entry.Name));
        }
        return values;
    }

    /// <summary>What the run's encoder started from, by name.</summary>
    public Dictionary<string, float[]> UntrainedValues(Backend backend)
    {
        using var encoder = new Autograd.ParamSet();
        _ = new VisionTransformer(encoder, Config.Encoder);
        encoder.Allocate(backend, Config.Run.Seed, gradients: false);
        return encoder.Params.ToDictionary(p => p.Name, p => Autograd.Transfer.Floats(backend, p.Data));
    }

    public void Dispose() => Checkpoint.Dispose();

    /// <summary>Names of the run's parameters that are not the encoder's.</summary>
    private HashSet<string> HeadNames()
    {
        using var model = new MimModel(Config);
        HashSet<string> names = [.. model.Params.Params.Select(p => p.Name)];
        using var encoder = new Autograd.ParamSet();
        _ = new VisionTransformer(encoder, Config.Encoder);
        names.ExceptWith(encoder.Params.Select(p => p.Name));
        return names;
    }

    private static (string Folder, Checkpoint Checkpoint, IReadOnlyList<string> Skipped) Locate(string run)
    {
        if (File.Exists(run))
        {
            string parent = Path.GetDirectoryName(Path.GetFullPath(run))!;
            string folder = File.Exists(Path.Combine(parent, "config.json")) ? parent : Path.GetDirectoryName(parent) ?? parent;
            if (!File.Exists(Path.Combine(folder, "config.json")))
                throw new RunException($"{run}: no config.json in its folder or the one above, so it belongs to no run of this program; "
                    + "mim import makes a run of somebody else's weights.");
            return (folder, Checkpoint.Open(run), []);
        }
        if (!Directory.Exists(run)) throw new RunException($"{run}: there is no such run folder or checkpoint.");
        if (!File.Exists(Path.Combine(run, "config.json"))) throw new RunException($"{run}: has no config.json, so it is no run of this program.");
        (Checkpoint? newest, IReadOnlyList<(string File, string Reason)> skipped) = Checkpoint.Latest(Path.Combine(run, "checkpoints"));
        return newest is null
            ? throw new RunException($"{run}: has no checkpoint yet; one is written while and after pretraining.")
            : (run, newest, [.. skipped.Select(s => $"A newer checkpoint was passed over: {s.Reason}")]);
    }

    private static string ReadText(string file)
    {
        try
        {
            return File.ReadAllText(file, Encoding.UTF8);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new RunException($"{file}: cannot be read ({e.Message.TrimEnd('.')}).", e);
        }
    }
}
