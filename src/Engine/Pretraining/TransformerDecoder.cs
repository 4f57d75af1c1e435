using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Kernels;

namespace MimEngine.Engine.Pretraining;

/// <summary>
/// MAE's decoder (He et al. 2022, section 3; SPEC C.1): tokens to Width, mask tokens where patches were left out, fixed sine-cosine positions,
/// Depth blocks, LayerNorm, one linear layer to 3·P² pixels, channel fastest. Behind an encoder that sees mask tokens it needs none of its own.
/// </summary>
public sealed record TransformerDecoder : Head
{
    public int Width { get; init; } = 512;
    public int Depth { get; init; } = 8;

    /// <summary>Attention heads; divides Width.</summary>
    public int Heads { get; init; } = 16;

    /// <summary>Hidden width of the MLP over Width.</summary>
    public float MlpRatio { get; init; } = 4f;

    /// <inheritdoc/>
    public override IPredictor Build(ParamSet p, Encoder encoder, HeadSite site = default)
    {
        VitConfig blocks = Blocks(encoder.Grid, encoder.TokenPixels);
        int pixels = 3 * encoder.TokenPixels * encoder.TokenPixels;
        return new Predictor
        {
            Embed = p.Linear("decoder_embed", encoder.Width, Width, VitInits.Matrix(blocks, encoder.Width, Width)),
            Mask = encoder.Corruption == Corruption.Drop ? p.Add("mask_token", new Shape(1, Width), VitInits.Token(blocks)) : null,
            Positions = SinCosTable.Fixed(p, "decoder_pos_embed", Width, encoder.Grid),
            Blocks = [.. Enumerable.Range(0, Depth).Select(i => new Block(p, blocks, i, "decoder_blocks"))],
            Norm = p.Norm("decoder_norm", Width, blocks.LayerNormEps),
            Pixels = p.Linear("decoder_pred", Width, pixels, VitInits.Matrix(blocks, Width, pixels)),
        };
    }

    /// <inheritdoc/>
    public override double MultiplyAdds(PretrainConfig config, Term term, int seen)
    {
        VitConfig encoder = config.Encoder;
        double l = (double)encoder.Grid * encoder.Grid, n = l + 1, pixels = 3.0 * encoder.PatchPixels * encoder.PatchPixels;
        int hidden = Blocks(encoder.Grid, encoder.PatchPixels).Hidden;
        return seen * (double)encoder.Width * Width + Depth * (n * Width * (4.0 * Width + 2.0 * hidden) + 2 * n * n * Width) + l * Width * pixels;
    }

    /// <inheritdoc/>
    public override void Validate(VitConfig encoder)
    {
        if (Depth < 1) throw new ConfigException($"head.depth is {Depth}; a transformer decoder needs at least one block.");
        if (Width < 4 || Width % 4 != 0) throw new ConfigException($"head.width is {Width}; sine-cosine positions need a positive multiple of 4.");
        if (Heads < 1 || Width % Heads != 0) throw new ConfigException($"head.heads is {Heads}; it must divide head.width ({Width}).");
        if (!((int)(Width * MlpRatio) > 0)) throw new ConfigException($"head.mlpRatio is {MlpRatio}; it must make a positive hidden width of {Width}.");
    }

    private VitConfig Blocks(int grid, int patch) => new()
    {
        ImagePixels = grid * patch,
        PatchPixels = patch,
        Width = Width,
        Depth = Depth,
        Heads = Heads,
        MlpRatio = MlpRatio,
        Init = VitInit.Mae,
    };

    private sealed class Predictor : IPixelPredictor
    {
        public required LinearParams Embed { get; init; }
        public required Param? Mask { get; init; }
        public required Param Positions { get; init; }
        public required Block[] Blocks { get; init; }
        public required NormParams Norm { get; init; }
        public required LinearParams Pixels { get; init; }

        public PixelOrder Order => PixelOrder.ChannelFastest;

        public Value Predict(Tape t, EncodedTokens tokens)
        {
            int patches = tokens.Grid * tokens.Grid;
            Value x = t.Linear(tokens.All, Embed);
            if (tokens.LeftOut is { } hidden) x = t.ScatterVisible(x, Mask!, hidden, tokens.Prefix + patches);
            x = t.AssembleTokens(x, null, null, null, Positions);
            foreach (Block block in Blocks) x = t.Stretch(block, x, default);
            return t.Linear(t.SliceTokens(t.LayerNorm(x, Norm), tokens.Prefix, patches), Pixels);
        }
    }
}
