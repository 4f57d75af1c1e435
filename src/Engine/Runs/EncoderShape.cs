using MimEngine.Engine.Nn;
using MimEngine.Kernels;

namespace MimEngine.Engine.Runs;

/// <summary>What a user knows about an encoder in a file, or wants of it, beside what its tensors say.</summary>
public sealed record EncoderWish
{
    /// <summary>Attention heads; no tensor shows them, so without this they follow from the width.</summary>
    public int? Heads { get; init; }

    /// <summary>Side of the pictures it is to read; tables of positions are resized. None = that of the file.</summary>
    public int? Pixels { get; init; }

    /// <summary>A size of <see cref="VitConfig.Sizes"/> that the file must have.</summary>
    public string? Size { get; init; }

    /// <summary>None = 1e-12 for Hugging Face's layout, 1e-6 for others.</summary>
    public float? LayerNormEps { get; init; }
}

/// <summary>The architecture that the shapes of an encoder's tensors tell. What does not fit is said with the tensor and what would.</summary>
public static class EncoderShape
{
    private const int Channels = 3;

    /// <summary>The architecture in the file, at the file's own picture size.</summary>
    /// <exception cref="WeightFileException">A shape that no encoder of this program has; one sentence.</exception>
    public static VitConfig Of(ForeignWeights weights, EncoderWish wish)
    {
        WeightFileException Bad(string what) => new($"{weights.File}: {what}.");
        ForeignTensor Need(string name, string hint = "") => weights.Tensors.TryGetValue(name, out ForeignTensor? t) ? t
            : throw Bad($"the encoder under '{weights.Place}{(weights.Place.Length > 0 && weights.Prefix.Length > 0 ? "/" : "")}{weights.Prefix}' "
                + $"has no {name}{hint}");

        (int width, int patch) = Patch(Need("patch_embed.proj.weight"), Bad);
        ForeignTensor cls = Need("cls_token", "; encoders without [cls] are not read");
        if (cls.Values.Length != width)
            throw Bad($"{Shown(cls)} has {cls.Values.Length} numbers, but the patch embedding makes {width} channels: "
                + $"(1, 1, {width}) would fit");
        int depth = 0;
        while (weights.Tensors.ContainsKey($"blocks.{depth}.norm1.weight")) depth++;
        if (depth == 0) throw Bad("it has a patch embedding but no block 'blocks.0'");
        ForeignTensor fc1 = Need("blocks.0.mlp.fc1.weight", "; only plain two-layer MLPs are read");
        bool qkvBias = weights.Tensors.ContainsKey("blocks.0.attn.qkv.bias"), shared = weights.Tensors.ContainsKey(Shared);
        ForeignTensor? table = weights.Tensors.GetValueOrDefault(Shared) ?? weights.Tensors.GetValueOrDefault(Block);
        ForeignTensor? positions = weights.Tensors.GetValueOrDefault("pos_embed");
        int? grid = positions is null ? null : PositionGrid(positions, width, Bad), biasGrid = table is null ? null : BiasGrid(table, Bad);
        if (grid is { } g && biasGrid is { } b && g != b)
            throw Bad($"pos_embed is of {g} × {g} patches but {Shown(table!)} of {b} × {b}: one of them belongs to another encoder");
        int side = (grid ?? biasGrid ?? (wish.Pixels is { } wanted ? wanted / patch : 224 / patch)) * patch;
        int heads = Heads(wish, table, width, Bad);
        bool fixedTable = positions is not null && IsSinCos(positions.Values, width, side / patch);
        var config = new VitConfig
        {
            ImagePixels = side,
            PatchPixels = patch,
            Width = width,
            Depth = depth,
            Heads = heads,
            MlpRatio = (float)fc1.Shape[0] / width,
            // Without a mask token the encoder never saw hidden patches: MAE, or no masked modelling at all.
            Corruption = weights.Tensors.ContainsKey("mask_token") || positions is null || table is not null
                ? Corruption.Replace : Corruption.Drop,
            Positions = positions is null ? Positions.None : fixedTable ? Positions.SinCos : Positions.Learned,
            RelativeBias = (shared, weights.Tensors.ContainsKey(Block)) switch
            {
                (true, true) => RelativeBias.SharedAndPerBlock,
                (true, false) => RelativeBias.Shared,
                (false, true) => RelativeBias.PerBlock,
                _ => RelativeBias.None,
            },
            QkvBias = !qkvBias ? QkvBias.None : weights.Layout == NameLayout.Beit ? QkvBias.NoKey : QkvBias.Full,
            LayerScale = weights.Tensors.ContainsKey("blocks.0.ls1.gamma") ? 0.1f : null,
            LayerNormEps = wish.LayerNormEps ?? (weights.Layout == NameLayout.HuggingFace ? 1e-12f : 1e-6f),
            FinalNorm = weights.Tensors.ContainsKey("norm.weight"),
            Init = weights.Layout switch
            {
                NameLayout.Beit => VitInit.SimMim,
                _ => fixedTable ? VitInit.Mae : VitInit.HuggingFace,
            },
        };
        RequireSize(config, wish, Bad);
        return config;
    }

    /// <summary>The architecture at the wished picture size.</summary>
    /// <exception cref="WeightFileException">Its patches do not tile it.</exception>
    public static VitConfig Resized(VitConfig config, EncoderWish wish, string file)
    {
        if (wish.Pixels is not { } pixels || pixels == config.ImagePixels) return config;
        int patch = config.PatchPixels, below = pixels / patch * patch;
        if (pixels < patch || pixels % patch != 0)
            throw new WeightFileException($"{file}: patch_embed.proj.weight has patches of {patch} px, which do not tile {pixels} px; "
                + $"{(below > 0 ? $"{below} or " : "")}{below + patch} would fit.");
        return config with { ImagePixels = pixels };
    }

    private const string Shared = "rel_pos_bias.relative_position_bias_table", Block = "blocks.0.attn.rel_pos_bias.relative_position_bias_table";

    private static (int Width, int Patch) Patch(ForeignTensor weight, Func<string, WeightFileException> bad)
    {
        long[] s = weight.Shape;
        if (s.Length == 2 && s[0] > 0)   // our own matrix (C, 3·P·P)
        {
            int side = (int)Math.Round(Math.Sqrt(s[1] / (double)Channels));
            return (long)Channels * side * side == s[1] ? ((int)s[0], side)
                : throw bad($"{Shown(weight)} has {s[1]} numbers a patch, which are no square of {Channels} channels: {Channels}·P·P would fit");
        }
        if (s.Length != 4 || s.Contains(0)) throw bad($"{Shown(weight)} is no convolution; (width, {Channels}, P, P) would fit");
        if (s[1] != Channels)
            throw bad($"{Shown(weight)} reads pictures of {s[1]} channel{(s[1] == 1 ? "" : "s")}, but pictures here have {Channels}: "
                + $"({s[0]}, {Channels}, {s[2]}, {s[3]}) would fit");
        if (s[2] != s[3]) throw bad($"{Shown(weight)} has patches of {s[2]} × {s[3]} px; square ones would fit, ({s[0]}, {Channels}, P, P)");
        return ((int)s[0], (int)s[2]);
    }

    private static int PositionGrid(ForeignTensor positions, int width, Func<string, WeightFileException> bad)
    {
        long tokens = positions.Values.Length / width;
        int grid = (int)Math.Sqrt(Math.Max(0, tokens - 1));
        while ((long)(grid + 1) * (grid + 1) <= tokens - 1) grid++;
        if (positions.Shape[^1] != width || tokens * width != positions.Values.Length)
            throw bad($"{Shown(positions)} has vectors of {positions.Shape[^1]} numbers, but the patch embedding makes {width} channels: "
                + $"(1, tokens, {width}) would fit");
        if (grid == 0 || 1 + (long)grid * grid != tokens)
            throw bad($"{Shown(positions)} has {tokens} tokens, which are not [cls] and a square of patches: (1, {1 + grid * grid}, {width}) or "
                + $"(1, {1 + (grid + 1) * (grid + 1)}, {width}) would fit");
        return grid;
    }

    /// <summary>Whether a table is MAE's fixed one, which every such file carries although it never changes.</summary>
    private static bool IsSinCos(ReadOnlySpan<float> table, int width, int grid)
    {
        if (width % 4 != 0) return false;
        float[] expected = new float[table.Length];
        RngSequence none = default;
        new SinCosTable(width, grid).Fill(expected, ref none);
        for (int i = 0; i < expected.Length; i++)
            if (!(Math.Abs(expected[i] - table[i]) <= 1e-5f)) return false;
        return true;
    }

    private static int BiasGrid(ForeignTensor table, Func<string, WeightFileException> bad)
    {
        long rows = table.Shape[0];
        int side = (int)Math.Round(Math.Sqrt(Math.Max(0, rows - RelativeBiasTable.ClsRows)));
        return table.Shape.Length == 2 && side % 2 == 1 && (long)side * side + RelativeBiasTable.ClsRows == rows ? (side + 1) / 2
            : throw bad($"{Shown(table)} is no table of relative positions: ((2G − 1)² + 3, heads) would fit");
    }

    private static int Heads(EncoderWish wish, ForeignTensor? table, int width, Func<string, WeightFileException> bad)
    {
        int? known = table is null ? null : (int)table.Shape[1];
        if (known is { } k && wish.Heads is { } w && k != w) throw bad($"{Shown(table!)} has {k} heads, --heads says {w}; leave it out");
        int heads = known ?? wish.Heads ?? GuessedHeads(width);
        return heads > 0 && width % heads == 0 ? heads
            : throw bad($"{heads} heads do not divide the width {width} of patch_embed.proj.weight; give --heads a divisor of {width}");
    }

    /// <summary>Published sizes have their own; beyond them a head has 64 channels, or 32 below 192.</summary>
    private static int GuessedHeads(int width)
    {
        foreach ((int w, _, int heads) in VitConfig.Sizes.Values)
            if (w == width) return heads;
        return width == 1280 ? 16 : Math.Max(1, width / (width >= 192 ? 64 : 32));
    }

    private static void RequireSize(VitConfig config, EncoderWish wish, Func<string, WeightFileException> bad)
    {
        if (wish.Size is not { } size) return;
        VitConfig wanted = config.WithSize(size);
        if (wanted.Width == config.Width && wanted.Depth == config.Depth) return;
        string? fits = VitConfig.Sizes.FirstOrDefault(s => s.Value.Width == config.Width && s.Value.Depth == config.Depth).Key;
        string tensor = wanted.Width != config.Width ? $"patch_embed.proj.weight is {config.Width} wide"
            : $"blocks.{config.Depth - 1} is the last block";
        throw bad($"{tensor}, so its encoder is {config.Width} wide and {config.Depth} deep, but --vit {size} is {wanted.Width} wide and "
            + $"{wanted.Depth} deep; {(fits is null ? "leave --vit out" : $"--vit {fits} would fit")}");
    }

    private static string Shown(ForeignTensor tensor) => $"'{tensor.Source}' ({string.Join(", ", tensor.Shape)})";
}
