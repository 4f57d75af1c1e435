using MimEngine.Engine.Imaging;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Optim;

namespace MimEngine.Engine.Pretraining;

public static partial class Recipes
{
    /// <summary>
    /// DINO (Caron et al. 2021): no masks; every crop of the student predicts what a teacher says about the picture's other global crops
    /// (SPEC F.1).
    /// </summary>
    /// <remarks>ViT-S/16, ImageNet-1k, 100 epochs: k-NN 69.3, linear 74.0 (its repository).</remarks>
    public static PretrainConfig Dino() => Distilled("dino", globalScale: 0.4f, localScale: 0.4f, localCrops: 8) with
    {
        Masking = new NoMasking(),
        Terms =
        [
            new Term
            {
                Name = "cls",
                On = TokenChoice.Cls,
                Target = new TeacherTokens { Temperature = 0.04, WarmupTemperature = 0.04, WarmupEpochs = 0 },
                Head = new PrototypeHead { Prototypes = 65536 },
            },
        ],
        Run = new RunConfig { Epochs = 100, Batch = 64, Accumulate = 1 },
    };

    /// <summary>
    /// iBOT (Zhou et al. 2022): DINO's loss, and hidden patches predict what the teacher says about them; block-wise masks on half of the
    /// crops (SPEC E).
    /// </summary>
    /// <remarks>ViT-S/16, ImageNet-1k, 100 epochs in AttMask's set-up: k-NN 71.5, linear 74.4; on 20 % of it 46.7 and 56.4.</remarks>
    public static PretrainConfig Ibot() => Distilled("ibot", globalScale: 0.25f, localScale: 0.25f, localCrops: 10) with
    {
        Masking = new BlockwiseMasking(),
        Terms =
        [
            new Term
            {
                Name = "cls",
                On = TokenChoice.Cls,
                Target = new TeacherTokens(),
                Head = new PrototypeHead { Prototypes = 8192, UnitPrototypes = false },
            },
            new Term { Name = "patches", Target = new TeacherTokens(), Head = new SharedPrototypes() },
        ],
        Run = new RunConfig { Epochs = 100, Batch = 60, Accumulate = 4 },
    };

    /// <summary>AttMask-High (Kakogeorgiou et al. 2022): iBOT whose masks hide what the teacher's [cls] attends to most (SPEC E.5).</summary>
    /// <remarks>ViT-S/16, ImageNet-1k, 100 epochs: k-NN 72.5, linear 75.7; on 20 % of it 49.7 and 57.9.</remarks>
    public static PretrainConfig IbotAttMaskHigh() => Guided("ibot-attmask-high", Guide.High);

    /// <summary>AttMask-Hint: as High, but a few of the most attended patches stay visible.</summary>
    /// <remarks>ViT-S/16, ImageNet-1k, 100 epochs: k-NN 72.8, linear 76.1; on 20 % of it 49.5 and 57.5.</remarks>
    public static PretrainConfig IbotAttMaskHint() => Guided("ibot-attmask-hint", Guide.Hint);

    /// <summary>AttMask-Low: hides what the teacher's [cls] attends to least; the control that should do worse.</summary>
    /// <remarks>ViT-S/16, 20 % of ImageNet-1k: k-NN 44.0, linear 53.4.</remarks>
    public static PretrainConfig IbotAttMaskLow() => Guided("ibot-attmask-low", Guide.Low);

    private static PretrainConfig Guided(string name, Guide guide)
        => Ibot() with { Recipe = name, Masking = new AttentionGuided { Guide = guide } };

    /// <summary>What DINO and iBOT share: ViT-S/16, multi-crop, EMA teacher, AdamW with rising decay, clipping by parameter.</summary>
    private static PretrainConfig Distilled(string name, float globalScale, float localScale, int localCrops)
    {
        var global = new AugmentConfig
        {
            CropScaleMin = globalScale,
            Interpolation = Interpolation.Bicubic,
            HorizontalFlip = 0.5f,
            ColorJitter = 0.8f,
            Grayscale = 0.2f,
            Blur = 1f,
        };
        return new PretrainConfig
        {
            Recipe = name,
            Encoder = new VitConfig
            {
                ImagePixels = 224,
                Width = 384,
                Heads = 6,
                DropPath = 0.1f,
                LayerNormEps = 1e-6f,
                Init = VitInit.Dino,
            },
            Augment = global,
            Views = new ViewsConfig
            {
                Global = 2,
                OtherAugment = global with { Blur = 0.1f, Solarize = 0.2f },
                Local = localCrops,
                LocalPixels = 96,
                LocalAugment = global with { CropScaleMin = 0.05f, CropScaleMax = localScale, Blur = 0.5f },
            },
            Teacher = new TeacherConfig(),
            Optim = new OptimConfig
            {
                Rate = 5e-4,
                WarmupRate = 0,
                MinRate = 1e-6,
                FixedMinRate = true,
                RatePerBatch = 256,
                Schedule = new CosineInclusiveSchedule(),
                RateIndex = RateIndex.OwnUpdate,
                WarmupEpochs = 10,
                WeightDecay = 0.04f,
                WeightDecayEnd = 0.4f,
                Decay = DecayRule.NotVectors,
                ClipNorm = 3f,
                ClipEachParameter = true,
            },
        };
    }

    /// <summary>The teacher of a short run: it follows faster, and is as sharp as it will be after a third of the run.</summary>
    private static PretrainConfig ShortTeacher(PretrainConfig recipe, double epochs) => recipe.Teacher is null ? recipe : recipe with
    {
        Teacher = recipe.Teacher with { Momentum = Math.Min(recipe.Teacher.Momentum, 0.99) },
        Terms = [.. recipe.Terms.Select(t => t.Target is TeacherTokens target
            ? t with { Target = target with { WarmupEpochs = Math.Min(target.WarmupEpochs, (int)Math.Ceiling(epochs / 3)) } } : t)],
        Optim = recipe.Optim with { Schedule = new CosineInclusiveSchedule(), MinRate = 1e-6 },
    };

    /// <summary>A head for an encoder of 128 channels: of its size, with prototypes that a batch of 64 pictures can use.</summary>
    private static Head SmallHead(Head head) => head switch
    {
        TransformerDecoder d => d with { Width = 64, Depth = 2, Heads = 4 },
        PrototypeHead p => p with { Prototypes = Math.Min(p.Prototypes, 1024), HiddenWidth = 256, Bottleneck = 64 },
        _ => head,
    };
}
