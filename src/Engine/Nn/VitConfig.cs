namespace MimEngine.Engine.Nn;

/// <summary>Absolute positions added to tokens.</summary>
public enum Positions : byte
{
    None,
    Learned,

    /// <summary>A fixed two-dimensional sine-cosine table, never trained: MAE (SPEC C.1).</summary>
    SinCos,
}

/// <summary>What an encoder gets in place of hidden patches.</summary>
public enum Corruption : byte
{
    /// <summary>A learned mask token: BEiT, SimMIM, KAMIM.</summary>
    Replace,

    /// <summary>Nothing: it sees visible patches only, and costs as much less (MAE).</summary>
    Drop,
}

/// <summary>Relative position biases added to attention logits (SPEC B.3).</summary>
public enum RelativeBias : byte { None, Shared, PerBlock, SharedAndPerBlock }

/// <summary>Bias of the fused query-key-value layer.</summary>
public enum QkvBias : byte
{
    None,
    Full,

    /// <summary>Queries and values only, as official SimMIM has it; a key bias changes nothing but the optimiser's noise.</summary>
    NoKey,
}

/// <summary>Initialisation of a ViT.</summary>
public enum VitInit : byte
{
    /// <summary>Hugging Face and KAMIM: normal .02, mask token 0 (SPEC A.7.1).</summary>
    HuggingFace,

    /// <summary>MAE: matrices Xavier-uniform, tokens and positions normal .02 (SPEC C.1). Starts small networks faster than .02 does.</summary>
    Xavier,

    /// <summary>MAE in full: as Xavier, and the patch embedding's bias uniform ±1/√(3P²), PyTorch's default (SPEC C.1).</summary>
    Mae,

    /// <summary>DINO and iBOT: normal .02, mask token 0, the patch embedding's weight and bias uniform ±1/√(3P²) (SPEC E.1).</summary>
    Dino,

    /// <summary>Official SimMIM: normal .02 cut at ±1 deviation, residual projections of block l divided by √(2l) (SPEC B.3).</summary>
    SimMim,
}

/// <summary>Architecture of a plain Vision Transformer (Dosovitskiy et al. 2021), with the variants the recipes need.</summary>
public sealed record VitConfig
{
    /// <summary>Side of the square input.</summary>
    public int ImagePixels { get; init; } = 192;

    /// <summary>Side of a patch; divides ImagePixels.</summary>
    public int PatchPixels { get; init; } = 16;

    /// <summary>Channels of a token, C.</summary>
    public int Width { get; init; } = 768;

    /// <summary>Number of blocks.</summary>
    public int Depth { get; init; } = 12;

    /// <summary>Attention heads; divides Width.</summary>
    public int Heads { get; init; } = 12;

    /// <summary>Hidden width of the MLP over Width.</summary>
    public float MlpRatio { get; init; } = 4f;

    public Corruption Corruption { get; init; } = Corruption.Replace;
    public Positions Positions { get; init; } = Positions.Learned;
    public RelativeBias RelativeBias { get; init; } = RelativeBias.None;
    public QkvBias QkvBias { get; init; } = QkvBias.Full;

    /// <summary>Initial LayerScale, or none.</summary>
    public float? LayerScale { get; init; }

    /// <summary>Stochastic depth of the last block; grows linearly from 0 at the first.</summary>
    public float DropPath { get; init; }

    public float LayerNormEps { get; init; } = 1e-6f;

    /// <summary>LayerNorm after the last block.</summary>
    public bool FinalNorm { get; init; } = true;

    public VitInit Init { get; init; } = VitInit.HuggingFace;

    internal bool SharedBias => RelativeBias is RelativeBias.Shared or RelativeBias.SharedAndPerBlock;
    internal bool BlockBias => RelativeBias is RelativeBias.PerBlock or RelativeBias.SharedAndPerBlock;

    /// <summary>Patches a side.</summary>
    internal int Grid => ImagePixels / PatchPixels;

    /// <summary>Tokens: [cls] and patches.</summary>
    internal int Tokens => 1 + Grid * Grid;

    internal int Hidden => (int)(Width * MlpRatio);

    /// <summary>Stochastic depth of block <paramref name="block"/>: a linear ramp 0 … DropPath.</summary>
    public float DropPathOf(int block) => Depth == 1 ? 0f : DropPath * block / (Depth - 1);

    /// <summary>Width, depth and heads by the name a user types.</summary>
    public static IReadOnlyDictionary<string, (int Width, int Depth, int Heads)> Sizes { get; } =
        new Dictionary<string, (int, int, int)>
        {
            ["micro"] = (64, 2, 2),
            ["mini"] = (128, 6, 4),
            ["tiny"] = (192, 12, 3),
            ["tiny-8"] = (192, 8, 3),
            ["small"] = (384, 12, 6),
            ["base"] = (768, 12, 12),
            ["base-8"] = (768, 8, 12),
            ["large"] = (1024, 24, 16),
        };

    /// <summary>This architecture at another size.</summary>
    /// <exception cref="ArgumentException">No such size.</exception>
    public VitConfig WithSize(string size) => Sizes.TryGetValue(size, out (int Width, int Depth, int Heads) s)
        ? this with { Width = s.Width, Depth = s.Depth, Heads = s.Heads }
        : throw new ArgumentException($"There is no ViT size '{size}'; choose one of {string.Join(", ", Sizes.Keys)}.");
}
