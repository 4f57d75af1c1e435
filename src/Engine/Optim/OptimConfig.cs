namespace MimEngine.Engine.Optim;

/// <summary>Update rules.</summary>
public enum OptimizerKind : byte { AdamW, Lars, Sgd }

/// <summary>Which parameters weight decay touches.</summary>
public enum DecayRule : byte
{
    /// <summary>All of them, biases, norms and tokens included: KAMIM (SPEC A.8).</summary>
    Everything,

    /// <summary>All but vectors (biases, norms, LayerScale); tokens and tables decay: MAE, iBOT (SPEC C.2, E.4).</summary>
    NotVectors,

    /// <summary>All but vectors, pos_embed and cls_token; the mask token and bias tables decay: SimMIM (SPEC B.5).</summary>
    NotVectorsClsPositions,
}

/// <summary>What the schedule's step counter counts.</summary>
public enum RateIndex : byte
{
    /// <summary>Updates done before the last one: the originals set the rate after a step, so updates 0 and 1 share the start.</summary>
    Updates,

    /// <summary>
    /// KAMIM's released loop: epoch·S + index of the micro-batch, a saw-tooth under accumulation (SPEC A.8, J.5).
    /// </summary>
    MicroBatches,

    /// <summary>The update's own number, from 0: MAE sets the rate before a step, so the first one has the warm-up's start (SPEC C.2).</summary>
    OwnUpdate,

    /// <summary>The epoch, from 0: the rate falls once an epoch (the linear probes of DINO and iBOT, SPEC E.6).</summary>
    Epochs,
}

/// <summary>How parameters are updated: rule, rate, decay, clipping. Every number of SPEC A.8 and B.5.</summary>
public sealed record OptimConfig
{
    public OptimizerKind Kind { get; init; } = OptimizerKind.AdamW;

    /// <summary>Peak rate; multiplied by batch·accumulation/RatePerBatch where that is set.</summary>
    public double Rate { get; init; } = 8e-4;

    /// <summary>Rate at step 0, scaled likewise.</summary>
    public double WarmupRate { get; init; } = 1e-6;

    /// <summary>Rate at the end, scaled likewise.</summary>
    public double MinRate { get; init; } = 1e-5;

    /// <summary>Batch that the rates are meant for (256 or 512 in the papers); 0 = rates are absolute.</summary>
    public int RatePerBatch { get; init; }

    /// <summary>MinRate is absolute whatever the batch: DINO, iBOT.</summary>
    public bool FixedMinRate { get; init; }

    public Schedule Schedule { get; init; } = new CosineSchedule();
    public RateIndex RateIndex { get; init; } = RateIndex.Updates;

    /// <summary>Epochs the schedule spans; 0 = all of the run's.</summary>
    public double ScheduleEpochs { get; init; }

    public double WarmupEpochs { get; init; } = 10;
    public float Beta1 { get; init; } = 0.9f;
    public float Beta2 { get; init; } = 0.999f;
    public float Eps { get; init; } = 1e-8f;

    /// <summary>Momentum of SGD and LARS.</summary>
    public float Momentum { get; init; } = 0.9f;

    public float WeightDecay { get; init; } = 0.05f;

    /// <summary>Weight decay at the end of the run, half a cosine from WeightDecay (DINO, iBOT); null = the same all along.</summary>
    public float? WeightDecayEnd { get; init; }

    public DecayRule Decay { get; init; } = DecayRule.Everything;

    /// <summary>Bound of the gradient's global norm; 0 = no clipping.</summary>
    public float ClipNorm { get; init; } = 1f;

    /// <summary>
    /// Under accumulation, also clip the gradient summed so far after every pass, as SimMIM's released code does (SPEC B.5, a quirk). Off in
    /// every recipe, SimMIM's too: it makes the result depend on how an update is cut into passes.
    /// </summary>
    public bool ClipEachPass { get; init; }

    /// <summary>Clip each parameter by its own norm instead.</summary>
    public bool ClipEachParameter { get; init; }

    /// <summary>Peak, warm-up and minimum rates as this batch scales them.</summary>
    /// <param name="pictures">Pictures of one update.</param>
    public RateSpan Rates(int pictures, int stepsPerEpoch, long totalSteps)
    {
        double scale = RatePerBatch > 0 ? (double)pictures / RatePerBatch : 1.0;
        double epochs = ScheduleEpochs > 0 ? ScheduleEpochs : totalSteps / (double)stepsPerEpoch;
        return new RateSpan(Rate * scale, WarmupRate * scale, FixedMinRate ? MinRate : MinRate * scale,
            (long)Math.Round(WarmupEpochs * stepsPerEpoch), (long)Math.Round(epochs * stepsPerEpoch), stepsPerEpoch);
    }

    /// <summary>Rate of update <paramref name="step"/> (from 0) under <see cref="RateIndex"/>.</summary>
    /// <param name="accumulate">Micro-batches of one update.</param>
    public double RateOf(in RateSpan span, long step, int accumulate)
    {
        if (step == 0) return Schedule.At(span, 0);
        long before = step - 1;
        return Schedule.At(span, RateIndex switch
        {
            RateIndex.Updates => before,
            RateIndex.MicroBatches => before / span.StepsPerEpoch * span.StepsPerEpoch
                + (before % span.StepsPerEpoch + 1) * accumulate - 1,
            RateIndex.Epochs => step / span.StepsPerEpoch * span.StepsPerEpoch,
            _ => step,
        });
    }
}
