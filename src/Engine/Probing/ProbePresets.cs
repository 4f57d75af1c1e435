using MimEngine.Engine.Imaging;
using MimEngine.Engine.Optim;
using MimEngine.Engine.Pretraining;

namespace MimEngine.Engine.Probing;

/// <summary>The probes a user can name.</summary>
public static class ProbePresets
{
    /// <summary>Presets by the name a user types; the first is the default.</summary>
    public static IReadOnlyDictionary<string, Func<ProbeConfig>> ByName { get; } = new Dictionary<string, Func<ProbeConfig>>
    {
        ["linear"] = Linear,
        ["mae-lp"] = MaeLp,
        ["beyond-cls"] = BeyondCls,
        ["kamim-lp"] = KamimLp,
        ["ibot-lp"] = IbotLp,
    };

    /// <summary>The preset of that name.</summary>
    /// <exception cref="ConfigException">There is none.</exception>
    public static ProbeConfig Named(string name) => ByName.TryGetValue(name, out Func<ProbeConfig>? make) ? make()
        : throw new ConfigException($"There is no probe '{name}'; choose one of {string.Join(", ", ByName.Keys)}.");

    /// <summary>
    /// Fast and comparable across methods: MAE's head and optimiser on the mean patch token two thirds up the encoder, where masked image
    /// models keep what is linearly readable (SPEC B.6); pictures are only resized, so that their features are computed once.
    /// </summary>
    /// <remarks>The rate is MAE's 6.4 as it stands, not scaled by the batch: LARS moves weights by a fraction of their length, and scaled
    /// down to small data the schedule would end before the classifier has left its start.</remarks>
    public static ProbeConfig Linear() => new()
    {
        Preset = "linear",
        Block = ProbeConfig.TwoThirds,
        Batch = 256,
        Optim = Lars() with { Rate = 6.4, RatePerBatch = 0 },
    };

    /// <summary>MAE's linear probe (He et al. 2022, appendix A.1; SPEC C.3): [cls] after the final LayerNorm, random crops and flips.</summary>
    /// <remarks>ViT-B, ImageNet-1k: 68.0 at an effective batch of 16384, of which each device normalises its own 512.</remarks>
    public static ProbeConfig MaeLp() => new()
    {
        Preset = "mae-lp",
        Pooling = Pooling.Cls,
        View = AugmentConfig.Evaluation,
        Augment = new AugmentConfig
        {
            Framing = Framing.RandomCropOnce,
            CropScaleMin = 0.08f,
            Interpolation = Interpolation.Bicubic,
            HorizontalFlip = 0.5f,
        },
        Batch = 512,
        Optim = Lars() with { Rate = 0.1, RatePerBatch = 256 },
    };

    /// <summary>
    /// "Beyond [cls]" (SPEC D): MAE's probe of the raw residual stream after the last block, by its [cls] token, the mean patch and learned
    /// selective aggregation (AbMILP as the authors' README has it) beside each other.
    /// </summary>
    /// <remarks>MAE ViT-B, ImageNet-1k: 67.8 by [cls], 71.6 by AbMILP, at an effective batch of 16384.</remarks>
    public static ProbeConfig BeyondCls() => MaeLp() with
    {
        Preset = "beyond-cls",
        FinalNorm = false,
        Beside = [Pooling.MeanPatches, Pooling.AbMilp],
        Init = ClassifierInit.PyTorch,
    };

    /// <summary>
    /// KAMIM's linear probe as its authors run it (SPEC A.9): mean patch token of block 8 without norm, no BatchNorm, AdamW,
    /// TrivialAugment, random erasing, Mixup or CutMix. Its numbers compare with nothing but themselves (SPEC J.8).
    /// </summary>
    /// <remarks>ViT-B, ImageNet-1k: 33.97 (KAMIM), 16.12 (its SimMIM baseline). One update takes 8 batches of 256, each with its own λ.</remarks>
    public static ProbeConfig KamimLp() => new()
    {
        Preset = "kamim-lp",
        Block = 8,
        FinalNorm = false,
        BatchNorm = false,
        Init = ClassifierInit.PyTorch,
        View = AugmentConfig.Resize with { Antialias = false },
        Augment = AugmentConfig.Resize with { Antialias = false, TrivialAugment = true, RandomErasing = 0.5f },
        Mix = BatchMix.MixupCutmix,
        Epochs = 110,
        Batch = 256,
        Accumulate = 8,
        Optim = new OptimConfig
        {
            Kind = OptimizerKind.AdamW,
            Rate = 5e-3,
            WarmupRate = 2.5e-6,
            MinRate = 2.5e-6,
            Schedule = new CosineSchedule(),
            ScheduleEpochs = 100,
            WarmupEpochs = 10,
            WeightDecay = 0.05f,
            Decay = DecayRule.Everything,
            ClipNorm = 1f,
        },
    };

    /// <summary>
    /// DINO's, iBOT's and AttMask's linear probe of ViT-S (SPEC E.6): [cls] of the last four blocks side by side, SGD, random crops and flips;
    /// the rate falls once an epoch.
    /// </summary>
    /// <remarks>
    /// ViT-S/16, ImageNet-1k, 100 epochs: 77.9 for iBOT (800 epochs). The originals' headline is the best epoch, which is reported beside the last,
    /// and their last batch of an epoch may be short, which is left out here.
    /// </remarks>
    public static ProbeConfig IbotLp() => new()
    {
        Preset = "ibot-lp",
        Pooling = Pooling.ClsOfLastBlocks,
        BatchNorm = false,
        Init = ClassifierInit.Dino,
        View = AugmentConfig.Evaluation,
        Augment = new AugmentConfig { CropScaleMin = 0.08f, Interpolation = Interpolation.Bilinear, HorizontalFlip = 0.5f },
        Epochs = 100,
        Batch = 512,
        Optim = Lars() with { Kind = OptimizerKind.Sgd, Rate = 0.005, RatePerBatch = 256, WarmupEpochs = 0, RateIndex = RateIndex.Epochs },
    };

    private static OptimConfig Lars() => new()
    {
        Kind = OptimizerKind.Lars,
        WarmupRate = 0,
        MinRate = 0,
        Schedule = new CosineAfterWarmupSchedule(),
        RateIndex = RateIndex.OwnUpdate,
        WarmupEpochs = 10,
        Momentum = 0.9f,
        WeightDecay = 0f,
        Decay = DecayRule.NotVectors,
        ClipNorm = 0f,
    };
}
