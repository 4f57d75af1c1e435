using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Kernels;

namespace MimEngine.Engine.Probing;

/// <summary>Pictures to class scores: encoder, pooling, LayerNorm where it comes after pooling, linear head.</summary>
public sealed class FinetuneModel : IDisposable
{
    private readonly FinetuneConfig _config;
    private readonly NormParams? _norm;
    private readonly LinearParams _head;

    /// <summary>Declares the parameters; <see cref="ParamSet.Allocate"/> gives them memory.</summary>
    public FinetuneModel(FinetuneConfig config, int classes)
    {
        _config = config;
        Classes = classes;
        Encoder = new VisionTransformer(Params, config.Encoder);
        EncoderParams = Params.Params.Count;
        if (!config.Encoder.FinalNorm) _norm = Params.Norm("fc_norm", config.Encoder.Width, config.Encoder.LayerNormEps);
        _head = ClassHead.Declare(Params, config.Encoder.Width, classes, config.Init);
    }

    public ParamSet Params { get; } = new();
    public VisionTransformer Encoder { get; }
    public int Classes { get; }

    /// <summary>The first parameters are the encoder's; those after them are never pretrained.</summary>
    public int EncoderParams { get; }

    /// <summary>(B, K).</summary>
    /// <param name="images">(B, 3, S, S) normalised.</param>
    /// <param name="dropScales">(2·depth, B) of stochastic depth; none = evaluation.</param>
    public Value Logits(Tape t, Tensor images, Tensor? dropScales) => t.Linear(Features(t, images, dropScales), _head);

    /// <summary>(B, C): what the head reads.</summary>
    public Value Features(Tape t, Tensor images, Tensor? dropScales)
    {
        EncodedTokens tokens = Encoder.Encode(t, images, new EncodeRequest(DropScales: dropScales));
        Value pooled = Aggregation.Pool(t, _config.Pooling, tokens.All, attention: null, tokens.Prefix, tokens.Grid);
        return _norm is null ? pooled : t.LayerNorm(pooled, _norm);
    }

    public void Dispose() => Params.Dispose();
}
