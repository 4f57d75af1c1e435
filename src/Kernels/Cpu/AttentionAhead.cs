using System.Runtime.Intrinsics.X86;

namespace MimEngine.Kernels.Cpu;

/// <summary>
/// What the next head's turn will read and write, asked for a few rows between any two tiles of this one. A head's rows are short and far apart, so that
/// the processor's own prefetchers do not follow them; without this a backward pass out of cold caches waits a quarter of its time.
/// </summary>
internal unsafe struct AttentionAhead
{
    private const int Most = 8, Line = 64;
    private fixed long _first[Most];
    private fixed long _stride[Most];
    private readonly int _rows, _bytes, _tiles;
    private int _areas, _area, _row, _atOnce;

    /// <param name="rows">Rows of every area.</param>
    /// <param name="bytes">Of a row.</param>
    /// <param name="tiles">Tiles that this turn will compute.</param>
    public AttentionAhead(int rows, int bytes, int tiles) => (_rows, _bytes, _tiles) = (rows, bytes, Math.Max(1, tiles));

    /// <summary>Rows that lie rowBytes apart.</summary>
    public void Add(void* first, nint rowBytes)
    {
        if (!Sse.IsSupported || _rows == 0) return;
        (_first[_areas], _stride[_areas]) = ((long)first, rowBytes);
        _areas++;
        _atOnce = (_areas * _rows + _tiles - 1) / _tiles;
    }

    /// <summary>This tile's share.</summary>
    public void Step()
    {
        for (int n = _atOnce; n > 0 && _area < _areas; n--)
        {
            byte* at = (byte*)_first[_area] + (nint)_row * (nint)_stride[_area];
            for (int i = 0; i < _bytes; i += Line) Sse.Prefetch1(at + i);
            if (++_row == _rows) (_row, _area) = (0, _area + 1);
        }
    }
}
