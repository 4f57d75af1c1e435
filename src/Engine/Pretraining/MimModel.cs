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
        Dictionary<string, IPredictor> built = [];
        foreach (Term term in config.Terms) built.Add(term.Name, term.Head.Build(Params, Encoder, new HeadSite(term, built)));
        _heads = [.. config.Terms.Select(t => built[t.Name])];
    }

    public ParamSet Params { get; }
    public Encoder Encoder { get; }

    /// <summary>Shows the tokens of some crops to every head.</summary>
    /// <param name="clsOnly">Only terms on [cls] will predict: local crops.</param>
    /// <param name="firstOfPass">A new pass: heads prepare what depends on parameters only.</param>
    public void See(Tape t, EncodedTokens tokens, bool clsOnly, bool firstOfPass)
    {
        if (firstOfPass)
            foreach (IPredictor head in _heads) head.BeginPass(t);
        foreach (IPredictor head in _heads) head.See(t, tokens, clsOnly);
    }

    /// <summary>What one term's head makes of the tokens last shown.</summary>
    public Value Logits(Tape t, EncodedTokens tokens, int term) => _heads[term].Predict(t, tokens);

    /// <summary>Predictions of a term on pixels, (B, L, 3·P²), and the order of their pixels.</summary>
    public (Value Prediction, PixelOrder Order) Predict(Tape t, EncodedTokens tokens, int term)
        => (_heads[term].Predict(t, tokens), OrderOf(term));

    /// <summary>One term's loss on one encoding, (1), times its scale and <paramref name="scale"/>.</summary>
    /// <param name="crops">(B, 3, S, S) U8: what weightings look at.</param>
    /// <param name="images">(B, 3, S, S) normalised: what targets look at.</param>
    /// <param name="marks">(B, S, S) U8, where the weighting marks crops on the host.</param>
    public Value Loss(Tape t, EncodedTokens tokens, int term, Tensor crops, Tensor images, Tensor hidden, float scale,
        Tensor? marks = null)
    {
        See(t, tokens, clsOnly: false, firstOfPass: true);
        return Loss(t, Logits(t, tokens, term), term, crops, images, hidden, scale, marks, null);
    }

    /// <summary>One term's loss on a prediction.</summary>
    /// <param name="lesson">What the teacher says, for terms that ask it.</param>
    public Value Loss(Tape t, Value prediction, int term, Tensor crops, Tensor images, Tensor hidden, float scale, Tensor? marks, Lesson? lesson)
    {
        Term spec = _config.Terms[term];
        Tensor? weights = spec.Weighting.Weights(t, crops, marks);
        var inputs = new TermInputs(images, hidden, weights, Encoder.TokenPixels, OrderOf(term), spec.Scale * scale, lesson);
        return spec.Target.Loss(t, prediction, inputs);
    }

    /// <summary>Forgets the gradients of parameters that do not move in this epoch.</summary>
    public void Freeze(int epoch)
    {
        foreach (IPredictor head in _heads) head.Freeze(epoch);
    }

    public void Dispose() => Params.Dispose();

    private PixelOrder OrderOf(int term) => _heads[term] is IPixelPredictor pixels ? pixels.Order : PixelOrder.ChannelSlowest;
}
