using System.Text.Json;
using System.Text.Json.Nodes;
using MimEngine.Engine.Autograd;
using MimEngine.Engine.Data;
using MimEngine.Engine.Imaging;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Optim;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;

namespace MimEngine.Engine.Probing;

/// <summary>What a fine-tuned encoder starts from.</summary>
public enum FinetuneStart : byte
{
    /// <summary>The run's newest checkpoint.</summary>
    Pretrained,

    /// <summary>What the run itself started from: the control that says what pretraining was worth.</summary>
    Untrained,
}

/// <summary>How long, how often, how much at once.</summary>
public sealed record FinetuneLoop
{
    public ulong Seed { get; init; }

    /// <summary>Passes over the training pictures.</summary>
    public double Epochs { get; init; } = 100;

    /// <summary>Updates; 0 = as many as Epochs make.</summary>
    public long Steps { get; init; }

    /// <summary>Pictures of one pass through the network; one λ of Mixup and CutMix.</summary>
    public int Batch { get; init; } = 128;

    /// <summary>Passes summed into one update.</summary>
    public int Accumulate { get; init; } = 1;

    /// <summary>What backward keeps: none recomputes nothing and needs the most memory, block keeps only the input of each block.</summary>
    public Recompute Recompute { get; init; } = Recompute.None;

    /// <summary>What matrix products multiply: f32, or bf16 where the device can.</summary>
    public Precision Precision { get; init; } = Precision.F32;

    /// <summary>Updates between two lines of metrics.</summary>
    public int LogEverySteps { get; init; } = 10;

    /// <summary>Epochs between scores on the test pictures; they are always scored at the end.</summary>
    public double TestEveryEpochs { get; init; } = 1;

    /// <summary>Epochs between checkpoints; one is always written at the end.</summary>
    public double CheckpointEveryEpochs { get; init; } = 1;

    /// <summary>Checkpoints kept.</summary>
    public int KeepCheckpoints { get; init; } = 2;
}

/// <summary>
/// Fine-tuning as one value: a pretrained encoder and a linear classifier, trained end to end (SPEC A.9, B.5, C.4). Everything that changes
/// the result is in here, the pretrained weights and the pictures apart; devices and threads are not.
/// </summary>
public sealed record FinetuneConfig
{
    /// <summary>The preset it started from; settings below say what is really done.</summary>
    public string Preset { get; init; } = "";

    /// <summary>The pretraining run: a folder, or one checkpoint file.</summary>
    public string Run { get; init; } = "";

    public FinetuneStart Start { get; init; } = FinetuneStart.Pretrained;

    /// <summary>Train the same network from <see cref="FinetuneStart.Untrained"/> too, in the run's folder untrained/.</summary>
    public bool Beside { get; init; }

    /// <summary>Labelled pictures with train and test splits; none = the pictures inside the program.</summary>
    public string? Data { get; init; }

    /// <summary>
    /// The encoder that is trained: the run's, with learned positions where it had fixed ones and biases of its own in every block. With
    /// finalNorm its LayerNorm comes before pooling and is pretrained (KAMIM, MAE's [cls] variant); without, a fresh "fc_norm" comes after
    /// pooling (MAE, SimMIM; SPEC C.4).
    /// </summary>
    public VitConfig Encoder { get; init; } = new();

    /// <summary>mean-patches or cls.</summary>
    public Pooling Pooling { get; init; } = Pooling.MeanPatches;

    public ClassifierInit Init { get; init; } = ClassifierInit.NearZero;

    /// <summary>How training pictures are augmented.</summary>
    public AugmentConfig Augment { get; init; } = new();

    /// <summary>How test pictures are framed.</summary>
    public AugmentConfig View { get; init; } = AugmentConfig.Evaluation;

    /// <summary>Probability of erasing a rectangle of a normalised training picture by noise.</summary>
    public float Erasing { get; init; }

    public MixConfig Mix { get; init; } = new();
    public OptimConfig Optim { get; init; } = new();

    /// <summary>Factor of the learning rate from a layer to the one below it; 1 = all alike.</summary>
    public float LayerDecay { get; init; } = 1f;

    /// <summary>Momentum of an average of the weights over updates, which is scored instead of them; 0 = none.</summary>
    public float Ema { get; init; }

    public FinetuneLoop Loop { get; init; } = new();

    /// <summary>Whether the text of a config.json is fine-tuning's.</summary>
    public static bool IsIn(string json)
    {
        try
        {
            return JsonNode.Parse(json) is JsonObject config && config.ContainsKey("layerDecay");
        }
        catch (JsonException)
        {
            return false;   // whoever reads it says what is wrong
        }
    }

    /// <summary>Updates of the whole run.</summary>
    public long TotalSteps(int batchesPerEpoch) => Loop.Steps > 0 ? Loop.Steps
        : Math.Max(1, (long)Math.Round(Loop.Epochs * batchesPerEpoch / Loop.Accumulate));

    /// <summary>Peak, warm-up and minimum rates as this batch scales them.</summary>
    public RateSpan Rates(int batchesPerEpoch)
        => Optim.Rates(Loop.Batch * Loop.Accumulate, Math.Max(1, batchesPerEpoch / Loop.Accumulate), TotalSteps(batchesPerEpoch));

    /// <summary>Refuses what makes no sense, before anything is allocated.</summary>
    /// <exception cref="ConfigException">One sentence: the setting, its value, what would do.</exception>
    public void Validate()
    {
        Require(Encoder.ImagePixels > 0 && Encoder.PatchPixels > 0 && Encoder.ImagePixels % Encoder.PatchPixels == 0,
            $"encoder.imagePixels is {Encoder.ImagePixels}; patches of {Encoder.PatchPixels} pixels do not tile it: use a multiple.");
        Require(Encoder.DropPath is >= 0f and < 1f, $"encoder.dropPath is {Encoder.DropPath}; it is a probability below 1.");
        Require(Pooling is Pooling.MeanPatches or Pooling.Cls, $"pooling is {ConfigJson.Word(Pooling)}; fine-tuning pools by mean-patches or cls.");
        if ((Augment.Complaint() ?? View.Complaint() ?? Mix.Complaint()) is { } complaint) throw new ConfigException("Fine-tuning: " + complaint);
        Require(Erasing is >= 0 and <= 1, $"erasing is {Erasing}; it is a probability.");
        Require(LayerDecay is > 0 and <= 1, $"layerDecay is {LayerDecay}; it must lie in (0, 1], 1 being none.");
        Require(Ema is >= 0 and < 1, $"ema is {Ema}; it must lie in [0, 1), 0 being none.");
        Require(Optim.Kind != OptimizerKind.Lars, "optim.kind is lars, which is for probes; use adam-w or sgd.");
        Require(Optim.Rate > 0 && double.IsFinite(Optim.Rate), $"optim.rate is {Optim.Rate}; it must be a positive number.");
        Require(Optim.WarmupEpochs >= 0, $"optim.warmupEpochs is {Optim.WarmupEpochs}; it must be 0 or more.");
        Require(Optim.Beta1 is >= 0f and < 1f && Optim.Beta2 is >= 0f and < 1f,
            $"optim.beta1 and beta2 are {Optim.Beta1} and {Optim.Beta2}; both lie in [0, 1).");
        Require(Optim.WeightDecay >= 0f, $"optim.weightDecay is {Optim.WeightDecay}; it must be 0 or more.");
        Require(Loop.Batch > 0, $"loop.batch is {Loop.Batch}; it must be positive.");
        Require(Loop.Accumulate > 0, $"loop.accumulate is {Loop.Accumulate}; 1 means no accumulation.");
        Require(Loop.Epochs > 0 || Loop.Steps > 0, $"loop.epochs is {Loop.Epochs} and loop.steps is {Loop.Steps}; one must be positive.");
        Require(Loop.Steps >= 0, $"loop.steps is {Loop.Steps}; 0 means as many as loop.epochs make.");
        Require(Loop.LogEverySteps > 0, $"loop.logEverySteps is {Loop.LogEverySteps}; it must be positive.");
        Require(Loop.TestEveryEpochs > 0, $"loop.testEveryEpochs is {Loop.TestEveryEpochs}; it must be positive.");
        Require(Loop.CheckpointEveryEpochs > 0, $"loop.checkpointEveryEpochs is {Loop.CheckpointEveryEpochs}; it must be positive.");
        Require(Loop.KeepCheckpoints > 0, $"loop.keepCheckpoints is {Loop.KeepCheckpoints}; at least the newest must stay.");
    }

    private static void Require(bool condition, string message)
    {
        if (!condition) throw new ConfigException("Fine-tuning: " + message);
    }
}
