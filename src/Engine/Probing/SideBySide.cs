using MimEngine.Engine.Optim;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;

namespace MimEngine.Engine.Probing;

/// <summary>One of several probes trained together.</summary>
/// <param name="Rate">Its peak rate as the configuration writes it.</param>
public readonly record struct SideProbe(Pooling Pooling, double Rate);

/// <summary>
/// Linear probes of several aggregations and learning rates on one pass over the features. Each learns what it would learn alone: they share
/// the order of the pictures and, for one aggregation, BatchNorm's statistics and one product.
/// </summary>
public static class SideBySide
{
    /// <summary>The classifiers of one aggregation: all rates in one product, or one each where the aggregation is learned.</summary>
    private sealed record Group(FeaturePart Part, Classifier Classifier, int FirstRate, float[] Features, float[] Logits, double[] Losses);

    /// <summary>Trains and scores every aggregation of the row at every rate. The same seed gives the same bits for any number of threads.</summary>
    /// <param name="observer">Told after every epoch of every probe.</param>
    /// <param name="also">More test sets, scored once after the last epoch.</param>
    /// <returns>Aggregations in the row's order, each with its rates in the config's.</returns>
    /// <remarks>The loss is the epoch's mean for a probe alone at its aggregation, else that of the epoch's last batch.</remarks>
    /// <exception cref="NonFiniteException">No probe has a loss that is a number.</exception>
    public static IReadOnlyList<(SideProbe Probe, LinearProbeResult Result)> Train(Backend backend, ProbeConfig config, FeatureRow row,
        FeatureStream train, FeatureSet test, int classes, Action<SideProbe, ProbeEpoch>? observer = null, CancellationToken stop = default,
        IReadOnlyList<FeatureSet>? also = null)
    {
        if (train.BatchesPerEpoch == 0) throw new ConfigException($"Probe: batch is {config.Batch}, more than there are training pictures.");
        double[] peaks = config.PeakRates, rates = new double[peaks.Length];
        long batches = (long)train.BatchesPerEpoch * config.Epochs, updates = Math.Max(1, batches / config.Accumulate), update = 0;
        int updatesPerEpoch = Math.Max(1, train.BatchesPerEpoch / config.Accumulate);
        OptimConfig[] optims = [.. peaks.Select(peak => config.Optim with { Rate = peak })];
        RateSpan[] spans = [.. optims.Select(o => o.Rates(config.Batch * config.Accumulate, updatesPerEpoch, updates))];
        float[] features = new float[config.Batch * row.Width], targets = new float[config.Batch * classes];
        List<(SideProbe Probe, List<ProbeEpoch> Epochs)> probes =
            [.. row.Parts.SelectMany(part => peaks.Select(peak => (new SideProbe(part.Pooling, peak), new List<ProbeEpoch>())))];
        List<Group> groups = [];
        double[][] more = [.. probes.Select(_ => new double[also?.Count ?? 0])];
        try
        {
            foreach (FeaturePart part in row.Parts) Open(groups, backend, config, row, part, peaks.Length, classes);
            for (long number = 0; number < batches; number++)
            {
                stop.ThrowIfCancellationRequested();
                train.Next(number, features, targets);
                bool epochEnds = (number + 1) % train.BatchesPerEpoch == 0, updateEnds = (number + 1) % config.Accumulate == 0;
                if (updateEnds)
                {
                    for (int i = 0; i < rates.Length; i++) rates[i] = optims[i].RateOf(spans[i], update, config.Accumulate);
                    update++;
                }
                foreach (Group g in groups)
                {
                    bool alone = g.Classifier.Probes == 1;
                    g.Classifier.Pass(Own(row, g, features), targets, firstPass: number % config.Accumulate == 0,
                        epochEnds && !alone ? g.Losses : default);
                    if (updateEnds) g.Classifier.Update(rates.AsSpan(g.FirstRate, g.Classifier.Probes));
                    if (epochEnds && alone) g.Losses[0] = g.Classifier.MeanLoss();
                }
                if (epochEnds) Score(groups, config, row, test, classes, probes, rates, observer);
            }
            for (int set = 0, next = 0; set < more[0].Length; set++, next = 0)
                foreach (Group g in groups)
                    foreach (int right in Hits(g, config, row, also![set], classes).Top1) more[next++][set] = right / (double)also[set].Count;
        }
        finally
        {
            foreach (Group g in groups) g.Classifier.Dispose();
        }
        return [.. probes.Select((p, i) => (p.Probe, new LinearProbeResult(p.Epochs) { Also = more[i] }))];
    }

    private static void Open(List<Group> groups, Backend backend, ProbeConfig config, FeatureRow row, FeaturePart part, int rates, int classes)
    {
        float[] features = new float[row.Parts.Count > 1 ? config.Batch * part.Length : 0];
        int each = part.Tokens > 1 ? 1 : rates;
        for (int first = 0; first < rates; first += each)
            groups.Add(new Group(part, new Classifier(backend, config, part, row.Grid, classes, each), first, features,
                new float[config.Batch * each * classes], new double[each]));
    }

    /// <summary>This group's features of rows, copied where the rows hold others too.</summary>
    private static ReadOnlySpan<float> Own(FeatureRow row, Group g, ReadOnlySpan<float> rows)
    {
        if (row.Parts.Count == 1) return rows;
        row.Take(g.Features, g.Part, rows);
        return g.Features.AsSpan(0, rows.Length / row.Width * g.Part.Length);
    }

    /// <summary>Right predictions of each probe of a group.</summary>
    private static (int[] Top1, int[] Top5) Hits(Group g, ProbeConfig config, FeatureRow row, FeatureSet test, int classes)
    {
        int each = g.Classifier.Probes * classes;
        int[] first = new int[g.Classifier.Probes], five = new int[g.Classifier.Probes];
        for (int at = 0; at < test.Count; at += config.Batch)
        {
            int n = Math.Min(config.Batch, test.Count - at);
            ReadOnlySpan<int> labels = test.Labels.AsSpan(at, n);
            g.Classifier.Logits(g.Logits.AsSpan(0, n * each), Own(row, g, test.Values.AsSpan(at * row.Width, n * row.Width)));
            for (int p = 0; p < first.Length; p++)
            {
                (int top1, int top5) = LinearProbe.Hits(g.Logits, labels, classes, p * classes, each);
                (first[p], five[p]) = (first[p] + top1, five[p] + top5);
            }
        }
        return (first, five);
    }

    private static void Score(List<Group> groups, ProbeConfig config, FeatureRow row, FeatureSet test, int classes,
        List<(SideProbe Probe, List<ProbeEpoch> Epochs)> probes, double[] rates, Action<SideProbe, ProbeEpoch>? observer)
    {
        int next = 0;
        foreach (Group g in groups)
        {
            (int[] first, int[] five) = Hits(g, config, row, test, classes);
            for (int p = 0; p < first.Length; p++, next++)
            {
                (SideProbe probe, List<ProbeEpoch> epochs) = probes[next];
                var epoch = new ProbeEpoch(epochs.Count + 1, g.Losses[p], first[p] / (double)test.Count, five[p] / (double)test.Count,
                    rates[g.FirstRate + p]);
                epochs.Add(epoch);
                observer?.Invoke(probe, epoch);
            }
        }
        if (probes.TrueForAll(p => !double.IsFinite(p.Epochs[^1].Loss)))
            throw new NonFiniteException($"The probe stopped: its loss is {probes[0].Epochs[^1].Loss} in epoch {probes[0].Epochs.Count}; "
                + $"lower optim.rate ({string.Join(", ", config.PeakRates)}).");
    }
}
