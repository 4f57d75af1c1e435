using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;

namespace MimEngine.Kernels.Cpu;

/// <summary>A number as a type, so that a kernel's shape is a constant to the JIT and dead rows and columns vanish.</summary>
internal interface IConstant { static abstract int Value { get; } }

internal readonly struct One : IConstant { public static int Value => 1; }
internal readonly struct Two : IConstant { public static int Value => 2; }
internal readonly struct Three : IConstant { public static int Value => 3; }
internal readonly struct Four : IConstant { public static int Value => 4; }
internal readonly struct Five : IConstant { public static int Value => 5; }
internal readonly struct Six : IConstant { public static int Value => 6; }
internal readonly struct Seven : IConstant { public static int Value => 7; }
internal readonly struct Eight : IConstant { public static int Value => 8; }

/// <summary>
/// One register tile of a product: c[r, j] = start[r, j] + Σ_k a[r, k]·b[k, j]. Every element is one chain of multiply-adds in the
/// order of k, so its bits depend neither on the tile's shape nor on where in the matrix the tile lies.
/// </summary>
internal unsafe struct Tile
{
    /// <summary>Length of the sum, at least 1.</summary>
    public int K;

    /// <summary>First element of a; element (r, k) lies at r·ARow + k·AStep.</summary>
    public float* A;
    public nint ARow, AStep;

    /// <summary>First element of b; element (k, j) lies at k·BRow + j.</summary>
    public float* B;
    public nint BRow;

    /// <summary>Where the sums start; a row stride of 0 gives every row the same (zeros, a bias).</summary>
    public float* Start;
    public nint StartRow;

    /// <summary>Where the sums go; may be <see cref="Start"/>.</summary>
    public float* C;
    public nint CRow;

    /// <summary>Columns of the last vector that exist, or 0 for all: nothing outside of them is touched in Start and C.</summary>
    public int Tail;

    /// <summary>Memory that will be wanted soon: 8 lines, AheadRow apart, are fetched every 16 steps of k, then Ahead moves AheadStep.</summary>
    public float* Ahead;
    public nint AheadRow, AheadStep;
}

/// <summary>
/// The inner loop of every matrix product. On AVX-512 a tile is 8 rows × 3 vectors: 24 sums, 3 vectors of b and one broadcast of a
/// live in the 32 registers; 11 loads feed 24 multiply-adds, so both FMA ports stay busy. With AVX2's 16 registers it is 4 × 3.
/// </summary>
internal static unsafe class MicroKernels
{
    /// <summary>Largest number of rows of a tile at this width.</summary>
    public static int Rows<TV>() where TV : struct, ILanes<TV> => TV.Count == 16 ? 8 : 4;

    /// <summary>Largest number of vectors side by side.</summary>
    public const int Vectors = 3;

    /// <summary>Runs the tile whose shape is (rows, vectors), each at most what the width has.</summary>
    /// <param name="looseB">b ends with the last column that exists, so its last vector is read masked too. Packed panels are padded.</param>
    public static void Run<TV>(in Tile t, int rows, int vectors, bool looseB) where TV : struct, ILanes<TV>
    {
        if (vectors == 3) Run<TV, Three>(t, rows, looseB);
        else if (vectors == 2) Run<TV, Two>(t, rows, looseB);
        else Run<TV, One>(t, rows, looseB);
    }

    private static void Run<TV, TC>(in Tile t, int rows, bool looseB) where TV : struct, ILanes<TV> where TC : struct, IConstant
    {
        if (looseB && t.Tail != 0) Run<TV, TC, One>(t, rows);
        else Run<TV, TC, Two>(t, rows);
    }

    private static void Run<TV, TC, TLoose>(in Tile t, int rows)
        where TV : struct, ILanes<TV> where TC : struct, IConstant where TLoose : struct, IConstant
    {
        switch (rows)
        {
            case 1: Multiply<TV, One, TC, TLoose>(t); break;
            case 2: Multiply<TV, Two, TC, TLoose>(t); break;
            case 3: Multiply<TV, Three, TC, TLoose>(t); break;
            case 4: Multiply<TV, Four, TC, TLoose>(t); break;
            case 5: Multiply<TV, Five, TC, TLoose>(t); break;
            case 6: Multiply<TV, Six, TC, TLoose>(t); break;
            case 7: Multiply<TV, Seven, TC, TLoose>(t); break;
            case 8: Multiply<TV, Eight, TC, TLoose>(t); break;
        }
    }

    [SkipLocalsInit]
    private static void Multiply<TV, TR, TC, TLoose>(in Tile t)
        where TV : struct, ILanes<TV> where TR : struct, IConstant where TC : struct, IConstant where TLoose : struct, IConstant
    {
        int tail = t.Tail;
        float* s = t.Start;
        nint sRow = t.StartRow;
        TV c00 = TV.Zero, c01 = TV.Zero, c02 = TV.Zero;
        TV c10 = TV.Zero, c11 = TV.Zero, c12 = TV.Zero;
        TV c20 = TV.Zero, c21 = TV.Zero, c22 = TV.Zero;
        TV c30 = TV.Zero, c31 = TV.Zero, c32 = TV.Zero;
        TV c40 = TV.Zero, c41 = TV.Zero, c42 = TV.Zero;
        TV c50 = TV.Zero, c51 = TV.Zero, c52 = TV.Zero;
        TV c60 = TV.Zero, c61 = TV.Zero, c62 = TV.Zero;
        TV c70 = TV.Zero, c71 = TV.Zero, c72 = TV.Zero;
        c00 = Read<TV, TC, One>(s, tail);
        if (TC.Value > 1) c01 = Read<TV, TC, Two>(s, tail);
        if (TC.Value > 2) c02 = Read<TV, TC, Three>(s, tail);
        if (TR.Value > 1)
        {
            s += sRow;
            c10 = Read<TV, TC, One>(s, tail);
            if (TC.Value > 1) c11 = Read<TV, TC, Two>(s, tail);
            if (TC.Value > 2) c12 = Read<TV, TC, Three>(s, tail);
        }
        if (TR.Value > 2)
        {
            s += sRow;
            c20 = Read<TV, TC, One>(s, tail);
            if (TC.Value > 1) c21 = Read<TV, TC, Two>(s, tail);
            if (TC.Value > 2) c22 = Read<TV, TC, Three>(s, tail);
        }
        if (TR.Value > 3)
        {
            s += sRow;
            c30 = Read<TV, TC, One>(s, tail);
            if (TC.Value > 1) c31 = Read<TV, TC, Two>(s, tail);
            if (TC.Value > 2) c32 = Read<TV, TC, Three>(s, tail);
        }
        if (TR.Value > 4)
        {
            s += sRow;
            c40 = Read<TV, TC, One>(s, tail);
            if (TC.Value > 1) c41 = Read<TV, TC, Two>(s, tail);
            if (TC.Value > 2) c42 = Read<TV, TC, Three>(s, tail);
        }
        if (TR.Value > 5)
        {
            s += sRow;
            c50 = Read<TV, TC, One>(s, tail);
            if (TC.Value > 1) c51 = Read<TV, TC, Two>(s, tail);
            if (TC.Value > 2) c52 = Read<TV, TC, Three>(s, tail);
        }
        if (TR.Value > 6)
        {
            s += sRow;
            c60 = Read<TV, TC, One>(s, tail);
            if (TC.Value > 1) c61 = Read<TV, TC, Two>(s, tail);
            if (TC.Value > 2) c62 = Read<TV, TC, Three>(s, tail);
        }
        if (TR.Value > 7)
        {
            s += sRow;
            c70 = Read<TV, TC, One>(s, tail);
            if (TC.Value > 1) c71 = Read<TV, TC, Two>(s, tail);
            if (TC.Value > 2) c72 = Read<TV, TC, Three>(s, tail);
        }

        float* a = t.A, b = t.B, ahead = t.Ahead;
        nint aStep = t.AStep, bRow = t.BRow, aheadRow = t.AheadRow, aheadStep = t.AheadStep;
        nint r1 = t.ARow, r2 = 2 * r1, r3 = 3 * r1, r4 = 4 * r1, r5 = 5 * r1, r6 = 6 * r1, r7 = 7 * r1;
        for (int left = t.K; left > 0; left -= 16)
        {
            float* line = ahead;
            Sse.Prefetch1(line); line += aheadRow;
            Sse.Prefetch1(line); line += aheadRow;
            Sse.Prefetch1(line); line += aheadRow;
            Sse.Prefetch1(line); line += aheadRow;
            Sse.Prefetch1(line); line += aheadRow;
            Sse.Prefetch1(line); line += aheadRow;
            Sse.Prefetch1(line); line += aheadRow;
            Sse.Prefetch1(line);
            ahead += aheadStep;
            int n = Math.Min(left, 16);
            do
            {
                TV b0 = TC.Value == 1 && TLoose.Value == 1 ? TV.LoadFirst(b, tail) : TV.Load(b);
                TV b1 = TC.Value < 2 ? TV.Zero : TC.Value == 2 && TLoose.Value == 1 ? TV.LoadFirst(b + TV.Count, tail) : TV.Load(b + TV.Count);
                TV b2 = TC.Value < 3 ? TV.Zero : TLoose.Value == 1 ? TV.LoadFirst(b + 2 * TV.Count, tail) : TV.Load(b + 2 * TV.Count);
                b += bRow;
                TV x = TV.All(*a);
                c00 = TV.MulAdd(x, b0, c00);
                if (TC.Value > 1) c01 = TV.MulAdd(x, b1, c01);
                if (TC.Value > 2) c02 = TV.MulAdd(x, b2, c02);
                if (TR.Value > 1)
                {
                    x = TV.All(a[r1]);
                    c10 = TV.MulAdd(x, b0, c10);
                    if (TC.Value > 1) c11 = TV.MulAdd(x, b1, c11);
                    if (TC.Value > 2) c12 = TV.MulAdd(x, b2, c12);
                }
                if (TR.Value > 2)
                {
                    x = TV.All(a[r2]);
                    c20 = TV.MulAdd(x, b0, c20);
                    if (TC.Value > 1) c21 = TV.MulAdd(x, b1, c21);
                    if (TC.Value > 2) c22 = TV.MulAdd(x, b2, c22);
                }
                if (TR.Value > 3)
                {
                    x = TV.All(a[r3]);
                    c30 = TV.MulAdd(x, b0, c30);
                    if (TC.Value > 1) c31 = TV.MulAdd(x, b1, c31);
                    if (TC.Value > 2) c32 = TV.MulAdd(x, b2, c32);
                }
                if (TR.Value > 4)
                {
                    x = TV.All(a[r4]);
                    c40 = TV.MulAdd(x, b0, c40);
                    if (TC.Value > 1) c41 = TV.MulAdd(x, b1, c41);
                    if (TC.Value > 2) c42 = TV.MulAdd(x, b2, c42);
                }
                if (TR.Value > 5)
                {
                    x = TV.All(a[r5]);
                    c50 = TV.MulAdd(x, b0, c50);
                    if (TC.Value > 1) c51 = TV.MulAdd(x, b1, c51);
                    if (TC.Value > 2) c52 = TV.MulAdd(x, b2, c52);
                }
                if (TR.Value > 6)
                {
                    x = TV.All(a[r6]);
                    c60 = TV.MulAdd(x, b0, c60);
                    if (TC.Value > 1) c61 = TV.MulAdd(x, b1, c61);
                    if (TC.Value > 2) c62 = TV.MulAdd(x, b2, c62);
                }
                if (TR.Value > 7)
                {
                    x = TV.All(a[r7]);
                    c70 = TV.MulAdd(x, b0, c70);
                    if (TC.Value > 1) c71 = TV.MulAdd(x, b1, c71);
                    if (TC.Value > 2) c72 = TV.MulAdd(x, b2, c72);
                }
                a += aStep;
            }
            while (--n > 0);
        }

        float* c = t.C;
        nint cRow = t.CRow;
        Write<TV, TC, One>(c, c00, tail);
        if (TC.Value > 1) Write<TV, TC, Two>(c, c01, tail);
        if (TC.Value > 2) Write<TV, TC, Three>(c, c02, tail);
        if (TR.Value <= 1) return;
        c += cRow;
        Write<TV, TC, One>(c, c10, tail);
        if (TC.Value > 1) Write<TV, TC, Two>(c, c11, tail);
        if (TC.Value > 2) Write<TV, TC, Three>(c, c12, tail);
        if (TR.Value <= 2) return;
        c += cRow;
        Write<TV, TC, One>(c, c20, tail);
        if (TC.Value > 1) Write<TV, TC, Two>(c, c21, tail);
        if (TC.Value > 2) Write<TV, TC, Three>(c, c22, tail);
        if (TR.Value <= 3) return;
        c += cRow;
        Write<TV, TC, One>(c, c30, tail);
        if (TC.Value > 1) Write<TV, TC, Two>(c, c31, tail);
        if (TC.Value > 2) Write<TV, TC, Three>(c, c32, tail);
        if (TR.Value <= 4) return;
        c += cRow;
        Write<TV, TC, One>(c, c40, tail);
        if (TC.Value > 1) Write<TV, TC, Two>(c, c41, tail);
        if (TC.Value > 2) Write<TV, TC, Three>(c, c42, tail);
        if (TR.Value <= 5) return;
        c += cRow;
        Write<TV, TC, One>(c, c50, tail);
        if (TC.Value > 1) Write<TV, TC, Two>(c, c51, tail);
        if (TC.Value > 2) Write<TV, TC, Three>(c, c52, tail);
        if (TR.Value <= 6) return;
        c += cRow;
        Write<TV, TC, One>(c, c60, tail);
        if (TC.Value > 1) Write<TV, TC, Two>(c, c61, tail);
        if (TC.Value > 2) Write<TV, TC, Three>(c, c62, tail);
        if (TR.Value <= 7) return;
        c += cRow;
        Write<TV, TC, One>(c, c70, tail);
        if (TC.Value > 1) Write<TV, TC, Two>(c, c71, tail);
        if (TC.Value > 2) Write<TV, TC, Three>(c, c72, tail);
    }

    /// <summary>Vector TI of a row of TC vectors; masked if it is the last one and that one is cut.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TV Read<TV, TC, TI>(float* row, int tail) where TV : struct, ILanes<TV> where TC : struct, IConstant where TI : struct, IConstant
    {
        float* p = row + (TI.Value - 1) * TV.Count;
        return TI.Value < TC.Value || TV.Count == 1 || tail == 0 ? TV.Load(p) : TV.LoadFirst(p, tail);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Write<TV, TC, TI>(float* row, TV v, int tail) where TV : struct, ILanes<TV> where TC : struct, IConstant where TI : struct, IConstant
    {
        float* p = row + (TI.Value - 1) * TV.Count;
        if (TI.Value < TC.Value || TV.Count == 1 || tail == 0) v.Store(p);
        else v.StoreFirst(p, tail);
    }
}
