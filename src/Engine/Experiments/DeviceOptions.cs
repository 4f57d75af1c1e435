namespace MimEngine.Engine.Experiments;

/// <summary>Where something is computed, and with how many threads.</summary>
public abstract record DeviceOptions
{
    public string Device { get; init; } = "cpu";

    /// <summary>Compute threads of the CPU; 0 = all.</summary>
    public int Threads { get; init; }

    /// <summary>Threads that decode pictures.</summary>
    public int LoaderThreads { get; init; } = 1;
}
