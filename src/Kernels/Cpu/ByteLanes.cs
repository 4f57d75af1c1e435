using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace MimEngine.Kernels.Cpu;

/// <summary>A vector of bytes as a type: what <see cref="ILanes{TSelf}"/> is for floats. Picture kernels are generic over it.</summary>
internal unsafe interface IByteLanes<TSelf> where TSelf : struct, IByteLanes<TSelf>
{
    static abstract int Count { get; }
    static abstract TSelf Zero { get; }
    static abstract TSelf All(byte value);
    static abstract TSelf Load(byte* p);
    void Store(byte* p);
    static abstract TSelf Min(TSelf a, TSelf b);
    static abstract TSelf Max(TSelf a, TSelf b);

    /// <summary>min(a + b, 255).</summary>
    static abstract TSelf Plus(TSelf a, TSelf b);

    /// <summary>max(a − b, 0).</summary>
    static abstract TSelf Minus(TSelf a, TSelf b);

    /// <summary>kept where a &gt; b, else 0.</summary>
    static abstract TSelf Keep(TSelf kept, TSelf a, TSelf b);

    /// <summary>Whether some lane is not 0.</summary>
    bool Any { get; }

    /// <summary>Whether a &gt; b in some lane.</summary>
    static abstract bool AnyAbove(TSelf a, TSelf b);

    /// <summary>Whether a &gt; b or c &gt; d in some lane.</summary>
    static abstract bool AnyAbove(TSelf a, TSelf b, TSelf c, TSelf d);

    /// <summary>sums[i] = sum of the bytes of columns 8·i … 8·i + 7 of rows 0 … rows − 1, i below Count/8 (one lane: one sum).</summary>
    static abstract void Eights(ulong* sums, byte* p, nint stride, int rows);

    /// <summary>min(255, (r·R + g·G + b·B + 16384) &gt;&gt; 15) for Count pixels of three planes; weights 0 to 32767.</summary>
    static abstract void Luma(byte* gray, byte* r, byte* g, byte* b, LumaWeights weights);
}

/// <summary>64 lanes: AVX-512 BW.</summary>
internal readonly unsafe struct Bytes64(Vector512<byte> v) : IByteLanes<Bytes64>
{
    public readonly Vector512<byte> V = v;
    public static int Count => 64;
    public static Bytes64 Zero => new(Vector512<byte>.Zero);
    public static Bytes64 All(byte value) => new(Vector512.Create(value));
    public static Bytes64 Load(byte* p) => new(Vector512.Load(p));
    public void Store(byte* p) => V.Store(p);
    public static Bytes64 Min(Bytes64 a, Bytes64 b) => new(Avx512BW.Min(a.V, b.V));
    public static Bytes64 Max(Bytes64 a, Bytes64 b) => new(Avx512BW.Max(a.V, b.V));
    public static Bytes64 Plus(Bytes64 a, Bytes64 b) => new(Avx512BW.AddSaturate(a.V, b.V));
    public static Bytes64 Minus(Bytes64 a, Bytes64 b) => new(Avx512BW.SubtractSaturate(a.V, b.V));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Bytes64 Keep(Bytes64 kept, Bytes64 a, Bytes64 b)
        => new(Vector512.ConditionalSelect(Avx512BW.CompareGreaterThan(a.V, b.V), kept.V, Vector512<byte>.Zero));
    public bool Any => V != Vector512<byte>.Zero;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool AnyAbove(Bytes64 a, Bytes64 b) => Above(a, b) != 0;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool AnyAbove(Bytes64 a, Bytes64 b, Bytes64 c, Bytes64 d) => (Above(a, b) | Above(c, d)) != 0;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static ulong Above(Bytes64 a, Bytes64 b) => Avx512BW.CompareGreaterThan(a.V, b.V).ExtractMostSignificantBits();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Eights(ulong* sums, byte* p, nint stride, int rows)
    {
        Vector512<ulong> total = Vector512<ulong>.Zero;
        for (int y = 0; y < rows; y++, p += stride)
            total += Avx512BW.SumAbsoluteDifferences(Vector512.Load(p), Vector512<byte>.Zero).AsUInt64();
        total.Store(sums);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Luma(byte* gray, byte* r, byte* g, byte* b, LumaWeights weights)
    {
        // Interleave (r, g) and (b, 1) as 16-bit pairs: one multiply-add of pairs each. The packs undo the in-lane order of the unpacks.
        Vector512<short> wrg = Vector512.Create(weights.R | weights.G << 16).AsInt16();
        Vector512<short> wb1 = Vector512.Create(weights.B | 16384 << 16).AsInt16();
        Vector512<byte> vr = Vector512.Load(r), vg = Vector512.Load(g), vb = Vector512.Load(b), one = Vector512.Create((byte)1);
        Vector512<short> low = Half(Avx512BW.UnpackLow(vr, vg), Avx512BW.UnpackLow(vb, one));
        Vector512<short> high = Half(Avx512BW.UnpackHigh(vr, vg), Avx512BW.UnpackHigh(vb, one));
        Avx512BW.PackUnsignedSaturate(low, high).Store(gray);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        Vector512<short> Half(Vector512<byte> rg, Vector512<byte> b1) => Avx512BW.PackSignedSaturate(
            (Pairs(Avx512BW.UnpackLow(rg, default), wrg) + Pairs(Avx512BW.UnpackLow(b1, default), wb1)) >>> 15,
            (Pairs(Avx512BW.UnpackHigh(rg, default), wrg) + Pairs(Avx512BW.UnpackHigh(b1, default), wb1)) >>> 15);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        static Vector512<int> Pairs(Vector512<byte> x, Vector512<short> w) => Avx512BW.MultiplyAddAdjacent(x.AsInt16(), w);
    }
}

/// <summary>32 lanes: AVX2.</summary>
internal readonly unsafe struct Bytes32(Vector256<byte> v) : IByteLanes<Bytes32>
{
    public readonly Vector256<byte> V = v;
    public static int Count => 32;
    public static Bytes32 Zero => new(Vector256<byte>.Zero);
    public static Bytes32 All(byte value) => new(Vector256.Create(value));
    public static Bytes32 Load(byte* p) => new(Vector256.Load(p));
    public void Store(byte* p) => V.Store(p);
    public static Bytes32 Min(Bytes32 a, Bytes32 b) => new(Avx2.Min(a.V, b.V));
    public static Bytes32 Max(Bytes32 a, Bytes32 b) => new(Avx2.Max(a.V, b.V));
    public static Bytes32 Plus(Bytes32 a, Bytes32 b) => new(Avx2.AddSaturate(a.V, b.V));
    public static Bytes32 Minus(Bytes32 a, Bytes32 b) => new(Avx2.SubtractSaturate(a.V, b.V));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Bytes32 Keep(Bytes32 kept, Bytes32 a, Bytes32 b)   // AVX2 has no unsigned compare: a ≤ b is where the saturated a − b is 0
        => new(Avx2.AndNot(Avx2.CompareEqual(Avx2.SubtractSaturate(a.V, b.V), Vector256<byte>.Zero), kept.V));
    public bool Any => V != Vector256<byte>.Zero;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool AnyAbove(Bytes32 a, Bytes32 b) => Avx2.SubtractSaturate(a.V, b.V) != Vector256<byte>.Zero;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool AnyAbove(Bytes32 a, Bytes32 b, Bytes32 c, Bytes32 d)
        => (Avx2.SubtractSaturate(a.V, b.V) | Avx2.SubtractSaturate(c.V, d.V)) != Vector256<byte>.Zero;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Eights(ulong* sums, byte* p, nint stride, int rows)
    {
        Vector256<ulong> total = Vector256<ulong>.Zero;
        for (int y = 0; y < rows; y++, p += stride)
            total += Avx2.SumAbsoluteDifferences(Vector256.Load(p), Vector256<byte>.Zero).AsUInt64();
        total.Store(sums);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Luma(byte* gray, byte* r, byte* g, byte* b, LumaWeights weights)
    {
        Vector256<short> wrg = Vector256.Create(weights.R | weights.G << 16).AsInt16();
        Vector256<short> wb1 = Vector256.Create(weights.B | 16384 << 16).AsInt16();
        Vector256<byte> vr = Vector256.Load(r), vg = Vector256.Load(g), vb = Vector256.Load(b), one = Vector256.Create((byte)1);
        Vector256<short> low = Half(Avx2.UnpackLow(vr, vg), Avx2.UnpackLow(vb, one));
        Vector256<short> high = Half(Avx2.UnpackHigh(vr, vg), Avx2.UnpackHigh(vb, one));
        Avx2.PackUnsignedSaturate(low, high).Store(gray);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        Vector256<short> Half(Vector256<byte> rg, Vector256<byte> b1) => Avx2.PackSignedSaturate(
            (Pairs(Avx2.UnpackLow(rg, default), wrg) + Pairs(Avx2.UnpackLow(b1, default), wb1)) >>> 15,
            (Pairs(Avx2.UnpackHigh(rg, default), wrg) + Pairs(Avx2.UnpackHigh(b1, default), wb1)) >>> 15);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        static Vector256<int> Pairs(Vector256<byte> x, Vector256<short> w) => Avx2.MultiplyAddAdjacent(x.AsInt16(), w);
    }
}

/// <summary>16 lanes: SSE2, for pictures narrower than 38 pixels at the vector levels.</summary>
internal readonly unsafe struct Bytes16(Vector128<byte> v) : IByteLanes<Bytes16>
{
    public readonly Vector128<byte> V = v;
    public static int Count => 16;
    public static Bytes16 Zero => new(Vector128<byte>.Zero);
    public static Bytes16 All(byte value) => new(Vector128.Create(value));
    public static Bytes16 Load(byte* p) => new(Vector128.Load(p));
    public void Store(byte* p) => V.Store(p);
    public static Bytes16 Min(Bytes16 a, Bytes16 b) => new(Sse2.Min(a.V, b.V));
    public static Bytes16 Max(Bytes16 a, Bytes16 b) => new(Sse2.Max(a.V, b.V));
    public static Bytes16 Plus(Bytes16 a, Bytes16 b) => new(Sse2.AddSaturate(a.V, b.V));
    public static Bytes16 Minus(Bytes16 a, Bytes16 b) => new(Sse2.SubtractSaturate(a.V, b.V));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Bytes16 Keep(Bytes16 kept, Bytes16 a, Bytes16 b)
        => new(Sse2.AndNot(Sse2.CompareEqual(Sse2.SubtractSaturate(a.V, b.V), Vector128<byte>.Zero), kept.V));
    public bool Any => V != Vector128<byte>.Zero;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool AnyAbove(Bytes16 a, Bytes16 b) => Sse2.SubtractSaturate(a.V, b.V) != Vector128<byte>.Zero;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool AnyAbove(Bytes16 a, Bytes16 b, Bytes16 c, Bytes16 d)
        => (Sse2.SubtractSaturate(a.V, b.V) | Sse2.SubtractSaturate(c.V, d.V)) != Vector128<byte>.Zero;

    public static void Eights(ulong* sums, byte* p, nint stride, int rows)
    {
        Vector128<ulong> total = Vector128<ulong>.Zero;
        for (int y = 0; y < rows; y++, p += stride)
            total += Sse2.SumAbsoluteDifferences(Vector128.Load(p), Vector128<byte>.Zero).AsUInt64();
        total.Store(sums);
    }

    public static void Luma(byte* gray, byte* r, byte* g, byte* b, LumaWeights weights)
    {
        for (int i = 0; i < Count; i++) Bytes1.Luma(gray + i, r + i, g + i, b + i, weights);
    }
}

/// <summary>One lane: any machine.</summary>
internal readonly unsafe struct Bytes1(byte v) : IByteLanes<Bytes1>
{
    public readonly byte V = v;
    public static int Count => 1;
    public static Bytes1 Zero => default;
    public static Bytes1 All(byte value) => new(value);
    public static Bytes1 Load(byte* p) => new(*p);
    public void Store(byte* p) => *p = V;
    public static Bytes1 Min(Bytes1 a, Bytes1 b) => a.V < b.V ? a : b;
    public static Bytes1 Max(Bytes1 a, Bytes1 b) => a.V > b.V ? a : b;
    public static Bytes1 Plus(Bytes1 a, Bytes1 b) => new((byte)Math.Min(255, a.V + b.V));
    public static Bytes1 Minus(Bytes1 a, Bytes1 b) => new((byte)Math.Max(0, a.V - b.V));
    public static Bytes1 Keep(Bytes1 kept, Bytes1 a, Bytes1 b) => a.V > b.V ? kept : default;
    public bool Any => V != 0;
    public static bool AnyAbove(Bytes1 a, Bytes1 b) => a.V > b.V;
    public static bool AnyAbove(Bytes1 a, Bytes1 b, Bytes1 c, Bytes1 d) => a.V > b.V || c.V > d.V;

    /// <summary>One sum of eight columns: no lane is narrower than what it sums.</summary>
    public static void Eights(ulong* sums, byte* p, nint stride, int rows)
    {
        ulong total = 0;
        for (int y = 0; y < rows; y++, p += stride)
            for (int x = 0; x < 8; x++) total += p[x];
        *sums = total;
    }

    public static void Luma(byte* gray, byte* r, byte* g, byte* b, LumaWeights weights)
        => *gray = (byte)Math.Min(255, (weights.R * *r + weights.G * *g + weights.B * *b + 16384) >>> 15);
}
