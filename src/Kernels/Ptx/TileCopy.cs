namespace MimEngine.Kernels.Ptx;

/// <summary>
/// Copies tiles of a bfloat16 matrix into shared memory, 16 bytes a thread at a time, asynchronously; zeros where the matrix ends. Both
/// extents are multiples of 8.
/// </summary>
internal sealed class TileCopy
{
    private readonly PtxText _t;
    private readonly MatrixTile _tile;
    private readonly int _step;
    private readonly string _from, _to, _down, _ahead, _rowsLeft, _depthLeft, _moving;

    /// <param name="matrix">Address of the matrix (u64).</param>
    /// <param name="rows">Extent along the result's axis.</param>
    /// <param name="lineElements">Elements from a line of the matrix to the next.</param>
    /// <param name="row0">First row of the tile.</param>
    /// <param name="k0">First depth of the first tile.</param>
    /// <param name="kEnd">Where the summed axis ends.</param>
    /// <param name="at">Shared address of the tile in stage 0.</param>
    public TileCopy(PtxText t, MatrixTile tile, int threads, string thread, string matrix, string rows, string lineElements, string row0,
        string k0, string kEnd, string at)
    {
        (_t, _tile) = (t, tile);
        _step = threads / tile.Chunks;
        string chunk = t.Int("and.b32", thread, tile.Chunks - 1), line = t.Int("div.u32", thread, tile.Chunks);
        string along = t.Int("shl.b32", chunk, 3);
        _to = t.Int("add.u32", at, tile.At(t, line, chunk));
        (string first, string column) = tile.AlongDepth
            ? (t.Int("add.u32", row0, line), t.Int("add.u32", k0, along)) : (t.Int("add.u32", k0, line), t.Int("add.u32", row0, along));
        string lineBytes = t.Int("shl.b32", lineElements, 1);
        _from = t.Long("mad.wide.u32", column, 2, t.Long("mad.wide.u32", first, lineBytes, matrix));
        _down = t.Long("mul.wide.u32", lineBytes, _step);
        _ahead = tile.AlongDepth ? t.Long("cvt.u64.u32", t.Int("mov.u32", tile.Depth * 2)) : t.Long("mul.wide.u32", lineBytes, tile.Depth);
        _moving = t.B64();
        if (tile.AlongDepth)
        {
            _rowsLeft = t.Int("sub.s32", rows, first);
            _depthLeft = t.Int("sub.s32", kEnd, column);
        }
        else
        {
            // A chunk past the last column never copies: its depth is over from the beginning.
            string inside = t.Test("setp.lt.u32", column, rows);
            _rowsLeft = "";
            _depthLeft = t.Int("selp.b32", t.Int("sub.s32", kEnd, first), -0x40000000, inside);
        }
    }

    /// <summary>Queues the copy of the tile at the present depth into a stage, and goes on to the next depth.</summary>
    /// <param name="stage">Byte offset of the stage, in a register.</param>
    public void Next(string stage)
    {
        Copy(stage);
        _t.Op($"add.s64 {_from}, {_from}, {_ahead}");
        _t.Op($"sub.s32 {_depthLeft}, {_depthLeft}, {_tile.Depth}");
    }

    /// <summary>Queues the copy of the tile into a stage, and goes on to the same tile of a matrix further on.</summary>
    /// <param name="bytes">How far (u64).</param>
    public void Next(string stage, string bytes)
    {
        Copy(stage);
        _t.Op($"add.s64 {_from}, {_from}, {bytes}");
    }

    private void Copy(string stage)
    {
        string left = _tile.AlongDepth ? _t.Int("selp.b32", _rowsLeft, 0, _t.Test("setp.gt.s32", _depthLeft, 0)) : _depthLeft;
        string to = _t.Int("add.u32", _to, stage);
        _t.Op($"mov.b64 {_moving}, {_from}");
        for (int line = 0; line < _tile.Lines; line += _step)
        {
            string bytes = _t.Int("selp.b32", 16, 0, _t.Test("setp.gt.s32", left, line));
            _t.Op($"cp.async.cg.shared.global [{to}+{line * _tile.LineBytes}], [{_moving}], 16, {bytes}");
            if (line + _step < _tile.Lines) _t.Op($"add.s64 {_moving}, {_moving}, {_down}");
        }
    }
}
