using MimEngine.Engine.Runs;
using MimEngine.Kernels;

namespace MimEngine.Engine.Experiments;

/// <summary>What a user asked of a run that trains, beside its configuration: a new one, or the rest of one.</summary>
public abstract record TrainingOptions : DeviceOptions
{
    /// <summary>Folder of a new run; none = the next number under runs/.</summary>
    public string? Out { get; init; }

    /// <summary>Folder of a run to continue.</summary>
    public string? Resume { get; init; }

    /// <summary>Where the pictures of a resumed run are now, if they moved.</summary>
    public string? Data { get; init; }

    /// <summary>Describes the machine once the device is known and the step to start from is.</summary>
    public required Func<Backend, long, EnvironmentRecord> Environment { get; init; }

    /// <summary>Seconds since 1970; the engine reads no clock of its own.</summary>
    public required Func<double> Clock { get; init; }
}
