using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace MimEngine.Kernels.Cpu;

/// <summary>Moves the rows of one head between the (B, N, 3·C) tensor and scratch.</summary>
internal static unsafe class HeadRows<TV> where TV : struct, ILanes<TV>
{
    /// <summary>to[r, d] = scale·from[r, d].</summary>
    public static void Gather<TE>(float* to, int stride, void* from, int row, int rows, int depth, float scale) where TE : struct, IElement
    {
        for (int r = 0; r < rows; r++)
            Lines<TV>.Scale<F32Element, TE>(to + (long)r * stride, TE.At(from, (nint)r * row), scale, accumulate: false, depth);
    }

    /// <summary>to[d, r] = from[r, d], columns past the rows 0. Blocks of 4×4 where the processor has the shuffles.</summary>
    public static void Transpose<TE>(float* to, int stride, void* from, int row, int rows, int depth) where TE : struct, IElement
    {
        int r = 0;
        for (; Sse.IsSupported && r <= rows - 4; r += 4)
        {
            void* p0 = TE.At(from, (nint)r * row), p1 = TE.At(p0, row), p2 = TE.At(p1, row), p3 = TE.At(p2, row);
            int d = 0;
            for (; d <= depth - 4; d += 4)
            {
                Vector128<float> a = TE.Load4(p0, d), b = TE.Load4(p1, d);
                Vector128<float> c = TE.Load4(p2, d), e = TE.Load4(p3, d);
                Vector128<float> ab = Sse.UnpackLow(a, b), ce = Sse.UnpackLow(c, e), ba = Sse.UnpackHigh(a, b), ec = Sse.UnpackHigh(c, e);
                float* at = to + (long)d * stride + r;
                Sse.MoveLowToHigh(ab, ce).Store(at);
                Sse.MoveHighToLow(ce, ab).Store(at + stride);
                Sse.MoveLowToHigh(ba, ec).Store(at + 2 * stride);
                Sse.MoveHighToLow(ec, ba).Store(at + 3 * stride);
            }
            for (; d < depth; d++)
            {
                float* at = to + (long)d * stride + r;
                (at[0], at[1], at[2], at[3]) = (TE.Get(p0, d), TE.Get(p1, d), TE.Get(p2, d), TE.Get(p3, d));
            }
        }
        for (; r < rows; r++)
            for (int d = 0; d < depth; d++) to[(long)d * stride + r] = TE.Get(from, (nint)r * row + d);
        for (int d = 0; d < depth; d++)
            for (int pad = rows; pad < stride; pad++) to[(long)d * stride + pad] = 0f;
    }
}
