namespace MimEngine.Engine.Data;

/// <summary>The pictures a loader could not read and replaced by others.</summary>
/// <remarks>
/// A run goes on with a few damaged files, but never silently: they are counted and the first ones named. It stops when 20 pictures in
/// a row cannot be read, or when more than 1 % of the reads failed because of at least 3 different pictures.
/// </remarks>
public sealed class CorruptPictures
{
    internal const int InARow = 20;
    private const int Named = 20, EnoughReads = 1000, EnoughPictures = 3;
    private readonly Lock _lock = new();
    private readonly List<string> _first = [];
    private readonly HashSet<int> _known = [];
    private long _reads, _failures;

    /// <summary>Reads in the batches handed out so far, the failed ones included.</summary>
    public long Reads
    {
        get { lock (_lock) return _reads; }
    }

    /// <summary>Reads that failed.</summary>
    public long Failures
    {
        get { lock (_lock) return _failures; }
    }

    /// <summary>Different pictures that failed.</summary>
    public int Distinct
    {
        get { lock (_lock) return _known.Count; }
    }

    /// <summary>One sentence on each of the first failures; at most 20.</summary>
    public IReadOnlyList<string> Listed
    {
        get { lock (_lock) return [.. _first]; }
    }

    /// <summary>One sentence for a log: how many, and some by name. Empty when there are none.</summary>
    /// <param name="fate">What became of them.</param>
    public string Report(string fate = "replaced by the next in order")
    {
        lock (_lock)
        {
            int n = _known.Count;
            if (n == 0) return "";
            string some = string.Join("; ", _first.Take(3).Select(sentence => sentence.TrimEnd('.')));
            return $"{n} unreadable picture{(n == 1 ? "" : "s")} {fate}: {some}{(n > 3 ? "; …" : "")}.";
        }
    }

    // Called in the order of batches and slots, so that a run stops at the same step whatever the number of threads.
    internal void Add(int reads, List<PictureFailure> failures, int datasetCount, string name)
    {
        lock (_lock)
        {
            _reads += reads + failures.Count;
            _failures += failures.Count;
            foreach (PictureFailure failure in failures)
                if (_known.Add(failure.Index) && _first.Count < Named) _first.Add(failure.Reason);
            if (_known.Count < EnoughPictures || _reads < Math.Min(EnoughReads, datasetCount) || _failures * 100 <= _reads) return;
        }
        if (failures.Count > 0)
            throw new DataException($"{name}: {Failures} of {Reads} reads failed, more than 1 %; repair or remove the pictures. {Report("among them")}");
    }
}

/// <summary>One failed read: for which slot of the batch, at which try, which picture, and why in a sentence.</summary>
internal readonly record struct PictureFailure(int Slot, int Try, int Index, string Reason);
