using MimEngine.Engine.Imaging;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Optim;
using MimEngine.Engine.Pretraining;

namespace MimEngine.Engine.Probing;

/// <summary>Initialisation of the classifier.</summary>
public enum ClassifierInit : byte
{
    /// <summary>Weight normal .01, bias uniform ±1/√C: MAE's probe (SPEC C.3).</summary>
    Mae,

    /// <summary>PyTorch's default, weight and bias uniform ±1/√C: KAMIM's probe (SPEC A.9).</summary>
    PyTorch,

    /// <summary>Weight normal 2e-5, bias 0: fine-tuning by MAE and SimMIM, whose logits start at almost nothing (SPEC B.5, C.4).</summary>
    NearZero,

    /// <summary>Weight normal .01, bias 0: DINO's and iBOT's probe (SPEC E.6).</summary>
    Dino,
}

/// <summary>What is done to a whole training batch of pictures and labels.</summary>
public enum BatchMix : byte
{
    None,

    /// <summary>Mixup or CutMix with equal probability, one λ a batch, partner rolled by one (SPEC A.9).</summary>
    MixupCutmix,
}

/// <summary>Weighted k-NN (SPEC E.6).</summary>
public sealed record KnnConfig
{
    /// <summary>Numbers of neighbours, each scored; those above the number of training pictures are left out.</summary>
    public int[] Neighbours { get; init; } = [10, 20, 100, 200];

    /// <summary>A neighbour of cosine similarity s votes exp(s/Temperature).</summary>
    public float Temperature { get; init; } = 0.07f;
}

/// <summary>Where features are read: part of every result, since no two places compare.</summary>
/// <param name="Block">1-based block whose output is read.</param>
/// <param name="FinalNorm">Whether the encoder's final LayerNorm follows.</param>
public readonly record struct FeaturePlace(int Block, bool FinalNorm, Pooling Pooling);

/// <summary>A probe of a frozen encoder as one value. Everything that changes its result is in here; devices and threads are not.</summary>
public sealed record ProbeConfig
{
    /// <summary>The preset it started from; settings below say what is really done.</summary>
    public string Preset { get; init; } = "";

    /// <summary>Value of <see cref="Block"/>: two thirds of the depth, 8 of 12 as SimMIM and KAMIM probe, 4 of 6.</summary>
    public const int TwoThirds = -1;

    /// <summary>1-based block whose output is read; 0 = the last, −1 = two thirds of the depth.</summary>
    public int Block { get; init; }

    /// <summary>Apply the encoder's final LayerNorm, where it has one.</summary>
    public bool FinalNorm { get; init; } = true;

    public Pooling Pooling { get; init; } = Pooling.MeanPatches;

    /// <summary>More aggregations of the same block, each with classifiers of its own, trained on the same pass over the pictures.</summary>
    public Pooling[] Beside { get; init; } = [];

    /// <summary>Peak rates trained side by side instead of Optim.Rate, scaled as it is; none = that one.</summary>
    public double[] Rates { get; init; } = [];

    /// <summary>A run, or a checkpoint of one, whose last block's attention <see cref="Pooling.Oracle"/> reads.</summary>
    public string? Oracle { get; init; }

    /// <summary>The head of <see cref="Pooling.AbMilp"/>.</summary>
    public AbMilpConfig AbMilp { get; init; } = new();

    /// <summary>Pooling and Beside.</summary>
    internal IEnumerable<Pooling> Poolings => Beside.Prepend(Pooling);

    /// <summary>Rates, or the one of Optim.</summary>
    internal double[] PeakRates => Rates.Length > 0 ? Rates : [Optim.Rate];

    /// <summary>BatchNorm without affine parameters (eps 1e-6, momentum .1) before the linear layer.</summary>
    public bool BatchNorm { get; init; } = true;

    public ClassifierInit Init { get; init; } = ClassifierInit.Mae;

    /// <summary>How a picture that is scored is framed: test pictures, and those k-NN compares them with.</summary>
    public AugmentConfig View { get; init; } = AugmentConfig.Resize;

    /// <summary>How training pictures are augmented; none = they are framed like the scored ones, and their features computed only once.</summary>
    public AugmentConfig? Augment { get; init; }

    public BatchMix Mix { get; init; } = BatchMix.None;
    public OptimConfig Optim { get; init; } = new();

    /// <summary>Passes over the training pictures.</summary>
    public int Epochs { get; init; } = 90;

    /// <summary>Pictures of one pass; BatchNorm's statistics and one λ are of such a batch. Never more than there are pictures.</summary>
    public int Batch { get; init; } = 512;

    /// <summary>Passes summed into one update.</summary>
    public int Accumulate { get; init; } = 1;

    /// <summary>Names the shuffles, augmentations and the classifier's start.</summary>
    public ulong Seed { get; init; }

    public KnnConfig Knn { get; init; } = new();

    /// <summary>Low-shot k-NN with this many labelled pictures of each class (the papers: 1, 5, 10, 20); none = not done.</summary>
    public int[] Shots { get; init; } = [];

    /// <summary>Test pictures again with this share of their most attended patches black; none = not done.</summary>
    public double[] Masked { get; init; } = [];

    /// <summary>The run, or a checkpoint of one, whose attention says which patches turn black; null = the run that is probed.</summary>
    public string? Attentioner { get; init; }

    /// <summary>Where features of this encoder are read.</summary>
    public FeaturePlace PlaceIn(VitConfig encoder)
        => new(Block switch { 0 => encoder.Depth, TwoThirds => (2 * encoder.Depth + 2) / 3, _ => Block }, FinalNorm && encoder.FinalNorm, Pooling);

    /// <summary>Refuses what makes no sense for an encoder, before anything is computed.</summary>
    /// <exception cref="ConfigException">One sentence: the setting, its value, what would do.</exception>
    public void Validate(VitConfig encoder)
    {
        if (Block < TwoThirds || Block > encoder.Depth)
            throw new ConfigException($"The probe{(Preset.Length > 0 ? $" '{Preset}'" : "")} reads block {Block}, but this encoder has {encoder.Depth}; "
                + $"choose one with --block 1 … {encoder.Depth}, 0 being the last.");
        Require(Poolings.Distinct().Count() == Poolings.Count(), $"beside names an aggregation twice ({string.Join(", ", Poolings)}).");
        foreach (Pooling p in Poolings)
            Require(p.Window() <= encoder.Grid, $"{p} reads {p.Window()} × {p.Window()} patches, but this encoder has {encoder.Grid} a side.");
        Require(Array.TrueForAll(Rates, r => r > 0 && double.IsFinite(r)), "rates must be positive numbers.");
        Require(!Poolings.Contains(Pooling.ClsOfLastBlocks) || PlaceIn(encoder).Block >= Aggregation.LastBlocks,
            $"cls-of-last-blocks reads {Aggregation.LastBlocks} blocks, but the probe ends at block {PlaceIn(encoder).Block}.");
        Require(Array.TrueForAll(Shots, s => s > 0), "shots must be positive numbers of pictures a class.");
        Require(Array.TrueForAll(Masked, m => m is >= 0 and < 1), "masked lists shares of patches; each must lie in [0, 1).");
        if (Poolings.Contains(Pooling.AbMilp)) AbMilp.Validate(encoder.Width);
        Require(Epochs > 0, $"epochs is {Epochs}; it must be positive.");
        Require(Batch > 0, $"batch is {Batch}; it must be positive.");
        Require(Accumulate > 0, $"accumulate is {Accumulate}; 1 means no accumulation.");
        if ((View.Complaint() ?? Augment?.Complaint()) is { } complaint) throw new ConfigException("Probe: " + complaint);
        Require(Mix == BatchMix.None || Augment is not null,
            "mix needs pictures, but without augment their features are computed once; set augment, or mix to none.");
        Require(Optim.Rate > 0 && double.IsFinite(Optim.Rate), $"optim.rate is {Optim.Rate}; it must be a positive number.");
        Require(Optim.WarmupEpochs >= 0, $"optim.warmupEpochs is {Optim.WarmupEpochs}; it must be 0 or more.");
        Require(Knn.Temperature > 0 && float.IsFinite(Knn.Temperature), $"knn.temperature is {Knn.Temperature}; it must be a positive number.");
        Require(Knn.Neighbours.Length > 0 && Array.TrueForAll(Knn.Neighbours, k => k > 0),
            "knn.neighbours must list at least one number, all of them positive.");
    }

    private static void Require(bool condition, string message)
    {
        if (!condition) throw new ConfigException("Probe: " + message);
    }
}
