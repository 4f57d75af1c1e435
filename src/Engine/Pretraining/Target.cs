using System.Text.Json.Serialization;
using MimEngine.Engine.Autograd;
using MimEngine.Kernels;

namespace MimEngine.Engine.Pretraining;

/// <summary>What a target may look at.</summary>
/// <param name="Images">(B, 3, S, S) normalised.</param>
/// <param name="Hidden">(B, L) U8.</param>
/// <param name="Weights">(B, S/w, S/w) or none = 1.</param>
/// <param name="Scale">Factor of the term, accumulation included.</param>
/// <param name="Lesson">What a teacher says, for targets that ask it.</param>
public readonly record struct TermInputs(Tensor Images, Tensor Hidden, Tensor? Weights, int PatchPixels, PixelOrder Order, float Scale,
    Lesson? Lesson = null);

/// <summary>What a term predicts, and how far off a prediction is.</summary>
[JsonPolymorphic(TypeDiscriminatorPropertyName = "kind")]
[JsonDerivedType(typeof(PixelTarget), "pixels")]
[JsonDerivedType(typeof(TeacherTokens), "teacher-tokens")]
public abstract record Target
{
    /// <summary>(1): the term's loss.</summary>
    public abstract Value Loss(Tape t, Value prediction, in TermInputs inputs);

    /// <summary>Turns predictions back into normalised pixels, in place, where the target is not the pixels themselves; for pictures.</summary>
    /// <param name="predicted">(B, 3, S, S).</param>
    /// <param name="images">(B, 3, S, S): the truth, whose statistics it may borrow.</param>
    public virtual void ToPixels(Span<float> predicted, ReadOnlySpan<float> images, int side, int patch) { }

    /// <exception cref="ConfigException">One sentence.</exception>
    public virtual void Validate() { }
}

/// <summary>
/// The picture's own normalised pixels on hidden patches. L1 over the number of hidden pixels is SimMIM's and KAMIM's loss
/// (SPEC A.6, B.2); DivideByWeights divides by the weight sum instead (SPEC J.9, an experiment). NormalizePatches predicts each patch
/// less its own mean, over its own deviation: with L2 and Eps 0 MAE's loss (SPEC C.1).
/// </summary>
public sealed record PixelTarget(PixelDistance Distance = PixelDistance.L1, bool DivideByWeights = false, float Eps = 1e-5f,
    bool NormalizePatches = false) : Target
{
    private const float VarianceEps = 1e-6f;

    /// <inheritdoc/>
    public override Value Loss(Tape t, Value prediction, in TermInputs x)
    {
        var options = new PixelLossOptions(x.PatchPixels, x.Order, Distance, DivideByWeights, Eps, x.Scale);
        if (!NormalizePatches) return t.MaskedPixelLoss(prediction, x.Images, x.Hidden, x.Weights, options);
        Tensor normalised = t.Scratch(x.Images.Shape);
        t.Backend.NormalizePatches(normalised, x.Images, x.PatchPixels, VarianceEps);
        Value loss = t.MaskedPixelLoss(prediction, normalised, x.Hidden, x.Weights, options);
        t.Done(normalised);
        return loss;
    }

    /// <inheritdoc/>
    public override void ToPixels(Span<float> predicted, ReadOnlySpan<float> images, int side, int patch)
    {
        if (!NormalizePatches) return;
        int plane = side * side, count = images.Length / (3 * plane), n = 3 * patch * patch;
        for (int b = 0; b < count; b++)
            for (int top = 0; top < side; top += patch)
                for (int left = 0; left < side; left += patch)
                {
                    double sum = 0, squares = 0;
                    for (int i = 0; i < n; i++) sum += images[At(i)];
                    for (int i = 0; i < n; i++) squares += Math.Pow(images[At(i)] - sum / n, 2);
                    double deviation = Math.Sqrt(squares / (n - 1) + VarianceEps);
                    for (int i = 0; i < n; i++) predicted[At(i)] = (float)(predicted[At(i)] * deviation + sum / n);

                    int At(int i) => (b * 3 + i / (patch * patch)) * plane + (top + i / patch % patch) * side + left + i % patch;
                }
    }

    /// <inheritdoc/>
    public override void Validate()
    {
        if (!(Eps >= 0f)) throw new ConfigException($"target.eps is {Eps}; it guards a division and must be 0 or more.");
    }
}
