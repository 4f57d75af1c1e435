using System.Runtime.InteropServices;

namespace MimEngine.Kernels.Cpu;

/// <summary>
/// Panels of a weight gradient that one thread sums, block of tokens after block, and how far it is. A thread that has nothing left takes panels out of another's
/// part: from its right those that the block has not come to, or from its left, from the next block on, those that it is done with. So threads end within
/// some panels of a block of one another, however late one of them is; and every number remains one chain of block sums.
/// </summary>
[StructLayout(LayoutKind.Sequential, Size = 128)]   // no two of them share a pair of cache lines
internal struct WeightPart(int row, int rows, int first, int end)
{
    /// <summary>Rows of c.</summary>
    public int Row = row, Rows = rows;

    // Panels [_first, _end) of c; _next is the next one of the block. What follows changes only while held.
    private int _block, _first = first, _next = first, _end = end, _held;

    /// <summary>A panel of a block of tokens, and the panel of which block probably comes then.</summary>
    public struct Turn
    {
        public int Block, Panel, NextBlock, NextPanel;

        /// <summary>It is the first panel of its block here: the rows of a are not packed yet.</summary>
        public bool Opens;
    }

    /// <summary>What the part's thread does next, or false when nothing is left.</summary>
    public bool Advance(int blocks, out Turn turn)
    {
        Hold();
        if (_next >= _end) (_block, _next) = (_block + 1, _first);
        bool any = _next < _end && _block < blocks;
        turn = new Turn { Block = _block, Panel = _next, Opens = _next == _first };
        if (any) _next++;
        (turn.NextBlock, turn.NextPanel) = _next < _end ? (_block, _next) : (_block + 1, _first);
        Release();
        return any;
    }

    /// <summary>Turns not begun.</summary>
    public readonly long Left(int blocks) => _block < blocks ? (long)(blocks - 1 - _block) * (_end - _first) + _end - _next : 0;

    /// <summary>Takes half of what is left here, or nothing if that are fewer turns than worth it.</summary>
    public bool Split(int blocks, long leastTurns, out WeightPart half)
    {
        Hold();
        long want = (Left(blocks) + 1) / 2;
        long rounds = blocks - _block, right = 0, left = 0;   // the turns that a panel is yet, and panels to take
        if (want >= leastTurns)
        {
            right = Math.Min(_end - _next, Ceiling(want, rounds));
            if (rounds > 1) left = Math.Clamp(Ceiling(want, rounds - 1), 0, Math.Max(0, _next - 1 - _first));
        }
        bool any = Math.Max(right * rounds, left * (rounds - 1)) >= leastTurns;
        half = default;
        if (any && right * rounds >= left * (rounds - 1))
        {
            half = new WeightPart(Row, Rows, _end - (int)right, _end) { _block = _block };
            _end -= (int)right;
        }
        else if (any)
        {
            half = new WeightPart(Row, Rows, _first, _first + (int)left) { _block = _block + 1 };
            _first += (int)left;
        }
        Release();
        return any;
    }

    /// <summary>Becomes a part whose place others may be looking at.</summary>
    public void Become(in WeightPart part)
    {
        Hold();
        (Row, Rows, _block, _first, _next, _end) = (part.Row, part.Rows, part._block, part._first, part._next, part._end);
        Release();
    }

    private void Hold()
    {
        while (Interlocked.CompareExchange(ref _held, 1, 0) != 0) Thread.SpinWait(1);
    }

    private void Release() => Volatile.Write(ref _held, 0);

    private static long Ceiling(long a, long b) => (a + b - 1) / b;
}
