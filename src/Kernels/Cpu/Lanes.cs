using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace MimEngine.Kernels.Cpu;

/// <summary>Which width of vector the kernels use.</summary>
public enum SimdLevel : byte { Scalar, Vector256, Vector512 }

/// <summary>
/// A vector of float32 as a type, so that one generic kernel body is compiled for 16, 8 and 1 lanes. The JIT specialises generics over
/// structs: no call, box or branch remains. Every member is marked for inlining: long kernels use up the JIT's own budget for it.
/// </summary>
internal unsafe interface ILanes<TSelf> where TSelf : struct, ILanes<TSelf>
{
    static abstract int Count { get; }
    static abstract TSelf Zero { get; }
    static abstract TSelf All(float value);
    static abstract TSelf Load(float* p);

    /// <summary>The first <paramref name="n"/> &lt; Count floats, the rest 0; touches no byte past them.</summary>
    static abstract TSelf LoadFirst(float* p, int n);

    /// <summary>Count bytes, each as a float.</summary>
    static abstract TSelf LoadBytes(byte* p);

    /// <summary>Count bfloat16 numbers, widened.</summary>
    static abstract TSelf Load(ushort* p);

    /// <summary>The first <paramref name="n"/> &lt; Count bfloat16 numbers, the rest 0; touches no byte past them.</summary>
    static abstract TSelf LoadFirst(ushort* p, int n);
    void Store(float* p);
    void StoreFirst(float* p, int n);

    /// <summary>Rounds to bfloat16: nearest, ties to even; NaN stays NaN.</summary>
    void Store(ushort* p);
    void StoreFirst(ushort* p, int n);
    static abstract TSelf operator +(TSelf a, TSelf b);
    static abstract TSelf operator -(TSelf a, TSelf b);
    static abstract TSelf operator *(TSelf a, TSelf b);
    static abstract TSelf operator /(TSelf a, TSelf b);

    /// <summary>a·b + c, rounded once where the width has FMA.</summary>
    static abstract TSelf MulAdd(TSelf a, TSelf b, TSelf c);
    static abstract TSelf Max(TSelf a, TSelf b);
    static abstract TSelf Min(TSelf a, TSelf b);
    static abstract TSelf Abs(TSelf a);
    static abstract TSelf Sqrt(TSelf a);

    /// <summary>ln a, by the runtime's own functions.</summary>
    static abstract TSelf Log(TSelf a);

    /// <summary>1/a for a in [1, 1e30], relative error below 1.3e-7; what is larger counts as 1e30, NaN stays.</summary>
    static abstract TSelf Reciprocal(TSelf a);

    /// <summary>Nearest integer, ties to even.</summary>
    static abstract TSelf Round(TSelf a);

    /// <summary>2^n for integer-valued n in [−126, 127].</summary>
    static abstract TSelf PowerOfTwo(TSelf n);

    /// <summary>a·2^n for integer-valued n; below −126 the result is a·2^−126 or less, down to 0.</summary>
    static abstract TSelf Scale(TSelf a, TSelf n);

    /// <summary>The magnitude of <paramref name="magnitude"/> with the sign bit of <paramref name="sign"/>.</summary>
    static abstract TSelf CopySign(TSelf magnitude, TSelf sign);

    /// <summary>a &gt; b ? yes : no, lane for lane; NaN compares false.</summary>
    static abstract TSelf Where(TSelf a, TSelf b, TSelf yes, TSelf no);

    /// <summary>Sum of the lanes, in a fixed tree order.</summary>
    float Sum();

    /// <summary>Largest lane; where one is NaN, any of the lanes.</summary>
    float Largest();
}

/// <summary>16 lanes: AVX-512.</summary>
internal readonly unsafe struct Lanes16(Vector512<float> v) : ILanes<Lanes16>
{
    public readonly Vector512<float> V = v;
    public static int Count => 16;
    public static Lanes16 Zero => new(Vector512<float>.Zero);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes16 All(float value) => new(Vector512.Create(value));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes16 Load(float* p) => new(Vector512.Load(p));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes16 LoadFirst(float* p, int n) => new(Avx512F.MaskLoad(p, Mask(n), Vector512<float>.Zero));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes16 LoadBytes(byte* p) => new(Vector512.ConvertToSingle(Avx512F.ConvertToVector512Int32(Vector128.Load(p))));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes16 Load(ushort* p) => Wide(Vector256.Load(p));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes16 LoadFirst(ushort* p, int n) => Wide(Avx512BW.VL.MaskLoad(p, HalfMask(n), Vector256<ushort>.Zero));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Store(float* p) => V.Store(p);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void StoreFirst(float* p, int n) => Avx512F.MaskStore(p, Mask(n), V);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Store(ushort* p) => Rounded().Store(p);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void StoreFirst(ushort* p, int n) => Avx512BW.VL.MaskStore(p, HalfMask(n), Rounded());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Lanes16 Wide(Vector256<ushort> halves) => new((Avx512F.ConvertToVector512Int32(halves) << 16).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private Vector256<ushort> Rounded()
    {
        Vector512<uint> u = V.AsUInt32(), nearest = u + Vector512.Create(0x7FFFu) + ((u >> 16) & Vector512<uint>.One);
        Vector512<uint> kept = Avx512F.BlendVariable(nearest, u | Vector512.Create(0x0040_0000u), Avx512F.CompareUnordered(V, V).AsUInt32());
        return Upper(kept);
    }

    /// <summary>The upper half of each lane.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<ushort> Upper(Vector512<uint> v)
    {
        Vector512<ushort> odd = Vector512.Create((ushort)1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
            1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);   // one shuffle; a shift and a narrowing are four operations
        return Avx512BW.PermuteVar32x16(v.AsUInt16(), odd).GetLower();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<ushort> HalfMask(int n) => Vector256.GreaterThan(Vector256.Create((short)n), Vector256<short>.Indices).AsUInt16();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes16 operator +(Lanes16 a, Lanes16 b) => new(a.V + b.V);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes16 operator -(Lanes16 a, Lanes16 b) => new(a.V - b.V);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes16 operator *(Lanes16 a, Lanes16 b) => new(a.V * b.V);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes16 operator /(Lanes16 a, Lanes16 b) => new(a.V / b.V);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes16 MulAdd(Lanes16 a, Lanes16 b, Lanes16 c) => new(Avx512F.FusedMultiplyAdd(a.V, b.V, c.V));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes16 Max(Lanes16 a, Lanes16 b) => new(Avx512F.Max(a.V, b.V));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes16 Min(Lanes16 a, Lanes16 b) => new(Avx512F.Min(a.V, b.V));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes16 Abs(Lanes16 a) => new(Vector512.Abs(a.V));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes16 Sqrt(Lanes16 a) => new(Vector512.Sqrt(a.V));

    public static Lanes16 Log(Lanes16 a) => new(Vector512.Log(a.V));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes16 Reciprocal(Lanes16 a)
    {
        // 14 bits and one step of Newton's: a division would hold a port for a dozen cycles.
        Vector512<float> d = Avx512F.Min(Vector512.Create(1e30f), a.V), y = Avx512F.Reciprocal14(d);
        return new(Avx512F.FusedMultiplyAdd(y, Avx512F.FusedMultiplyAddNegated(d, y, Vector512.Create(1f)), y));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes16 Round(Lanes16 a) => new(Avx512F.RoundScale(a.V, 0));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes16 PowerOfTwo(Lanes16 n)
        => new(((Vector512.ConvertToInt32Native(n.V) + Vector512.Create(127)) << 23).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes16 Scale(Lanes16 a, Lanes16 n) => new(Avx512F.Scale(a.V, n.V));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes16 CopySign(Lanes16 magnitude, Lanes16 sign)
        => new(Vector512.ConditionalSelect(Vector512.Create(int.MinValue).AsSingle(), sign.V, magnitude.V));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes16 Where(Lanes16 a, Lanes16 b, Lanes16 yes, Lanes16 no)
        => new(Avx512F.BlendVariable(no.V, yes.V, Avx512F.CompareGreaterThan(a.V, b.V)));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public float Sum() => new Lanes8(V.GetLower() + V.GetUpper()).Sum();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public float Largest() => new Lanes8(Avx.Max(V.GetLower(), V.GetUpper())).Largest();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Mask(int n)
        => Vector512.GreaterThan(Vector512.Create(n), Vector512<int>.Indices).AsSingle();
}

/// <summary>8 lanes: AVX2 with FMA.</summary>
internal readonly unsafe struct Lanes8(Vector256<float> v) : ILanes<Lanes8>
{
    public readonly Vector256<float> V = v;
    public static int Count => 8;
    public static Lanes8 Zero => new(Vector256<float>.Zero);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes8 All(float value) => new(Vector256.Create(value));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes8 Load(float* p) => new(Vector256.Load(p));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes8 LoadFirst(float* p, int n) => new(Avx.MaskLoad(p, Mask(n)));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes8 LoadBytes(byte* p) => new(Vector256.ConvertToSingle(Avx2.ConvertToVector256Int32(p)));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes8 Load(ushort* p) => Wide(Vector128.Load(p));

    public static Lanes8 LoadFirst(ushort* p, int n)
    {
        ulong low = 0, high = 0;
        for (int i = 0; i < Math.Min(n, 4); i++) low |= (ulong)p[i] << (16 * i);
        for (int i = 4; i < n; i++) high |= (ulong)p[i] << (16 * (i - 4));
        return Wide(Vector128.Create(low, high).AsUInt16());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Store(float* p) => V.Store(p);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void StoreFirst(float* p, int n) => Avx.MaskStore(p, Mask(n), V);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Store(ushort* p) => Rounded().Store(p);

    public void StoreFirst(ushort* p, int n)
    {
        Vector128<ulong> words = Rounded().AsUInt64();
        ulong low = words[0], high = words[1];
        for (int i = 0; i < Math.Min(n, 4); i++) p[i] = (ushort)(low >> (16 * i));
        for (int i = 4; i < n; i++) p[i] = (ushort)(high >> (16 * (i - 4)));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Lanes8 Wide(Vector128<ushort> halves) => new((Avx2.ConvertToVector256Int32(halves) << 16).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private Vector128<ushort> Rounded()
    {
        Vector256<uint> u = V.AsUInt32(), nearest = u + Vector256.Create(0x7FFFu) + ((u >> 16) & Vector256<uint>.One);
        Vector256<uint> kept = Vector256.ConditionalSelect(Vector256.Equals(V, V).AsUInt32(), nearest, u | Vector256.Create(0x0040_0000u));
        Vector256<int> words = (kept >> 16).AsInt32();
        return Sse41.PackUnsignedSaturate(words.GetLower(), words.GetUpper());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes8 operator +(Lanes8 a, Lanes8 b) => new(a.V + b.V);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes8 operator -(Lanes8 a, Lanes8 b) => new(a.V - b.V);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes8 operator *(Lanes8 a, Lanes8 b) => new(a.V * b.V);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes8 operator /(Lanes8 a, Lanes8 b) => new(a.V / b.V);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes8 MulAdd(Lanes8 a, Lanes8 b, Lanes8 c) => new(Fma.MultiplyAdd(a.V, b.V, c.V));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes8 Max(Lanes8 a, Lanes8 b) => new(Avx.Max(a.V, b.V));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes8 Min(Lanes8 a, Lanes8 b) => new(Avx.Min(a.V, b.V));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes8 Abs(Lanes8 a) => new(Vector256.Abs(a.V));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes8 Sqrt(Lanes8 a) => new(Vector256.Sqrt(a.V));

    public static Lanes8 Log(Lanes8 a) => new(Vector256.Log(a.V));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes8 Reciprocal(Lanes8 a) => All(1f) / Min(All(1e30f), a);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes8 Round(Lanes8 a) => new(Avx.RoundToNearestInteger(a.V));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes8 PowerOfTwo(Lanes8 n)
        => new(((Vector256.ConvertToInt32Native(n.V) + Vector256.Create(127)) << 23).AsSingle());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes8 Scale(Lanes8 a, Lanes8 n) => a * PowerOfTwo(Max(All(-126f), n));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes8 CopySign(Lanes8 magnitude, Lanes8 sign)
        => new(Vector256.ConditionalSelect(Vector256.Create(int.MinValue).AsSingle(), sign.V, magnitude.V));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes8 Where(Lanes8 a, Lanes8 b, Lanes8 yes, Lanes8 no)
        => new(Vector256.ConditionalSelect(Vector256.GreaterThan(a.V, b.V), yes.V, no.V));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public float Sum()
    {
        Vector128<float> four = V.GetLower() + V.GetUpper();
        return four[0] + four[2] + (four[1] + four[3]);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public float Largest()
    {
        Vector128<float> four = Sse.Max(V.GetLower(), V.GetUpper()), two = Sse.Max(four, Sse.MoveHighToLow(four, four));
        return Sse.MaxScalar(two, Sse.Shuffle(two, two, 1)).ToScalar();   // no branch: it would be a guess in every line
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Mask(int n)
        => Vector256.GreaterThan(Vector256.Create(n), Vector256<int>.Indices).AsSingle();
}

/// <summary>One lane: any machine.</summary>
internal readonly unsafe struct Lanes1(float v) : ILanes<Lanes1>
{
    public readonly float V = v;
    public static int Count => 1;
    public static Lanes1 Zero => default;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes1 All(float value) => new(value);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes1 Load(float* p) => new(*p);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes1 LoadFirst(float* p, int n) => default;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes1 LoadBytes(byte* p) => new(*p);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes1 Load(ushort* p) => new(BitConverter.UInt32BitsToSingle((uint)*p << 16));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes1 LoadFirst(ushort* p, int n) => default;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Store(float* p) => *p = V;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void StoreFirst(float* p, int n) { }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Store(ushort* p)
    {
        uint u = BitConverter.SingleToUInt32Bits(V);
        *p = (ushort)((float.IsNaN(V) ? u | 0x0040_0000 : u + 0x7FFF + (u >> 16 & 1)) >> 16);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void StoreFirst(ushort* p, int n) { }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes1 operator +(Lanes1 a, Lanes1 b) => new(a.V + b.V);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes1 operator -(Lanes1 a, Lanes1 b) => new(a.V - b.V);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes1 operator *(Lanes1 a, Lanes1 b) => new(a.V * b.V);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes1 operator /(Lanes1 a, Lanes1 b) => new(a.V / b.V);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes1 MulAdd(Lanes1 a, Lanes1 b, Lanes1 c) => new(a.V * b.V + c.V);

    // As the vector instructions have it: the second operand if either is NaN.

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes1 Max(Lanes1 a, Lanes1 b) => a.V > b.V ? a : b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes1 Min(Lanes1 a, Lanes1 b) => a.V < b.V ? a : b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes1 Abs(Lanes1 a) => new(MathF.Abs(a.V));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes1 Sqrt(Lanes1 a) => new(MathF.Sqrt(a.V));

    public static Lanes1 Log(Lanes1 a) => new(MathF.Log(a.V));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes1 Reciprocal(Lanes1 a) => All(1f) / Min(All(1e30f), a);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes1 Round(Lanes1 a) => new(MathF.Round(a.V));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes1 PowerOfTwo(Lanes1 n) => new(BitConverter.Int32BitsToSingle(((int)n.V + 127) << 23));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes1 Scale(Lanes1 a, Lanes1 n) => a * PowerOfTwo(Max(All(-126f), n));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes1 CopySign(Lanes1 magnitude, Lanes1 sign) => new(MathF.CopySign(magnitude.V, sign.V));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes1 Where(Lanes1 a, Lanes1 b, Lanes1 yes, Lanes1 no) => a.V > b.V ? yes : no;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public float Sum() => V;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public float Largest() => V;
}

/// <summary>What the process may use.</summary>
internal static class Simd
{
    /// <summary>The widest level whose every instruction the lanes above need is there.</summary>
    public static SimdLevel Best
        => Vector512.IsHardwareAccelerated && Avx512F.IsSupported && Avx512BW.IsSupported && Avx512DQ.IsSupported ? SimdLevel.Vector512
        : Avx2.IsSupported && Fma.IsSupported ? SimdLevel.Vector256
        : SimdLevel.Scalar;

    /// <summary>
    /// Whether loops along rows do better to ask for lines ahead. Not on AMD's processors before Zen 5, which follow such loops by themselves and
    /// lose the track when asked for the same lines (Zen 4, asking and not: AdamW 88 and 103 % of its stream, LayerNorm 84 and 98 %, GELU's
    /// gradient 98 and 116 %).
    /// </summary>
    public static readonly bool AsksAhead = !IsAmdBefore(0x1A);

    private static bool IsAmdBefore(int family)
    {
        if (!X86Base.IsSupported || X86Base.CpuId(0, 0).Ebx != 0x6874_7541 /* "Auth", of AuthenticAMD */) return false;
        int eax = X86Base.CpuId(1, 0).Eax;
        return (eax >> 8 & 15) + (eax >> 20 & 255) < family;
    }
}
