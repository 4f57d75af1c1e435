using System.Diagnostics;
using System.Runtime.ExceptionServices;
using MimEngine.Engine.Imaging;
using MimEngine.Kernels;

namespace MimEngine.Engine.Data;

/// <summary>In which order a loader goes through its dataset.</summary>
public enum LoaderOrder : byte
{
    /// <summary>Training: a new shuffle every epoch; the rest that fills no batch is dropped.</summary>
    Shuffled,

    /// <summary>Evaluation: by index; the last batch of a pass may be shorter.</summary>
    InOrder,
}

/// <summary>What a <see cref="Loader"/> reads and how.</summary>
/// <param name="Dataset">Stays the caller's: the loader does not dispose it.</param>
/// <param name="Views">How pictures become crops.</param>
/// <param name="BatchSize">Pictures a step, B.</param>
public sealed record LoaderConfig(IDataset Dataset, IViews Views, int BatchSize)
{
    /// <summary>Names the order and the augmentations.</summary>
    public ulong Seed { get; init; }

    public LoaderOrder Order { get; init; } = LoaderOrder.Shuffled;

    /// <summary>The first step to hand out; a resumed run passes its own step.</summary>
    public long StartStep { get; init; }

    /// <summary>The step before which reading ahead stops.</summary>
    public long EndStep { get; init; } = long.MaxValue;

    /// <summary>Decoding threads; at least 1. Batches do not depend on it.</summary>
    public int Threads { get; init; } = 1;

    /// <summary>Batches in memory: those with the caller and those read ahead; at least 2.</summary>
    public int Batches { get; init; } = 3;
}

/// <summary>
/// Reads batches ahead on its own threads and hands them out in order. Step s holds the samples s·B … s·B + B − 1 of the stream of
/// epochs, and crop v of slot i draws from Rng(seed, Augment, (s·B + i)·V + v), V counting local views
/// too, so a batch depends on nothing but seed and step: not on threads, not on where the run was resumed.
/// </summary>
/// <remarks>Waiting threads sleep. In the steady state nothing is allocated when dataset and views allocate nothing.</remarks>
public sealed class Loader : IDisposable
{
    // Slots a thread takes at once: few enough to share a batch of 16 among four threads, enough to make the lock cheap.
    private const int SlotsAtOnce = 4;

    private readonly LoaderConfig _config;
    private readonly EpochOrder _order;
    private readonly object _lock = new();
    private readonly Batch[] _ring;
    private readonly Thread[] _threads;
    private readonly int _views;
    private long _nextOut, _nextIn;
    private long _waited;
    private bool _stopped;

    /// <exception cref="DataException">The dataset is smaller than one batch and the rest would be dropped.</exception>
    public Loader(LoaderConfig config)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(config.BatchSize);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(config.Threads);
        ArgumentOutOfRangeException.ThrowIfNegative(config.StartStep);
        ArgumentOutOfRangeException.ThrowIfLessThan(config.Batches, 2);
        int count = config.Dataset.Count, size = config.BatchSize;
        if (config.Order == LoaderOrder.Shuffled && count < size)
            throw new DataException($"{config.Dataset.Name} has {count} pictures, fewer than one batch of {size}: use a smaller batch or more data.");
        _config = config;
        _views = config.Views.Count + config.Views.LocalCount;
        _order = new EpochOrder(config.Seed, count);
        StepsPerEpoch = config.Order == LoaderOrder.Shuffled ? count / size : (count + size - 1) / size;
        _nextOut = _nextIn = config.StartStep;
        int capacity = Math.Min(size, count);
        _ring = new Batch[config.Batches];
        for (int i = 0; i < _ring.Length; i++) _ring[i] = new Batch(capacity, config.Views) { Step = -1 };
        _threads = new Thread[config.Threads];
        for (int i = 0; i < _threads.Length; i++)
        {
            IViewCutter cutter = config.Views.NewCutter();
            CropMarker? marker = config.Views.NewMarker();
            _threads[i] = new Thread(() => Work(cutter, marker)) { IsBackground = true, Name = $"mim loader {i}" };
            _threads[i].Start();
        }
    }

    /// <summary>Batches in an epoch: count/B without the rest, or with it when in order.</summary>
    public int StepsPerEpoch { get; }

    /// <summary>Seconds that <see cref="Next"/> has waited for data so far.</summary>
    public double WaitSeconds => Stopwatch.GetElapsedTime(0, _waited).TotalSeconds;

    /// <summary>Pictures of the batches handed out so far that could not be read.</summary>
    public CorruptPictures Corrupt { get; } = new();

    /// <summary>The next step's batch; waits for it when reading is slower than the caller.</summary>
    /// <exception cref="DataException">Too many pictures cannot be read.</exception>
    /// <exception cref="InvalidOperationException">All batches are with the caller, or the last step is behind.</exception>
    public Batch Next()
    {
        Batch batch;
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_stopped, this);
            if (_nextOut >= _config.EndStep) throw new InvalidOperationException($"Loader: step {_nextOut} is past the end, {_config.EndStep}.");
            batch = _ring[(int)(_nextOut % _ring.Length)];
            if (batch.OutWithCaller)
                throw new InvalidOperationException($"Loader: {_ring.Length} batches are out; return one before asking for step {_nextOut}.");
            if (!Ready(batch))
            {
                long from = Stopwatch.GetTimestamp();
                while (!Ready(batch)) Monitor.Wait(_lock);
                _waited += Stopwatch.GetTimestamp() - from;
            }
            batch.OutWithCaller = true;
            _nextOut++;
        }
        if (batch.Failures.Count > 1) batch.Failures.Sort((a, b) => (a.Slot, a.Try).CompareTo((b.Slot, b.Try)));
        if (batch.Error is not null) ExceptionDispatchInfo.Throw(batch.Error);
        Corrupt.Add(batch.Count, batch.Failures, _config.Dataset.Count, _config.Dataset.Name);
        return batch;
    }

    /// <summary>Gives a batch's memory back for reading ahead.</summary>
    public void Return(Batch batch)
    {
        lock (_lock)
        {
            if (!batch.OutWithCaller || Array.IndexOf(_ring, batch) < 0)
                throw new InvalidOperationException($"Loader: the batch of step {batch.Step} is not out.");
            batch.OutWithCaller = false;
            batch.Step = -1;
            Monitor.PulseAll(_lock);
        }
    }

    /// <summary>Stops and joins the threads.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            _stopped = true;
            Monitor.PulseAll(_lock);
        }
        foreach (Thread thread in _threads) thread.Join();
    }

    private bool Ready(Batch batch) => batch.Step == _nextOut && batch.Unfinished == 0;

    private void Work(IViewCutter cutter, CropMarker? marker)
    {
        var picture = new RgbImage();
        while (Take(out Batch? batch, out int from, out int to))
        {
            for (int slot = from; slot < to; slot++)
            {
                try
                {
                    Fill(batch!, slot, picture, cutter, marker);
                }
                catch (Exception e)
                {
                    lock (_lock)
                        if (batch!.Error is null || slot < batch.ErrorSlot) (batch.Error, batch.ErrorSlot) = (e, slot);
                }
            }
            lock (_lock)
            {
                batch!.Unfinished -= to - from;
                if (batch.Unfinished == 0) Monitor.PulseAll(_lock);
            }
        }
    }

    // The next slots to fill, in the order of the stream; sleeps while every batch is full. False when the loader stops.
    private bool Take(out Batch? batch, out int from, out int to)
    {
        lock (_lock)
        {
            for (; ; Monitor.Wait(_lock))
            {
                (batch, from, to) = (null, 0, 0);
                if (_stopped) return false;
                Batch next = _ring[(int)(_nextIn % _ring.Length)];
                if (next.Step == -1 && _nextIn < _config.EndStep) Begin(next, _nextIn);
                if (next.Step != _nextIn || next.Taken == next.Count) continue;
                (batch, from, to) = (next, next.Taken, Math.Min(next.Taken + SlotsAtOnce, next.Count));
                next.Taken = to;
                if (to == next.Count) _nextIn++;
                return true;
            }
        }
    }

    private void Begin(Batch batch, long step)
    {
        long first = step % StepsPerEpoch * _config.BatchSize;
        batch.Step = step;
        batch.Count = (int)Math.Min(_config.BatchSize, _config.Dataset.Count - first);
        batch.Taken = 0;
        batch.Unfinished = batch.Count;
        batch.Failures.Clear();
        batch.Error = null;
    }

    private void Fill(Batch batch, int slot, RgbImage picture, IViewCutter cutter, CropMarker? marker)
    {
        int position = (int)(batch.Step % StepsPerEpoch * _config.BatchSize) + slot;
        int index = _config.Order == LoaderOrder.InOrder ? position : _order.Sample(batch.Step / StepsPerEpoch, position);
        index = Read(batch, slot, index, picture);
        batch.Ids[slot] = index;
        batch.Labels[slot] = _config.Dataset.Label(index);
        for (int view = 0; view < _views; view++)
        {
            ulong sample = (ulong)batch.Step * (ulong)_config.BatchSize + (ulong)slot;
            RngSequence random = new Rng(_config.Seed, RandomStream.Augment, sample * (ulong)_views + (ulong)view).Start();
            cutter.Cut(batch.Crop(view, slot), picture, view, ref random);
            if (view < batch.Views) marker?.Paint(batch.MarksOf(view, slot), batch.Crop(view, slot), batch.Size);
        }
    }

    // An unreadable picture is replaced by the next index that can be read: the same one in every run and on every thread.
    private int Read(Batch batch, int slot, int index, RgbImage picture)
    {
        IDataset dataset = _config.Dataset;
        for (int tries = 0; ; tries++, index = (index + 1) % dataset.Count)
        {
            try
            {
                dataset.Read(index, picture);
                return index;
            }
            catch (Exception e) when (e is DataException or ImageFormatException or IOException or UnauthorizedAccessException)
            {
                lock (_lock) batch.Failures.Add(new PictureFailure(slot, tries, index, e.Message));
                if (tries + 1 == Math.Min(CorruptPictures.InARow, dataset.Count))
                    throw new DataException($"{dataset.Name}: {tries + 1} pictures in a row cannot be read, the last because: {e.Message}", e);
            }
        }
    }
}
