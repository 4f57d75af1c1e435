using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using MimEngine.Kernels.Cpu.Emitted;

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
/// One register tile of a product: c[r, j] = start[j] + Σ_k a[r, k]·b[k, j] (+ c[r, j]). Every element is one chain of multiply-adds in
/// the order of k, so its bits depend neither on the tile's shape nor on where in the matrix the tile lies.
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

    /// <summary>Where every row's sums start: zeros, a bias.</summary>
    public float* Start;

    /// <summary>Where the sums go, and whether they are added to what is there. Added last: c may still be on its way from
    /// memory.</summary>
    public float* C;
    public nint CRow;
    public bool Accumulate;

    /// <summary>Columns of the last vector that exist, or 0 for all: nothing outside of them is touched in Start and C.</summary>
    public int Tail;

    /// <summary>Memory that will be wanted soon: every step of k asks L2 for the line at Ahead and moves on AheadStep bytes.</summary>
    public byte* Ahead;
    public nint AheadStep;

    /// <summary>Emitted tiles add these bytes after each eighth of the steps, to go on to the next of eight rows.</summary>
    public nint AheadJump;

    // What follows exists for tiles that gather (TileRoutines.Gather) only; they move on AheadStep bytes every second step, however many.

    /// <summary>A second run of such lines.</summary>
    public byte* Also;
    public nint AlsoStep;

    /// <summary>Where the rows of a (eight numbers a step) and of b (a panel's width) are copied while they are read.</summary>
    public float* CopyA, CopyB;

    /// <summary>Where the sums of a over k go, one for each of the eight.</summary>
    public float* Sums;

    /// <summary>
    /// For tiles that are finished (TileRoutines.AlongFinished) only: where GELU goes, what its slope is taken of, or the residual; rows CRow apart.
    /// </summary>
    public void* Beside;

    /// <summary>Of a residual's tile: what its columns and its rows are multiplied by.</summary>
    public float* Gamma, RowScales;
}

/// <summary>
/// The few things a micro-kernel does with a vector, on the runtime's own vector types: inside a wrapper such as
/// <see cref="Lanes16"/> the JIT writes a third of the multiply-adds over their factor and copies them back, which costs a tenth.
/// </summary>
internal unsafe interface IMultiplyAdd<TV> where TV : struct
{
    static abstract int Count { get; }
    static abstract TV All(float* p);
    static abstract TV Load(float* p);
    static abstract TV LoadFirst(float* p, int n);
    static abstract void Store(float* p, TV v);
    static abstract void StoreFirst(float* p, TV v, int n);
    static abstract TV Add(TV a, TV b);
    static abstract TV MulAdd(TV a, TV b, TV c);
}

internal readonly unsafe struct Wide16 : IMultiplyAdd<Vector512<float>>
{
    public static int Count => 16;
    public static Vector512<float> All(float* p) => Vector512.Create(*p);
    public static Vector512<float> Load(float* p) => Vector512.Load(p);
    public static Vector512<float> LoadFirst(float* p, int n) => Lanes16.LoadFirst(p, n).V;
    public static void Store(float* p, Vector512<float> v) => v.Store(p);
    public static void StoreFirst(float* p, Vector512<float> v, int n) => new Lanes16(v).StoreFirst(p, n);
    public static Vector512<float> Add(Vector512<float> a, Vector512<float> b) => a + b;
    public static Vector512<float> MulAdd(Vector512<float> a, Vector512<float> b, Vector512<float> c) => Avx512F.FusedMultiplyAdd(a, b, c);
}

internal readonly unsafe struct Wide8 : IMultiplyAdd<Vector256<float>>
{
    public static int Count => 8;
    public static Vector256<float> All(float* p) => Vector256.Create(*p);
    public static Vector256<float> Load(float* p) => Vector256.Load(p);
    public static Vector256<float> LoadFirst(float* p, int n) => Lanes8.LoadFirst(p, n).V;
    public static void Store(float* p, Vector256<float> v) => v.Store(p);
    public static void StoreFirst(float* p, Vector256<float> v, int n) => new Lanes8(v).StoreFirst(p, n);
    public static Vector256<float> Add(Vector256<float> a, Vector256<float> b) => a + b;
    public static Vector256<float> MulAdd(Vector256<float> a, Vector256<float> b, Vector256<float> c) => Fma.MultiplyAdd(a, b, c);
}

internal readonly unsafe struct Wide1 : IMultiplyAdd<float>
{
    public static int Count => 1;
    public static float All(float* p) => *p;
    public static float Load(float* p) => *p;
    public static float LoadFirst(float* p, int n) => 0f;
    public static void Store(float* p, float v) => *p = v;
    public static void StoreFirst(float* p, float v, int n) { }
    public static float Add(float a, float b) => a + b;
    public static float MulAdd(float a, float b, float c) => a * b + c;
}

/// <summary>
/// The inner loop of every matrix product. On AVX-512 a tile is 8 rows × 3 vectors: 24 sums, 3 vectors of b and one broadcast of a
/// live in the 32 registers; 11 loads feed 24 multiply-adds, so both FMA ports stay busy. With AVX2's 16 registers it is 4 × 3.
/// </summary>
internal static unsafe class MicroKernels
{
    private const int Nearing = 4;   // steps of k that b is fetched ahead into L1: some 50 cycles, the way from L2

    /// <summary>Largest number of rows of a tile at this width.</summary>
    public static int Rows<TV>() where TV : struct, ILanes<TV> => TV.Count == 16 ? 8 : 4;

    /// <summary>Largest number of vectors side by side.</summary>
    public const int Vectors = 3;

    /// <summary>Runs the tile whose shape is (rows, vectors), each at most what the width has.</summary>
    /// <param name="looseB">b ends with the last column that exists, so its last vector is read masked too. Packed panels are
    /// padded.</param>
    /// <param name="emitted">The machine code to prefer for whole tiles of a read along k, or null.</param>
    public static void Run<TV>(in Tile t, int rows, int vectors, bool looseB, TileRoutines? emitted = null) where TV : struct, ILanes<TV>
    {
        if (emitted != null && TV.Count == 16 && rows == TileCode.Rows && t.Tail == 0)
        {
            fixed (Tile* p = &t) emitted.Along(p, vectors);
            return;
        }
        bool loose = looseB && t.Tail != 0;
        if (TV.Count == 16) Run<Wide16, Vector512<float>>(t, rows, vectors, loose);
        else if (TV.Count == 8) Run<Wide8, Vector256<float>>(t, rows, vectors, loose);
        else Run<Wide1, float>(t, rows, vectors, loose);
    }

    private static void Run<TW, TV>(in Tile t, int rows, int vectors, bool loose) where TW : struct, IMultiplyAdd<TV> where TV : struct
    {
        if (vectors == 3) Run<TW, TV, Three>(t, rows, loose);
        else if (vectors == 2) Run<TW, TV, Two>(t, rows, loose);
        else Run<TW, TV, One>(t, rows, loose);
    }

    private static void Run<TW, TV, TC>(in Tile t, int rows, bool loose)
        where TW : struct, IMultiplyAdd<TV> where TV : struct where TC : struct, IConstant
    {
        if (loose) Run<TW, TV, TC, One>(t, rows);
        else Run<TW, TV, TC, Two>(t, rows);
    }

    private static void Run<TW, TV, TC, TLoose>(in Tile t, int rows)
        where TW : struct, IMultiplyAdd<TV> where TV : struct where TC : struct, IConstant where TLoose : struct, IConstant
    {
        switch (rows)
        {
            case 1: Multiply<TW, TV, One, TC, TLoose>(t); break;
            case 2: Multiply<TW, TV, Two, TC, TLoose>(t); break;
            case 3: Multiply<TW, TV, Three, TC, TLoose>(t); break;
            case 4: Multiply<TW, TV, Four, TC, TLoose>(t); break;
            case 5: Multiply<TW, TV, Five, TC, TLoose>(t); break;
            case 6: Multiply<TW, TV, Six, TC, TLoose>(t); break;
            case 7: Multiply<TW, TV, Seven, TC, TLoose>(t); break;
            case 8: Multiply<TW, TV, Eight, TC, TLoose>(t); break;
        }
    }

    [SkipLocalsInit]
    private static void Multiply<TW, TV, TR, TC, TLoose>(in Tile t) where TW : struct, IMultiplyAdd<TV> where TV : struct
        where TR : struct, IConstant where TC : struct, IConstant where TLoose : struct, IConstant
    {
        for (int r = 0; r < TR.Value; r++) Nudge<TW, TV, TC>(t.C + r * t.CRow);
        TV s0 = default, s1 = default, s2 = default;
        Open<TW, TV, TC>(t.Start, t.Tail, ref s0, ref s1, ref s2);
        TV c00 = s0, c01 = s1, c02 = s2;
        TV c10 = s0, c11 = s1, c12 = s2;
        TV c20 = s0, c21 = s1, c22 = s2;
        TV c30 = s0, c31 = s1, c32 = s2;
        TV c40 = s0, c41 = s1, c42 = s2;
        TV c50 = s0, c51 = s1, c52 = s2;
        TV c60 = s0, c61 = s1, c62 = s2;
        TV c70 = s0, c71 = s1, c72 = s2;

        // Strides in bytes, few enough for the general registers: rows 4 to 7 have a pointer of their own.
        byte* a = (byte*)t.A, b = (byte*)t.B, ahead = t.Ahead;
        nint row = t.ARow * sizeof(float), row3 = 3 * row, aStep = t.AStep * sizeof(float), bRow = t.BRow * sizeof(float),
            aheadStep = t.AheadStep;
        byte* a4 = a + 4 * row;
        TV b0 = default, b1 = default, b2 = default;
        for (int k = t.K; k > 0; k--)
        {
            if (Sse.IsSupported)   // decided by the JIT; without SSE there is no such hint to give
            {
                Sse.Prefetch1(ahead);
                ahead += aheadStep;
                float* soon = (float*)(b + Nearing * bRow);
                Sse.Prefetch0(soon);
                if (TC.Value > 1) Sse.Prefetch0(soon + TW.Count);
                if (TC.Value > 2) Sse.Prefetch0(soon + 2 * TW.Count);
            }
            Line<TW, TV, TC, TLoose>((float*)b, t.Tail, ref b0, ref b1, ref b2);
            b += bRow;
            Row<TW, TV, TC>(a, b0, b1, b2, ref c00, ref c01, ref c02);
            if (TR.Value > 1) Row<TW, TV, TC>(a + row, b0, b1, b2, ref c10, ref c11, ref c12);
            if (TR.Value > 2) Row<TW, TV, TC>(a + 2 * row, b0, b1, b2, ref c20, ref c21, ref c22);
            if (TR.Value > 3) Row<TW, TV, TC>(a + row3, b0, b1, b2, ref c30, ref c31, ref c32);
            if (TR.Value > 4) Row<TW, TV, TC>(a4, b0, b1, b2, ref c40, ref c41, ref c42);
            if (TR.Value > 5) Row<TW, TV, TC>(a4 + row, b0, b1, b2, ref c50, ref c51, ref c52);
            if (TR.Value > 6) Row<TW, TV, TC>(a4 + 2 * row, b0, b1, b2, ref c60, ref c61, ref c62);
            if (TR.Value > 7) Row<TW, TV, TC>(a4 + row3, b0, b1, b2, ref c70, ref c71, ref c72);
            a += aStep;
            if (TR.Value > 4) a4 += aStep;
        }

        float* c = t.C;
        nint cRow = t.CRow;
        int tail = t.Tail;
        bool add = t.Accumulate;
        Close<TW, TV, TC>(c, tail, add, c00, c01, c02);
        if (TR.Value > 1) Close<TW, TV, TC>(c + cRow, tail, add, c10, c11, c12);
        if (TR.Value > 2) Close<TW, TV, TC>(c + 2 * cRow, tail, add, c20, c21, c22);
        if (TR.Value > 3) Close<TW, TV, TC>(c + 3 * cRow, tail, add, c30, c31, c32);
        if (TR.Value > 4) Close<TW, TV, TC>(c + 4 * cRow, tail, add, c40, c41, c42);
        if (TR.Value > 5) Close<TW, TV, TC>(c + 5 * cRow, tail, add, c50, c51, c52);
        if (TR.Value > 6) Close<TW, TV, TC>(c + 6 * cRow, tail, add, c60, c61, c62);
        if (TR.Value > 7) Close<TW, TV, TC>(c + 7 * cRow, tail, add, c70, c71, c72);
    }

    /// <summary>One step's row of b.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Line<TW, TV, TC, TLoose>(float* b, int tail, ref TV b0, ref TV b1, ref TV b2)
        where TW : struct, IMultiplyAdd<TV> where TV : struct where TC : struct, IConstant where TLoose : struct, IConstant
    {
        b0 = TC.Value == 1 && TLoose.Value == 1 ? TW.LoadFirst(b, tail) : TW.Load(b);
        if (TC.Value > 1) b1 = TC.Value == 2 && TLoose.Value == 1 ? TW.LoadFirst(b + TW.Count, tail) : TW.Load(b + TW.Count);
        if (TC.Value > 2) b2 = TLoose.Value == 1 ? TW.LoadFirst(b + 2 * TW.Count, tail) : TW.Load(b + 2 * TW.Count);
    }

    /// <summary>One row of one step: c += a·b.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Row<TW, TV, TC>(byte* a, TV b0, TV b1, TV b2, ref TV c0, ref TV c1, ref TV c2)
        where TW : struct, IMultiplyAdd<TV> where TV : struct where TC : struct, IConstant
    {
        TV x = TW.All((float*)a);
        c0 = TW.MulAdd(x, b0, c0);
        if (TC.Value > 1) c1 = TW.MulAdd(x, b1, c1);
        if (TC.Value > 2) c2 = TW.MulAdd(x, b2, c2);
    }

    /// <summary>Asks for a row of c, which is written or added to when the sums are done: a store must own its line too.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Nudge<TW, TV, TC>(float* row) where TW : struct, IMultiplyAdd<TV> where TV : struct where TC : struct, IConstant
    {
        if (!Sse.IsSupported) return;
        Sse.Prefetch0(row);
        if (TC.Value > 1) Sse.Prefetch0(row + TW.Count);
        if (TC.Value > 2) Sse.Prefetch0(row + 2 * TW.Count);
    }

    /// <summary>Reads a row of TC vectors, the last one masked if it is cut.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Open<TW, TV, TC>(float* row, int tail, ref TV c0, ref TV c1, ref TV c2)
        where TW : struct, IMultiplyAdd<TV> where TV : struct where TC : struct, IConstant
    {
        bool whole = TW.Count == 1 || tail == 0;
        c0 = TC.Value > 1 || whole ? TW.Load(row) : TW.LoadFirst(row, tail);
        if (TC.Value > 1) c1 = TC.Value > 2 || whole ? TW.Load(row + TW.Count) : TW.LoadFirst(row + TW.Count, tail);
        if (TC.Value > 2) c2 = whole ? TW.Load(row + 2 * TW.Count) : TW.LoadFirst(row + 2 * TW.Count, tail);
    }

    /// <summary>Writes a row of TC vectors, or adds it to what is there; the last vector is masked if it is cut.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Close<TW, TV, TC>(float* row, int tail, bool add, TV c0, TV c1, TV c2)
        where TW : struct, IMultiplyAdd<TV> where TV : struct where TC : struct, IConstant
    {
        bool whole = TW.Count == 1 || tail == 0;
        float* last = row + (TC.Value - 1) * TW.Count;
        if (TC.Value > 1) TW.Store(row, add ? TW.Add(c0, TW.Load(row)) : c0);
        if (TC.Value > 2) TW.Store(row + TW.Count, add ? TW.Add(c1, TW.Load(row + TW.Count)) : c1);
        TV c = TC.Value == 1 ? c0 : TC.Value == 2 ? c1 : c2;
        if (whole) TW.Store(last, add ? TW.Add(c, TW.Load(last)) : c);
        else TW.StoreFirst(last, add ? TW.Add(c, TW.LoadFirst(last, tail)) : c, tail);
    }
}
