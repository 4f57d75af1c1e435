using MimEngine.Kernels.Cpu.Emitted;

namespace MimEngine.Kernels.Cpu;

/// <summary>The products of attention: small matrices in cache, by the register tiles of the large ones.</summary>
/// <param name="zeros">A row of zeros, one panel long.</param>
/// <param name="ahead">What each tile asks for beside its own.</param>
/// <param name="routines">Machine code to prefer to the JIT's, or null. With bfloat16 pairs as operands it must be that of pairs.</param>
internal readonly unsafe struct AttentionTiles<TV>(AttentionCut cut, float* zeros, AttentionAhead* ahead, TileRoutines? routines) where TV : struct, ILanes<TV>
{
    /// <summary>c (rows, vectors) = a·b (+ c), a's rows lying aRow apart with their elements side by side; b's rows are one panel apart.</summary>
    /// <param name="rows">A multiple of the tile's rows.</param>
    public void Along(float* c, int cRow, float* a, int aRow, float* b, int rows, int vectors, int length, bool accumulate)
    {
        Tile t = New(c, cRow, a, b, length, accumulate);
        (t.ARow, t.AStep, t.BRow) = (aRow, 1, cut.Panel);
        for (int i = 0; i < rows; i += cut.TileRows)
        {
            MicroKernels.Run<TV>(t, cut.TileRows, vectors, false, routines);
            ahead->Step();
            t.A += (nint)cut.TileRows * aRow;
            t.C += (nint)cut.TileRows * cRow;
        }
    }

    /// <summary>c (rows, vectors) = aᵀ·b, a's rows one panel apart; b's rows bRow apart.</summary>
    /// <param name="rows">Columns of a: rounded up to whole tiles.</param>
    public void Across(float* c, int cRow, float* a, float* b, int bRow, int rows, int vectors, int length)
    {
        Tile t = New(c, cRow, a, b, length, false);
        (t.ARow, t.AStep, t.BRow) = (1, cut.Panel, bRow);
        for (int i = 0; i < rows; i += cut.QueryRows)
        {
            if (routines != null) routines.Across(&t, vectors);
            else MicroKernels.Run<TV>(t, cut.QueryRows, vectors, false);
            ahead->Step();
            t.A += cut.QueryRows;
            t.C += (nint)cut.QueryRows * cRow;
        }
    }

    private Tile New(float* c, int cRow, float* a, float* b, int length, bool accumulate) => new()
    {
        K = length, A = a, B = b, C = c, CRow = cRow, Start = zeros, Accumulate = accumulate, Ahead = (byte*)b,
    };
}
