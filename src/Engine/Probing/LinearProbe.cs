using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;

namespace MimEngine.Engine.Probing;

/// <summary>One epoch of a linear probe.</summary>
/// <param name="Epoch">From 1.</param>
/// <param name="Loss">Mean cross-entropy of the training batches.</param>
/// <param name="Top1">Share of test pictures whose class scores highest.</param>
/// <param name="Top5">Share of those whose class is among the five highest.</param>
/// <param name="Rate">Learning rate of the epoch's last update.</param>
public readonly record struct ProbeEpoch(int Epoch, double Loss, double Top1, double Top5, double Rate);

/// <summary>What a linear probe found. The headline is the last epoch; the originals print the best (SPEC J.19).</summary>
public sealed record LinearProbeResult(IReadOnlyList<ProbeEpoch> Epochs)
{
    public ProbeEpoch Last => Epochs[^1];

    /// <summary>Top-1 of more test sets with the final weights, in the order given.</summary>
    public double[] Also { get; init; } = [];

    /// <summary>The epoch of the highest top-1, the first of equals: chosen by looking at the test pictures.</summary>
    public ProbeEpoch Best => Epochs.MaxBy(e => e.Top1);
}

/// <summary>A linear classifier trained on frozen features and scored on test features after every epoch.</summary>
public static class LinearProbe
{
    /// <summary>Trains and scores. The same seed gives the same bits for any number of threads.</summary>
    /// <param name="config">Its batch must not exceed the training pictures.</param>
    /// <param name="observer">Told after every epoch.</param>
    /// <exception cref="NonFiniteException">The loss is no number.</exception>
    public static LinearProbeResult Train(Backend backend, ProbeConfig config, FeatureStream train, FeatureSet test, int classes,
        Action<ProbeEpoch>? observer = null, CancellationToken stop = default)
    {
        ProbeConfig one = config with { Beside = [], Rates = [] };
        var row = new FeatureRow(test.Width);
        return SideBySide.Train(backend, one, row, train, test, classes, (_, epoch) => observer?.Invoke(epoch), stop)[0].Result;
    }

    /// <summary>Shares of rows whose label has the highest score, and one of the five highest; of equal scores the lower class comes first.</summary>
    /// <param name="scores">(rows, K).</param>
    public static (double Top1, double Top5) Accuracy(ReadOnlySpan<float> scores, ReadOnlySpan<int> labels, int classes)
    {
        (int first, int firstFive) = Hits(scores, labels, classes, 0, classes);
        return (first / (double)labels.Length, firstFive / (double)labels.Length);
    }

    /// <summary>Numbers of such rows, scores of row i starting at i·stride + offset.</summary>
    internal static (int Top1, int Top5) Hits(ReadOnlySpan<float> scores, ReadOnlySpan<int> labels, int classes, int offset, int stride)
    {
        int first = 0, firstFive = 0;
        for (int row = 0; row < labels.Length; row++)
        {
            ReadOnlySpan<float> s = scores.Slice(row * stride + offset, classes);
            float own = s[labels[row]];
            int before = -1;   // itself; counted without branches, which would be guesses
            for (int k = 0; k < classes; k++) before += s[k] < own | (s[k] == own & k > labels[row]) ? 0 : 1;
            if (before == 0) first++;
            if (before < 5) firstFive++;
        }
        return (first, firstFive);
    }
}
