using System.Runtime.CompilerServices;

namespace MimEngine.Kernels.Cpu;

/// <summary>
/// Products of matrices that stay in cache, for attention: c = a·b or c += a·b, six rows at a time, every extent but the depth padded by
/// the caller, so that no tail exists here. Each element is one chain of multiply-adds over the depth: its bits depend on nothing else.
/// </summary>
/// <remarks>
/// Six rows of four vectors take 24 of AVX-512's 32 registers and cost 10 loads per 24 multiply-adds; six of two take 12 of AVX2's 16.
/// </remarks>
internal static unsafe class SixRows<TV> where TV : struct, ILanes<TV>
{
    public const int Rows = 6;

    /// <summary>Rounded up to whole tiles of six.</summary>
    public static int Pad(int rows) => (rows + Rows - 1) / Rows * Rows;

    /// <summary>Vectors that hold <paramref name="n"/> floats.</summary>
    public static int Vectors(int n) => (n + TV.Count - 1) / TV.Count;

    /// <param name="c">rows × (vectors·Count), row stride ldc.</param>
    /// <param name="a">Element (i, k) at a[i·aRow + k·aStep]: either matrix may be read transposed.</param>
    /// <param name="b">depth × (vectors·Count), row stride ldb.</param>
    /// <param name="rows">A multiple of six.</param>
    public static void Multiply(float* c, int ldc, float* a, int aRow, int aStep, float* b, int ldb, int rows, int vectors, int depth,
        bool accumulate)
    {
        // Columns are cut evenly, so that 10 vectors are 4 + 3 + 3: a narrow rest would wait for its loads.
        int widest = TV.Count == 16 ? 4 : 2, groups = (vectors + widest - 1) / widest;
        for (int group = 0, v = 0; group < groups; group++)
        {
            int width = (vectors - v + groups - group - 1) / (groups - group);
            for (int i = 0; i < rows; i += Rows)
            {
                float* to = c + (long)i * ldc + v * TV.Count, x = a + (long)i * aRow, y = b + v * TV.Count;
                if (width == 4) SixByFour(to, ldc, x, aRow, aStep, y, ldb, depth, accumulate);
                else if (width == 3) SixByThree(to, ldc, x, aRow, aStep, y, ldb, depth, accumulate);
                else if (width == 2) SixByTwo(to, ldc, x, aRow, aStep, y, ldb, depth, accumulate);
                else SixByOne(to, ldc, x, aRow, aStep, y, ldb, depth, accumulate);
            }
            v += width;
        }
    }

    private static void SixByFour(float* c, int ldc, float* a, int aRow, int aStep, float* b, int ldb, int depth, bool accumulate)
    {
        float* a1 = a + aRow, a2 = a1 + aRow, a3 = a2 + aRow, a4 = a3 + aRow, a5 = a4 + aRow;
        TV c00 = TV.Zero, c01 = TV.Zero, c02 = TV.Zero, c03 = TV.Zero;
        TV c10 = TV.Zero, c11 = TV.Zero, c12 = TV.Zero, c13 = TV.Zero;
        TV c20 = TV.Zero, c21 = TV.Zero, c22 = TV.Zero, c23 = TV.Zero;
        TV c30 = TV.Zero, c31 = TV.Zero, c32 = TV.Zero, c33 = TV.Zero;
        TV c40 = TV.Zero, c41 = TV.Zero, c42 = TV.Zero, c43 = TV.Zero;
        TV c50 = TV.Zero, c51 = TV.Zero, c52 = TV.Zero, c53 = TV.Zero;
        nint at = 0;
        for (int k = 0; k < depth; k++, at += aStep, b += ldb)
        {
            TV b0 = TV.Load(b), b1 = TV.Load(b + TV.Count), b2 = TV.Load(b + 2 * TV.Count), b3 = TV.Load(b + 3 * TV.Count);
            TV x0 = TV.All(a[at]);
            c00 = TV.MulAdd(x0, b0, c00);
            c01 = TV.MulAdd(x0, b1, c01);
            c02 = TV.MulAdd(x0, b2, c02);
            c03 = TV.MulAdd(x0, b3, c03);
            TV x1 = TV.All(a1[at]);
            c10 = TV.MulAdd(x1, b0, c10);
            c11 = TV.MulAdd(x1, b1, c11);
            c12 = TV.MulAdd(x1, b2, c12);
            c13 = TV.MulAdd(x1, b3, c13);
            TV x2 = TV.All(a2[at]);
            c20 = TV.MulAdd(x2, b0, c20);
            c21 = TV.MulAdd(x2, b1, c21);
            c22 = TV.MulAdd(x2, b2, c22);
            c23 = TV.MulAdd(x2, b3, c23);
            TV x3 = TV.All(a3[at]);
            c30 = TV.MulAdd(x3, b0, c30);
            c31 = TV.MulAdd(x3, b1, c31);
            c32 = TV.MulAdd(x3, b2, c32);
            c33 = TV.MulAdd(x3, b3, c33);
            TV x4 = TV.All(a4[at]);
            c40 = TV.MulAdd(x4, b0, c40);
            c41 = TV.MulAdd(x4, b1, c41);
            c42 = TV.MulAdd(x4, b2, c42);
            c43 = TV.MulAdd(x4, b3, c43);
            TV x5 = TV.All(a5[at]);
            c50 = TV.MulAdd(x5, b0, c50);
            c51 = TV.MulAdd(x5, b1, c51);
            c52 = TV.MulAdd(x5, b2, c52);
            c53 = TV.MulAdd(x5, b3, c53);
        }
        Put(c, c00, c01, c02, c03, accumulate);
        Put(c + ldc, c10, c11, c12, c13, accumulate);
        Put(c + 2 * ldc, c20, c21, c22, c23, accumulate);
        Put(c + 3 * ldc, c30, c31, c32, c33, accumulate);
        Put(c + 4 * ldc, c40, c41, c42, c43, accumulate);
        Put(c + 5 * ldc, c50, c51, c52, c53, accumulate);
    }

    private static void SixByThree(float* c, int ldc, float* a, int aRow, int aStep, float* b, int ldb, int depth, bool accumulate)
    {
        float* a1 = a + aRow, a2 = a1 + aRow, a3 = a2 + aRow, a4 = a3 + aRow, a5 = a4 + aRow;
        TV c00 = TV.Zero, c01 = TV.Zero, c02 = TV.Zero;
        TV c10 = TV.Zero, c11 = TV.Zero, c12 = TV.Zero;
        TV c20 = TV.Zero, c21 = TV.Zero, c22 = TV.Zero;
        TV c30 = TV.Zero, c31 = TV.Zero, c32 = TV.Zero;
        TV c40 = TV.Zero, c41 = TV.Zero, c42 = TV.Zero;
        TV c50 = TV.Zero, c51 = TV.Zero, c52 = TV.Zero;
        nint at = 0;
        for (int k = 0; k < depth; k++, at += aStep, b += ldb)
        {
            TV b0 = TV.Load(b), b1 = TV.Load(b + TV.Count), b2 = TV.Load(b + 2 * TV.Count);
            TV x0 = TV.All(a[at]);
            c00 = TV.MulAdd(x0, b0, c00);
            c01 = TV.MulAdd(x0, b1, c01);
            c02 = TV.MulAdd(x0, b2, c02);
            TV x1 = TV.All(a1[at]);
            c10 = TV.MulAdd(x1, b0, c10);
            c11 = TV.MulAdd(x1, b1, c11);
            c12 = TV.MulAdd(x1, b2, c12);
            TV x2 = TV.All(a2[at]);
            c20 = TV.MulAdd(x2, b0, c20);
            c21 = TV.MulAdd(x2, b1, c21);
            c22 = TV.MulAdd(x2, b2, c22);
            TV x3 = TV.All(a3[at]);
            c30 = TV.MulAdd(x3, b0, c30);
            c31 = TV.MulAdd(x3, b1, c31);
            c32 = TV.MulAdd(x3, b2, c32);
            TV x4 = TV.All(a4[at]);
            c40 = TV.MulAdd(x4, b0, c40);
            c41 = TV.MulAdd(x4, b1, c41);
            c42 = TV.MulAdd(x4, b2, c42);
            TV x5 = TV.All(a5[at]);
            c50 = TV.MulAdd(x5, b0, c50);
            c51 = TV.MulAdd(x5, b1, c51);
            c52 = TV.MulAdd(x5, b2, c52);
        }
        Put(c, c00, c01, c02, accumulate);
        Put(c + ldc, c10, c11, c12, accumulate);
        Put(c + 2 * ldc, c20, c21, c22, accumulate);
        Put(c + 3 * ldc, c30, c31, c32, accumulate);
        Put(c + 4 * ldc, c40, c41, c42, accumulate);
        Put(c + 5 * ldc, c50, c51, c52, accumulate);
    }

    private static void SixByTwo(float* c, int ldc, float* a, int aRow, int aStep, float* b, int ldb, int depth, bool accumulate)
    {
        float* a1 = a + aRow, a2 = a1 + aRow, a3 = a2 + aRow, a4 = a3 + aRow, a5 = a4 + aRow;
        TV c00 = TV.Zero, c01 = TV.Zero;
        TV c10 = TV.Zero, c11 = TV.Zero;
        TV c20 = TV.Zero, c21 = TV.Zero;
        TV c30 = TV.Zero, c31 = TV.Zero;
        TV c40 = TV.Zero, c41 = TV.Zero;
        TV c50 = TV.Zero, c51 = TV.Zero;
        nint at = 0;
        for (int k = 0; k < depth; k++, at += aStep, b += ldb)
        {
            TV b0 = TV.Load(b), b1 = TV.Load(b + TV.Count);
            TV x0 = TV.All(a[at]);
            c00 = TV.MulAdd(x0, b0, c00);
            c01 = TV.MulAdd(x0, b1, c01);
            TV x1 = TV.All(a1[at]);
            c10 = TV.MulAdd(x1, b0, c10);
            c11 = TV.MulAdd(x1, b1, c11);
            TV x2 = TV.All(a2[at]);
            c20 = TV.MulAdd(x2, b0, c20);
            c21 = TV.MulAdd(x2, b1, c21);
            TV x3 = TV.All(a3[at]);
            c30 = TV.MulAdd(x3, b0, c30);
            c31 = TV.MulAdd(x3, b1, c31);
            TV x4 = TV.All(a4[at]);
            c40 = TV.MulAdd(x4, b0, c40);
            c41 = TV.MulAdd(x4, b1, c41);
            TV x5 = TV.All(a5[at]);
            c50 = TV.MulAdd(x5, b0, c50);
            c51 = TV.MulAdd(x5, b1, c51);
        }
        Put(c, c00, c01, accumulate);
        Put(c + ldc, c10, c11, accumulate);
        Put(c + 2 * ldc, c20, c21, accumulate);
        Put(c + 3 * ldc, c30, c31, accumulate);
        Put(c + 4 * ldc, c40, c41, accumulate);
        Put(c + 5 * ldc, c50, c51, accumulate);
    }

    private static void SixByOne(float* c, int ldc, float* a, int aRow, int aStep, float* b, int ldb, int depth, bool accumulate)
    {
        float* a1 = a + aRow, a2 = a1 + aRow, a3 = a2 + aRow, a4 = a3 + aRow, a5 = a4 + aRow;
        TV c00 = TV.Zero;
        TV c10 = TV.Zero;
        TV c20 = TV.Zero;
        TV c30 = TV.Zero;
        TV c40 = TV.Zero;
        TV c50 = TV.Zero;
        nint at = 0;
        for (int k = 0; k < depth; k++, at += aStep, b += ldb)
        {
            TV b0 = TV.Load(b);
            TV x0 = TV.All(a[at]);
            c00 = TV.MulAdd(x0, b0, c00);
            TV x1 = TV.All(a1[at]);
            c10 = TV.MulAdd(x1, b0, c10);
            TV x2 = TV.All(a2[at]);
            c20 = TV.MulAdd(x2, b0, c20);
            TV x3 = TV.All(a3[at]);
            c30 = TV.MulAdd(x3, b0, c30);
            TV x4 = TV.All(a4[at]);
            c40 = TV.MulAdd(x4, b0, c40);
            TV x5 = TV.All(a5[at]);
            c50 = TV.MulAdd(x5, b0, c50);
        }
        Put(c, c00, accumulate);
        Put(c + ldc, c10, accumulate);
        Put(c + 2 * ldc, c20, accumulate);
        Put(c + 3 * ldc, c30, accumulate);
        Put(c + 4 * ldc, c40, accumulate);
        Put(c + 5 * ldc, c50, accumulate);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Put(float* c, TV v0, TV v1, TV v2, TV v3, bool accumulate)
    {
        if (accumulate)
        {
            v0 += TV.Load(c);
            v1 += TV.Load(c + TV.Count);
            v2 += TV.Load(c + 2 * TV.Count);
            v3 += TV.Load(c + 3 * TV.Count);
        }
        v0.Store(c);
        v1.Store(c + TV.Count);
        v2.Store(c + 2 * TV.Count);
        v3.Store(c + 3 * TV.Count);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Put(float* c, TV v0, TV v1, TV v2, bool accumulate)
    {
        if (accumulate)
        {
            v0 += TV.Load(c);
            v1 += TV.Load(c + TV.Count);
            v2 += TV.Load(c + 2 * TV.Count);
        }
        v0.Store(c);
        v1.Store(c + TV.Count);
        v2.Store(c + 2 * TV.Count);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Put(float* c, TV v0, TV v1, bool accumulate)
    {
        if (accumulate)
        {
            v0 += TV.Load(c);
            v1 += TV.Load(c + TV.Count);
        }
        v0.Store(c);
        v1.Store(c + TV.Count);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Put(float* c, TV v0, bool accumulate)
    {
        if (accumulate)
            v0 += TV.Load(c);
        v0.Store(c);
    }
}
