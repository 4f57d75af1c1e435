using System.Text.Json;
using MimEngine.Engine.Data;
using MimEngine.Engine.Probing;

namespace MimEngine.Engine.Experiments;

/// <summary>Test scores of a fine-tuned network, made and read back.</summary>
internal static class FinetuneScores
{
    /// <summary>Accuracy and mean cross-entropy of test pictures; step and epoch are the caller's.</summary>
    /// <param name="threads">Threads that decode pictures.</param>
    public static FinetuneScore Of(Finetuner finetuner, FinetuneConfig config, IDataset test, int threads)
    {
        int classes = test.Classes.Count, batch = config.Loop.Batch, first = 0, five = 0;
        double loss = 0;
        float[] logits = new float[batch * classes];
        using var loader = new Loader(new LoaderConfig(test, new AugmentedViews(config.View, config.Encoder.ImagePixels), batch)
        {
            Order = LoaderOrder.InOrder,
            EndStep = (test.Count + batch - 1) / batch,
            Threads = threads,
        });
        for (int number = 0; number < loader.StepsPerEpoch; number++)
        {
            Batch pictures = loader.Next();
            ReadOnlySpan<int> labels = pictures.Labels.AsSpan(0, pictures.Count);
            Span<float> scores = logits.AsSpan(0, pictures.Count * classes);
            finetuner.Logits(scores, pictures.Filled, pictures.Count);
            (int top1, int top5) = LinearProbe.Hits(scores, labels, classes, 0, classes);
            (first, five) = (first + top1, five + top5);
            for (int i = 0; i < labels.Length; i++) loss += CrossEntropy(scores.Slice(i * classes, classes), labels[i]);
            loader.Return(pictures);
        }
        return new FinetuneScore(0, 0, first / (double)test.Count, five / (double)test.Count, loss / test.Count);
    }

    /// <summary>The scores in a run's metrics, for the best of one that was stopped and continued.</summary>
    public static IEnumerable<FinetuneScore> Earlier(string metrics)
    {
        using FileStream stream = new(metrics, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        using var reader = new StreamReader(stream);
        while (reader.ReadLine() is { } text)
        {
            using JsonDocument line = JsonDocument.Parse(text);
            if (!line.RootElement.TryGetProperty("test.top1", out _)) continue;
            double of(string name) => line.RootElement.GetProperty(name) is { ValueKind: JsonValueKind.Number } v ? v.GetDouble() : double.NaN;
            yield return new FinetuneScore((long)of("step"), of("epoch"), of("test.top1"), of("test.top5"), of("test.loss"));
        }
    }

    /// <summary>Top-1 of always naming the class that is most frequent among the training pictures.</summary>
    public static double MajorityRate(IDataset train, IDataset test)
    {
        int[] counts = new int[train.Classes.Count];
        for (int i = 0; i < train.Count; i++) counts[train.Label(i)]++;
        int most = Array.IndexOf(counts, counts.Max());
        return Enumerable.Range(0, test.Count).Count(i => test.Label(i) == most) / (double)test.Count;
    }

    private static double CrossEntropy(ReadOnlySpan<float> logits, int label)
    {
        double most = double.NegativeInfinity, sum = 0;
        foreach (float v in logits) most = Math.Max(most, v);
        foreach (float v in logits) sum += Math.Exp(v - most);
        return most + Math.Log(sum) - logits[label];
    }
}
