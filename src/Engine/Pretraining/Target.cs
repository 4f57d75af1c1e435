using System.Text.Json.Serialization;
using MimEngine.Engine.Autograd;
using MimEngine.Kernels;

namespace MimEngine.Engine.Pretraining;

/// <summary>What a target may look at.</summary>
/// <param name="Images">(B, 3, S, S) normalised.</param>
/// <param name="Hidden">(B, L) U8.</param>
/// <param name="Weights">(B, S/w, S/w) or none = 1.</param>
/// <param name="Scale">Factor of the term, accumulation included.</param>
public readonly record struct TermInputs(Tensor Images, Tensor Hidden, Tensor? Weights, int PatchPixels, PixelOrder Order, float Scale);

/// <summary>What a term predicts, and how far off a prediction is.</summary>
[JsonPolymorphic(TypeDiscriminatorPropertyName = "kind")]
[JsonDerivedType(typeof(PixelTarget), "pixels")]
public abstract record Target
{
    /// <summary>(1): the term's loss.</summary>
    public abstract Value Loss(Tape t, Value prediction, in TermInputs inputs);

    /// <exception cref="ConfigException">One sentence.</exception>
    public virtual void Validate() { }
}

/// <summary>
/// The picture's own normalised pixels on hidden patches. L1 over the number of hidden pixels is SimMIM's and KAMIM's loss
/// (SPEC A.6, B.2); DivideByWeights divides by the weight sum instead (SPEC J.9, an experiment).
/// </summary>
public sealed record PixelTarget(PixelDistance Distance = PixelDistance.L1, bool DivideByWeights = false, float Eps = 1e-5f) : Target
{
    /// <inheritdoc/>
    public override Value Loss(Tape t, Value prediction, in TermInputs x) => t.MaskedPixelLoss(prediction, x.Images, x.Hidden, x.Weights,
        new PixelLossOptions(x.PatchPixels, x.Order, Distance, DivideByWeights, Eps, x.Scale));

    /// <inheritdoc/>
    public override void Validate()
    {
        if (!(Eps >= 0f)) throw new ConfigException($"target.eps is {Eps}; it guards a division and must be 0 or more.");
    }
}
