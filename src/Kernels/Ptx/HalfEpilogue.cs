namespace MimEngine.Kernels.Ptx;

/// <summary>
/// Results as bfloat16, 16 bytes an access. The four lanes of a quad hold four pairs of a row of each 8 × 8 tile; of four tiles side by side each
/// lane takes one whole row, by a transposition within the quad, so that a warp writes eight runs of 64 bytes and not of 16.
/// </summary>
internal abstract class HalfEpilogue : GemmEpilogue
{
    private string _oddLane = "", _upperHalf = "";

    /// <summary>First column of the tile whose rows this lane reads and writes, of the four tiles at the warp's first column.</summary>
    protected string TileColumn { get; private set; } = "";

    public sealed override void Store(PtxText t, string[][][] sums, string row, string col, string rows, string cols, string slice)
    {
        if (sums[0].Length % 4 != 0) throw new ArgumentException($"{sums[0].Length} tiles side by side are no multiple of four.");
        // col is a multiple of 8 and twice the lane's place in its quad; three times that further begins the tile of that number.
        string twice = t.Int("and.b32", col, 7);
        TileColumn = t.Int("mad.lo.u32", twice, 3, col);
        _oddLane = t.Test("setp.ne.u32", t.Int("and.b32", twice, 2), 0);
        _upperHalf = t.Test("setp.ne.u32", t.Int("and.b32", twice, 4), 0);
        RowPlace[] places = Places(t, sums, row, col, rows, cols, slice);
        for (int j = 0; j < sums[0].Length; j += 4)
        {
            string inside = t.Test("setp.lt.u32", t.Int("add.u32", TileColumn, 8 * j), cols);
            string[][] columns = [.. Enumerable.Range(j, 4).Select(tile => Columns(t, tile, t.Test("setp.lt.u32", t.Int("add.u32", col, 8 * tile), cols)))];
            for (int r = 0; r < places.Length; r++)
            {
                int half = r % 2 * 2;
                string[][] pairs = [.. Enumerable.Range(j, 4).Select(tile => new[] { sums[r / 2][tile][half], sums[r / 2][tile][half + 1] })];
                Four(t, places[r], t.Test("and.pred", places[r].Inside, inside), 16 * j, pairs, columns);
            }
        }
    }

    /// <summary>What the epilogue needs of two neighbouring columns.</summary>
    protected virtual string[] Columns(PtxText t, int tile, string inside) => [];

    /// <summary>Finishes one row of four tiles.</summary>
    /// <param name="here">Whether this lane's tile and row exist.</param>
    /// <param name="offset">Bytes from the row's place to the tile's row.</param>
    protected abstract void Four(PtxText t, RowPlace row, string here, int offset, string[][] pairs, string[][] columns);

    /// <summary>The pairs of four tiles that lie at an address as rows; zeros where they are not to be read.</summary>
    protected string[] Load(PtxText t, string from, int offset, string here, bool constant)
    {
        string[] four = [.. Enumerable.Range(0, 4).Select(_ => t.Int("mov.u32", 0))];
        t.Op($"@{here} ld.global{(constant ? ".nc" : "")}.v4.b32 {{{string.Join(", ", four)}}}, [{from}+{offset}]");
        return Transpose(t, four);
    }

    protected void Store(PtxText t, string to, int offset, string here, string[] pairs)
        => t.Op($"@{here} st.global.v4.b32 [{to}+{offset}], {{{string.Join(", ", Transpose(t, pairs))}}}");

    /// <summary>Register i of lane q of a quad becomes register q of lane i; done twice it is undone.</summary>
    private string[] Transpose(PtxText t, string[] four)
    {
        string[] r = [.. four];
        foreach ((int distance, string upper) in new[] { (1, _oddLane), (2, _upperHalf) })
            foreach (int low in distance == 1 ? new[] { 0, 2 } : [0, 1])
            {
                int high = low + distance;
                string sent = t.Int("selp.b32", r[low], r[high], upper);
                string got = t.Int("shfl.sync.bfly.b32", sent, distance, 31, "0xffffffff");
                (r[low], r[high]) = (t.Int("selp.b32", got, r[low], upper), t.Int("selp.b32", r[high], got, upper));
            }
        return r;
    }
}

/// <summary>y = sum + bias as bfloat16, or y += sum + bias.</summary>
internal sealed class StoreHalf : HalfEpilogue
{
    private string _y = "", _bias = "", _accumulate = "";

    public override void Parameters(PtxText t)
        => (_y, _bias, _accumulate) = (t.Parameter("y", "u64"), t.Parameter("bias", "u64"), t.Parameter("accumulate", "u32"));

    protected override void Begin(PtxText t, string rows, string slice) => _accumulate = t.Test("setp.ne.u32", _accumulate, 0);

    protected override RowPlace Row(PtxText t, string row, string inside) => new(inside, Address(t, _y, row, TileColumn, 2));

    protected override string[] Columns(PtxText t, int tile, string inside) => Columns(t, _bias, tile, inside, 0f);

    protected override void Four(PtxText t, RowPlace row, string here, int offset, string[][] pairs, string[][] columns)
    {
        string[] old = [.. Enumerable.Range(0, 4).Select(_ => t.Int("mov.u32", 0))];
        string written = t.NewLabel("written");
        t.Op($"@!{_accumulate} bra.uni {written}");
        string[] there = Load(t, row.At, offset, here, constant: false);
        for (int i = 0; i < 4; i++) t.Op($"mov.b32 {old[i]}, {there[i]}");
        t.Label(written);
        Store(t, row.At, offset, here, [.. old.Select((o, i) => Fragments.Pack(t,
            t.Float("add.f32", t.Float("add.f32", pairs[i][0], columns[i][0]), Fragments.Unpack(t, o, high: false)),
            t.Float("add.f32", t.Float("add.f32", pairs[i][1], columns[i][1]), Fragments.Unpack(t, o, high: true))))]);
    }
}

/// <summary>h = sum + bias and y = GELU(h), both bfloat16.</summary>
internal sealed class StoreGelu : HalfEpilogue
{
    private string _y = "", _h = "", _bias = "";

    public override void Parameters(PtxText t) => (_y, _h, _bias) = (t.Parameter("y", "u64"), t.Parameter("h", "u64"), t.Parameter("bias", "u64"));

    protected override RowPlace Row(PtxText t, string row, string inside)
        => new(inside, Address(t, _y, row, TileColumn, 2), Address(t, _h, row, TileColumn, 2));

    protected override string[] Columns(PtxText t, int tile, string inside) => Columns(t, _bias, tile, inside, 0f);

    protected override void Four(PtxText t, RowPlace row, string here, int offset, string[][] pairs, string[][] columns)
    {
        string[][] sums = [.. pairs.Select((p, i) => new[] { t.Float("add.f32", p[0], columns[i][0]), t.Float("add.f32", p[1], columns[i][1]) })];
        Store(t, row.From, offset, here, [.. sums.Select(s => Fragments.Pack(t, s[0], s[1]))]);
        Store(t, row.At, offset, here, [.. sums.Select(s => Fragments.Pack(t, PtxMath.Gelu(t, s[0]), PtxMath.Gelu(t, s[1])))]);
    }
}

/// <summary>dh = sum·GELU′(h), both bfloat16.</summary>
internal sealed class StoreSlope : HalfEpilogue
{
    private string _dh = "", _h = "";

    public override void Parameters(PtxText t) => (_dh, _h) = (t.Parameter("dh", "u64"), t.Parameter("h", "u64"));

    protected override RowPlace Row(PtxText t, string row, string inside)
        => new(inside, Address(t, _dh, row, TileColumn, 2), Address(t, _h, row, TileColumn, 2));

    protected override void Four(PtxText t, RowPlace row, string here, int offset, string[][] pairs, string[][] columns)
    {
        string[] h = Load(t, row.From, offset, here, constant: true);
        Store(t, row.At, offset, here, [.. h.Select((p, i) => Fragments.Pack(t, Times(pairs[i][0], p, high: false), Times(pairs[i][1], p, high: true)))]);

        string Times(string sum, string pair, bool high) => t.Float("mul.f32", sum, PtxMath.GeluSlope(t, Fragments.Unpack(t, pair, high)));
    }
}
