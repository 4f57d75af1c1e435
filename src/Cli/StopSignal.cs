using System.Runtime.InteropServices;

namespace MimEngine.Cli;

/// <summary>
/// A wish to stop: Ctrl+C or SIGTERM. The first lets the command finish its step and save; a second ends the process at once.
/// </summary>
public sealed class StopSignal : IDisposable
{
    private readonly CancellationTokenSource _source = new();
    private PosixSignalRegistration[] _registrations = [];
    private int _exitCode;

    /// <summary>Cancelled by the first signal.</summary>
    public CancellationToken Token => _source.Token;

    /// <summary>130 or 143 once a signal came, else 0.</summary>
    public int ExitCode => Volatile.Read(ref _exitCode);

    /// <summary>One that this process's signals reach.</summary>
    public static StopSignal Listen()
    {
        StopSignal stop = new();
        stop._registrations =
        [
            PosixSignalRegistration.Create(PosixSignal.SIGINT, signal => stop.OnSignal(signal, 130)),
            PosixSignalRegistration.Create(PosixSignal.SIGTERM, signal => stop.OnSignal(signal, 143)),
        ];
        return stop;
    }

    /// <summary>As the signal would; for tests.</summary>
    public void Request(int exitCode)
    {
        Volatile.Write(ref _exitCode, exitCode);
        _source.Cancel();
    }

    public void Dispose()
    {
        foreach (PosixSignalRegistration registration in _registrations) registration.Dispose();
        _source.Dispose();
    }

    private void OnSignal(PosixSignalContext signal, int exitCode)
    {
        if (_source.IsCancellationRequested) return;   // not cancelled: the second signal ends the process
        signal.Cancel = true;
        Request(exitCode);
    }
}
