using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;

namespace MimEngine.Kernels.Cpu;

/// <summary>
/// What the next head's turn will read and write, asked for a few rows between any two steps of this one. A head's rows are short and far apart, so that
/// the processor's own prefetchers do not follow them; without this a backward pass out of cold caches waits a quarter of its time.
/// </summary>
/// <remarks>Lives where it is made: it points into itself. Emitted code walks it too (<see cref="Emitted.BandCode"/>).</remarks>
internal unsafe struct AttentionAhead
{
    private const int Most = 8, Line = 64, Asked = 4 * Line, Words = 3;
    public const int AreaBytes = Words * sizeof(long);

    // The area at work; then of each area: where it goes on, bytes to the next row, rows left. The last one is without end, and a line at hand.
    private long* _now;
    private fixed long _areas[Words * (2 * Most + 1)];
    private int _count;

    /// <summary>Nothing to ask for.</summary>
    public void Clear()
    {
        _count = 0;
        _now = (long*)Unsafe.AsPointer(ref _areas[0]);
        Close();
    }

    /// <summary>Rows of so many bytes that lie stride bytes apart.</summary>
    public void Add(void* first, nint stride, int rows, int bytes)
    {
        for (int at = 0; at < bytes && _count < 2 * Most; at += Asked)
        {
            long* area = _now + Words * _count++;
            (area[0], area[1], area[2]) = ((long)first + at, stride, rows);
        }
        Close();
    }

    private readonly void Close()
    {
        long* end = _now + Words * _count;
        (end[0], end[1], end[2]) = ((long)_now, 0, long.MaxValue);
    }

    /// <summary>The next rows, for tiles that do not ask themselves.</summary>
    public void Step(int rows)
    {
        if (!Sse.IsSupported) return;
        for (; rows > 0; rows--)
        {
            for (int i = 0; i < Asked; i += Line) Sse.Prefetch1((byte*)_now[0] + i);
            _now[0] += _now[1];
            if (--_now[2] <= 0) _now += Words;
        }
    }
}
