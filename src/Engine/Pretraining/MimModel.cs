using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Kernels;

namespace MimEngine.Engine.Pretraining;

/// <summary>The networks of one experiment: an encoder and a head for each term, on one set of parameters.</summary>
public sealed class MimModel : IDisposable
{
    private readonly PretrainConfig _config;
    private readonly IPredictor[] _heads;

    /// <summary>Declares the parameters; <see cref="ParamSet.Allocate"/> gives them memory.</summary>
    public MimModel(PretrainConfig config)
    {
        _config = config;
        Params = new ParamSet();
        Encoder = new VisionTransformer(Params, config.Encoder);
        _heads = [.. config.Terms.Select(t => t.Head.Build(Params, Encoder))];
    }

    public ParamSet Params { get; }
    public Encoder Encoder { get; }

    /// <summary>Predictions of one term, (B, L, 3·P²), and the order of their pixels.</summary>
    public (Value Prediction, PixelOrder Order) Predict(Tape t, EncodedTokens tokens, int term)
        => (_heads[term].Predict(t, tokens), _heads[term].Order);

    /// <summary>One term's loss, (1), times its scale and <paramref name="scale"/>.</summary>
    /// <param name="crops">(B, 3, S, S) U8: what weightings look at.</param>
    /// <param name="images">(B, 3, S, S) normalised: what targets look at.</param>
    /// <param name="marks">(B, S, S) U8, where the weighting marks crops on the host.</param>
    public Value Loss(Tape t, EncodedTokens tokens, int term, Tensor crops, Tensor images, Tensor hidden, float scale,
        Tensor? marks = null)
    {
        Term spec = _config.Terms[term];
        (Value prediction, PixelOrder order) = Predict(t, tokens, term);
        Tensor? weights = spec.Weighting.Weights(t, crops, marks);
        var inputs = new TermInputs(images, hidden, weights, Encoder.TokenPixels, order, spec.Scale * scale);
        return spec.Target.Loss(t, prediction, inputs);
    }

    public void Dispose() => Params.Dispose();
}
