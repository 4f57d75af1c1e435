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
/// </summary>
internal sealed unsafe class Rows : IDisposable
{
    // A worker spins this often on its own cache line before it sleeps: about 0.6 ms, longer than any gap between two kernels of a step.
    private const int Spins = 2_000;

    private readonly Thread[] _workers;
    private readonly object _gate = new();
    private State _state;
    private bool _stop;

    /// <summary>Each hot word on a cache line pair of its own.</summary>
    [System.Runtime.InteropServices.StructLayout(System.Runtime.InteropServices.LayoutKind.Explicit, Size = 768)]
    private struct State
    {
        [System.Runtime.InteropServices.FieldOffset(128)] public int Epoch;     // bumped once a job; workers wait on it
        [System.Runtime.InteropServices.FieldOffset(256)] public int Open;      // the epoch whose job may still be entered, or 0
        [System.Runtime.InteropServices.FieldOffset(384)] public int Inside;    // workers between entering and leaving
        [System.Runtime.InteropServices.FieldOffset(512)] public int Next;      // next chunk to hand out
        [System.Runtime.InteropServices.FieldOffset(640)] public int Parked;    // workers asleep
        [System.Runtime.InteropServices.FieldOffset(648)] public void* Kernel;  // the caller's struct, on its stack
        [System.Runtime.InteropServices.FieldOffset(656)] public delegate*<void*, int, int, int, void> Body;
        [System.Runtime.InteropServices.FieldOffset(664)] public int Count;
        [System.Runtime.InteropServices.FieldOffset(668)] public int Grain;
        [System.Runtime.InteropServices.FieldOffset(672)] public int Chunks;
        [System.Runtime.InteropServices.FieldOffset(676)] public int Least;     // rows of the shortest run, or 0 where all runs have Grain
    }

    private readonly bool _dry;

    /// <param name="dry">Run nothing: only what ops ask for beside their kernels happens.</param>
    public Rows(int threads, bool dry = false)
    {
        Threads = Math.Max(1, threads);
        _dry = dry;
        _workers = new Thread[dry ? 0 : Threads - 1];
        for (int i = 0; i < _workers.Length; i++)
        {
            _workers[i] = new Thread(Work) { IsBackground = true, Name = $"mim-worker-{i + 1}" };
            _workers[i].Start();
        }
    }

    public int Threads { get; }

    /// <summary>Number of runs that <paramref name="count"/> rows make; the same for any thread count.</summary>
    public static int Chunks(int count, int grain) => (count + grain - 1) / grain;

    /// <summary>Runs the kernel over [0, count) in runs of <paramref name="grain"/> rows, handed out dynamically.</summary>
    public void For<TKernel>(int count, int grain, TKernel kernel) where TKernel : struct, IRowKernel
    {
        int chunks = Chunks(count, grain);
        if (_dry) return;
        if (chunks <= 1 || Threads == 1)
        {
            for (int c = 0; c < chunks; c++) kernel.Run(c * grain, Math.Min(count, (c + 1) * grain), c);
            return;
        }
        (_state.Count, _state.Grain, _state.Chunks, _state.Least) = (count, grain, chunks, 0);
        // The struct lives in this frame, which outlives the job; its address cannot move.
        Share(Unsafe.AsPointer(ref kernel), &Invoke<TKernel>);
    }

    /// <summary>
    /// Runs the kernel over [0, count) in runs of at most <paramref name="most"/> rows, which shrink to <paramref name="least"/> towards the end, so that threads
    /// end together. They follow the threads and have no number: for kernels whose results do not depend on the cut.
    /// </summary>
    public void ForAnyCut<TKernel>(int count, int least, int most, TKernel kernel) where TKernel : struct, IRowKernel
    {
        if (_dry) return;
        if (count <= least || Threads == 1)
        {
            for (int i = 0; i < count; i += most) kernel.Run(i, Math.Min(count, i + most), 0);
            return;
        }
        (_state.Count, _state.Grain, _state.Least) = (count, most, least);
        Share(Unsafe.AsPointer(ref kernel), &Invoke<TKernel>);
    }

    private void Share(void* kernel, delegate*<void*, int, int, int, void> body)
    {
        _state.Kernel = kernel;
        _state.Body = body;
        _state.Next = 0;
        int epoch = _state.Epoch + 1;
        if (epoch == 0) epoch = 1;
        Volatile.Write(ref _state.Open, epoch);
        Interlocked.Exchange(ref _state.Epoch, epoch);
        if (Volatile.Read(ref _state.Parked) > 0) lock (_gate) Monitor.PulseAll(_gate);
        TakeChunks();
        Interlocked.Exchange(ref _state.Open, 0);
        SpinWait spin = default;
        while (Volatile.Read(ref _state.Inside) != 0) spin.SpinOnce(sleep1Threshold: -1);
    }

    public void Dispose()
    {
        lock (_gate)
        {
            _stop = true;
            Interlocked.Increment(ref _state.Epoch);
            Monitor.PulseAll(_gate);
        }
        foreach (Thread worker in _workers) worker.Join();
    }

    private static void Invoke<TKernel>(void* kernel, int first, int last, int chunk) where TKernel : struct, IRowKernel
        => Unsafe.AsRef<TKernel>(kernel).Run(first, last, chunk);

    private void TakeChunks()
    {
        if (_state.Least > 0)
        {
            TakeShrinking();
            return;
        }
        int chunks = _state.Chunks, grain = _state.Grain, count = _state.Count;
        for (int c = Interlocked.Increment(ref _state.Next) - 1; c < chunks; c = Interlocked.Increment(ref _state.Next) - 1)
            _state.Body(_state.Kernel, c * grain, Math.Min(count, (c + 1) * grain), c);
    }

    private void TakeShrinking()
    {
        int count = _state.Count, least = _state.Least, most = _state.Grain, shares = 2 * Threads;
        for (int at = Volatile.Read(ref _state.Next); at < count;)
        {
            int n = Math.Min(count - at, Math.Clamp((count - at) / shares, least, most));
            int next = Interlocked.CompareExchange(ref _state.Next, at + n, at);
            if (next == at)
            {
                _state.Body(_state.Kernel, at, at + n, 0);
                next = Volatile.Read(ref _state.Next);
            }
            at = next;
        }
    }

    private void Work()
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
            if (Volatile.Read(ref _state.Open) == seen) TakeChunks();
            Interlocked.Decrement(ref _state.Inside);
        }
    }
}
