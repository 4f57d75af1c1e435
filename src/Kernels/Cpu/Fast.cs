using System.Runtime.CompilerServices;

namespace MimEngine.Kernels.Cpu;

/// <summary>
/// FAST over bytes. For a pixel p on a circle of n pixels, with arcs of n/2 + 1:
/// brighter = max over arcs of (min of the arc) − p, darker = p − min over arcs of (max of the arc), value = the larger.
/// Neither extreme depends on p, so no difference is ever formed: saturated subtraction at the very end is exact for values above 0.
/// </summary>
internal static unsafe class Fast
{
    /// <summary>Pixels this close to the border are never corners, whatever the circle.</summary>
    public const int Border = 3;

    /// <summary>Zeros on both sides of a row of values, so that suppression reads neighbours and whole vectors without asking.</summary>
    public const int Pad = 64;

    /// <summary>Bytes of one padded row of values.</summary>
    public static int RowBytes(int width) => (width + 2 * Pad + 63) & ~63;

    /// <summary>Bytes that a band works in: three rows of values and, for two of them, where the vectors with corners begin.</summary>
    public static int BandBytes(int width, int lanes) => 3 * RowBytes(width) + 2 * ListBytes(width, lanes);

    /// <summary>Bytes of one list of vectors: two vectors of a row may overlap their neighbours.</summary>
    public static int ListBytes(int width, int lanes) => (sizeof(int) * (width / lanes + 3) + 63) & ~63;

    /// <summary>How an arc differs from its pixel.</summary>
    [Flags]
    public enum Corner { None, Bright, Dark, Either }

    /// <summary>What is looked at around a pixel.</summary>
    public interface ICircle
    {
        /// <summary>
        /// The corners that Count pixels from <paramref name="p"/> may hold, none missing. One opposite pair first, loaded where rows are aligned;
        /// where corners are <paramref name="few"/>, whatever else rejects most of the rest.
        /// </summary>
        static abstract Corner MayHold<TB>(byte* p, nint stride, TB threshold, bool few) where TB : struct, IByteLanes<TB>;

        /// <summary>Values of Count pixels from <paramref name="p"/>, 0 where value ≤ threshold: <paramref name="corners"/> only.</summary>
        static abstract TB Values<TB>(byte* p, nint stride, TB threshold, Corner corners) where TB : struct, IByteLanes<TB>;
    }

    /// <summary>9 of the 16 pixels at distance 3.</summary>
    public readonly struct Circle16 : ICircle
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static Corner MayHold<TB>(byte* p, nint stride, TB threshold, bool few) where TB : struct, IByteLanes<TB>
        {
            TB center = TB.Load(p), high = TB.Plus(center, threshold), low = TB.Minus(center, threshold);
            TB v0 = TB.Load(p + 3 * stride), v8 = TB.Load(p - 3 * stride), one = TB.Max(v0, v8), both = TB.Min(v0, v8);
            if (!TB.AnyAbove(one, high, low, both)) return Corner.None;
            // An arc of 9 ends on the pixel opposite its first: it holds one pixel at least of every pair, and both of one pair.
            Pair(ref one, ref both, p, 3);
            Pair(ref one, ref both, p, 2 * stride + 2);
            Pair(ref one, ref both, p, 2 * stride - 2);
            TB bright = one, dark = both;
            if (few)
            {
                // Beside a straight edge 8 pixels differ and no pair lies on one side of it: nearly all that passes all pairs is a corner.
                Pair(ref one, ref both, p, 3 * stride + 1);
                Pair(ref one, ref both, p, stride + 3);
                Pair(ref one, ref both, p, stride - 3);
                Pair(ref one, ref both, p, 3 * stride - 1);
                (bright, dark) = (TB.Min(one, both), TB.Max(one, both));
            }
            // One branch for most, and none between the two kinds: neither would be foreseen.
            if (!TB.AnyAbove(bright, high, low, dark)) return Corner.None;
            return (Corner)(Unsafe.BitCast<bool, byte>(TB.AnyAbove(bright, high)) | Unsafe.BitCast<bool, byte>(TB.AnyAbove(low, dark)) << 1);
        }

        /// <summary>
        /// One more pair of opposite pixels: <paramref name="one"/> is the least of the pairs' larger pixels, <paramref name="both"/> the largest of their
        /// smaller ones.
        /// </summary>
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static void Pair<TB>(ref TB one, ref TB both, byte* p, nint offset) where TB : struct, IByteLanes<TB>
        {
            TB a = TB.Load(p + offset), b = TB.Load(p - offset);
            (one, both) = (TB.Min(one, TB.Max(a, b)), TB.Max(both, TB.Min(a, b)));
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static TB Values<TB>(byte* p, nint stride, TB threshold, Corner corners) where TB : struct, IByteLanes<TB>
        {
            byte* u1 = p - stride, u2 = u1 - stride, u3 = u2 - stride, d1 = p + stride, d2 = d1 + stride, d3 = d2 + stride;
            // Saturated limits are exact: a byte beyond 255 or below 0 does not exist.
            TB center = TB.Load(p), high = TB.Plus(center, threshold), low = TB.Minus(center, threshold);
            TB v0 = TB.Load(d3), v8 = TB.Load(u3), v4 = TB.Load(p + 3), v12 = TB.Load(p - 3);
            TB v2 = TB.Load(d2 + 2), v10 = TB.Load(u2 - 2), v6 = TB.Load(u2 + 2), v14 = TB.Load(d2 - 2);
            TB v1 = TB.Load(d3 + 1), v3 = TB.Load(d1 + 3), v5 = TB.Load(u1 + 3), v7 = TB.Load(u3 + 1);
            TB v9 = TB.Load(u3 - 1), v11 = TB.Load(u1 - 3), v13 = TB.Load(d1 - 3), v15 = TB.Load(d3 - 1);
            TB value = TB.Zero;
            // Two arcs of 9 share the 8 pixels between their ends: max over both of the min = min(shared 8, max(end, end)).
            if ((corners & Corner.Bright) != 0)
            {
                TB bright = MaxOfMins(v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12, v13, v14, v15);
                value = TB.Keep(TB.Minus(bright, center), bright, high);
            }
            if ((corners & Corner.Dark) != 0)
            {
                TB dark = MinOfMaxs(v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12, v13, v14, v15);
                value = TB.Max(value, TB.Keep(TB.Minus(center, dark), low, dark));
            }
            return value;
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static TB MaxOfMins<TB>(TB v0, TB v1, TB v2, TB v3, TB v4, TB v5, TB v6, TB v7,
            TB v8, TB v9, TB v10, TB v11, TB v12, TB v13, TB v14, TB v15) where TB : struct, IByteLanes<TB>
        {
            TB a1 = TB.Min(v1, v2), a3 = TB.Min(v3, v4), a5 = TB.Min(v5, v6), a7 = TB.Min(v7, v8);
            TB a9 = TB.Min(v9, v10), a11 = TB.Min(v11, v12), a13 = TB.Min(v13, v14), a15 = TB.Min(v15, v0);
            TB b1 = TB.Min(a1, a3), b3 = TB.Min(a3, a5), b5 = TB.Min(a5, a7), b7 = TB.Min(a7, a9);
            TB b9 = TB.Min(a9, a11), b11 = TB.Min(a11, a13), b13 = TB.Min(a13, a15), b15 = TB.Min(a15, a1);
            TB best = TB.Min(TB.Min(b1, b5), TB.Max(v0, v9));
            best = TB.Max(best, TB.Min(TB.Min(b3, b7), TB.Max(v2, v11)));
            best = TB.Max(best, TB.Min(TB.Min(b5, b9), TB.Max(v4, v13)));
            best = TB.Max(best, TB.Min(TB.Min(b7, b11), TB.Max(v6, v15)));
            best = TB.Max(best, TB.Min(TB.Min(b9, b13), TB.Max(v8, v1)));
            best = TB.Max(best, TB.Min(TB.Min(b11, b15), TB.Max(v10, v3)));
            best = TB.Max(best, TB.Min(TB.Min(b13, b1), TB.Max(v12, v5)));
            return TB.Max(best, TB.Min(TB.Min(b15, b3), TB.Max(v14, v7)));
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static TB MinOfMaxs<TB>(TB v0, TB v1, TB v2, TB v3, TB v4, TB v5, TB v6, TB v7,
            TB v8, TB v9, TB v10, TB v11, TB v12, TB v13, TB v14, TB v15) where TB : struct, IByteLanes<TB>
        {
            TB a1 = TB.Max(v1, v2), a3 = TB.Max(v3, v4), a5 = TB.Max(v5, v6), a7 = TB.Max(v7, v8);
            TB a9 = TB.Max(v9, v10), a11 = TB.Max(v11, v12), a13 = TB.Max(v13, v14), a15 = TB.Max(v15, v0);
            TB b1 = TB.Max(a1, a3), b3 = TB.Max(a3, a5), b5 = TB.Max(a5, a7), b7 = TB.Max(a7, a9);
            TB b9 = TB.Max(a9, a11), b11 = TB.Max(a11, a13), b13 = TB.Max(a13, a15), b15 = TB.Max(a15, a1);
            TB best = TB.Max(TB.Max(b1, b5), TB.Min(v0, v9));
            best = TB.Min(best, TB.Max(TB.Max(b3, b7), TB.Min(v2, v11)));
            best = TB.Min(best, TB.Max(TB.Max(b5, b9), TB.Min(v4, v13)));
            best = TB.Min(best, TB.Max(TB.Max(b7, b11), TB.Min(v6, v15)));
            best = TB.Min(best, TB.Max(TB.Max(b9, b13), TB.Min(v8, v1)));
            best = TB.Min(best, TB.Max(TB.Max(b11, b15), TB.Min(v10, v3)));
            best = TB.Min(best, TB.Max(TB.Max(b13, b1), TB.Min(v12, v5)));
            return TB.Min(best, TB.Max(TB.Max(b15, b3), TB.Min(v14, v7)));
        }
    }

    /// <summary>7 of the 12 pixels at distance 2, and OpenCV's condition on pairs (see the contract).</summary>
    public readonly struct Circle12 : ICircle
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static Corner MayHold<TB>(byte* p, nint stride, TB threshold, bool few) where TB : struct, IByteLanes<TB>
        {
            TB center = TB.Load(p), v0 = TB.Load(p + 2 * stride), v6 = TB.Load(p - 2 * stride);
            return TB.AnyAbove(TB.Max(v0, v6), TB.Plus(center, threshold), TB.Minus(center, threshold), TB.Min(v0, v6)) ? Corner.Either : Corner.None;
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static TB Values<TB>(byte* p, nint stride, TB threshold, Corner corners) where TB : struct, IByteLanes<TB>
        {
            byte* u1 = p - stride, u2 = u1 - stride, d1 = p + stride, d2 = d1 + stride;
            TB center = TB.Load(p);
            TB v0 = TB.Load(d2), v6 = TB.Load(u2), v3 = TB.Load(p + 2), v9 = TB.Load(p - 2);
            TB bright = TB.Min(TB.Max(v0, v6), TB.Max(v3, v9)), dark = TB.Max(TB.Min(v0, v6), TB.Min(v3, v9));
            if (!Above(center, bright, dark, threshold).Any) return TB.Zero;
            TB v1 = TB.Load(d2 + 1), v2 = TB.Load(d1 + 2), v4 = TB.Load(u1 + 2), v5 = TB.Load(u2 + 1);
            TB v7 = TB.Load(u2 - 1), v8 = TB.Load(u1 - 2), v10 = TB.Load(d1 - 2), v11 = TB.Load(d2 - 1);
            // Pairs (k, k + 8 mod 12), k of 0 to 7.
            TB allBright = TB.Min(TB.Min(TB.Min(TB.Max(v0, v8), TB.Max(v2, v10)), TB.Min(TB.Max(v4, v0), TB.Max(v6, v2))),
                TB.Min(TB.Min(TB.Max(v1, v9), TB.Max(v3, v11)), TB.Min(TB.Max(v5, v1), TB.Max(v7, v3))));
            TB allDark = TB.Max(TB.Max(TB.Max(TB.Min(v0, v8), TB.Min(v2, v10)), TB.Max(TB.Min(v4, v0), TB.Min(v6, v2))),
                TB.Max(TB.Max(TB.Min(v1, v9), TB.Min(v3, v11)), TB.Max(TB.Min(v5, v1), TB.Min(v7, v3))));
            if (!Above(center, allBright, allDark, threshold).Any) return TB.Zero;
            TB a1 = TB.Min(v1, v2), a3 = TB.Min(v3, v4), a5 = TB.Min(v5, v6), a7 = TB.Min(v7, v8), a9 = TB.Min(v9, v10), a11 = TB.Min(v11, v0);
            bright = TB.Min(TB.Min(TB.Min(a1, a3), a5), TB.Max(v0, v7));
            bright = TB.Max(bright, TB.Min(TB.Min(TB.Min(a3, a5), a7), TB.Max(v2, v9)));
            bright = TB.Max(bright, TB.Min(TB.Min(TB.Min(a5, a7), a9), TB.Max(v4, v11)));
            bright = TB.Max(bright, TB.Min(TB.Min(TB.Min(a7, a9), a11), TB.Max(v6, v1)));
            bright = TB.Max(bright, TB.Min(TB.Min(TB.Min(a9, a11), a1), TB.Max(v8, v3)));
            bright = TB.Max(bright, TB.Min(TB.Min(TB.Min(a11, a1), a3), TB.Max(v10, v5)));
            a1 = TB.Max(v1, v2); a3 = TB.Max(v3, v4); a5 = TB.Max(v5, v6); a7 = TB.Max(v7, v8); a9 = TB.Max(v9, v10); a11 = TB.Max(v11, v0);
            dark = TB.Max(TB.Max(TB.Max(a1, a3), a5), TB.Min(v0, v7));
            dark = TB.Min(dark, TB.Max(TB.Max(TB.Max(a3, a5), a7), TB.Min(v2, v9)));
            dark = TB.Min(dark, TB.Max(TB.Max(TB.Max(a5, a7), a9), TB.Min(v4, v11)));
            dark = TB.Min(dark, TB.Max(TB.Max(TB.Max(a7, a9), a11), TB.Min(v6, v1)));
            dark = TB.Min(dark, TB.Max(TB.Max(TB.Max(a9, a11), a1), TB.Min(v8, v3)));
            dark = TB.Min(dark, TB.Max(TB.Max(TB.Max(a11, a1), a3), TB.Min(v10, v5)));
            return Above(center, bright, dark, allBright, allDark, threshold);
        }
    }

    /// <summary>5 of the 8 pixels at distance 1, and OpenCV's condition: all 8 (see the contract).</summary>
    public readonly struct Circle8 : ICircle
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static Corner MayHold<TB>(byte* p, nint stride, TB threshold, bool few) where TB : struct, IByteLanes<TB>
        {
            TB center = TB.Load(p), v0 = TB.Load(p + stride), v4 = TB.Load(p - stride);
            return TB.AnyAbove(TB.Min(v0, v4), TB.Plus(center, threshold), TB.Minus(center, threshold), TB.Max(v0, v4)) ? Corner.Either : Corner.None;
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static TB Values<TB>(byte* p, nint stride, TB threshold, Corner corners) where TB : struct, IByteLanes<TB>
        {
            byte* up = p - stride, down = p + stride;
            TB center = TB.Load(p);
            TB v0 = TB.Load(down), v4 = TB.Load(up), v2 = TB.Load(p + 1), v6 = TB.Load(p - 1);
            TB allBright = TB.Min(TB.Min(v0, v4), TB.Min(v2, v6)), allDark = TB.Max(TB.Max(v0, v4), TB.Max(v2, v6));
            if (!Above(center, allBright, allDark, threshold).Any) return TB.Zero;
            TB v1 = TB.Load(down + 1), v3 = TB.Load(up + 1), v5 = TB.Load(up - 1), v7 = TB.Load(down - 1);
            allBright = TB.Min(allBright, TB.Min(TB.Min(v1, v3), TB.Min(v5, v7)));
            allDark = TB.Max(allDark, TB.Max(TB.Max(v1, v3), TB.Max(v5, v7)));
            if (!Above(center, allBright, allDark, threshold).Any) return TB.Zero;
            TB a1 = TB.Min(v1, v2), a3 = TB.Min(v3, v4), a5 = TB.Min(v5, v6), a7 = TB.Min(v7, v0);
            TB bright = TB.Min(TB.Min(a1, a3), TB.Max(v0, v5));
            bright = TB.Max(bright, TB.Min(TB.Min(a3, a5), TB.Max(v2, v7)));
            bright = TB.Max(bright, TB.Min(TB.Min(a5, a7), TB.Max(v4, v1)));
            bright = TB.Max(bright, TB.Min(TB.Min(a7, a1), TB.Max(v6, v3)));
            a1 = TB.Max(v1, v2); a3 = TB.Max(v3, v4); a5 = TB.Max(v5, v6); a7 = TB.Max(v7, v0);
            TB dark = TB.Max(TB.Max(a1, a3), TB.Min(v0, v5));
            dark = TB.Min(dark, TB.Max(TB.Max(a3, a5), TB.Min(v2, v7)));
            dark = TB.Min(dark, TB.Max(TB.Max(a5, a7), TB.Min(v4, v1)));
            dark = TB.Min(dark, TB.Max(TB.Max(a7, a1), TB.Min(v6, v3)));
            return Above(center, bright, dark, allBright, allDark, threshold);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TB Above<TB>(TB center, TB bright, TB dark, TB threshold) where TB : struct, IByteLanes<TB>
    {
        TB value = TB.Max(TB.Minus(bright, center), TB.Minus(center, dark));
        return TB.Keep(value, value, threshold);
    }

    /// <summary>The same where the pixels that must differ do: the smaller circles' second condition.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TB Above<TB>(TB center, TB bright, TB dark, TB allBright, TB allDark, TB threshold) where TB : struct, IByteLanes<TB>
        => TB.Max(TB.Keep(TB.Minus(bright, center), TB.Minus(TB.Min(allBright, bright), center), threshold),
            TB.Keep(TB.Minus(center, dark), TB.Minus(center, TB.Max(allDark, dark)), threshold));

    /// <summary>Writes the values of a row between its borders and lists where vectors that hold corners begin; returns their number.</summary>
    /// <remarks>The first and the last vector overlap their neighbours: nothing outside the picture is read, and those between lie aligned.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]   // a profile of one picture moves the loop's blocks: a third slower on others
    public static int Row<TB, TCircle>(byte* values, int* corners, byte* gray, int width, byte threshold, bool few)
        where TB : struct, IByteLanes<TB> where TCircle : struct, ICircle
    {
        TB limit = TB.All(threshold);
        int count = 0, last = width - Border - TB.Count;
        for (int x = Border; ; x = Math.Min((x + TB.Count) & -TB.Count, last))
        {
            Corner held = TCircle.MayHold(gray + x, width, limit, few);
            if (held == Corner.None) TB.Zero.Store(values + x);
            else if (Corners<TB, TCircle>(values + x, gray + x, width, limit, held)) corners[count++] = x;
            if (x == last) return count;
        }
    }

    // Its own method: the loop around it stays in registers.
    [MethodImpl(MethodImplOptions.NoInlining | MethodImplOptions.AggressiveOptimization)]
    private static bool Corners<TB, TCircle>(byte* values, byte* p, nint stride, TB threshold, Corner corners)
        where TB : struct, IByteLanes<TB> where TCircle : struct, ICircle
    {
        TB v = TCircle.Values(p, stride, threshold, corners);
        v.Store(values);
        return v.Any;
    }

    /// <summary>Keeps what is strictly larger than its eight neighbours, in the listed vectors; rows are padded.</summary>
    public static void Suppress<TB>(byte* kept, byte* above, byte* row, byte* below, int* corners, int count) where TB : struct, IByteLanes<TB>
    {
        for (int i = 0; i < count; i++)
        {
            int x = corners[i];
            SuppressAt<TB>(kept + x, above + x, row + x, below + x);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void SuppressAt<TB>(byte* kept, byte* above, byte* row, byte* below) where TB : struct, IByteLanes<TB>
    {
        TB v = TB.Load(row);
        TB most = TB.Max(TB.Max(TB.Load(row - 1), TB.Load(row + 1)), TB.Max(TB.Load(above), TB.Load(below)));
        most = TB.Max(most, TB.Max(TB.Max(TB.Load(above - 1), TB.Load(above + 1)), TB.Max(TB.Load(below - 1), TB.Load(below + 1))));
        TB.Keep(v, v, most).Store(kept);
    }
}

/// <summary>One band of rows of one picture: values row by row, suppression one row behind.</summary>
internal readonly unsafe struct FastBands<TB, TCircle>(byte* keypoints, byte* gray, byte* scratch, int height, int width, int bandRows,
    int bands, byte threshold, bool suppress) : IRowKernel where TB : struct, IByteLanes<TB> where TCircle : struct, Fast.ICircle
{
    [MethodImpl(MethodImplOptions.NoInlining)]
    public void Run(int first, int last, int chunk)
    {
        for (int unit = first; unit < last; unit++)
        {
            nint image = (nint)(unit / bands) * height * width;
            int top = unit % bands * bandRows, bottom = Math.Min(height, top + bandRows);
            byte* rows = scratch + (nint)unit * Fast.BandBytes(width, TB.Count);
            int* list = (int*)(rows + 3 * Fast.RowBytes(width));
            if (suppress) Suppressed(keypoints + image, gray + image, top, bottom, rows, list);
            else
                for (int y = top, count = 0; y < bottom; y++) count = Values(keypoints + image + (nint)y * width, list, gray + image, y, count);
        }
    }

    /// <summary>One row of values, zero where no circle fits; how many vectors hold corners, listed.</summary>
    /// <param name="above">How many do in the row above: a guess only, the values do not depend on it.</param>
    private int Values(byte* row, int* corners, byte* picture, int y, int above)
    {
        if (width - 2 * Fast.Border >= TB.Count && y >= Fast.Border && y < height - Fast.Border)
        {
            for (int x = 0; x < Fast.Border; x++) row[x] = row[width - 1 - x] = 0;
            // Where every third vector holds corners all pairs reject too few to pay for themselves, and a single lane is evaluated as fast.
            bool few = TB.Count > 1 && 3 * TB.Count * above < width;
            return Fast.Row<TB, TCircle>(row, corners, picture + (nint)y * width, width, threshold, few);
        }
        Unsafe.InitBlockUnaligned(row, 0, (uint)width);
        return 0;
    }

    private void Suppressed(byte* kept, byte* picture, int top, int bottom, byte* rows, int* list)
    {
        int bytes = Fast.RowBytes(width);
        for (int i = 0; i < 3; i++)
        {
            Unsafe.InitBlockUnaligned(rows + i * bytes, 0, Fast.Pad);
            Unsafe.InitBlockUnaligned(rows + i * bytes + Fast.Pad + width, 0, (uint)(bytes - Fast.Pad - width));
        }
        byte* above = rows + Fast.Pad, row = above + bytes, below = row + bytes;
        int* corners = list, cornersBelow = (int*)((byte*)list + Fast.ListBytes(width, TB.Count));
        int count = Values(row, corners, picture, top, Values(above, corners, picture, top - 1, 0));
        for (int y = top; y < bottom; y++)
        {
            int countBelow = Values(below, cornersBelow, picture, y + 1, count);
            byte* line = kept + (nint)y * width;
            Unsafe.InitBlockUnaligned(line, 0, (uint)width);
            Fast.Suppress<TB>(line, above, row, below, corners, count);
            byte* oldestRow = above;
            above = row;
            row = below;
            below = oldestRow;
            int* oldest = corners;
            corners = cornersBelow;
            cornersBelow = oldest;
            count = countBelow;
        }
    }
}
