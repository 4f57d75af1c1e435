using MimEngine.Engine.Imaging;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Optim;
using MimEngine.Kernels;

namespace MimEngine.Engine.Pretraining;

/// <summary>The published experiments, as their authors' code runs them. One function a method.</summary>
public static partial class Recipes
{
    /// <summary>Recipes by the name a user types.</summary>
    public static IReadOnlyDictionary<string, Func<PretrainConfig>> ByName { get; } = new Dictionary<string, Func<PretrainConfig>>
    {
        ["simmim"] = SimMim,
        ["kamim-baseline"] = KamimBaseline,
        ["kamim"] = Kamim,
        ["mae"] = Mae,
        ["dino"] = Dino,
        ["ibot"] = Ibot,
        ["ibot-attmask-high"] = IbotAttMaskHigh,
        ["ibot-attmask-hint"] = IbotAttMaskHint,
        ["ibot-attmask-low"] = IbotAttMaskLow,
    };

    /// <summary>The recipe of that name.</summary>
    /// <exception cref="ConfigException">There is none.</exception>
    public static PretrainConfig Named(string name) => ByName.TryGetValue(name, out Func<PretrainConfig>? make) ? make()
        : throw new ConfigException($"There is no recipe '{name}'; choose one of {string.Join(", ", ByName.Keys)}, or a .json file.");

    /// <summary>SimMIM (Xie et al. 2022), official ViT-B set-up: 224 px, shared relative position bias, LayerScale, DropPath (SPEC B).</summary>
    /// <remarks>ViT-B, ImageNet-1k, 800 epochs: 83.8 fine-tuned, 56.7 linear probe of block 8 (paper).</remarks>
    public static PretrainConfig SimMim() => new()
    {
        Recipe = "simmim",
        Encoder = new VitConfig
        {
            ImagePixels = 224,
            Positions = Positions.None,
            RelativeBias = RelativeBias.Shared,
            QkvBias = QkvBias.NoKey,
            LayerScale = 0.1f,
            DropPath = 0.1f,
            LayerNormEps = 1e-6f,
            Init = VitInit.SimMim,
        },
        Augment = new AugmentConfig
        {
            CropScaleMin = 0.67f,
            CropScaleMax = 1f,
            Interpolation = Interpolation.Bilinear,
            Antialias = true,
            HorizontalFlip = 0.5f,
            VerticalFlip = 0f,
        },
        Masking = new RandomCells(0.6f, 32),
        Terms = [new Term { Head = new LinearPixelHead(HeadInit.PyTorch) }],
        Optim = new OptimConfig
        {
            Rate = 1e-4,
            WarmupRate = 5e-7,
            MinRate = 0,
            RatePerBatch = 512,
            Schedule = new MultiStepSchedule(0.1, [700]),
            WarmupEpochs = 10,
            Decay = DecayRule.NotVectorsClsPositions,
            ClipNorm = 5f,
        },
        Run = new RunConfig { Epochs = 800 },
    };

    /// <summary>KAMIM's authors' own SimMIM baseline: plain ViT with learned positions, 192 px, decay on everything (SPEC A).</summary>
    /// <remarks>ViT-B, ImageNet-1k: authors' probe 16.12, fine-tuned 76.78. Never compare it with <see cref="SimMim"/>.</remarks>
    public static PretrainConfig KamimBaseline() => new()
    {
        Recipe = "kamim-baseline",
        Encoder = new VitConfig { ImagePixels = 192, LayerNormEps = 1e-12f, Init = VitInit.HuggingFace },
        Augment = new AugmentConfig
        {
            CropScaleMin = 0.67f,
            CropScaleMax = 1f,
            Interpolation = Interpolation.Bilinear,
            Antialias = false,
            HorizontalFlip = 0.5f,
            VerticalFlip = 0.5f,
        },
        Masking = new RandomCells(0.6f, 32),
        Terms = [new Term()],
        Optim = new OptimConfig { Rate = 8e-4, WarmupRate = 1e-6, MinRate = 1e-5, ScheduleEpochs = 100, WarmupEpochs = 10, ClipNorm = 1f },
        Run = new RunConfig { Epochs = 110 },
    };

    /// <summary>KAMIM (Krishna and Subramanyam 2024): its authors' SimMIM set-up, L1 weighted by FAST keypoint density (SPEC A).</summary>
    /// <remarks>ViT-B, 192 px, ImageNet-1k: authors' probe 33.97 (16.12 unweighted; compares with no other), fine-tuned 77.30 (76.78).</remarks>
    public static PretrainConfig Kamim() => KamimBaseline().WithWeighting("pixels", new KeypointDensity()) with { Recipe = "kamim" };

    /// <summary>
    /// MAE (He et al. 2022) as its authors pretrain it: the encoder sees a quarter of the patches, a small transformer predicts the normalised
    /// pixels of the rest (SPEC C.1, C.2).
    /// </summary>
    /// <remarks>ViT-B, ImageNet-1k, 1,600 epochs: linear probe 67.8, fine-tuned 83.66 (its repository).</remarks>
    public static PretrainConfig Mae() => new()
    {
        Recipe = "mae",
        Encoder = new VitConfig
        {
            ImagePixels = 224,
            Corruption = Corruption.Drop,
            Positions = Positions.SinCos,
            LayerNormEps = 1e-6f,
            Init = VitInit.Mae,
        },
        Augment = new AugmentConfig { CropScaleMin = 0.2f, Interpolation = Interpolation.Bicubic, HorizontalFlip = 0.5f },
        Masking = new RandomTokens(0.75f),
        Terms = [new Term { Target = new PixelTarget(PixelDistance.L2, Eps: 0f, NormalizePatches: true), Head = new TransformerDecoder() }],
        Optim = new OptimConfig
        {
            Rate = 1.5e-4,
            WarmupRate = 0,
            MinRate = 0,
            RatePerBatch = 256,
            Schedule = new CosineAfterWarmupSchedule(),
            RateIndex = RateIndex.OwnUpdate,
            WarmupEpochs = 40,
            Beta2 = 0.95f,
            Decay = DecayRule.NotVectors,
            ClipNorm = 0f,
        },
        Run = new RunConfig { Epochs = 800, Batch = 128, Accumulate = 32 },
    };

    /// <summary>
    /// A recipe for pictures of another size and a small machine: patch and mask cells keep their share of the picture, 12 × 12 patches
    /// of 192 px becoming 8 × 8 of 32 px, and one update takes one batch.
    /// </summary>
    /// <param name="pixels">Side of the crop; a multiple of 8 from 16 on.</param>
    /// <exception cref="ConfigException">A size that no patch fits.</exception>
    public static PretrainConfig AtPixels(PretrainConfig recipe, int pixels)
    {
        if (pixels < 16 || pixels % 8 != 0)
            throw new ConfigException($"--pixels is {pixels}; it must be a multiple of 8 and at least 16.");
        int patch = pixels >= 128 && pixels % 16 == 0 ? 16 : pixels >= 64 ? 8 : 4;
        int cell = 2 * patch;
        if (pixels % cell != 0) throw new ConfigException($"--pixels is {pixels}; mask cells of {cell} pixels do not tile it. Use a multiple of {cell}.");
        return recipe with
        {
            Encoder = recipe.Encoder with { ImagePixels = pixels, PatchPixels = patch },
            Masking = recipe.Masking is RandomCells cells ? cells with { CellPixels = cell } : recipe.Masking,
            Views = recipe.Views.Scaled(recipe.Encoder.ImagePixels, pixels, patch),
        };
    }

    /// <summary>The schedule of a short run: the rates of small-data practice, warm-up over a tenth, cosine to the end.</summary>
    public static PretrainConfig Short(PretrainConfig recipe, double epochs, int batch, double rate = 1e-3) => ShortTeacher(recipe with
    {
        Optim = recipe.Optim with
        {
            Rate = rate,
            WarmupRate = 1e-6,
            MinRate = 1e-5,
            RatePerBatch = 0,
            Schedule = new CosineSchedule(),
            ScheduleEpochs = 0,
            WarmupEpochs = Math.Max(0.5, epochs / 10),
        },
        Run = recipe.Run with { Epochs = epochs, Batch = batch, Accumulate = 1 },
    }, epochs);

    /// <summary>
    /// A recipe for the embedded pictures (28 × 28 clothes) and minutes on two cores: ViT mini, 32 px, 4 × 4 patches of 8 px, each a mask
    /// cell and a weight cell. Small and short runs start from Xavier's rule and average squared gradients over 20 steps instead of 1,000;
    /// clothes stand upright, so nothing is flipped top to bottom. An encoder that sees a quarter of the patches can have 4 px ones at the
    /// price of 8 px ones. Decoders and prototype heads shrink with their encoder; four small crops of a picture are enough.
    /// </summary>
    public static PretrainConfig Embedded(PretrainConfig recipe, double epochs = 30, int batch = 64)
    {
        PretrainConfig c = Short(AtPixels(recipe, 32), epochs, batch, rate: 1.5e-3);
        int patch = c.Encoder.Corruption == Corruption.Drop ? 4 : 8;
        return c with
        {
            Encoder = c.Encoder.WithSize("mini") with
            {
                PatchPixels = patch,
                Init = c.Encoder.Init == VitInit.Mae ? VitInit.Mae : VitInit.Xavier,
            },
            Terms = [.. c.Terms.Select(t => t with { Head = SmallHead(t.Head) })],
            Masking = c.Masking is RandomCells cells ? cells with { CellPixels = 8 } : c.Masking,
            Augment = c.Augment with { VerticalFlip = 0f },
            Views = recipe.Views.Scaled(recipe.Encoder.ImagePixels, 32, patch) with { Local = Math.Min(recipe.Views.Local, 4) },
            Optim = c.Optim with { Beta2 = 0.95f },
        };
    }
}
