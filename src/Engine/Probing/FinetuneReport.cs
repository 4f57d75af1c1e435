namespace MimEngine.Engine.Probing;

/// <summary>Test scores after an epoch, shares.</summary>
public sealed record FinetuneScore(long Step, double Epoch, double Top1, double Top5, double Loss);

/// <summary>One network that was fine-tuned.</summary>
/// <param name="Last">The headline; the originals print the best, which looks at the test pictures.</param>
/// <param name="Best">The highest top-1 among the scores, the first of equals.</param>
/// <param name="Loaded">What came from the checkpoint; none where a resumed run had its own.</param>
public sealed record FinetuneRow(FinetuneStart Start, string Folder, long Step, bool Interrupted, FinetuneScore Last, FinetuneScore Best,
    int TestPictures, FinetuneLoaded? Loaded, double ImagesPerSecond)
{
    /// <summary>√(p(1 − p)/n) of the last top-1.</summary>
    public double StandardError => Math.Sqrt(Last.Top1 * (1 - Last.Top1) / TestPictures);
}

/// <summary>What fine-tuning found, as finetune.json in the run's folder.</summary>
public sealed record FinetuneReport
{
    public required string TrainData { get; init; }
    public required string TestData { get; init; }
    public required int TrainPictures { get; init; }
    public required int TestPictures { get; init; }
    public required int Classes { get; init; }

    /// <summary>Top-1 of always naming the most frequent class.</summary>
    public required double MajorityRate { get; init; }

    public required FinetuneConfig Config { get; init; }

    /// <summary>The pretrained start, and the untrained one where it was asked for.</summary>
    public required IReadOnlyList<FinetuneRow> Rows { get; init; }

    /// <summary>Top-1 over the untrained start, and in standard errors of both; none where there is one row.</summary>
    public (double Difference, double StandardErrors)? Gap()
    {
        if (Rows.Count < 2) return null;
        double difference = Rows[0].Last.Top1 - Rows[1].Last.Top1;
        double error = Math.Sqrt(Math.Pow(Rows[0].StandardError, 2) + Math.Pow(Rows[1].StandardError, 2));
        return (difference, error > 0 ? difference / error : 0);
    }
}
