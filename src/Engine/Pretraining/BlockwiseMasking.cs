using MimEngine.Kernels;

namespace MimEngine.Engine.Pretraining;

/// <summary>
/// Rectangles of patches until about a share is hidden: BEiT (Bao et al. 2021, algorithm 1) as iBOT's loader has it (SPEC E.5). The share is
/// drawn for each crop; often a little less is hidden, because a rectangle that would hide too much is drawn again.
/// </summary>
/// <param name="Ratio">Shares to hide; one is drawn where there are several.</param>
/// <param name="Spread">Of each share: uniform in ratio ± spread.</param>
/// <param name="AspectMin">Rectangles are from this to its inverse times as high as wide, uniform in the logarithm.</param>
/// <param name="MinPatches">Smallest rectangle; 0 = (grid/3)², as iBOT has it. BEiT: 16.</param>
/// <param name="MaxPatches">Largest rectangle; 0 = whatever is still to be hidden.</param>
/// <param name="StartEpoch">Nothing is hidden before.</param>
/// <param name="Probability">Share of crops that are masked at all.</param>
public sealed record BlockwiseMasking(float[] Ratio, float[] Spread, float AspectMin = 0.3f, int MinPatches = 0, int MaxPatches = 0,
    double StartEpoch = 0, float Probability = 1f) : Masking
{
    private const int Attempts = 10;

    /// <summary>iBOT's: nothing of half the crops, 10–50 % of the others.</summary>
    public BlockwiseMasking() : this([0f, 0.3f], [0f, 0.2f]) { }

    /// <inheritdoc/>
    public override bool HidesSameNumber => false;

    /// <inheritdoc/>
    public override void Sample(in MaskRequest request, Span<byte> hidden)
    {
        RngSequence random = request.Crop.Start();
        double ratio = RatioDraw.From(ref random, Ratio, Spread, StartEpoch, request.Epoch);
        hidden.Clear();
        if (!Gate.Opens(ref random, Probability)) return;
        Fill(ref random, ratio * request.Grid * request.Grid, request.Grid, hidden);
    }

    /// <summary>Rectangles until <paramref name="goal"/> patches are hidden or ten attempts in a row add none.</summary>
    /// <param name="goal">Not rounded: the original compares whole numbers with it.</param>
    internal void Fill(ref RngSequence random, double goal, int grid, Span<byte> hidden)
    {
        int smallest = MinPatches > 0 ? MinPatches : grid / 3 * (grid / 3), count = 0;
        double most = Math.Log(1 / (double)(decimal)AspectMin);
        while (count < goal)
        {
            double left = goal - count;
            if (MaxPatches > 0) left = Math.Min(left, MaxPatches);
            int added = 0;
            for (int attempt = 0; attempt < Attempts && added == 0; attempt++)
            {
                // The bounds may change places: the smallest rectangle may be more than what is left.
                double area = smallest + (left - smallest) * random.UniformDouble(), aspect = Math.Exp(most * (2 * random.UniformDouble() - 1));
                int h = (int)Math.Round(Math.Sqrt(area * aspect)), w = (int)Math.Round(Math.Sqrt(area / aspect));
                if (w >= grid || h >= grid) continue;
                int top = random.Below(grid - h + 1), from = random.Below(grid - w + 1), fresh = h * w;
                for (int r = top; r < top + h; r++)
                    foreach (byte b in hidden.Slice(r * grid + from, w)) fresh -= b;
                if (fresh <= 0 || fresh > left) continue;
                for (int r = top; r < top + h; r++) hidden.Slice(r * grid + from, w).Fill(1);
                added = fresh;
            }
            if (added == 0) return;
            count += added;
        }
    }

    /// <inheritdoc/>
    public override void Validate(int imagePixels, int patchPixels)
    {
        RatioDraw.Check(Ratio, Spread, StartEpoch, Probability);
        if (!(AspectMin is > 0 and <= 1)) throw new ConfigException($"masking.aspectMin is {AspectMin}; it must lie in (0, 1].");
        if (MinPatches < 0 || MaxPatches < 0 || MaxPatches > 0 && MaxPatches < MinPatches)
            throw new ConfigException($"masking.minPatches and maxPatches are {MinPatches} and {MaxPatches}; they must rise, 0 meaning no bound of one's own.");
    }
}

/// <summary>Any patches, a drawn share of them: iBOT's "rand", ⌊ratio·L⌋ of each crop (SPEC E.5).</summary>
/// <param name="Ratio">Shares to hide; one is drawn where there are several.</param>
/// <param name="Spread">Of each share: uniform in ratio ± spread.</param>
/// <param name="StartEpoch">Nothing is hidden before.</param>
/// <param name="Probability">Share of crops that are masked at all.</param>
public sealed record RandomPatches(float[] Ratio, float[] Spread, double StartEpoch = 0, float Probability = 1f) : Masking
{
    /// <summary>iBOT's: nothing of half the crops, 10–50 % of the others.</summary>
    public RandomPatches() : this([0f, 0.3f], [0f, 0.2f]) { }

    /// <inheritdoc/>
    public override bool HidesSameNumber => false;

    /// <inheritdoc/>
    public override void Sample(in MaskRequest request, Span<byte> hidden)
    {
        RngSequence random = request.Crop.Start();
        double ratio = RatioDraw.From(ref random, Ratio, Spread, StartEpoch, request.Epoch);
        hidden.Clear();
        if (!Gate.Opens(ref random, Probability)) return;
        hidden[..(int)(ratio * hidden.Length)].Fill(1);
        random.Shuffle(hidden);
    }

    /// <inheritdoc/>
    public override void Validate(int imagePixels, int patchPixels) => RatioDraw.Check(Ratio, Spread, StartEpoch, Probability);
}

/// <summary>Whether a crop is masked at all.</summary>
internal static class Gate
{
    /// <summary>Not drawn where the answer is certain; shut where u ∈ [0, 1) exceeds the probability.</summary>
    public static bool Opens(ref RngSequence random, float probability) => probability >= 1f || random.Uniform() <= probability;
}
