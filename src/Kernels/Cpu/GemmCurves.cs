using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace MimEngine.Kernels.Cpu;

/// <summary>
/// What becomes of finished tiles while they are in L1: GELU, GELU′. What lies beside a tile comes from memory: each row asks for a row that the next tile
/// will want. Never inlined: in one method with a product's tiles, vector operations become calls.
/// </summary>
public sealed unsafe partial class CpuBackend
{
    /// <summary>
    /// How many elements on the tile that comes next lies: below, after a chunk's last at the head of the next panel, after the last of all nowhere.
    /// </summary>
    private static nint Ahead(in Product p, int row, int tileRows, int firstRow, int lastRow, bool lastPanel, int width)
        => row + tileRows < lastRow ? (nint)tileRows * p.N : lastPanel ? 0 : (nint)(firstRow - row) * p.N + width;

    /// <summary>Asks for a row of the tile that comes next, of what is read and of what is written.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void AskAhead<TV>(float* read, float* written, nint ahead, int cols) where TV : struct, ILanes<TV>
    {
        if (!Sse.IsSupported || TV.Count == 1) return;
        for (int j = 0; j < cols; j += 16)
        {
            Sse.Prefetch1(read + ahead + j);
            if (written != read) Sse.Prefetch1(written + ahead + j);
        }
    }

    /// <summary>y = GELU(c); rows of both lie stride apart.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void TakeGelu<TV>(float* c, float* y, nint stride, nint ahead, int rows, int cols) where TV : struct, ILanes<TV>
    {
        var curve = new GeluCurve<TV>();
        for (int r = 0; r < rows; r++, c += stride, y += stride)
        {
            int j = 0;
            for (; j <= cols - TV.Count; j += TV.Count)
            {
                if (Sse.IsSupported) Sse.Prefetch0(y + ahead + j);
                curve.Of(TV.Load(c + j)).Store(y + j);
            }
            if (j < cols) curve.Of(TV.LoadFirst(c + j, cols - j)).StoreFirst(y + j, cols - j);
        }
    }

    /// <summary>c = c ∘ GELU′(h).</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void TakeSlope<TV>(float* c, float* h, nint stride, nint ahead, int rows, int cols) where TV : struct, ILanes<TV>
    {
        var curve = new SlopeCurve<TV>();
        for (int r = 0; r < rows; r++, c += stride, h += stride)
        {
            int j = 0;
            for (; j <= cols - TV.Count; j += TV.Count)
            {
                if (Sse.IsSupported) Sse.Prefetch0(h + ahead + j);
                (TV.Load(c + j) * curve.Of(TV.Load(h + j))).Store(c + j);
            }
            int n = cols - j;
            if (n > 0) (TV.LoadFirst(c + j, n) * curve.Of(TV.LoadFirst(h + j, n))).StoreFirst(c + j, n);
        }
    }

    /// <summary>
    /// Rounds to bfloat16 what came out of arithmetic with bfloat16 numbers: a NaN among it has no low bits that could carry into its sign.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StoreFinite(Lanes16 v, ushort* p)
    {
        Vector512<uint> u = v.V.AsUInt32();
        Lanes16.Upper(u + Vector512.Create(0x7FFFu) + (u >> 16 & Vector512<uint>.One)).Store(p);
    }

    /// <summary>c = the tile and y = GELU(tile), both rounded once.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void TakeGelu(ushort* c, ushort* y, nint stride, nint ahead, float* tile, int width, int rows, int cols)
    {
        var curve = new GeluCurve<Lanes16>();
        for (int r = 0; r < rows; r++, c += stride, y += stride, tile += width)
        {
            int j = 0;
            for (; j <= cols - 16; j += 16)
            {
                if (Sse.IsSupported) Sse.Prefetch0(y + ahead + j);
                Lanes16 h = Lanes16.Load(tile + j);
                h.Store(c + j);
                curve.Of(h).Store(y + j);
            }
            if (j == cols) continue;
            Lanes16 tail = Lanes16.LoadFirst(tile + j, cols - j);
            tail.StoreFirst(c + j, cols - j);
            curve.Of(tail).StoreFirst(y + j, cols - j);
        }
    }

    /// <summary>c = tile ∘ GELU′(h), rounded once.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void TakeSlope(ushort* c, ushort* h, nint stride, nint ahead, float* tile, int width, int rows, int cols)
    {
        var curve = new SlopeCurve<Lanes16>();
        for (int r = 0; r < rows; r++, c += stride, h += stride, tile += width)
        {
            int j = 0;
            for (; j <= cols - 16; j += 16)
            {
                if (Sse.IsSupported) Sse.Prefetch0(h + ahead + j);
                StoreFinite(Lanes16.Load(tile + j) * curve.Of(Lanes16.Load(h + j)), c + j);
            }
            int n = cols - j;
            if (n > 0) (Lanes16.LoadFirst(tile + j, n) * curve.Of(Lanes16.LoadFirst(h + j, n))).StoreFirst(c + j, n);
        }
    }
}
