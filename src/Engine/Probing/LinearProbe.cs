using MimEngine.Engine.Optim;
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
        if (train.BatchesPerEpoch == 0) throw new ConfigException($"Probe: batch is {config.Batch}, more than there are training pictures.");
        using var classifier = new Classifier(backend, config, test.Width, classes);
        float[] features = new float[config.Batch * test.Width], targets = new float[config.Batch * classes];
        float[] logits = new float[checked(test.Count * classes)];
        long batches = (long)train.BatchesPerEpoch * config.Epochs, updates = Math.Max(1, batches / config.Accumulate), update = 0;
        OptimConfig optim = config.Optim;
        RateSpan span = optim.Rates(config.Batch * config.Accumulate, Math.Max(1, train.BatchesPerEpoch / config.Accumulate), updates);
        List<ProbeEpoch> epochs = [];
        double rate = 0;
        for (long number = 0; number < batches; number++)
        {
            stop.ThrowIfCancellationRequested();
            train.Next(number, features, targets);
            classifier.Pass(features, targets, firstPass: number % config.Accumulate == 0);
            if ((number + 1) % config.Accumulate == 0)
            {
                rate = optim.RateOf(span, update++, config.Accumulate);
                classifier.Update(rate);
            }
            if ((number + 1) % train.BatchesPerEpoch != 0) continue;
            classifier.Logits(logits, test.Values);
            (double top1, double top5) = Accuracy(logits, test.Labels, classes);
            var epoch = new ProbeEpoch(epochs.Count + 1, classifier.MeanLoss(), top1, top5, rate);
            if (!double.IsFinite(epoch.Loss))
                throw new NonFiniteException($"The probe stopped: its loss is {epoch.Loss} in epoch {epoch.Epoch}; lower optim.rate ({optim.Rate}).");
            epochs.Add(epoch);
            observer?.Invoke(epoch);
        }
        return new LinearProbeResult(epochs);
    }

    /// <summary>Shares of rows whose label has the highest score, and one of the five highest; of equal scores the lower class comes first.</summary>
    /// <param name="scores">(rows, K).</param>
    public static (double Top1, double Top5) Accuracy(ReadOnlySpan<float> scores, ReadOnlySpan<int> labels, int classes)
    {
        int first = 0, firstFive = 0;
        for (int row = 0; row < labels.Length; row++)
        {
            ReadOnlySpan<float> s = scores.Slice(row * classes, classes);
            float own = s[labels[row]];
            int before = 0;
            for (int k = 0; k < classes; k++)
                if (k != labels[row] && !(s[k] < own || s[k] == own && k > labels[row])) before++;
            if (before == 0) first++;
            if (before < 5) firstFive++;
        }
        return (first / (double)labels.Length, firstFive / (double)labels.Length);
    }
}
