using MimEngine.Kernels;

namespace MimEngine.Engine.Pretraining;

/// <summary>Which patches a teacher's attention hides.</summary>
public enum Guide : byte
{
    /// <summary>Those it looks at most: the hardest task.</summary>
    High,

    /// <summary>Those it looks at most, but a few of the very best are shown again.</summary>
    Hint,

    /// <summary>Those it looks at least: a control, the easiest task.</summary>
    Low,
}

/// <summary>
/// AttMask (Kakogeorgiou et al. 2022, section 3.2): the teacher sees the whole crop first, and its last block's [cls] attention decides what
/// the student may not see (SPEC E.5).
/// </summary>
/// <param name="Guide">high, hint or low.</param>
/// <param name="Ratio">Shares to hide, ⌊ratio·L⌋ of L; drawn once a batch and shared by all its crops.</param>
/// <param name="Spread">Of each share: uniform in ratio ± spread.</param>
/// <param name="Probability">Share of crops that are masked, each drawn on its own.</param>
/// <param name="ShowMax">Hint: patches to show again come from this share of the most attended ones.</param>
/// <param name="StartEpoch">Nothing is hidden before.</param>
/// <remarks>
/// As the authors' code: a second, independent ratio r₂ is drawn each batch (in every mode), and ⌊ShowMax·r₂·L⌋ of the ⌊ShowMax·L⌋ most attended
/// patches are shown, not a share of this batch's mask. Among equal attention the lower index goes first.
/// </remarks>
public sealed record AttentionGuided(Guide Guide, float[] Ratio, float[] Spread, float Probability = 0.5f, float ShowMax = 0.1f,
    double StartEpoch = 0) : Masking
{
    /// <summary>The paper's: 10–50 % of half the crops.</summary>
    public AttentionGuided() : this(Guide.High, [0.3f], [0.2f]) { }

    /// <inheritdoc/>
    public override bool HidesSameNumber => false;

    /// <inheritdoc/>
    public override bool NeedsAttention => true;

    /// <inheritdoc/>
    public override void Sample(in MaskRequest request, Span<byte> hidden)
    {
        if (request.ClsAttention.Length != hidden.Length)
            throw new ArgumentException($"AttentionGuided: attention to {request.ClsAttention.Length} patches, but the crop has {hidden.Length}.");
        RngSequence batch = request.Step.Start(), crop = request.Crop.Start();
        double ratio = RatioDraw.From(ref batch, Ratio, Spread, StartEpoch, request.Epoch);
        double show = ShowMax * RatioDraw.From(ref batch, Ratio, Spread, StartEpoch, request.Epoch);
        hidden.Clear();
        if (!Gate.Opens(ref crop, Probability)) return;
        Span<int> order = stackalloc int[hidden.Length];
        Rank(request.ClsAttention, Guide != Guide.Low, order);
        foreach (int patch in order[..(int)(hidden.Length * ratio)]) hidden[patch] = 1;
        if (Guide != Guide.Hint) return;
        Span<int> best = order[..BestOf(hidden.Length)];
        crop.Shuffle(best);
        foreach (int patch in best[..Math.Min(best.Length, (int)(show * hidden.Length))]) hidden[patch] = 0;
    }

    /// <summary>Patches that a hint may be one of.</summary>
    internal int BestOf(int patches) => (int)(patches * (double)(decimal)ShowMax);

    /// <summary>Patches by attention, most or least attended first.</summary>
    internal static void Rank(ReadOnlySpan<float> attention, bool mostFirst, Span<int> order)
    {
        // Bits of floats from 0 on rise with their values; the index below them makes every key its own, and the sort stable.
        Span<ulong> keys = stackalloc ulong[attention.Length];
        for (int i = 0; i < keys.Length; i++)
        {
            uint bits = BitConverter.SingleToUInt32Bits(attention[i]);
            keys[i] = (ulong)(mostFirst ? ~bits : bits) << 32 | (uint)i;
        }
        keys.Sort();
        for (int i = 0; i < keys.Length; i++) order[i] = (int)(uint)keys[i];
    }

    /// <inheritdoc/>
    public override void Validate(int imagePixels, int patchPixels)
    {
        RatioDraw.Check(Ratio, Spread, StartEpoch, Probability);
        if (!(ShowMax is >= 0 and <= 1)) throw new ConfigException($"masking.showMax is {ShowMax}; it is a share of the patches.");
        const int most = 4096;
        int grid = imagePixels / patchPixels;
        if (grid * grid > most) throw new ConfigException($"masking: {grid} × {grid} patches are more than the {most} that attention can rank; use larger patches.");
    }
}
