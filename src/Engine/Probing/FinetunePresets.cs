using MimEngine.Engine.Data;
using MimEngine.Engine.Imaging;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Optim;
using MimEngine.Engine.Pretraining;

namespace MimEngine.Engine.Probing;

/// <summary>Fine-tuning as published, and for small data; each is made for the encoder of a run.</summary>
public static class FinetunePresets
{
    /// <summary>Presets by the name a user types.</summary>
    public static IReadOnlyDictionary<string, Func<VitConfig, FinetuneConfig>> ByName { get; }
        = new Dictionary<string, Func<VitConfig, FinetuneConfig>>
    {
        ["small-ft"] = Small,
        ["mae-ft"] = Mae,
        ["simmim-ft"] = SimMim,
        ["kamim-ft"] = Kamim,
        ["ibot-ft"] = Ibot,
    };

    /// <summary>What is taken when nobody names one: <see cref="Small"/> up to 64 pixels, <see cref="Mae"/> above.</summary>
    public static string NameFor(VitConfig encoder) => encoder.ImagePixels <= 64 ? "small-ft" : "mae-ft";

    /// <summary>MAE's README (He et al. 2022; SPEC C.4): mean patch token, fc_norm, layer decay, RandAugment, erasing, Mixup and CutMix.</summary>
    /// <remarks>
    /// ImageNet-1k: ViT-B 83.6, L 85.9 (released weights). 1024 pictures an update; its min_lr 1e-6 is not scaled by the batch, which is
    /// written here as 2.5e-7 per 256. More than 12 blocks take the settings of ViT-L.
    /// </remarks>
    public static FinetuneConfig Mae(VitConfig run)
    {
        bool large = run.Depth > 12;
        return new()
        {
            Preset = "mae-ft",
            Encoder = EncoderOf(run, finalNorm: false) with { DropPath = large ? 0.2f : 0.1f },
            Augment = Timm,
            Erasing = 0.25f,
            Mix = new MixConfig { Mixup = 0.8f, CutMix = 1f, Smoothing = 0.1f },
            LayerDecay = large ? 0.75f : 0.65f,
            Optim = new OptimConfig
            {
                Rate = large ? 1e-3 : 5e-4,
                WarmupRate = 0,
                MinRate = 2.5e-7,
                RatePerBatch = 256,
                Schedule = new CosineAfterWarmupSchedule(),
                RateIndex = RateIndex.OwnUpdate,
                WarmupEpochs = 5,
                WeightDecay = 0.05f,
                Decay = DecayRule.NotVectorsClsPositions,
                ClipNorm = 0f,
            },
            Loop = new FinetuneLoop { Epochs = large ? 50 : 100, Batch = 128, Accumulate = 8 },
        };
    }

    /// <summary>SimMIM's configs/vit_base__800ep (Xie et al. 2022; SPEC B.5): as MAE's, cosine from the start, clipped at 5.</summary>
    /// <remarks>ImageNet-1k, ViT-B: 83.8. 2048 pictures an update.</remarks>
    public static FinetuneConfig SimMim(VitConfig run)
    {
        FinetuneConfig mae = Mae(run);
        return mae with
        {
            Preset = "simmim-ft",
            Encoder = mae.Encoder with { DropPath = 0.1f },
            LayerDecay = 0.65f,
            Optim = mae.Optim with
            {
                Rate = 1.25e-3,
                WarmupRate = 2.5e-7,
                MinRate = 2.5e-7,
                RatePerBatch = 512,
                Schedule = new CosineSchedule(),
                RateIndex = RateIndex.Updates,
                WarmupEpochs = 20,
                ClipNorm = 5f,
            },
            Loop = mae.Loop with { Epochs = 100, Accumulate = 16 },
        };
    }

    /// <summary>KAMIM's (SPEC A.9): final LayerNorm, mean patch token, decay on everything, TrivialAugment, Mixup or CutMix, one rate for all.</summary>
    /// <remarks>ImageNet-1k, ViT-B at 192 px: 77.30 (its unweighted baseline 76.78). 2048 pictures an update.</remarks>
    public static FinetuneConfig Kamim(VitConfig run) => new()
    {
        Preset = "kamim-ft",
        Encoder = EncoderOf(run, finalNorm: true) with { DropPath = 0f },
        Init = ClassifierInit.PyTorch,
        Augment = AugmentConfig.Resize with { Antialias = false, TrivialAugment = true, RandomErasing = 0.5f },
        View = AugmentConfig.Resize with { Antialias = false },
        Mix = new MixConfig { Mixup = 1f, CutMix = 1f, Partner = MixPartner.Rolled },
        Optim = ProbePresets.KamimLp().Optim,
        Loop = new FinetuneLoop { Epochs = 110, Batch = 256, Accumulate = 8 },
    };

    /// <summary>
    /// How DINO, iBOT and AttMask transfer to CIFAR-10, CIFAR-100 and Flowers (DeiT's recipe; SPEC E.6): [cls] after the final LayerNorm, one small
    /// rate for all layers that changes once an epoch.
    /// </summary>
    /// <remarks>
    /// 900 pictures an update; warm-up from 1e-6 and the end 1e-5 are absolute there, so the first is written for 512 pictures here. The originals also
    /// draw each picture three times an epoch (repeated augmentation), which is not done here, and keep an average of the weights: ema = 0.99996.
    /// </remarks>
    public static FinetuneConfig Ibot(VitConfig run) => new()
    {
        Preset = "ibot-ft",
        Encoder = EncoderOf(run, finalNorm: true) with { DropPath = 0.1f },
        Pooling = Pooling.Cls,
        Init = ClassifierInit.Dino,
        Augment = Timm,
        Erasing = 0.25f,
        Mix = new MixConfig { Mixup = 0.8f, CutMix = 1f, Smoothing = 0.1f },
        Optim = new OptimConfig
        {
            Rate = 7.5e-6,
            WarmupRate = 1e-6 * 512 / 900,
            MinRate = 1e-5,
            FixedMinRate = true,
            RatePerBatch = 512,
            Schedule = new CosineSchedule(),
            RateIndex = RateIndex.Epochs,
            WarmupEpochs = 5,
            WeightDecay = 0.05f,
            Decay = DecayRule.NotVectorsClsPositions,
            ClipNorm = 0f,
        },
        Loop = new FinetuneLoop { Epochs = 500, Batch = 150, Accumulate = 6 },
    };

    /// <summary>
    /// For thousands of small pictures and minutes of a CPU, nobody's publication: MAE's network and layer decay, rates as they stand, mild
    /// crops instead of RandAugment and mixing, which need a hundred epochs to pay.
    /// </summary>
    public static FinetuneConfig Small(VitConfig run) => Short(Mae(run), 10, 64) with
    {
        Preset = "small-ft",
        Encoder = EncoderOf(run, finalNorm: false) with { DropPath = 0f },
        Augment = new AugmentConfig { CropScaleMin = 0.67f, Interpolation = Interpolation.Bicubic, HorizontalFlip = 0.5f },
        View = AugmentConfig.Resize with { Interpolation = Interpolation.Bicubic },
        Erasing = 0f,
        Mix = new MixConfig { Smoothing = 0.1f },
        LayerDecay = 0.75f,
    };

    /// <summary>The same in another length: rates not scaled by the batch, warm-up over a tenth, cosine to the end.</summary>
    public static FinetuneConfig Short(FinetuneConfig config, double epochs, int batch) => config with
    {
        Optim = config.Optim with
        {
            Rate = 1e-3,
            WarmupRate = 1e-6,
            MinRate = 1e-6,
            RatePerBatch = 0,
            Schedule = new CosineAfterWarmupSchedule(),
            RateIndex = RateIndex.OwnUpdate,
            ScheduleEpochs = 0,
            WarmupEpochs = Math.Max(0.5, epochs / 10),
        },
        Loop = config.Loop with { Epochs = epochs, Batch = batch, Accumulate = 1 },
    };

    /// <summary>The run's encoder as it is fine-tuned: positions are learned, and every block has relative biases of its own.</summary>
    public static VitConfig EncoderOf(VitConfig run, bool finalNorm) => run with
    {
        Positions = run.Positions == Positions.SinCos ? Positions.Learned : run.Positions,
        RelativeBias = run.RelativeBias == RelativeBias.None ? RelativeBias.None : RelativeBias.PerBlock,
        FinalNorm = finalNorm,
    };

    private static AugmentConfig Timm => new()
    {
        CropScaleMin = 0.08f,
        Interpolation = Interpolation.Bicubic,
        HorizontalFlip = 0.5f,
        RandAugment = new RandAugmentConfig(),
    };
}
