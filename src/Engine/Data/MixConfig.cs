using MimEngine.Kernels;

namespace MimEngine.Engine.Data;

/// <summary>Mixup and CutMix of training batches, and label smoothing: timm's rule (SPEC C.4), torchvision's where partners are rolled.</summary>
public sealed record MixConfig
{
    /// <summary>α of Mixup's λ ~ Beta(α, α); 0 = no Mixup.</summary>
    public float Mixup { get; init; }

    /// <summary>α of CutMix; 0 = no CutMix.</summary>
    public float CutMix { get; init; }

    /// <summary>Probability that a batch is mixed.</summary>
    public float Probability { get; init; } = 1f;

    /// <summary>Probability of CutMix where both are on.</summary>
    public float Switch { get; init; } = 0.5f;

    public MixPartner Partner { get; init; } = MixPartner.Flipped;

    /// <summary>Label smoothing s: s/K everywhere, 1 − s more at the class.</summary>
    public float Smoothing { get; init; }

    /// <summary>Draws what happens to one batch.</summary>
    public Mixing Draw(ref RngSequence random, int height, int width)
    {
        if ((Mixup <= 0 && CutMix <= 0) || (Probability < 1 && random.Uniform() >= Probability)) return new Mixing(1f, null, Partner);
        bool cut = CutMix > 0 && (Mixup <= 0 || random.Uniform() < Switch);
        return cut ? Mixing.CutMix(ref random, CutMix, height, width, Partner) : Mixing.Mixup(ref random, Mixup, Partner);
    }

    /// <summary>Refuses what cannot be meant: one sentence, or none.</summary>
    public string? Complaint()
    {
        if (!(Mixup >= 0 && float.IsFinite(Mixup)) || !(CutMix >= 0 && float.IsFinite(CutMix)))
            return $"mix.mixup and mix.cutMix are {Mixup} and {CutMix}; they must be 0 (off) or more.";
        if (!(Probability is >= 0 and <= 1) || !(Switch is >= 0 and <= 1))
            return $"mix.probability and mix.switch are {Probability} and {Switch}; they are probabilities.";
        return Smoothing is >= 0 and < 1 ? null : $"mix.smoothing is {Smoothing}; it must lie in [0, 1).";
    }
}
