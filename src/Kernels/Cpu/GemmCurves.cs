using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace MimEngine.Kernels.Cpu;

/// <summary>
/// What becomes of finished tiles while they are in L1: GELU, GELU′. What lies beside a tile comes from memory: each row asks for the row that the next tile below
/// will want. Never inlined: in one method with a product's tiles, vector operations become calls.
/// </summary>
public sealed unsafe partial class CpuBackend
{
    private const int TileBelow = 8;   // rows of the tallest tile

    /// <summary>Asks for the rows of the next tile below, of what is read and of what is written.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void AskBelow<TV>(float* read, float* written, nint stride, int cols) where TV : struct, ILanes<TV>
    {
        if (!Sse.IsSupported || TV.Count == 1) return;
        for (int j = 0; j < cols; j += 16)
        {
            Sse.Prefetch1(read + TileBelow * stride + j);
            if (written != read) Sse.Prefetch1(written + TileBelow * stride + j);
        }
    }

    /// <summary>y = GELU(c); rows of both lie stride apart.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void TakeGelu<TV>(float* c, float* y, nint stride, int rows, int cols) where TV : struct, ILanes<TV>
    {
        var curve = new GeluCurve<TV>();
        for (int r = 0; r < rows; r++, c += stride, y += stride)
        {
            int j = 0;
            for (; j <= cols - TV.Count; j += TV.Count)
            {
                if (Sse.IsSupported) Sse.Prefetch1(y + TileBelow * stride + j);
                curve.Of(TV.Load(c + j)).Store(y + j);
            }
            if (j < cols) curve.Of(TV.LoadFirst(c + j, cols - j)).StoreFirst(y + j, cols - j);
        }
    }

    /// <summary>c = c ∘ GELU′(h).</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void TakeSlope<TV>(float* c, float* h, nint stride, int rows, int cols) where TV : struct, ILanes<TV>
    {
        var curve = new SlopeCurve<TV>();
        for (int r = 0; r < rows; r++, c += stride, h += stride)
        {
            int j = 0;
            for (; j <= cols - TV.Count; j += TV.Count)
            {
                if (Sse.IsSupported) Sse.Prefetch1(h + TileBelow * stride + j);
                (TV.Load(c + j) * curve.Of(TV.Load(h + j))).Store(c + j);
            }
            int n = cols - j;
            if (n > 0) (TV.LoadFirst(c + j, n) * curve.Of(TV.LoadFirst(h + j, n))).StoreFirst(c + j, n);
        }
    }

    /// <summary>y = GELU(c).</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void TakeGelu(ushort* c, ushort* y, nint stride, int rows, int cols)
    {
        var curve = new GeluCurve<Lanes16>();
        for (int r = 0; r < rows; r++, c += stride, y += stride)
        {
            int j = 0;
            for (; j <= cols - 16; j += 16)
            {
                if (Sse.IsSupported) Sse.Prefetch1(y + TileBelow * stride + j);
                StoreFinite(curve.Of(Lanes16.Load(c + j)), y + j);
            }
            if (j < cols) curve.Of(Lanes16.LoadFirst(c + j, cols - j)).StoreFirst(y + j, cols - j);
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
    private static void TakeGelu(ushort* c, ushort* y, nint stride, float* tile, int width, int rows, int cols)
    {
        var curve = new GeluCurve<Lanes16>();
        for (int r = 0; r < rows; r++, c += stride, y += stride, tile += width)
        {
            int j = 0;
            for (; j <= cols - 16; j += 16)
            {
                if (Sse.IsSupported) Sse.Prefetch1(y + TileBelow * stride + j);
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
    private static void TakeSlope(ushort* c, ushort* h, nint stride, float* tile, int width, int rows, int cols)
    {
        var curve = new SlopeCurve<Lanes16>();
        for (int r = 0; r < rows; r++, c += stride, h += stride, tile += width)
        {
            int j = 0;
            for (; j <= cols - 16; j += 16)
            {
                if (Sse.IsSupported) Sse.Prefetch1(h + TileBelow * stride + j);
                StoreFinite(Lanes16.Load(tile + j) * curve.Of(Lanes16.Load(h + j)), c + j);
            }
            int n = cols - j;
            if (n > 0) (Lanes16.LoadFirst(tile + j, n) * curve.Of(Lanes16.LoadFirst(h + j, n))).StoreFirst(c + j, n);
        }
    }
}
