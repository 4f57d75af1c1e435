using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;

namespace MimEngine.Engine.Probing;

/// <summary>One number of a probe, for a table.</summary>
/// <param name="Name">"linear", "k-NN k=20".</param>
/// <param name="Encoder">"pretrained" or "random-init".</param>
/// <param name="Block">1-based block whose output was read.</param>
/// <param name="Top1">Share of test pictures classified rightly.</param>
/// <param name="Top5">Share of those whose class is among the five first.</param>
/// <param name="StandardError">√(p(1 − p)/n) of <paramref name="Top1"/> over n test pictures.</param>
/// <param name="Seed">Of the probe.</param>
/// <param name="BestTop1">Linear probes: the best epoch's, chosen by looking at the test pictures.</param>
/// <param name="Rate">Linear probes: their peak rate, as the configuration writes it.</param>
public sealed record ProbeRow(string Name, string Encoder, int Block, Pooling Pooling, double Top1, double Top5, double StandardError,
    ulong Seed, double? BestTop1 = null, double? Rate = null)
{
    internal const string Pretrained = "pretrained", RandomInit = "random-init";

    /// <summary>A row whose standard error follows from its accuracy.</summary>
    public static ProbeRow Of(string name, string encoder, FeaturePlace place, double top1, double top5, int pictures, ulong seed,
        double? bestTop1 = null, double? rate = null)
        => new(name, encoder, place.Block, place.Pooling, top1, top5, Math.Sqrt(top1 * (1 - top1) / pictures), seed, bestTop1, rate);
}

/// <summary>One aggregation at its best rate (chosen by looking at the test pictures), beside the untrained encoder's at its own.</summary>
/// <param name="Top1">Of the pretrained encoder, last epoch.</param>
/// <param name="OverCls">Top1 minus that of the [cls] token; none where [cls] was not probed.</param>
/// <param name="StandardErrors">OverCls over √(se² + se²).</param>
public sealed record AggregationRow(Pooling Pooling, double Rate, double Top1, double RandomTop1, double? OverCls, double? StandardErrors);

/// <summary>The pretrained encoder against the random one, by one probe.</summary>
/// <param name="Difference">Top-1 of the pretrained encoder minus that of the random one.</param>
/// <param name="StandardErrors">The difference over √(se² + se²).</param>
public sealed record ProbeGap(string Name, double Difference, double StandardErrors)
{
    /// <summary>Not more than three standard errors apart: no evidence that training did anything.</summary>
    public bool WithinNoise => Math.Abs(StandardErrors) <= 3;
}

/// <summary>The epochs of one linear probe.</summary>
public sealed record ProbeCurve(string Name, string Encoder, IReadOnlyList<ProbeEpoch> Epochs);

/// <summary>Everything a probe of a run found, beside the same network untrained.</summary>
public sealed record ProbeReport
{
    /// <summary>The checkpoint's path.</summary>
    public required string Checkpoint { get; init; }

    /// <summary>Updates of pretraining done.</summary>
    public required long Step { get; init; }

    /// <summary>The run's recipe and seed; the random encoder is the one this run started from.</summary>
    public required string Recipe { get; init; }

    public required ulong RunSeed { get; init; }
    public required string TrainData { get; init; }
    public required string TestData { get; init; }
    public required int TrainPictures { get; init; }
    public required int TestPictures { get; init; }
    public required int Classes { get; init; }

    /// <summary>What always answering the most frequent training class scores.</summary>
    public required double MajorityRate { get; init; }

    public required VitConfig Encoder { get; init; }

    /// <summary>1-based; the encoder's depth for the last.</summary>
    public required int Block { get; init; }

    public required bool FinalNorm { get; init; }
    public required Pooling Pooling { get; init; }

    /// <summary>The probe as it was really run.</summary>
    public required ProbeConfig Config { get; init; }

    /// <summary>Which tensors of the checkpoint became which parameters.</summary>
    public required LoadReport Loaded { get; init; }

    public required IReadOnlyList<ProbeRow> Rows { get; init; }
    public required IReadOnlyList<ProbeCurve> Curves { get; init; }

    /// <summary>Low-shot k-NN, where it was asked for.</summary>
    public IReadOnlyList<LowShotRow> LowShot { get; init; } = [];

    /// <summary>Accuracies on test pictures without their most attended patches, where they were asked for.</summary>
    public IReadOnlyList<MaskedRow> Masked { get; init; } = [];

    /// <summary>Sentences the reader should know: unreadable pictures, a batch that was cut.</summary>
    public required IReadOnlyList<string> Notes { get; init; }

    /// <summary>Aggregations of the linear probe beside each other.</summary>
    public IReadOnlyList<AggregationRow> Aggregations
    {
        get
        {
            ProbeRow? best(string encoder, Pooling pooling) => Rows.Where(r => r.Rate is not null && r.Encoder == encoder && r.Pooling == pooling).MaxBy(r => r.Top1);
            ProbeRow? cls = best(ProbeRow.Pretrained, Pooling.Cls);
            List<AggregationRow> rows = [];
            foreach (Pooling pooling in Rows.Where(r => r.Rate is not null).Select(r => r.Pooling).Distinct())
            {
                if (best(ProbeRow.Pretrained, pooling) is not { } own || best(ProbeRow.RandomInit, pooling) is not { } random) continue;
                double? over = cls is null ? null : own.Top1 - cls.Top1;
                double error = Math.Max(1.0 / TestPictures, Math.Sqrt(Math.Pow(own.StandardError, 2) + Math.Pow(cls?.StandardError ?? 0, 2)));
                rows.Add(new AggregationRow(pooling, own.Rate!.Value, own.Top1, random.Top1, over, over / error));
            }
            return rows;
        }
    }

    /// <summary>Each probe's pretrained row against its random one. An error below one picture counts as one picture.</summary>
    public IReadOnlyList<ProbeGap> Gaps =>
    [
        .. from own in Rows
           where own.Encoder == ProbeRow.Pretrained
           join random in Rows.Where(r => r.Encoder == ProbeRow.RandomInit) on own.Name equals random.Name
           let error = Math.Sqrt(own.StandardError * own.StandardError + random.StandardError * random.StandardError)
           let difference = own.Top1 - random.Top1
           select new ProbeGap(own.Name, difference, difference / Math.Max(error, 1.0 / TestPictures)),
    ];

    /// <summary>"mean of the patch tokens after block 6 of 6 and the final LayerNorm".</summary>
    public string FeatureSentence => $"{(Config.Beside.Length > 0 ? "tokens" : Pooling switch
    {
        Pooling.Cls => "[cls] token",
        Pooling.MeanPatches => "mean of the patch tokens",
        _ => $"tokens ({ConfigJson.Word(Pooling)})",
    })} after block {Block} of {Encoder.Depth}"
        + (FinalNorm ? " and the final LayerNorm" : ", no final norm");
}
