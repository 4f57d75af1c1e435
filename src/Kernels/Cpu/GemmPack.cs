using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace MimEngine.Kernels.Cpu;

/// <summary>
/// Copies a matrix into panels: slabs of a few vectors' width in which one step of the sum is one contiguous row. Columns past the
/// matrix's end are zeros.
/// </summary>
internal static class GemmPack
{
    /// <summary>Rows that one task packs.</summary>
    public const int TaskRows = 32;

    /// <summary>
    /// Panels from a row-major matrix, rows [first, last) of it: the row is the step of the sum. Three vectors lie Spread apart,
    /// the next three StripStride further: a panel of three vectors, or three panels of one.
    /// </summary>
    [SkipLocalsInit]
    public static unsafe void Rows<TV>(float* panels, nint spread, nint stripStride, nint rowStride, float* x, nint xRow, int rows,
        int cols,
        float* sums) where TV : struct, ILanes<TV>
    {
        int strip = 3 * TV.Count, j = 0;
        for (; j <= cols - strip; j += strip, panels += stripStride)
        {
            float* d = panels, s = x + j;
            TV s0 = TV.Zero, s1 = TV.Zero, s2 = TV.Zero;
            for (int r = 0; r < rows; r++, d += rowStride, s += xRow)
            {
                TV v0 = TV.Load(s), v1 = TV.Load(s + TV.Count), v2 = TV.Load(s + 2 * TV.Count);
                (s0, s1, s2) = (s0 + v0, s1 + v1, s2 + v2);
                v0.Store(d);
                v1.Store(d + spread);
                v2.Store(d + 2 * spread);
            }
            if (sums == null) continue;
            s0.Store(sums + j);
            s1.Store(sums + j + TV.Count);
            s2.Store(sums + j + 2 * TV.Count);
        }
        for (int i = 0; i < 3 && j < cols; i++, j += TV.Count)
        {
            int n = Math.Min(TV.Count, cols - j);
            float* d = panels + i * spread, s = x + j;
            TV sum = TV.Zero;
            for (int r = 0; r < rows; r++, d += rowStride, s += xRow)
            {
                TV v = n == TV.Count ? TV.Load(s) : TV.LoadFirst(s, n);
                sum += v;
                v.Store(d);
            }
            if (sums == null) continue;
            if (n == TV.Count) sum.Store(sums + j);
            else sum.StoreFirst(sums + j, n);
        }
    }

    /// <summary>One panel, width floats wide, from rows of a row-major matrix: its column is the step of the sum.</summary>
    /// <param name="panel">(steps, width) written.</param>
    /// <param name="x">(n, at least steps): n ≤ width rows, xRow apart.</param>
    public static unsafe void Columns(float* panel, int width, float* x, nint xRow, int n, int steps)
    {
        if (n < width) Unsafe.InitBlockUnaligned(panel, 0, (uint)(width * steps * sizeof(float)));
        Transpose(panel, width, x, xRow, n, steps);
    }

    /// <summary>panel = xᵀ: (steps, n) from (n, steps), rows width and xRow apart.</summary>
    public static unsafe void Transpose(float* panel, int width, float* x, nint xRow, int n, int steps)
    {
        int quads = Sse.IsSupported ? steps & ~3 : 0, j = 0;
        // 16 rows at a time: whole cache lines of the panel are filled while they are near.
        for (; j < n; j += 16)
        {
            int rows = Math.Min(16, n - j), fours = rows & ~3, k0 = 0;
            if (rows == 16 && Avx512F.IsSupported)
                for (; k0 <= steps - 16; k0 += 16) Transpose16(panel + k0 * width + j, width, x + j * xRow + k0, xRow);
            for (int k = k0; k < quads; k += 4)
            {
                for (int i = 0; i < fours; i += 4) Transpose4(panel + k * width + j + i, width, x + (j + i) * xRow + k, xRow);
                for (int i = fours; i < rows; i++)
                    for (int u = k; u < k + 4; u++)
                        panel[u * width + j + i] = x[(j + i) * xRow + u];
            }
            for (int k = quads; k < steps; k++)
                for (int i = 0; i < rows; i++)
                    panel[k * width + j + i] = x[(j + i) * xRow + k];
        }
    }

    /// <summary>y[k, i] = x[i, k] for 16 × 16: pairs of rows, pairs of pairs, then the 128-bit lanes twice.</summary>
    [MethodImpl(MethodImplOptions.NoInlining | MethodImplOptions.AggressiveOptimization)]   // 32 registers of its own; no loop, so it would start unoptimised
    private static unsafe void Transpose16(float* y, nint yRow, float* x, nint xRow)
    {
        Quad(x, xRow, out Vector512<float> a0, out Vector512<float> a1, out Vector512<float> a2, out Vector512<float> a3);
        Quad(x + 4 * xRow, xRow, out Vector512<float> b0, out Vector512<float> b1, out Vector512<float> b2, out Vector512<float> b3);
        Quad(x + 8 * xRow, xRow, out Vector512<float> c0, out Vector512<float> c1, out Vector512<float> c2, out Vector512<float> c3);
        Quad(x + 12 * xRow, xRow, out Vector512<float> d0, out Vector512<float> d1, out Vector512<float> d2, out Vector512<float> d3);
        Lanes(y, yRow, a0, b0, c0, d0);
        Lanes(y + yRow, yRow, a1, b1, c1, d1);
        Lanes(y + 2 * yRow, yRow, a2, b2, c2, d2);
        Lanes(y + 3 * yRow, yRow, a3, b3, c3, d3);
    }

    /// <summary>Four rows, transposed inside each 128-bit lane.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe void Quad(float* x, nint xRow, out Vector512<float> r0, out Vector512<float> r1, out Vector512<float> r2,
        out Vector512<float> r3)
    {
        Vector512<float> a = Vector512.Load(x), b = Vector512.Load(x + xRow), c = Vector512.Load(x + 2 * xRow), d = Vector512.Load(x + 3 * xRow);
        Vector512<double> ab = Avx512F.UnpackLow(a, b).AsDouble(), cd = Avx512F.UnpackLow(c, d).AsDouble(),
            ef = Avx512F.UnpackHigh(a, b).AsDouble(), gh = Avx512F.UnpackHigh(c, d).AsDouble();
        r0 = Avx512F.UnpackLow(ab, cd).AsSingle();
        r1 = Avx512F.UnpackHigh(ab, cd).AsSingle();
        r2 = Avx512F.UnpackLow(ef, gh).AsSingle();
        r3 = Avx512F.UnpackHigh(ef, gh).AsSingle();
    }

    /// <summary>Row 4·l of y is lane l of each of the four.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe void Lanes(float* y, nint yRow, Vector512<float> a, Vector512<float> b, Vector512<float> c, Vector512<float> d)
    {
        Vector512<float> evenAb = Avx512F.Shuffle4x128(a, b, 0x88), oddAb = Avx512F.Shuffle4x128(a, b, 0xDD),
            evenCd = Avx512F.Shuffle4x128(c, d, 0x88), oddCd = Avx512F.Shuffle4x128(c, d, 0xDD);
        Avx512F.Shuffle4x128(evenAb, evenCd, 0x88).Store(y);
        Avx512F.Shuffle4x128(oddAb, oddCd, 0x88).Store(y + 4 * yRow);
        Avx512F.Shuffle4x128(evenAb, evenCd, 0xDD).Store(y + 8 * yRow);
        Avx512F.Shuffle4x128(oddAb, oddCd, 0xDD).Store(y + 12 * yRow);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static unsafe void Transpose4(float* y, nint yRow, float* x, nint xRow)
    {
        Vector128<float> a = Vector128.Load(x), b = Vector128.Load(x + xRow), c = Vector128.Load(x + 2 * xRow),
            d = Vector128.Load(x + 3 * xRow);
        Vector128<float> ab = Sse.UnpackLow(a, b), cd = Sse.UnpackLow(c, d), ef = Sse.UnpackHigh(a, b), gh = Sse.UnpackHigh(c, d);
        Sse.MoveLowToHigh(ab, cd).Store(y);
        Sse.MoveHighToLow(cd, ab).Store(y + yRow);
        Sse.MoveLowToHigh(ef, gh).Store(y + 2 * yRow);
        Sse.MoveHighToLow(gh, ef).Store(y + 3 * yRow);
    }
}
