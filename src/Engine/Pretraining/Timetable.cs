namespace MimEngine.Engine.Pretraining;

/// <summary>What changes from update to update by a plan: pure functions of its number, so that a resumed run needs none of them saved.</summary>
public sealed class Timetable(PretrainConfig config, int batchesPerEpoch)
{
    /// <summary>Updates of an epoch.</summary>
    public int StepsPerEpoch { get; } = Math.Max(1, batchesPerEpoch / config.Run.Accumulate);

    /// <summary>Updates of the whole run.</summary>
    public long TotalSteps { get; } = config.TotalSteps(batchesPerEpoch);

    /// <summary>Epoch that an update belongs to, from 0.</summary>
    public int Epoch(long step) => (int)(step / StepsPerEpoch);

    /// <summary>Weight decay of an update: half a cosine from optim.weightDecay to weightDecayEnd, where that is set (SPEC E.4).</summary>
    public float WeightDecay(long step) => config.Optim.WeightDecayEnd is { } end
        ? (float)Cosine((double)(decimal)config.Optim.WeightDecay, (double)(decimal)end, step, TotalSteps) : config.Optim.WeightDecay;

    /// <summary>Share of itself that the teacher keeps after an update.</summary>
    public double Momentum(long step) => config.Teacher is { } t ? Cosine(t.Momentum, t.MomentumEnd, step, TotalSteps) : 0;

    /// <summary>end + ½(start − end)(1 + cos(π·step/total)): at step total it would be the end (iBOT's cosine_scheduler).</summary>
    public static double Cosine(double start, double end, long step, long total)
        => end + 0.5 * (start - end) * (1 + Math.Cos(Math.PI * Math.Min(step, total) / total));
}
