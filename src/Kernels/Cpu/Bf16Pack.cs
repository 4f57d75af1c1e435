using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace MimEngine.Kernels.Cpu;

/// <summary>
/// Rounds float32 matrices to bfloat16 (nearest, ties to even; NaN stays NaN) and lays them out in pairs along the sum of a product, two
/// in 32 bits, the earlier one low. Needs AVX-512. Whatever is missing at an edge is zero.
/// </summary>
internal static unsafe class Bf16Pack
{
    /// <summary>Pairs are laid out in groups of 16: 32 steps of the sum.</summary>
    public const int Group = 16;

    /// <summary>y (rows, pairs), each row yRow apart, from x (rows, cols) row-major, pairs·2 ≥ cols.</summary>
    public static void Rows<TE>(uint* y, nint yRow, int pairs, void* x, nint xRow, int rows, int cols) where TE : struct, IElement
    {
        for (int r = 0; r < rows; r++, y += yRow)
            for (int j = 0; j < 2 * pairs; j += 32) Pairs32<TE>(x, r * xRow + j, cols - j).Store(y + j / 2);
    }

    /// <summary>
    /// Panels whose rows are pairs of neighbouring rows of x: panel p, row k, column j is the pair (x[2k, p·width + j], x[2k + 1, …]).
    /// </summary>
    /// <param name="pairs">Pairs written, a multiple of <see cref="Group"/>.</param>
    /// <param name="rows">Rows of x that exist, at most 2·pairs.</param>
    /// <param name="width">8, 32 or 48.</param>
    /// <param name="sums">(cols) the columns' float32 sums over these rows, or null.</param>
    public static void InterleavedRows<TE>(uint* panels, nint panelStride, int width, int pairs, void* x, nint xRow, int rows, int cols, float* sums)
        where TE : struct, IElement
    {
        int all = (cols + width - 1) / width * width, j = 0;
        // Column by column of 32: whole lines of bfloat16 are read, the sums stay in registers and each panel is written in order.
        for (; j <= cols - 32; j += 32)
        {
            uint* first = Place(panels, panelStride, width, j), second = Place(panels, panelStride, width, j + 16);
            Vector512<float> firstSum = default, secondSum = default;
            for (int k = 0; k < rows / 2; k++)
            {
                TwoRows<TE>(x, 2 * k * xRow + j, xRow, out Vector512<uint> a, out Vector512<uint> b);
                Put(first + k * width, a, width, panelStride);
                Put(second + k * width, b, width, panelStride);
                if (sums == null) continue;
                firstSum = Sum<TE>(firstSum, a, x, 2 * k * xRow + j, xRow);
                secondSum = Sum<TE>(secondSum, b, x, 2 * k * xRow + j + 16, xRow);
            }
            InterleavedStrip<TE>(first, panelStride, width, rows / 2, pairs, x, xRow, rows, j, 16, all, firstSum, sums);
            InterleavedStrip<TE>(second, panelStride, width, rows / 2, pairs, x, xRow, rows, j + 16, 16, all, secondSum, sums);
        }
        for (; j < all; j += 16)
            InterleavedStrip<TE>(Place(panels, panelStride, width, j), panelStride, width, 0, pairs, x, xRow, rows, j, Math.Clamp(cols - j, 0, 16), all,
                default, sums);
    }

    private static uint* Place(uint* panels, nint panelStride, int width, int j) => panels + j / width * panelStride + j % width;

    /// <summary>Sixteen columns lie in one panel, or in two of eight.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Put(uint* p, Vector512<uint> pair, int width, nint panelStride)
    {
        if (width != 8)
        {
            pair.Store(p);
            return;
        }
        pair.GetLower().Store(p);
        pair.GetUpper().Store(p + panelStride);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Sum<TE>(Vector512<float> sum, Vector512<uint> pair, void* x, nint i, nint xRow) where TE : struct, IElement
        => typeof(TE) == typeof(Bf16Element) ? sum + (pair << 16).AsSingle() + (pair & Vector512.Create(0xFFFF0000u)).AsSingle()
            : sum + TE.Load<Lanes16>(x, i).V + TE.Load<Lanes16>(x, i + xRow).V;

    /// <summary>Pairs of 32 columns of two neighbouring rows.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void TwoRows<TE>(void* x, nint i, nint xRow, out Vector512<uint> first, out Vector512<uint> second) where TE : struct, IElement
    {
        if (typeof(TE) == typeof(Bf16Element))
        {
            Vector512<ushort> even = Vector512.Load((ushort*)TE.At(x, i)), odd = Vector512.Load((ushort*)TE.At(x, i + xRow));
            Vector512<ushort> low = (Vector512<uint>.Indices | (Vector512<uint>.Indices + Vector512.Create(32u)) << 16).AsUInt16();
            first = Avx512BW.PermuteVar32x16x2(even, low, odd).AsUInt32();
            second = Avx512BW.PermuteVar32x16x2(even, low + Vector512.Create((ushort)16), odd).AsUInt32();
            return;
        }
        first = (High<TE>(x, i, 16, out _) >> 16) | (High<TE>(x, i + xRow, 16, out _) & Vector512.Create(0xFFFF0000u));
        second = (High<TE>(x, i + 16, 16, out _) >> 16) | (High<TE>(x, i + xRow + 16, 16, out _) & Vector512.Create(0xFFFF0000u));
    }

    /// <summary>Sixteen columns from pair k on, of which n exist; their sums over all rows are finished and stored.</summary>
    private static void InterleavedStrip<TE>(uint* at, nint panelStride, int width, int k, int pairs, void* x, nint xRow, int rows, int j, int n, int all,
        Vector512<float> sum, float* sums) where TE : struct, IElement
    {
        for (; k < pairs; k++)
        {
            int have = Math.Clamp(rows - 2 * k, 0, 2);
            Vector512<uint> a = High<TE>(x, 2 * k * xRow + j, have > 0 ? n : 0, out Vector512<float> even);
            Vector512<uint> b = High<TE>(x, (2 * k + 1) * xRow + j, have > 1 ? n : 0, out Vector512<float> odd);
            sum = sum + even + odd;
            Vector512<uint> pair = (a >> 16) | (b & Vector512.Create(0xFFFF0000u));
            if (width != 8 || j + 8 < all) Put(at + k * width, pair, width, panelStride);
            else pair.GetLower().Store(at + k * width);   // the second panel of eight does not exist
        }
        if (sums != null) Store(sum, sums + j, n);
    }

    /// <summary>The transposed copy in pairs: y (cols rounded up to 16, pairs), rows yRow apart, where row j holds x's column j along its rows.</summary>
    [SkipLocalsInit]
    public static void Transposed<TE>(uint* y, nint yRow, int pairs, void* x, nint xRow, int rows, int cols, float* sums) where TE : struct, IElement
    {
        uint* square = stackalloc uint[16 * 16 + 16];
        square = (uint*)(((nint)square + 63) & ~63);
        if (sums != null) new Span<float>(sums, cols).Clear();
        for (int k = 0; k < pairs; k += 16)
            for (int j = 0; j < cols; j += 16)
            {
                int n = Math.Min(16, cols - j);
                Vector512<float> sum = sums == null ? default : Load(sums + j, n);
                for (int i = 0; i < 16; i++)
                {
                    int r = 2 * (k + i);
                    Vector512<uint> a = High<TE>(x, r * xRow + j, r < rows ? n : 0, out Vector512<float> even);
                    Vector512<uint> b = High<TE>(x, (r + 1) * xRow + j, r + 1 < rows ? n : 0, out Vector512<float> odd);
                    sum = sum + even + odd;
                    ((a >> 16) | (b & Vector512.Create(0xFFFF0000u))).Store(square + 16 * i);
                }
                Transpose16(square, y + j * yRow + k, yRow);
                if (sums != null) Store(sum, sums + j, n);
            }
    }

    /// <summary>One panel from rows of a row-major matrix whose columns are the steps of the sum: row k, column j is (w[j, 2k], w[j, 2k + 1]).</summary>
    /// <param name="panel">(pairs, width) written.</param>
    /// <param name="n">Rows of w that exist, at most width.</param>
    /// <param name="cols">Columns of w, at most 2·pairs.</param>
    [SkipLocalsInit]
    public static void Columns<TE>(uint* panel, int width, int pairs, void* w, nint wRow, int n, int cols) where TE : struct, IElement
    {
        uint* square = stackalloc uint[16 * 16 + 16];
        square = (uint*)(((nint)square + 63) & ~63);
        for (int j = 0; j < width; j += 16)
            for (int k = 0; k < pairs; k += 16)
            {
                for (int i = 0; i < 16; i++) Pairs32<TE>(w, (j + i) * wRow + 2 * k, j + i < n ? cols - 2 * k : 0).Store(square + 16 * i);
                Transpose16(square, panel + (nint)k * width + j, width);
            }
    }

    /// <summary>The first n of 16 elements as they count, and the bits of their bfloat16 in the upper half of each lane; the lower half is left over.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<uint> High<TE>(void* x, nint i, int n, out Vector512<float> value) where TE : struct, IElement
    {
        value = n == 16 ? TE.Load<Lanes16>(x, i).V : n > 0 ? TE.LoadFirst<Lanes16>(x, i, n).V : default;
        return typeof(TE) == typeof(Bf16Element) ? value.AsUInt32() : Rounded(value);
    }

    /// <summary>The bits of bfloat16 in the upper half of each lane; the lower half is left over.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<uint> Rounded(Vector512<float> v)
    {
        Vector512<uint> u = v.AsUInt32();
        Vector512<uint> nearest = u + Vector512.Create(0x7FFFu) + ((u >> 16) & Vector512<uint>.One);
        return Vector512.ConditionalSelect(Vector512.Equals(v, v).AsUInt32(), nearest, u | Vector512.Create(0x0040_0000u));
    }

    private static Vector512<float> Load(float* p, int n) => n == 16 ? Vector512.Load(p) : n == 0 ? default : Lanes16.LoadFirst(p, n).V;

    private static void Store(Vector512<float> v, float* p, int n)
    {
        if (n == 16) v.Store(p);
        else if (n > 0) new Lanes16(v).StoreFirst(p, n);
    }

    /// <summary>32 elements as 16 pairs, zeros from the n-th on; pairs of bfloat16 are neighbours in memory already.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<uint> Pairs32<TE>(void* x, nint i, int n) where TE : struct, IElement
    {
        if (typeof(TE) == typeof(Bf16Element) && n >= 32) return Vector512.Load((uint*)TE.At(x, i));
        Vector512<uint> a = High<TE>(x, i, Math.Clamp(n, 0, 16), out _), b = High<TE>(x, i + 16, Math.Clamp(n - 16, 0, 16), out _);
        return Vector512.Create(Avx512F.ConvertToVector256UInt16(a >> 16), Avx512F.ConvertToVector256UInt16(b >> 16)).AsUInt32();
    }

    /// <summary>to[j, i] = from[i, j] for 16 × 16 words, from's rows side by side.</summary>
    private static void Transpose16(uint* from, uint* to, nint toRow)
    {
        // Inside each 128-bit lane 4 × 4, lane by lane...
        for (int g = 0; g < 4; g++)
        {
            uint* p = from + 64 * g;
            Vector512<uint> a = Vector512.Load(p), b = Vector512.Load(p + 16), c = Vector512.Load(p + 32), d = Vector512.Load(p + 48);
            Vector512<ulong> ab = Avx512F.UnpackLow(a, b).AsUInt64(), cd = Avx512F.UnpackLow(c, d).AsUInt64(),
                ef = Avx512F.UnpackHigh(a, b).AsUInt64(), gh = Avx512F.UnpackHigh(c, d).AsUInt64();
            Avx512F.UnpackLow(ab, cd).AsUInt32().Store(p);
            Avx512F.UnpackHigh(ab, cd).AsUInt32().Store(p + 16);
            Avx512F.UnpackLow(ef, gh).AsUInt32().Store(p + 32);
            Avx512F.UnpackHigh(ef, gh).AsUInt32().Store(p + 48);
        }
        // ...then the lanes: row 4l + m of the result is lane l of vector m of each group.
        for (int m = 0; m < 4; m++)
        {
            Vector512<uint> a = Vector512.Load(from + 16 * m), b = Vector512.Load(from + 64 + 16 * m), c = Vector512.Load(from + 128 + 16 * m),
                d = Vector512.Load(from + 192 + 16 * m);
            Vector512<uint> evenAb = Avx512F.Shuffle4x128(a, b, 0x88), oddAb = Avx512F.Shuffle4x128(a, b, 0xDD),
                evenCd = Avx512F.Shuffle4x128(c, d, 0x88), oddCd = Avx512F.Shuffle4x128(c, d, 0xDD);
            Avx512F.Shuffle4x128(evenAb, evenCd, 0x88).Store(to + m * toRow);
            Avx512F.Shuffle4x128(oddAb, oddCd, 0x88).Store(to + (4 + m) * toRow);
            Avx512F.Shuffle4x128(evenAb, evenCd, 0xDD).Store(to + (8 + m) * toRow);
            Avx512F.Shuffle4x128(oddAb, oddCd, 0xDD).Store(to + (12 + m) * toRow);
        }
    }
}
