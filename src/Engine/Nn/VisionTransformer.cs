using MimEngine.Engine.Autograd;
using MimEngine.Kernels;

namespace MimEngine.Engine.Nn;

/// <summary>
/// A plain Vision Transformer with [cls]: patches → mask tokens → [cls] → positions → blocks → LayerNorm; under
/// <see cref="Corruption.Drop"/>, hidden patches leave after the positions instead. Parameter names are timm's.
/// </summary>
public sealed class VisionTransformer : Encoder
{
    private readonly VitConfig _config;
    private readonly LinearParams _patchEmbed;
    private readonly Param _cls;
    private readonly Param? _mask, _positions, _sharedBias;
    private readonly Block[] _blocks;
    private readonly NormParams? _norm;

    public VisionTransformer(ParamSet p, VitConfig config)
    {
        _config = config;
        int c = config.Width, pixels = 3 * config.PatchPixels * config.PatchPixels;
        _cls = p.Add("cls_token", new Shape(1, c), VitInits.Token(config));
        if (config.Corruption == Corruption.Replace) _mask = p.Add("mask_token", new Shape(1, c), VitInits.MaskToken(config));
        if (config.Positions == Positions.Learned) _positions = p.Add("pos_embed", new Shape(config.Tokens, c), VitInits.Token(config));
        if (config.Positions == Positions.SinCos) _positions = SinCosTable.Fixed(p, "pos_embed", c, config.Grid);
        _patchEmbed = p.Linear("patch_embed.proj", pixels, c, VitInits.Patches(config, pixels), biasInit: VitInits.PatchBias(config, pixels));
        if (config.SharedBias) _sharedBias = VitInits.BiasTable(p, "rel_pos_bias.", config);
        _blocks = new Block[config.Depth];
        for (int i = 0; i < _blocks.Length; i++) _blocks[i] = new Block(p, config, i);
        if (config.FinalNorm) _norm = p.Norm("norm", c, config.LayerNormEps);
    }

    private const int Prefix = 1;

    public VitConfig Config => _config;
    public override int Grid => _config.Grid;
    public override int TokenPixels => _config.PatchPixels;
    public override int Width => _config.Width;
    public override int Depth => _config.Depth;
    public override Corruption Corruption => _config.Corruption;
    public override int DropRows => _config.DropPath > 0f ? 2 * _config.Depth : 0;
    public override float DropProbability(int row) => _config.DropPathOf(row / 2);

    /// <summary>The final normalisation, of anything of this width; nothing where the encoder has none.</summary>
    public Value Normalize(Tape t, Value x) => _norm is null ? x : t.LayerNorm(x, _norm);

    /// <inheritdoc/>
    public override EncodedTokens Encode(Tape t, Tensor images, in EncodeRequest request)
    {
        (int rows, int columns) = (images.Shape.D2 / _config.PatchPixels, images.Shape.D3 / _config.PatchPixels);
        bool own = rows == Grid && columns == Grid;
        if (rows != columns || !own && _config.RelativeBias != RelativeBias.None)
            throw new ArgumentException($"Encode: images are {images.Shape}, but this encoder is made for {Grid} × {Grid} patches of "
                + $"{_config.PatchPixels} pixels; other squares need positions that can be resized, without relative biases.");
        Value x = t.Linear(t.Patchify(images, _config.PatchPixels, PixelOrder.ChannelSlowest), _patchEmbed);
        bool drop = _config.Corruption == Corruption.Drop && request.Hidden is not null;
        x = t.AssembleTokens(x, _cls, _mask, drop ? null : request.Hidden, own || _positions is null ? _positions
            : t.ResizePositions(_positions, GridResize.ByScale(Prefix, Grid, rows, columns)));
        if (drop) x = t.GatherVisible(x, request.Hidden!.Value, request.Visible);
        Value? bias = _sharedBias is null ? null : t.RelativePositionBias(_sharedBias, Grid);
        int blocks = request.LastBlock == 0 ? Depth : request.LastBlock;
        for (int i = 0; i < blocks; i++)
        {
            Tensor? attentionDrop = request.DropScales?.Slice(2 * i, 1), mlpDrop = request.DropScales?.Slice(2 * i + 1, 1);
            x = t.Stretch(_blocks[i], x, new BlockState(bias, attentionDrop, mlpDrop, request.Watch));
        }
        if (_norm is not null && !request.SkipFinalNorm) x = t.LayerNorm(x, _norm);
        return new EncodedTokens(x, Prefix, rows, drop ? request.Hidden : null);
    }
}
