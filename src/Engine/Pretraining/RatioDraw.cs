using MimEngine.Kernels;

namespace MimEngine.Engine.Pretraining;

/// <summary>How iBOT and AttMask draw the share of patches to hide (SPEC E.5).</summary>
internal static class RatioDraw
{
    /// <summary>
    /// A share from every entry, uniform in ratio ± spread, then one of them, uniformly: [0, 0.3] ± [0, 0.2] hides nothing of half the crops and
    /// 10–50 % of the others. 0 before the start epoch.
    /// </summary>
    public static double From(ref RngSequence random, float[] ratio, float[] spread, double startEpoch, double epoch)
    {
        if (epoch < startEpoch) return 0;
        Span<double> drawn = stackalloc double[ratio.Length];
        for (int i = 0; i < ratio.Length; i++)
        {
            // The nearest short decimal is what was meant: 0.3 ± 0.2 is 0.1 to 0.5.
            double middle = Exact(ratio[i]), reach = Exact(spread[i]);
            drawn[i] = reach > 0 ? middle - reach + 2 * reach * random.UniformDouble() : middle;
        }
        return ratio.Length == 1 ? drawn[0] : drawn[random.Below(ratio.Length)];
    }

    /// <summary>Refuses lists that do not fit.</summary>
    /// <exception cref="ConfigException">One sentence.</exception>
    public static void Check(float[] ratio, float[] spread, double startEpoch, float probability)
    {
        if (ratio.Length is 0 or > 64 || ratio.Length != spread.Length)
            throw new ConfigException($"masking.ratio has {ratio.Length} entries and masking.spread {spread.Length}; give as many of each, 1 to 64.");
        for (int i = 0; i < ratio.Length; i++)
            if (!(ratio[i] is >= 0 and < 1 && spread[i] >= 0 && spread[i] <= ratio[i] && ratio[i] + spread[i] < 1))
                throw new ConfigException($"masking.ratio {ratio[i]} ± {spread[i]} is no share of patches; both must be 0 or more, spread at most ratio, "
                    + "and their sum below 1.");
        if (!(startEpoch >= 0)) throw new ConfigException($"masking.startEpoch is {startEpoch}; it must be 0 or more.");
        if (!(probability is >= 0 and <= 1)) throw new ConfigException($"masking.probability is {probability}; it is the share of crops that are masked.");
    }

    private static double Exact(float value) => (double)(decimal)value;
}
