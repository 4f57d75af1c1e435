using System.Text.Json.Serialization;
using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Kernels;

namespace MimEngine.Engine.Pretraining;

/// <summary>A head built for an encoder: tokens to predictions.</summary>
public interface IPredictor
{
    /// <summary>A pass begins: what depends on parameters only is computed here, once.</summary>
    void BeginPass(Tape t) { }

    /// <summary>These are the tokens that <see cref="Predict"/> will be asked about next.</summary>
    /// <param name="clsOnly">Nobody will ask about patches: local crops.</param>
    void See(Tape t, EncodedTokens tokens, bool clsOnly) { }

    /// <summary>(B, prefix + L, C) to predictions at the term's tokens: (B, L, n) at patches, (B, 1, n) at [cls].</summary>
    Value Predict(Tape t, EncodedTokens tokens);

    /// <summary>An update is about to happen: forgets gradients of parameters that do not move in this epoch.</summary>
    void Freeze(int epoch) { }
}

/// <summary>A head that predicts the 3·P² pixels of every patch.</summary>
public interface IPixelPredictor : IPredictor
{
    /// <summary>Order of the pixels within a predicted patch.</summary>
    PixelOrder Order { get; }
}

/// <summary>Where a head is built: for which term, and beside which heads of terms before it, by name.</summary>
public readonly record struct HeadSite(Term? Term, IReadOnlyDictionary<string, IPredictor>? Others);

/// <summary>Turns tokens into predictions.</summary>
[JsonPolymorphic(TypeDiscriminatorPropertyName = "kind")]
[JsonDerivedType(typeof(LinearPixelHead), "linear")]
[JsonDerivedType(typeof(TransformerDecoder), "transformer")]
[JsonDerivedType(typeof(PrototypeHead), "prototypes")]
[JsonDerivedType(typeof(SharedPrototypes), "shared-prototypes")]
public abstract record Head
{
    /// <summary>Declares the head's parameters.</summary>
    public abstract IPredictor Build(ParamSet p, Encoder encoder, HeadSite site = default);

    /// <summary>Multiply-adds of one forward pass over one global crop.</summary>
    /// <param name="term">The term whose head this is.</param>
    /// <param name="seen">Tokens that the encoder hands over.</param>
    public abstract double MultiplyAdds(PretrainConfig config, Term term, int seen);

    /// <summary>Refuses numbers that make no sense behind an encoder.</summary>
    /// <exception cref="ConfigException">One sentence.</exception>
    public virtual void Validate(VitConfig encoder) { }
}

/// <summary>Initialisation of a linear head.</summary>
public enum HeadInit : byte
{
    /// <summary>Normal .02, bias 0: KAMIM's Hugging Face head (SPEC A.7.1).</summary>
    Normal,

    /// <summary>PyTorch's default for a 1×1 convolution, weight and bias uniform ±1/√C: official SimMIM (SPEC B.2).</summary>
    PyTorch,
}

/// <summary>One linear layer per patch token, C to 3·P², channel slowest: a 1×1 convolution and a pixel shuffle (SimMIM section 3.3).</summary>
public sealed record LinearPixelHead(HeadInit Scheme = HeadInit.Normal) : Head
{
    /// <inheritdoc/>
    public override IPredictor Build(ParamSet p, Encoder encoder, HeadSite site = default)
    {
        float bound = 1f / MathF.Sqrt(encoder.Width);
        int pixels = 3 * encoder.TokenPixels * encoder.TokenPixels;
        Init uniform = new Init.Uniform(bound), normal = new Init.TruncatedNormal(0.02f);
        return new Predictor(Scheme == HeadInit.PyTorch
            ? p.Linear("decoder", encoder.Width, pixels, uniform, biasInit: uniform)
            : p.Linear("decoder", encoder.Width, pixels, normal));
    }

    /// <inheritdoc/>
    public override double MultiplyAdds(PretrainConfig config, Term term, int seen)
    {
        VitConfig encoder = config.Encoder;
        return (double)encoder.Grid * encoder.Grid * encoder.Width * 3 * encoder.PatchPixels * encoder.PatchPixels;
    }

    /// <inheritdoc/>
    public override void Validate(VitConfig encoder)
    {
        if (encoder.Corruption == Corruption.Drop)
            throw new ConfigException("terms.head is linear, which predicts a patch from its own token, but encoder.corruption is drop and hidden "
                + "patches have none; use terms.0.head.kind=transformer, or encoder.corruption=replace.");
    }

    private sealed class Predictor(LinearParams layer) : IPixelPredictor
    {
        public PixelOrder Order => PixelOrder.ChannelSlowest;

        public Value Predict(Tape t, EncodedTokens tokens)
            => t.Linear(t.SliceTokens(tokens.All, tokens.Prefix, tokens.Grid * tokens.Grid), layer);
    }
}
