using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace MimEngine.Kernels.Cpu;

/// <summary>What attention does with a single query: its scores are one line, a number a key.</summary>
internal static unsafe class AttentionRows<TV> where TV : struct, ILanes<TV>
{
    /// <summary>to[r] = Σ_d a[r, d]·b[r, d]. A stride of 0 repeats a row.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    public static void Dots<TE>(float* to, void* a, nint aRow, void* b, nint bRow, int rows, int depth) where TE : struct, IElement
    {
        int r = 0;
        if (TV.Count == 16 && depth % 16 == 0)
            for (; r <= rows - 16; r += 16) Sixteen<TE>(TE.At(a, r * aRow), aRow, TE.At(b, r * bRow), bRow, depth).Store(to + r);
        for (; r < rows; r++) to[r] = Lines<TV>.Dot<TE>(TE.At(a, r * aRow), TE.At(b, r * bRow), depth);
    }

    /// <summary>Sixteen dot products: their lanes are summed as pairs of rows, pairs of pairs, then the 128-bit lanes twice.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Sixteen<TE>(void* a, nint aRow, void* b, nint bRow, int depth) where TE : struct, IElement
    {
        Vector512<float> q0 = Four<TE>(a, aRow, b, bRow, depth), q1 = Four<TE>(TE.At(a, 4 * aRow), aRow, TE.At(b, 4 * bRow), bRow, depth);
        Vector512<float> q2 = Four<TE>(TE.At(a, 8 * aRow), aRow, TE.At(b, 8 * bRow), bRow, depth);
        Vector512<float> q3 = Four<TE>(TE.At(a, 12 * aRow), aRow, TE.At(b, 12 * bRow), bRow, depth);
        Vector512<float> x = Avx512F.Shuffle4x128(q0, q1, 0x88) + Avx512F.Shuffle4x128(q0, q1, 0xDD);
        Vector512<float> y = Avx512F.Shuffle4x128(q2, q3, 0x88) + Avx512F.Shuffle4x128(q2, q3, 0xDD);
        return Avx512F.Shuffle4x128(x, y, 0x88) + Avx512F.Shuffle4x128(x, y, 0xDD);
    }

    /// <summary>Four of them, in each 128-bit lane the sums of that lane.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Four<TE>(void* a, nint aRow, void* b, nint bRow, int depth) where TE : struct, IElement
    {
        Vector512<float> s0 = default, s1 = default, s2 = default, s3 = default;
        for (int d = 0; d < depth; d += 16)
        {
            s0 = Avx512F.FusedMultiplyAdd(TE.Load<Lanes16>(a, d).V, TE.Load<Lanes16>(b, d).V, s0);
            s1 = Avx512F.FusedMultiplyAdd(TE.Load<Lanes16>(a, aRow + d).V, TE.Load<Lanes16>(b, bRow + d).V, s1);
            s2 = Avx512F.FusedMultiplyAdd(TE.Load<Lanes16>(a, 2 * aRow + d).V, TE.Load<Lanes16>(b, 2 * bRow + d).V, s2);
            s3 = Avx512F.FusedMultiplyAdd(TE.Load<Lanes16>(a, 3 * aRow + d).V, TE.Load<Lanes16>(b, 3 * bRow + d).V, s3);
        }
        Vector512<double> p = (Avx512F.UnpackLow(s0, s1) + Avx512F.UnpackHigh(s0, s1)).AsDouble();
        Vector512<double> q = (Avx512F.UnpackLow(s2, s3) + Avx512F.UnpackHigh(s2, s3)).AsDouble();
        return Avx512F.UnpackLow(p, q).AsSingle() + Avx512F.UnpackHigh(p, q).AsSingle();
    }

    /// <summary>Scores become exp(logit − max); returns 1 / Σ of them and ln Σ exp(logit).</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    public static (float Inverse, float Lse) Softmax(float* s, int keys, float binaryScale)
    {
        float largest = binaryScale * Lines<TV>.Largest(s, keys);
        TV scale = TV.All(binaryScale), low = TV.All(-largest);
        for (int j = 0; j < keys; j += TV.Count)
            Lines<TV>.Store(VectorMath.Exp2(TV.MulAdd(scale, Lines<TV>.Load(s + j, keys - j), low)), s + j, keys - j);
        float sum = Lines<TV>.Sum(s, keys);
        return (1f / sum, largest * AttentionCut.Ln2 + MathF.Log(sum));
    }

    /// <summary>Scores become p = exp(logit − lse), dp becomes ds = p·(dp − δ).</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    public static void Slopes(float* s, float* dp, int keys, float binaryScale, float lse, float delta)
    {
        TV scale = TV.All(binaryScale), low = TV.All(-lse * AttentionCut.Log2E), shift = TV.All(delta);
        for (int j = 0; j < keys; j += TV.Count)
        {
            TV p = VectorMath.Exp2(TV.MulAdd(scale, Lines<TV>.Load(s + j, keys - j), low));
            Lines<TV>.Store(p, s + j, keys - j);
            Lines<TV>.Store(p * (Lines<TV>.Load(dp + j, keys - j) - shift), dp + j, keys - j);
        }
    }
}
