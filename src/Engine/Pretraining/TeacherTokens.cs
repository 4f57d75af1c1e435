using MimEngine.Engine.Autograd;
using MimEngine.Kernels;

namespace MimEngine.Engine.Pretraining;

/// <summary>What a teacher says about a pass, and to whom.</summary>
/// <param name="Local">The student's predictions at [cls] of local crops, (v·B, 1, K), or none.</param>
/// <param name="Targets">Distributions at the term's tokens of global crops, (V·B, …, K).</param>
/// <param name="RowWeights">(V·B·L): how much each hidden patch counts; none at [cls].</param>
/// <param name="Batch">Pictures, B.</param>
/// <param name="Views">Global crops of each, V.</param>
/// <param name="LocalViews">Local crops of each, v.</param>
public readonly record struct Lesson(Value? Local, Tensor Targets, Tensor? RowWeights, int Batch, int Views, int LocalViews);

/// <summary>
/// The teacher's distribution over prototypes, centred and sharpened. At [cls] every crop of the student learns from the teacher's other
/// global crops (DINO, Caron et al. 2021, section 3.1); at hidden patches from the same crop, as the teacher saw it whole (iBOT, Zhou et al.
/// 2022, section 3.1). An image's hidden patches count 1/number together, so images without any count too (SPEC E.3).
/// </summary>
public sealed record TeacherTokens : Target
{
    /// <summary>The teacher's temperature after its warm-up.</summary>
    public double Temperature { get; init; } = 0.07;

    /// <summary>The teacher's temperature in the first epoch.</summary>
    public double WarmupTemperature { get; init; } = 0.04;

    /// <summary>Epochs from the one temperature to the other; the last of them has the final one.</summary>
    public int WarmupEpochs { get; init; } = 30;

    /// <summary>Epochs before the warm-up begins.</summary>
    public int StartEpoch { get; init; }

    public float StudentTemperature { get; init; } = 0.1f;

    /// <summary>Momentum of the centre, the running mean of the teacher's logits.</summary>
    public float CenterMomentum { get; init; } = 0.9f;

    /// <summary>The teacher's temperature in an epoch, from 0.</summary>
    public double TemperatureIn(int epoch)
    {
        int at = epoch - StartEpoch;
        if (at >= WarmupEpochs) return Temperature;
        if (at <= 0) return WarmupEpochs > 0 ? WarmupTemperature : Temperature;
        return at == WarmupEpochs - 1 ? Temperature : WarmupTemperature + at * ((Temperature - WarmupTemperature) / (WarmupEpochs - 1));
    }

    /// <inheritdoc/>
    public override Value Loss(Tape t, Value prediction, in TermInputs x)
    {
        Lesson lesson = x.Lesson!.Value;
        if (lesson.RowWeights is { } weights)
            return t.DistillLoss(prediction, lesson.Targets, weights,
                new DistillOptions(prediction.Shape.Rows / lesson.Views, 0, ViewPairing.Same, StudentTemperature, x.Scale));
        int pairs = lesson.Views * (lesson.Views + lesson.LocalViews - 1);
        var options = new DistillOptions(lesson.Batch, 0, ViewPairing.Cross, StudentTemperature, x.Scale / pairs);
        Value loss = t.DistillLoss(prediction, lesson.Targets, null, options);
        if (lesson.Local is not { } local) return loss;
        Value more = t.DistillLoss(local, lesson.Targets, null, options with { FirstView = lesson.Views });
        t.Backend.AddScaled(loss.Data, more.Data, 1f, 1f);   // gradients are made already: this is the number that is shown
        return loss;
    }

    /// <inheritdoc/>
    public override void Validate()
    {
        foreach ((string name, double value) in (ReadOnlySpan<(string, double)>)
            [("temperature", Temperature), ("warmupTemperature", WarmupTemperature), ("studentTemperature", StudentTemperature)])
            if (!(value > 0 && double.IsFinite(value))) throw new ConfigException($"target.{name} is {value}; it must be a positive number.");
        if (WarmupEpochs < 0 || StartEpoch < 0)
            throw new ConfigException($"target.warmupEpochs and startEpoch are {WarmupEpochs} and {StartEpoch}; both must be 0 or more.");
        if (!(CenterMomentum is >= 0f and < 1f)) throw new ConfigException($"target.centerMomentum is {CenterMomentum}; it must lie in [0, 1).");
    }
}
