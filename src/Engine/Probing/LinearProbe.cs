using System.Numerics;
using System.Runtime.Intrinsics;
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
            int before = Before(s, labels[row]);
            if (before == 0) first++;
            if (before < 5) firstFive++;
        }
        return (first, firstFive);
    }
    /// <summary>Classes before this one: those of higher scores, and of equal ones the lower. Counted without branches, which would be guesses.</summary>
    private static int Before(ReadOnlySpan<float> scores, int label)
    {
        float own = scores[label];
        int before = -1, k = 0;   // itself
        if (scores.Length >= Vector256<float>.Count)
        {
            Vector256<float> mine = Vector256.Create(own);
            for (int lanes = 0xFF; k < scores.Length; k += Vector256<float>.Count)
            {
                int at = Math.Min(k, scores.Length - Vector256<float>.Count);   // the last vector starts early, among lanes counted already
                Vector256<float> s = Vector256.Create(scores[at..]);
                Vector256<int> later = Vector256.GreaterThan(Vector256<int>.Indices, Vector256.Create(label - at));
                Vector256<float> after = Vector256.LessThan(s, mine) | (Vector256.Equals(s, mine) & later.AsSingle());
                before += BitOperations.PopCount(~after.ExtractMostSignificantBits() & (uint)(lanes << (k - at)) & 0xFF);
            }
            return before;
        }
        for (; k < scores.Length; k++) before += scores[k] < own | (scores[k] == own & k > label) ? 0 : 1;
        return before;
    }
}
