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
    public static void Rows(uint* y, nint yRow, int pairs, float* x, nint xRow, int rows, int cols)
    {
        for (int r = 0; r < rows; r++, y += yRow, x += xRow)
        {
            int j = 0;
            for (; j + 32 <= cols; j += 32) Pairs32(x + j).Store(y + j / 2);
            for (; j < 2 * pairs; j += 32) Pairs32(x + j, Math.Max(0, cols - j)).Store(y + j / 2);
        }
    }

    /// <summary>
    /// Panels whose rows are pairs of neighbouring rows of x: panel p, row k, column j is the pair (x[2k, p·width + j], x[2k + 1, …]).
    /// </summary>
    /// <param name="pairs">Pairs written, a multiple of <see cref="Group"/>.</param>
    /// <param name="rows">Rows of x that exist, at most 2·pairs.</param>
    /// <param name="width">8, 32 or 48.</param>
    /// <param name="sums">(cols) the columns' float32 sums over these rows, or null.</param>
    public static void InterleavedRows(uint* panels, nint panelStride, int width, int pairs, float* x, nint xRow, int rows, int cols, float* sums)
    {
        int all = (cols + width - 1) / width * width;
        if (sums != null) new Span<float>(sums, cols).Clear();
        for (int k = 0; k < pairs; k++)
        {
            float* even = x + 2 * k * xRow, odd = even + xRow;
            int have = Math.Clamp(rows - 2 * k, 0, 2);
            uint* low = panels + (nint)k * width;
            for (int j = 0, column = 0; j < all; j += 16)
            {
                int n = Math.Clamp(cols - j, 0, 16);
                Vector512<float> a = have > 0 ? Load(even + j, n) : default, b = have > 1 ? Load(odd + j, n) : default;
                if (sums != null && n > 0) Store(Load(sums + j, n) + a + b, sums + j, n);
                Vector512<uint> pair = (Rounded(a) >> 16) | (Rounded(b) & Vector512.Create(0xFFFF0000u));
                if (width == 8)   // half of it lies in the next panel
                {
                    pair.GetLower().Store(low);
                    if (j + 8 < all) pair.GetUpper().Store(low + panelStride);
                    low += 2 * panelStride;
                    continue;
                }
                pair.Store(low + column);
                column += 16;
                if (column < width) continue;
                low += panelStride;
                column = 0;
            }
        }
    }

    /// <summary>The transposed copy in pairs: y (cols rounded up to 16, pairs), rows yRow apart, where row j holds x's column j along its rows.</summary>
    [SkipLocalsInit]
    public static void Transposed(uint* y, nint yRow, int pairs, float* x, nint xRow, int rows, int cols, float* sums)
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
                    Vector512<float> a = r < rows ? Load(x + r * xRow + j, n) : default, b = r + 1 < rows ? Load(x + (r + 1) * xRow + j, n) : default;
                    sum = sum + a + b;
                    ((Rounded(a) >> 16) | (Rounded(b) & Vector512.Create(0xFFFF0000u))).Store(square + 16 * i);
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
    public static void Columns(uint* panel, int width, int pairs, float* w, nint wRow, int n, int cols)
    {
        uint* square = stackalloc uint[16 * 16 + 16];
        square = (uint*)(((nint)square + 63) & ~63);
        for (int j = 0; j < width; j += 16)
            for (int k = 0; k < pairs; k += 16)
            {
                for (int i = 0; i < 16; i++)
                    (j + i < n ? Pairs32(w + (j + i) * wRow + 2 * k, Math.Max(0, cols - 2 * k)) : default).Store(square + 16 * i);
                Transpose16(square, panel + (nint)k * width + j, width);
            }
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

    /// <summary>32 floats as 16 pairs.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<uint> Pairs32(float* x) => Pairs32(Vector512.Load(x), Vector512.Load(x + 16));

    private static Vector512<uint> Pairs32(float* x, int n)
        => Pairs32(Load(x, Math.Min(16, n)), n <= 16 ? default : Load(x + 16, Math.Min(16, n - 16)));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<uint> Pairs32(Vector512<float> a, Vector512<float> b)
        => Vector512.Create(Avx512F.ConvertToVector256UInt16(Rounded(a) >> 16), Avx512F.ConvertToVector256UInt16(Rounded(b) >> 16)).AsUInt32();

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
