using System.Diagnostics;

namespace MimEngine.Kernels;

/// <summary>Time of one kind of call.</summary>
/// <param name="Cost">Of one call; the name is the operation's.</param>
/// <param name="Shape">Of what it reads or writes mainly.</param>
/// <param name="Best">Seconds of the shortest call: what others on the machine disturbed least.</param>
public sealed record OpTime(OpCost Cost, Shape Shape, long Calls, double Seconds, double Best)
{
    public double GigaFlops => Seconds > 0 ? Cost.Flops * Calls / Seconds / 1e9 : 0;
    public double GigaBytes => Seconds > 0 ? Cost.Bytes * Calls / Seconds / 1e9 : 0;
}

/// <summary>
/// Another backend with a stopwatch around every operation: what it computes is what the other computes. Waits for the device after each call,
/// so that on a GPU the sum of the times is more than the step takes alone.
/// </summary>
public sealed partial class TimedBackend(Backend inner) : Backend
{
    private sealed class Entry
    {
        public long Calls, Ticks, Least = long.MaxValue;
    }

    private readonly Dictionary<(OpCost, Shape), Entry> _entries = [];

    /// <summary>What was called since the start or the last <see cref="Clear"/>, the longest first.</summary>
    public IReadOnlyList<OpTime> Times => [.. _entries.Where(e => e.Value.Calls > 0)
        .Select(e => new OpTime(e.Key.Item1, e.Key.Item2, e.Value.Calls, Seconds(e.Value.Ticks), Seconds(e.Value.Least)))
        .OrderByDescending(t => t.Seconds)];

    public void Clear()
    {
        foreach (Entry e in _entries.Values) (e.Calls, e.Ticks, e.Least) = (0, 0, long.MaxValue);
    }

    private static double Seconds(long ticks) => Stopwatch.GetElapsedTime(0, ticks).TotalSeconds;

    private static long Start() => Stopwatch.GetTimestamp();

    private void Stop(long start, OpCost cost, Shape shape)
    {
        inner.Synchronize();
        long ticks = Stopwatch.GetTimestamp() - start;
        if (!_entries.TryGetValue((cost, shape), out Entry? e)) _entries[(cost, shape)] = e = new Entry();
        e.Calls++;
        e.Ticks += ticks;
        e.Least = Math.Min(e.Least, ticks);
    }

    /// <summary>The cost of an operation that mostly moves data: the bytes of its operands.</summary>
    private static OpCost Moved(string name, params ReadOnlySpan<Tensor?> operands)
    {
        double bytes = 0;
        foreach (Tensor? t in operands) bytes += t?.Bytes ?? 0;
        return new OpCost(name, 0, bytes);
    }

    /// <summary>Bytes of an element; 0 of none.</summary>
    private static int Size(Tensor? t) => t is { } given ? given.DType.Size() : 0;

    private static Tensor? Of(Grad g) => g.Wanted ? g.Into : null;

    public override string Name => inner.Name;
    public override string Description => inner.Description;
    public override DType Real => inner.Real;
    public override DType Branch => inner.Branch;
    public override long OwnBytes => inner.OwnBytes;
    public override Storage Allocate(long bytes) => inner.Allocate(bytes);
    public override void Synchronize() => inner.Synchronize();
    public override void Dispose() => inner.Dispose();

    public override void Upload(Tensor destination, ReadOnlySpan<byte> source)
    {
        long start = Start();
        inner.Upload(destination, source);
        Stop(start, new OpCost("Upload", 0, destination.Bytes), destination.Shape);
    }

    public override void Download(Span<byte> destination, Tensor source)
    {
        long start = Start();
        inner.Download(destination, source);
        Stop(start, new OpCost("Download", 0, source.Bytes), source.Shape);
    }

    public override void Fill(Tensor y, float value)
    {
        long start = Start();
        inner.Fill(y, value);
        Stop(start, Moved(nameof(Fill), y), y.Shape);
    }

    public override void Copy(Tensor y, Tensor x)
    {
        long start = Start();
        inner.Copy(y, x);
        Stop(start, Moved(nameof(Copy), y, x), y.Shape);
    }

    public override void Cast(Tensor y, Tensor x)
    {
        long start = Start();
        inner.Cast(y, x);
        Stop(start, OpCost.Cast(y.Count, Size(y), Size(x)), y.Shape);
    }

    public override void AddScaled(Tensor y, Tensor x, float a, float b)
    {
        long start = Start();
        inner.AddScaled(y, x, a, b);
        Stop(start, OpCost.AddScaled(y.Count, b != 0), y.Shape);
    }
}
