using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace MimEngine.Kernels.Cpu;

/// <summary>Moves the rows of one head between the (B, N, 3·C) tensor and scratch.</summary>
internal static unsafe class HeadRows<TV> where TV : struct, ILanes<TV>
{
    /// <summary>to[r, d] = from[r, d].</summary>
    public static void Gather<TE>(float* to, int stride, void* from, int row, int rows, int depth) where TE : struct, IElement
    {
        int whole = depth / TV.Count * TV.Count, rest = depth - whole;
        for (int r = 0; r < rows; r++, to += stride, from = TE.At(from, row))
        {
            for (int d = 0; d < whole; d += TV.Count) TE.Load<TV>(from, d).Store(to + d);
            if (rest > 0) TE.LoadFirst<TV>(from, whole, rest).StoreFirst(to + whole, rest);
        }
    }

    /// <summary>
    /// Rows as an operand of a product: where they are, if they are float32, else gathered into the copy.
    /// </summary>
    /// <param name="wide">They are read in whole vectors, so that rows which do not end with one have to be copied too.</param>
    public static float* Operand<TE>(float* copy, int stride, void* from, int row, int rows, int depth, bool wide, out int operandRow) where TE : struct, IElement
    {
        if (typeof(TE) == typeof(F32Element) && (!wide || depth % TV.Count == 0))
        {
            operandRow = row;
            return (float*)from;
        }
        Gather<TE>(copy, stride, from, row, rows, depth);
        operandRow = stride;
        return copy;
    }

    /// <summary>to[r, d] = scale·from[r, d], or with scales each row by its own; added where it is accumulated.</summary>
    public static void Spread<TE>(void* to, int row, float* from, int stride, int rows, int depth, float scale, float* scales, bool accumulate)
        where TE : struct, IElement
    {
        int whole = depth / TV.Count * TV.Count, rest = depth - whole;
        TV s = TV.All(scale);
        for (int r = 0; r < rows; r++, from += stride, to = TE.At(to, row))
        {
            if (scales != null) s = TV.All(scales[r]);
            if (accumulate)
            {
                for (int d = 0; d < whole; d += TV.Count) TE.Store(TV.MulAdd(s, TV.Load(from + d), TE.Load<TV>(to, d)), to, d);
                if (rest > 0) TE.StoreFirst(TV.MulAdd(s, TV.LoadFirst(from + whole, rest), TE.LoadFirst<TV>(to, whole, rest)), to, whole, rest);
                continue;
            }
            for (int d = 0; d < whole; d += TV.Count) TE.Store(s * TV.Load(from + d), to, d);
            if (rest > 0) TE.StoreFirst(s * TV.LoadFirst(from + whole, rest), to, whole, rest);
        }
    }

    /// <summary>to[d, r] = from[r, d], columns past the rows 0 up to a whole vector. Blocks of 16×16 or 4×4 where the processor has the shuffles.</summary>
    public static void Transpose<TE>(float* to, int stride, void* from, int row, int rows, int depth) where TE : struct, IElement
    {
        int padded = Math.Min(stride, (rows + TV.Count - 1) / TV.Count * TV.Count);
        for (int d = 0; d < depth && padded > rows; d++) new Span<float>(to + (nint)d * stride + rows, padded - rows).Clear();
        if (typeof(TE) == typeof(F32Element) && TV.Count == 16)
        {
            GemmPack.Transpose(to, stride, (float*)from, row, rows, depth);
            return;
        }
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
    }
}
