using System.Text.Json.Serialization;

namespace MimEngine.Engine.Optim;

/// <summary>The ends between which a learning rate moves. Steps are optimiser updates.</summary>
/// <param name="Peak">After warm-up.</param>
/// <param name="Warmup">At step 0.</param>
/// <param name="Minimum">At the end.</param>
/// <param name="TotalSteps">Length of the schedule, the warm-up included.</param>
public readonly record struct RateSpan(double Peak, double Warmup, double Minimum, long WarmupSteps, long TotalSteps, int StepsPerEpoch);

/// <summary>Learning rate as a pure function of the step. All kinds start with a straight warm-up.</summary>
[JsonPolymorphic(TypeDiscriminatorPropertyName = "kind")]
[JsonDerivedType(typeof(CosineSchedule), "cosine")]
[JsonDerivedType(typeof(CosineAfterWarmupSchedule), "cosine-after-warmup")]
[JsonDerivedType(typeof(CosineInclusiveSchedule), "cosine-inclusive")]
[JsonDerivedType(typeof(MultiStepSchedule), "multi-step")]
[JsonDerivedType(typeof(StepSchedule), "step")]
[JsonDerivedType(typeof(LinearSchedule), "linear")]
[JsonDerivedType(typeof(ConstantSchedule), "constant")]
public abstract record Schedule
{
    /// <summary>Rate at step <paramref name="t"/>.</summary>
    public double At(in RateSpan s, long t) => t < s.WarmupSteps ? InWarmup(s, t) : AfterWarmup(s, t);

    private protected virtual double InWarmup(in RateSpan s, long t) => s.Warmup + t * (s.Peak - s.Warmup) / s.WarmupSteps;

    private protected abstract double AfterWarmup(in RateSpan s, long t);
}

/// <summary>
/// timm's cosine without warm-up prefix: minimum + ½(peak − minimum)(1 + cos(π·t/T)), t counted from the very start, so the rate drops
/// a little when warm-up ends; minimum from T on (SPEC A.8, B.5).
/// </summary>
public sealed record CosineSchedule : Schedule
{
    private protected override double AfterWarmup(in RateSpan s, long t) => t >= s.TotalSteps ? s.Minimum
        : s.Minimum + 0.5 * (s.Peak - s.Minimum) * (1 + Math.Cos(Math.PI * t / s.TotalSteps));
}

/// <summary>MAE's: the half cosine spans only what is left after warm-up (SPEC C.2).</summary>
public sealed record CosineAfterWarmupSchedule : Schedule
{
    private protected override double AfterWarmup(in RateSpan s, long t) => t >= s.TotalSteps ? s.Minimum
        : s.Minimum + 0.5 * (s.Peak - s.Minimum) * (1 + Math.Cos(Math.PI * (t - s.WarmupSteps) / (s.TotalSteps - s.WarmupSteps)));
}

/// <summary>DINO's and iBOT's: as above, but the last step of warm-up has the peak already, and so has the one after it (SPEC E.4).</summary>
public sealed record CosineInclusiveSchedule : Schedule
{
    private protected override double InWarmup(in RateSpan s, long t)
        => t == s.WarmupSteps - 1 ? s.Peak : s.Warmup + t * ((s.Peak - s.Warmup) / (s.WarmupSteps - 1));

    private protected override double AfterWarmup(in RateSpan s, long t) => t >= s.TotalSteps ? s.Minimum
        : s.Minimum + 0.5 * (s.Peak - s.Minimum) * (1 + Math.Cos(Math.PI * (t - s.WarmupSteps) / (s.TotalSteps - s.WarmupSteps)));
}

/// <summary>peak · gamma^(milestones passed), milestones in epochs from the very start (SPEC B.5).</summary>
public sealed record MultiStepSchedule(double Gamma, int[] Milestones) : Schedule
{
    private protected override double AfterWarmup(in RateSpan s, long t)
    {
        int passed = 0;
        foreach (int epoch in Milestones)
            if ((long)epoch * s.StepsPerEpoch <= t) passed++;
        return s.Peak * Math.Pow(Gamma, passed);
    }
}

/// <summary>peak · gamma^⌊t/period⌋, the period in epochs (timm).</summary>
public sealed record StepSchedule(double Gamma, int PeriodEpochs) : Schedule
{
    private protected override double AfterWarmup(in RateSpan s, long t)
        => s.Peak * Math.Pow(Gamma, t / ((long)PeriodEpochs * s.StepsPerEpoch));
}

/// <summary>Straight from peak at the end of warm-up to peak · lowest at the end (SimMIM's linear option, lowest 0.01).</summary>
public sealed record LinearSchedule(double Lowest) : Schedule
{
    private protected override double AfterWarmup(in RateSpan s, long t)
        => s.Peak - s.Peak * (1 - Lowest) * (t - s.WarmupSteps) / (s.TotalSteps - s.WarmupSteps);
}

/// <summary>peak.</summary>
public sealed record ConstantSchedule : Schedule
{
    private protected override double AfterWarmup(in RateSpan s, long t) => s.Peak;
}
