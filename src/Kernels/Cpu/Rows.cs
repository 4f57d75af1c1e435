using System.Runtime.CompilerServices;

namespace MimEngine.Kernels.Cpu;

/// <summary>Work on a run of rows. Implemented by structs; fields are the operands.</summary>
internal interface IRowKernel
{
    // Implementations are marked NoInlining: inlined into the loop's generic caller, a long kernel uses up the JIT's budget for
    // inlining, and its vector operations become calls.
    /// <summary>Does rows [first, last). <paramref name="chunk"/> is the run's number, for partial results.</summary>
    void Run(int first, int last, int chunk);
}

/// <summary>
/// The only parallel loop. Rows are cut by grain, never by thread count, and partial results are combined in chunk order by whoever
/// asked, so that one thread and sixty-four give the same bits. Calls neither allocate nor create threads after construction.
/// A thread begins with the same share of the rows in every loop: neighbours of a tensor's rows are its own, and it need not ask other cores
/// for lines that they have written or only fetched ahead. Who is done takes from the end of the longest share.
/// </summary>
internal sealed unsafe class Rows : IDisposable
{
    // A worker spins this often on its own cache line before it sleeps: about 0.6 ms, longer than any gap between two kernels of a step.
    private const int Spins = 2_000;

    private readonly Thread[] _workers;
    private readonly object _gate = new();
    private readonly Share* _shares;
    private State _state;
    private bool _stop;

    /// <summary>Each hot word on a cache line pair of its own.</summary>
    [System.Runtime.InteropServices.StructLayout(System.Runtime.InteropServices.LayoutKind.Explicit, Size = 640)]
    private struct State
    {
        [System.Runtime.InteropServices.FieldOffset(128)] public int Epoch;     // bumped once a job; workers wait on it
        [System.Runtime.InteropServices.FieldOffset(256)] public int Open;      // the epoch whose job may still be entered, or 0
        [System.Runtime.InteropServices.FieldOffset(384)] public int Inside;    // workers between entering and leaving
        [System.Runtime.InteropServices.FieldOffset(512)] public int Parked;    // workers asleep
        [System.Runtime.InteropServices.FieldOffset(520)] public void* Kernel;  // the caller's struct, on its stack
        [System.Runtime.InteropServices.FieldOffset(528)] public delegate*<void*, int, int, int, void> Body;
        [System.Runtime.InteropServices.FieldOffset(536)] public int Count;
        [System.Runtime.InteropServices.FieldOffset(540)] public int Grain;     // rows of a chunk, or 0 where shares are counted in rows
        [System.Runtime.InteropServices.FieldOffset(544)] public int Least;     // chunks or rows taken at a time
        [System.Runtime.InteropServices.FieldOffset(548)] public int Most;
    }

    /// <summary>What is left of a thread's share, of the chunks or of the rows. Its owner takes from the front, others from the back.</summary>
    [System.Runtime.InteropServices.StructLayout(System.Runtime.InteropServices.LayoutKind.Sequential, Size = 128)]
    private struct Share
    {
        private long _bounds;   // the end in the upper half

        public void Set(int first, int end) => _bounds = (long)end << 32 | (uint)first;

        public readonly int Left
        {
            get
            {
                long bounds = Volatile.Read(in _bounds);
                return (int)(bounds >> 32) - (int)bounds;
            }
        }

        /// <summary>Takes half of what is left, at least and at most so much.</summary>
        public bool Take(bool front, int least, int most, out int first, out int end)
        {
            for (long bounds = Volatile.Read(ref _bounds); ;)
            {
                (first, end) = ((int)bounds, (int)(bounds >> 32));
                int n = Math.Min(end - first, Math.Clamp((end - first) / 2, least, most));
                if (n <= 0) return false;
                long left = front ? bounds + n : bounds - ((long)n << 32), seen = Interlocked.CompareExchange(ref _bounds, left, bounds);
                if (seen == bounds)
                {
                    if (front) end = first + n;
                    else first = end - n;
                    return true;
                }
                bounds = seen;
            }
        }
    }

    private readonly bool _dry;

    /// <param name="dry">Run nothing: only what ops ask for beside their kernels happens.</param>
    public Rows(int threads, bool dry = false)
    {
        Threads = Math.Max(1, threads);
        _dry = dry;
        _workers = new Thread[dry ? 0 : Threads - 1];
        _shares = (Share*)System.Runtime.InteropServices.NativeMemory.AlignedAlloc((nuint)(Threads * sizeof(Share)), (nuint)sizeof(Share));
        for (int i = 0; i < _workers.Length; i++)
        {
            int who = i + 1;
            _workers[i] = new Thread(() => Work(who)) { IsBackground = true, Name = $"mim-worker-{i + 1}" };
            _workers[i].Start();
        }
    }

    public int Threads { get; }

    /// <summary>Number of runs that <paramref name="count"/> rows make; the same for any thread count.</summary>
    public static int Chunks(int count, int grain) => (count + grain - 1) / grain;

    /// <summary>Runs the kernel over [0, count) in runs of <paramref name="grain"/> rows, each thread's share in order.</summary>
    public void For<TKernel>(int count, int grain, TKernel kernel) where TKernel : struct, IRowKernel
    {
        int chunks = Chunks(count, grain);
        if (_dry) return;
        if (chunks <= 1 || Threads == 1)
        {
            for (int c = 0; c < chunks; c++) kernel.Run(c * grain, Math.Min(count, (c + 1) * grain), c);
            return;
        }
        (_state.Count, _state.Grain, _state.Least, _state.Most) = (count, grain, 1, 1);
        // The struct lives in this frame, which outlives the job; its address cannot move.
        Run(chunks, Unsafe.AsPointer(ref kernel), &Invoke<TKernel>);
    }

    /// <summary>
    /// Runs the kernel over [0, count) in runs of at most <paramref name="most"/> rows, which shrink to <paramref name="least"/> towards the end of
    /// a share, so that threads end together. They follow the threads and have no number: for kernels whose results do not depend on the cut.
    /// </summary>
    public void ForAnyCut<TKernel>(int count, int least, int most, TKernel kernel) where TKernel : struct, IRowKernel
    {
        if (_dry) return;
        if (count <= least || Threads == 1)
        {
            for (int i = 0; i < count; i += most) kernel.Run(i, Math.Min(count, i + most), 0);
            return;
        }
        (_state.Count, _state.Grain, _state.Least, _state.Most) = (count, 0, least, most);
        Run(count, Unsafe.AsPointer(ref kernel), &Invoke<TKernel>);
    }

    private void Run(int count, void* kernel, delegate*<void*, int, int, int, void> body)
    {
        _state.Kernel = kernel;
        _state.Body = body;
        int whole = count >= Threads * _state.Most ? _state.Most : 1;   // shares begin where one thread's runs would
        for (int i = 0, first = 0; i < Threads; i++)
        {
            int end = i + 1 == Threads ? count : (int)((long)count * (i + 1) / Threads / whole * whole);
            _shares[i].Set(first, end);
            first = end;
        }
        int epoch = _state.Epoch + 1;
        if (epoch == 0) epoch = 1;
        Volatile.Write(ref _state.Open, epoch);
        Interlocked.Exchange(ref _state.Epoch, epoch);
        if (Volatile.Read(ref _state.Parked) > 0) lock (_gate) Monitor.PulseAll(_gate);
        Take(0);
        Interlocked.Exchange(ref _state.Open, 0);
        SpinWait spin = default;
        while (Volatile.Read(ref _state.Inside) != 0) spin.SpinOnce(sleep1Threshold: -1);
    }

    public void Dispose()
    {
        if (_stop) return;
        lock (_gate)
        {
            _stop = true;
            Interlocked.Increment(ref _state.Epoch);
            Monitor.PulseAll(_gate);
        }
        foreach (Thread worker in _workers) worker.Join();
        System.Runtime.InteropServices.NativeMemory.AlignedFree(_shares);
    }

    private static void Invoke<TKernel>(void* kernel, int first, int last, int chunk) where TKernel : struct, IRowKernel
        => Unsafe.AsRef<TKernel>(kernel).Run(first, last, chunk);

    /// <summary>A thread's own share, then the ends of others'.</summary>
    private void Take(int who)
    {
        (int least, int most) = (_state.Least, _state.Most);
        while (_shares[who].Take(true, least, most, out int first, out int end)) Do(first, end);
        while (true)
        {
            (int longest, int left) = (0, 0);
            for (int i = 0; i < Threads; i++)
                if (_shares[i].Left is var n && n > left) (longest, left) = (i, n);
            if (left == 0) return;
            if (_shares[longest].Take(false, least, most, out int first, out int end)) Do(first, end);
        }
    }

    private void Do(int first, int end)
    {
        int grain = _state.Grain;
        if (grain == 0) _state.Body(_state.Kernel, first, end, 0);
        else _state.Body(_state.Kernel, first * grain, Math.Min(_state.Count, end * grain), first);
    }

    private void Work(int who)
    {
        int seen = 0;
        while (true)
        {
            for (int i = 0; i < Spins && Volatile.Read(ref _state.Epoch) == seen; i++) Thread.SpinWait(8);
            if (Volatile.Read(ref _state.Epoch) == seen)
            {
                lock (_gate)
                {
                    Interlocked.Increment(ref _state.Parked);
                    while (Volatile.Read(ref _state.Epoch) == seen) Monitor.Wait(_gate);
                    Interlocked.Decrement(ref _state.Parked);
                }
            }
            seen = Volatile.Read(ref _state.Epoch);
            if (Volatile.Read(ref _stop)) return;
            // Enter first, then look whether the job is still open: either we see it closed, or the caller sees us inside and waits.
            Interlocked.Increment(ref _state.Inside);
            if (Volatile.Read(ref _state.Open) == seen) Take(who);
            Interlocked.Decrement(ref _state.Inside);
        }
    }
}
