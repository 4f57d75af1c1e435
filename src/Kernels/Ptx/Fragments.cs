namespace MimEngine.Kernels.Ptx;

/// <summary>
/// Warp-wide products m16n8k16 of bfloat16 with float32 sums, and how their operands come out of shared memory. Lane l holds of the
/// result rows l/4 and l/4 + 8, columns 2·(l mod 4) and the next.
/// </summary>
internal static class Fragments
{
    /// <summary>d += a·b.</summary>
    public static void Multiply(PtxText t, string[] d, string[] a, string b0, string b1)
        => t.Op($"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {{{d[0]}, {d[1]}, {d[2]}, {d[3]}}}, {{{a[0]}, {a[1]}, {a[2]}, {a[3]}}}, "
            + $"{{{b0}, {b1}}}, {{{d[0]}, {d[1]}, {d[2]}, {d[3]}}}");

    /// <summary>Four 8 × 8 tiles; each lane names a row of one of them.</summary>
    public static string[] Load(PtxText t, string address, int offset, bool transposed)
    {
        string[] r = t.B32(4);
        t.Op($"ldmatrix.sync.aligned.m8n8.x4.{(transposed ? "trans." : "")}shared.b16 {{{r[0]}, {r[1]}, {r[2]}, {r[3]}}}, [{address}+{offset}]");
        return r;
    }

    /// <summary>Two float32 as a pair of bfloat16, nearest even; the first in the low half.</summary>
    public static string Pack(PtxText t, string low, string high) => t.Int("cvt.rn.bf16x2.f32", high, low);

    /// <summary>The low or high bfloat16 of a pair as float32.</summary>
    public static string Unpack(PtxText t, string pair, bool high)
        => t.Float("mov.b32", high ? t.Int("and.b32", pair, 0xFFFF0000u) : t.Int("shl.b32", pair, 16));
}

/// <summary>
/// A tile of a bfloat16 matrix in shared memory, line by line, its 16-byte chunks swizzled so that eight lines of one chunk lie in eight
/// different sets of banks.
/// </summary>
/// <param name="Rows">Extent along m (or n), the axis of the result.</param>
/// <param name="Depth">Extent along k, the summed axis.</param>
/// <param name="AlongDepth">Lines are rows, neighbours in memory are along k; otherwise lines are along m.</param>
internal readonly record struct MatrixTile(int Rows, int Depth, bool AlongDepth)
{
    public int Lines => AlongDepth ? Rows : Depth;
    public int Chunks => (AlongDepth ? Depth : Rows) / 8;
    public int LineBytes => Chunks * 16;
    public int Bytes => Lines * LineBytes;

    /// <summary>Byte of (line, chunk), both in registers.</summary>
    public string At(PtxText t, string line, string chunk)
    {
        string swizzled = Chunks >= 8 ? t.Int("and.b32", line, 7) : t.Int("and.b32", t.Int("shr.u32", line, 1), Chunks - 1);
        return t.Int("mad.lo.u32", line, LineBytes, t.Int("shl.b32", t.Int("xor.b32", chunk, swizzled), 4));
    }

    /// <summary>
    /// Addresses from which this lane loads: one a step of 16 along k where lines are rows, else one a 16 along m; what is left is
    /// <see cref="Immediate"/>.
    /// </summary>
    /// <param name="first">First row of the warp in the tile, a multiple of 16, in a register.</param>
    /// <param name="rowsOfWarp">Rows the warp reads.</param>
    /// <param name="right">The operand is b: lanes 8–15 name the second half of k, 16–31 the next eight columns; for a the other way round.</param>
    public string[] Lanes(PtxText t, string lane, string first, int rowsOfWarp, bool right)
    {
        string low = t.Int("and.b32", lane, 7), bit3 = t.Int("and.b32", t.Int("shr.u32", lane, 3), 1), bit4 = t.Int("shr.u32", lane, 4);
        (string rowBit, string depthBit) = right ? (bit4, bit3) : (bit3, bit4);
        List<string> all = [];
        if (AlongDepth)
        {
            string line = t.Int("add.u32", first, t.Int("mad.lo.u32", rowBit, 8, low));
            for (int k = 0; k < Depth; k += 16) all.Add(At(t, line, t.Int("add.u32", depthBit, k / 8)));
        }
        else
        {
            string line = t.Int("mad.lo.u32", depthBit, 8, low), chunk = t.Int("add.u32", t.Int("shr.u32", first, 3), rowBit);
            for (int m = 0; m < rowsOfWarp; m += 16) all.Add(At(t, line, t.Int("add.u32", chunk, m / 8)));
        }
        return [.. all];
    }

    /// <summary>Which of <see cref="Lanes"/> serves rows m … m + 15, depth k … k + 15, and the constant that is added to it.</summary>
    public (int Lane, int Offset) Immediate(int m, int k) => AlongDepth ? (k / 16, m * LineBytes) : (m / 16, k * LineBytes);

    /// <summary>Four 8 × 8 tiles for rows m … m + 15, depth k … k + 15: the registers of a, or (b0, b1) of two tiles of b.</summary>
    public string[] Load(PtxText t, string[] lanes, int m, int k)
    {
        (int lane, int offset) = Immediate(m, k);
        return Fragments.Load(t, lanes[lane], offset, !AlongDepth);
    }
}
