using MimEngine.Engine.Autograd;
using MimEngine.Engine.Imaging;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Optim;
using MimEngine.Kernels;

namespace MimEngine.Engine.Pretraining;

/// <summary>How long, how large, how often.</summary>
public sealed record RunConfig
{
    public ulong Seed { get; init; }

    /// <summary>Passes over the pictures.</summary>
    public double Epochs { get; init; } = 110;

    /// <summary>Updates; 0 = as many as Epochs make.</summary>
    public long Steps { get; init; }

    /// <summary>Pictures of one pass through the network.</summary>
    public int Batch { get; init; } = 128;

    /// <summary>Passes summed into one update.</summary>
    public int Accumulate { get; init; } = 16;

    /// <summary>What backward keeps: none recomputes nothing and needs the most memory, block keeps only the input of each block.</summary>
    public Recompute Recompute { get; init; } = Recompute.None;

    /// <summary>What matrix products multiply: f32, or bf16 where the device can.</summary>
    public Precision Precision { get; init; } = Precision.F32;

    /// <summary>Updates between two lines of metrics.</summary>
    public int LogEverySteps { get; init; } = 10;

    /// <summary>Epochs between checkpoints; one is always written at the end.</summary>
    public double CheckpointEveryEpochs { get; init; } = 1;

    /// <summary>Checkpoints kept.</summary>
    public int KeepCheckpoints { get; init; } = 2;

    /// <summary>Epochs between looks at every block's attention on a few fixed pictures ("health.…" in metrics); 0 = never.</summary>
    public double HealthEveryEpochs { get; init; } = 1;

    /// <summary>Epochs between scores by k-NN ("knn.cls" and "knn.patches" in metrics); 0 = never. Pictures need labels and a test split.</summary>
    public double KnnEveryEpochs { get; init; }

    /// <summary>Pictures of either split that this k-NN reads at most, evenly spread.</summary>
    public int KnnPictures { get; init; } = 5000;

    /// <summary>Epochs between reconstruction pictures; they are always drawn at the end; 0 = only then.</summary>
    public double PicturesEveryEpochs { get; init; } = 10;
}

/// <summary>A pretraining experiment as one value. Everything that changes the result is in here; devices and threads are not.</summary>
public sealed record PretrainConfig
{
    /// <summary>The recipe it started from; settings below say what is really done.</summary>
    public string Recipe { get; init; } = "";

    /// <summary>Folder or file with pictures; none = the pictures inside the program. Only the path: the pictures are the user's.</summary>
    public string? Data { get; init; }

    public VitConfig Encoder { get; init; } = new();

    /// <summary>How a picture becomes a crop of Encoder.ImagePixels.</summary>
    public AugmentConfig Augment { get; init; } = new();

    /// <summary>Further crops of each picture.</summary>
    public ViewsConfig Views { get; init; } = new();

    public Masking Masking { get; init; } = new RandomCells();
    public Term[] Terms { get; init; } = [new Term()];

    /// <summary>A network that follows the trained one, for terms that learn from it and maskings that look at its attention; null = none.</summary>
    public TeacherConfig? Teacher { get; init; }

    public OptimConfig Optim { get; init; } = new();
    public RunConfig Run { get; init; } = new();

    /// <summary>Bytes of one batch's crops, global and local.</summary>
    public int BatchBytes => checked((int)(Run.Batch * PictureBytes));

    /// <summary>Bytes of the crops of one picture.</summary>
    private long PictureBytes => 3L * Views.Global * Encoder.ImagePixels * Encoder.ImagePixels + 3L * Views.Local * Views.LocalPixels * Views.LocalPixels;

    /// <summary>The term that predicts pixels, or −1: the one that pictures of reconstructions show.</summary>
    internal int PixelTerm => Array.FindIndex(Terms, t => t.Target is PixelTarget);

    /// <summary>This experiment with another weighting of the term of that name.</summary>
    public PretrainConfig WithWeighting(string term, Weighting weighting)
        => this with { Terms = [.. Terms.Select(t => t.Name == term ? t with { Weighting = weighting } : t)] };

    /// <summary>What marks crops on the host for the weighting that needs it; none where none does. One for each thread.</summary>
    public CropMarker? NewMarker() => Array.Find(Terms, t => t.Weighting.NewMarker() is not null)?.Weighting.NewMarker();

    /// <summary>Peak, warm-up and minimum rates as this batch scales them.</summary>
    public RateSpan Rates(int batchesPerEpoch)
    {
        int stepsPerEpoch = Math.Max(1, batchesPerEpoch / Run.Accumulate);
        return Optim.Rates(Run.Batch * Run.Accumulate, stepsPerEpoch, TotalSteps(batchesPerEpoch));
    }

    /// <summary>Updates of the whole run.</summary>
    public long TotalSteps(int batchesPerEpoch) => Run.Steps > 0 ? Run.Steps
        : Math.Max(1, (long)Math.Round(Run.Epochs * batchesPerEpoch / Run.Accumulate));

    /// <summary>Rate of update <paramref name="step"/> (from 0): the originals set it after the update before.</summary>
    public double RateOf(in RateSpan span, long step) => Optim.RateOf(span, step, Run.Accumulate);

    /// <summary>Refuses what makes no sense, before anything is allocated.</summary>
    /// <exception cref="ConfigException">One sentence: the setting, its value, what would do.</exception>
    public void Validate()
    {
        VitConfig e = Encoder;
        if (Augment.Complaint() is { } complaint) throw new ConfigException(complaint);
        Require(e.PatchPixels > 0 && e.ImagePixels > 0 && e.ImagePixels % e.PatchPixels == 0,
            $"encoder.patchPixels is {e.PatchPixels}; it must divide encoder.imagePixels ({e.ImagePixels}).");
        Require(e.Width > 0 && e.Heads > 0 && e.Width % e.Heads == 0,
            $"encoder.heads is {e.Heads}; it must divide encoder.width ({e.Width}).");
        Require(e.Depth > 0, $"encoder.depth is {e.Depth}; a transformer needs at least one block.");
        Require(e.Hidden > 0, $"encoder.mlpRatio is {e.MlpRatio}; it must make a positive hidden width of {e.Width} channels.");
        Require(e.DropPath is >= 0f and < 1f, $"encoder.dropPath is {e.DropPath}; it is a probability below 1.");
        Require(e.LayerNormEps >= 0f, $"encoder.layerNormEps is {e.LayerNormEps}; it must be 0 or more.");
        Require(e.Positions != Positions.SinCos || e.Width % 4 == 0,
            $"encoder.width is {e.Width}; sine-cosine positions need a multiple of 4.");
        Require(e.Corruption == Corruption.Replace || e.RelativeBias == RelativeBias.None,
            $"encoder.relativeBias is {e.RelativeBias}, which needs every patch in its place, but encoder.corruption drop leaves patches out; "
            + "use positions sin-cos or learned.");
        Require(e.Corruption == Corruption.Replace || e.Positions != Positions.None,
            "encoder.positions is none, but encoder.corruption drop leaves patches out, and nothing would say where the others lie; "
            + "use sin-cos or learned.");
        Views.Validate(e.PatchPixels);
        Require(Views.Local == 0 || e.RelativeBias == RelativeBias.None,
            $"views.local is {Views.Local}, but encoder.relativeBias is {e.RelativeBias}, which fits one size of crops only; use none, or no small crops.");
        Require(Masking.Hides || e.Corruption == Corruption.Replace, "masking is none, but encoder.corruption is drop; use replace.");
        Require(Views.Local == 0 || Terms.Any(t => t.On == TokenChoice.Cls),
            $"views.local is {Views.Local}, but no term is on cls, and small crops serve no other; use 0.");
        Masking.Validate(e.ImagePixels, e.PatchPixels);
        Require(e.Corruption == Corruption.Replace || Masking.HidesSameNumber,
            "masking hides another number of patches in every crop, but encoder.corruption drop needs the same number; use random-tokens or random-cells.");
        Require(!Masking.NeedsAttention || Teacher is not null,
            "masking.kind is attention, which hides what a teacher looks at, but this experiment has no teacher; use another masking, or a recipe with one.");
        Require(Terms.Length > 0, "terms is empty; a run needs something to predict.");
        for (int i = 0; i < Terms.Length; i++) Terms[i].Validate(this, $"terms.{i}");
        Require(Terms.Count(t => t.Target is PixelTarget) <= 1, $"terms has {Terms.Count(t => t.Target is PixelTarget)} entries on pixels; one is what works.");
        Require(Terms.Count(t => t.Head is PrototypeHead) <= 1,
            $"terms has {Terms.Count(t => t.Head is PrototypeHead)} heads of kind prototypes; let the others be shared-prototypes with the first.");
        Require(Terms.Where(t => t.Weighting.NewMarker() is not null).Select(t => t.Weighting).Distinct().Count() <= 1,
            "terms have different weightings by orb or sift keypoints; a run marks its crops once, so they must be the same.");
        Require(!Optim.ClipEachPass || !Optim.ClipEachParameter,
            "optim.clipEachPass and optim.clipEachParameter are both on; passes are clipped by the global norm: switch one off.");
        Require(Views.Global == 1 || Terms.All(t => t.Weighting.NewMarker() is null),
            $"views.global is {Views.Global}, but orb and sift keypoints are marked on one crop of each picture; use 1, or type fast.");
        Teacher?.Validate(Terms);
        Require(Run.Batch > 0, $"run.batch is {Run.Batch}; it must be positive.");
        Require(Run.Batch * PictureBytes <= int.MaxValue, $"run.batch is {Run.Batch}: its crops are {Run.Batch * PictureBytes:N0} bytes, and a batch holds "
            + $"{int.MaxValue:N0}; use {int.MaxValue / Math.Max(1, PictureBytes)} or less, and run.accumulate for more pictures an update.");
        Require(Run.Accumulate > 0, $"run.accumulate is {Run.Accumulate}; 1 means no accumulation.");
        Require(Run.Epochs > 0 || Run.Steps > 0, $"run.epochs is {Run.Epochs} and run.steps is {Run.Steps}; one must be positive.");
        Require(Run.Steps >= 0, $"run.steps is {Run.Steps}; 0 means as many as run.epochs make.");
        Require(Run.LogEverySteps > 0, $"run.logEverySteps is {Run.LogEverySteps}; it must be positive.");
        Require(Run.CheckpointEveryEpochs > 0, $"run.checkpointEveryEpochs is {Run.CheckpointEveryEpochs}; it must be positive.");
        Require(Run.KnnEveryEpochs >= 0, $"run.knnEveryEpochs is {Run.KnnEveryEpochs}; it must be 0 (never) or more.");
        Require(Run.KnnPictures > 0, $"run.knnPictures is {Run.KnnPictures}; it must be positive.");
        Require(Run.HealthEveryEpochs >= 0, $"run.healthEveryEpochs is {Run.HealthEveryEpochs}; it must be 0 (never) or more.");
        Require(Run.KeepCheckpoints > 0, $"run.keepCheckpoints is {Run.KeepCheckpoints}; at least the newest must stay.");
        Require(Optim.Rate > 0 && double.IsFinite(Optim.Rate), $"optim.rate is {Optim.Rate}; it must be a positive number.");
        Require(Optim.WarmupEpochs >= 0, $"optim.warmupEpochs is {Optim.WarmupEpochs}; it must be 0 or more.");
        Require(Optim.Beta1 is >= 0f and < 1f && Optim.Beta2 is >= 0f and < 1f,
            $"optim.beta1 and beta2 are {Optim.Beta1} and {Optim.Beta2}; both lie in [0, 1).");
        Require(Optim.WeightDecay >= 0f, $"optim.weightDecay is {Optim.WeightDecay}; it must be 0 or more.");
        Require(Optim.WeightDecayEnd is null or >= 0f, $"optim.weightDecayEnd is {Optim.WeightDecayEnd}; it must be 0 or more, or null for no change.");
    }

    private static void Require(bool condition, string message)
    {
        if (!condition) throw new ConfigException(message);
    }
}
