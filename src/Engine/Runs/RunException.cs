namespace MimEngine.Engine.Runs;

/// <summary>A run that cannot start, continue or be written. The message is one sentence for the user.</summary>
public class RunException(string message, Exception? inner = null) : Exception(message, inner);

/// <summary>
/// A checkpoint that could not be written, for a reason outside the run: a full disk, a lost folder. What was saved before is intact, the
/// temporary file is gone, and the next save may succeed: a run need not stop.
/// </summary>
public sealed class SaveException(string message, Exception? inner = null) : RunException(message, inner);
