using MimEngine.Kernels.Ptx;

namespace MimEngine.Kernels;

/// <summary>
/// A provider of devices whose driver a test can have fail, or leave out. It concerns the next device that is opened, and no other.
/// </summary>
internal interface ITestedDriver
{
    /// <summary>After so many calls every call to the driver fails with this message, as all do once a device is lost.</summary>
    void FailNext(long calls, string message);

    /// <summary>Calls of the last device that was opened after <see cref="FailNext"/>.</summary>
    long CallsOfLast { get; }

    /// <summary>Kernels get their operands but are neither compiled nor launched: what is left is the host's own work.</summary>
    /// <param name="runner">Takes emitted kernels, as CUDA's driver would; none = there are none.</param>
    void SkipLaunchesOfNext(IPtxRunner? runner);

    /// <summary>Emitted kernels, which else only CUDA has, are run by a model of the machine, on the simulator's memory.</summary>
    void RunEmittedOfNext(IPtxRunner runner);
}
