namespace MimEngine.Kernels.Ptx;

/// <summary>
/// LayerNorm with a warp a row: a lane holds 4 neighbouring numbers of every 128, 16 bytes an access, so a row is read once and lives in
/// registers. Sums over columns go warp by warp, then over the group's warps in order, then (by the caller) over groups in order.
/// </summary>
internal static class RowKernels
{
    public const int Threads = 256, Warps = Threads / 32, Longest = 1024;

    /// <summary>Few, so that there are several groups for each multiprocessor: with one and a little more the last wave would be nearly empty.</summary>
    public const int RowsOfWarp = 8;

    /// <summary>Rows that one group of the backward kernel walks through.</summary>
    public const int RowsOfGroup = Warps * RowsOfWarp;

    /// <param name="cols">A multiple of 128, at most <see cref="Longest"/>.</param>
    /// <param name="half">y is bfloat16; otherwise float32.</param>
    public static PtxKernel NormForward(string name, int cols, bool half)
    {
        var t = new PtxText();
        string y = t.Parameter("y", "u64"), mean = t.Parameter("mean", "u64"), rstd = t.Parameter("rstd", "u64"), x = t.Parameter("x", "u64"),
            gamma = t.Parameter("gamma", "u64"), beta = t.Parameter("beta", "u64"), rows = t.Parameter("rows", "u32"), eps = t.Parameter("eps", "f32");
        (string lane, string warp) = Place(t);
        string row = t.Int("mad.lo.u32", t.Int("mov.u32", "%ctaid.x"), Warps, warp), end = t.NewLabel("end");
        t.Op($"@{t.Test("setp.ge.u32", row, rows)} bra.uni {end}");
        string[] v = Load(t, Lane(t, x, row, cols, lane, 4), cols, half: false);
        string m = t.Float("mul.f32", Total(t, v), 1f / cols);
        string[] d = [.. v.Select(e => t.Float("sub.f32", e, m))];
        string squares = t.Float("mov.f32", 0f);
        foreach (string e in d) squares = t.Float("fma.rn.f32", e, e, squares);
        string variance = t.Float("fma.rn.f32", AcrossWarp(t, squares), 1f / cols, eps), r = t.Float("rcp.rn.f32", t.Float("sqrt.rn.f32", variance));
        string[] g = Load(t, Lane(t, gamma, null, cols, lane, 4), cols, half: false), b = Load(t, Lane(t, beta, null, cols, lane, 4), cols, half: false);
        string[] result = [.. d.Select((e, i) => t.Float("fma.rn.f32", t.Float("mul.f32", e, r), g[i], b[i]))];
        Store(t, Lane(t, y, row, cols, lane, half ? 2 : 4), result, half);
        string leader = t.Test("setp.eq.u32", lane, 0);
        t.Op($"@{leader} st.global.f32 [{t.Long("mad.wide.u32", row, 4, mean)}], {m}");
        t.Op($"@{leader} st.global.f32 [{t.Long("mad.wide.u32", row, 4, rstd)}], {r}");
        t.Label(end);
        t.Op("ret");
        return t.Finish(name, Threads, 0);
    }

    /// <summary>dx, and the sums of a group's rows for dγ and dβ: (groups, C) each.</summary>
    /// <param name="half">dy is bfloat16; otherwise float32.</param>
    public static PtxKernel NormBackward(string name, int cols, bool half)
    {
        var t = new PtxText();
        string dx = t.Parameter("dx", "u64"), ofGamma = t.Parameter("ofGamma", "u64"), ofBeta = t.Parameter("ofBeta", "u64"), dy = t.Parameter("dy", "u64"),
            x = t.Parameter("x", "u64"), mean = t.Parameter("mean", "u64"), rstd = t.Parameter("rstd", "u64"), gamma = t.Parameter("gamma", "u64"),
            rows = t.Parameter("rows", "u32"), accumulate = t.Parameter("accumulate", "u32");
        (string lane, string warp) = Place(t);
        string group = t.Int("mov.u32", "%ctaid.x"), adds = t.Test("setp.ne.u32", accumulate, 0);
        string row = t.Int("mad.lo.u32", group, RowsOfGroup, warp), last = t.Int("min.u32", rows, t.Int("mad.lo.u32", group, RowsOfGroup, RowsOfGroup));
        string[] g = Load(t, Lane(t, gamma, null, cols, lane, 4), cols, half: false);
        string[] sumsX = [.. g.Select(_ => t.Float("mov.f32", 0f))], sums = [.. g.Select(_ => t.Float("mov.f32", 0f))];
        string loop = t.NewLabel("row"), done = t.NewLabel("done");
        t.Op($"@{t.Test("setp.ge.u32", row, last)} bra.uni {done}");
        t.Label(loop);
        string[] up = Load(t, Lane(t, dy, row, cols, lane, half ? 2 : 4), cols, half), v = Load(t, Lane(t, x, row, cols, lane, 4), cols, half: false);
        string m = t.F32(), r = t.F32(), first = t.Float("mov.f32", 0f), second = t.Float("mov.f32", 0f);
        t.Op($"ld.global.nc.f32 {m}, [{t.Long("mad.wide.u32", row, 4, mean)}]");
        t.Op($"ld.global.nc.f32 {r}, [{t.Long("mad.wide.u32", row, 4, rstd)}]");
        string[] normal = [.. v.Select(e => t.Float("mul.f32", t.Float("sub.f32", e, m), r))], scaled = [.. up.Select((e, i) => t.Float("mul.f32", e, g[i]))];
        for (int i = 0; i < g.Length; i++)
        {
            t.Op($"fma.rn.f32 {sumsX[i]}, {up[i]}, {normal[i]}, {sumsX[i]}");
            t.Op($"add.f32 {sums[i]}, {sums[i]}, {up[i]}");
            t.Op($"add.f32 {first}, {first}, {scaled[i]}");
            t.Op($"fma.rn.f32 {second}, {scaled[i]}, {normal[i]}, {second}");
        }
        string meanOf = t.Float("mul.f32", AcrossWarp(t, first), 1f / cols), meanDot = t.Float("mul.f32", AcrossWarp(t, second), -1f / cols);
        string to = Lane(t, dx, row, cols, lane, 4);
        for (int c = 0; c < g.Length; c += 4)
        {
            string[] old = [.. Enumerable.Range(0, 4).Select(_ => t.Float("mov.f32", 0f))];
            t.Op($"@{adds} ld.global.v4.f32 {{{string.Join(", ", old)}}}, [{to}+{512 * c / 4}]");
            string[] d = [.. Enumerable.Range(c, 4).Select(i => t.Float("fma.rn.f32",
                t.Float("fma.rn.f32", normal[i], meanDot, t.Float("sub.f32", scaled[i], meanOf)), r, old[i - c]))];
            t.Op($"st.global.v4.f32 [{to}+{512 * c / 4}], {{{string.Join(", ", d)}}}");
        }
        t.Op($"add.u32 {row}, {row}, {Warps}");
        t.Op($"@{t.Test("setp.lt.u32", row, last)} bra.uni {loop}");
        t.Label(done);
        string shared = t.Int("mov.u32", "smem");
        foreach ((string[] partial, string into) in new[] { (sumsX, ofGamma), (sums, ofBeta) })
        {
            // [warp][column]
            string at = t.Int("add.u32", shared, t.Int("mad.lo.u32", warp, 4 * cols, t.Int("shl.b32", lane, 4)));
            for (int c = 0; c < partial.Length; c += 4) t.Op($"st.shared.v4.f32 [{at}+{512 * c / 4}], {{{string.Join(", ", partial[c..(c + 4)])}}}");
            t.Op("bar.sync 0");
            SumWarps(t, shared, cols, group, t.Int("mov.u32", 0), t.Int("mov.u32", cols), into);
            t.Op("bar.sync 0");
        }
        t.Op("ret");
        return t.Finish(name, Threads, Warps * cols * 4);
    }

    /// <summary>Columns of one group of <see cref="ColumnSums"/>.</summary>
    public const int ColumnsOfGroup = 256;

    /// <summary>Sums of <see cref="RowsOfGroup"/> rows of 256 columns, (groups, N): a lane adds 8 neighbouring columns, a warp every eighth row.</summary>
    /// <param name="half">The matrix is bfloat16; otherwise float32. Columns are a multiple of 8.</param>
    public static PtxKernel ColumnSums(string name, bool half)
    {
        var t = new PtxText();
        string into = t.Parameter("into", "u64"), x = t.Parameter("x", "u64"), rows = t.Parameter("rows", "u32"), cols = t.Parameter("cols", "u32");
        (string lane, string warp) = Place(t);
        string group = t.Int("mov.u32", "%ctaid.y"), col0 = t.Int("mul.lo.u32", t.Int("mov.u32", "%ctaid.x"), ColumnsOfGroup);
        string col = t.Int("mad.lo.u32", lane, 8, col0), inside = t.Test("setp.lt.u32", col, cols);
        string row = t.Int("mad.lo.u32", group, RowsOfGroup, warp), last = t.Int("min.u32", rows, t.Int("mad.lo.u32", group, RowsOfGroup, RowsOfGroup));
        string from = t.Long("mad.lo.u64", t.Long("add.u64", t.Long("mul.wide.u32", row, cols), t.Long("cvt.u64.u32", col)), half ? 2 : 4, x);
        string ahead = t.Long("mul.wide.u32", cols, Warps * (half ? 2 : 4)), loop = t.NewLabel("row"), done = t.NewLabel("done");
        string[] sums = [.. Enumerable.Range(0, 8).Select(_ => t.Float("mov.f32", 0f))];
        t.Op($"@{t.Test("setp.ge.u32", row, last)} bra.uni {done}");
        t.Label(loop);
        string[] v;
        if (half)
        {
            string[] pairs = [.. Enumerable.Range(0, 4).Select(_ => t.Int("mov.u32", 0))];
            t.Op($"@{inside} ld.global.nc.v4.b32 {{{string.Join(", ", pairs)}}}, [{from}]");
            v = [.. pairs.SelectMany(p => new[] { Fragments.Unpack(t, p, high: false), Fragments.Unpack(t, p, high: true) })];
        }
        else
        {
            v = [.. Enumerable.Range(0, 8).Select(_ => t.Float("mov.f32", 0f))];
            for (int i = 0; i < 8; i += 4) t.Op($"@{inside} ld.global.nc.v4.f32 {{{string.Join(", ", v[i..(i + 4)])}}}, [{from}+{4 * i}]");
        }
        for (int i = 0; i < 8; i++) t.Op($"add.f32 {sums[i]}, {sums[i]}, {v[i]}");
        t.Op($"add.s64 {from}, {from}, {ahead}");
        t.Op($"add.u32 {row}, {row}, {Warps}");
        t.Op($"@{t.Test("setp.lt.u32", row, last)} bra.uni {loop}");
        t.Label(done);
        string shared = t.Int("mov.u32", "smem"), at = t.Int("add.u32", shared, t.Int("mad.lo.u32", warp, 4 * ColumnsOfGroup, t.Int("shl.b32", lane, 5)));
        for (int i = 0; i < 8; i += 4) t.Op($"st.shared.v4.f32 [{at}+{4 * i}], {{{string.Join(", ", sums[i..(i + 4)])}}}");
        t.Op("bar.sync 0");
        SumWarps(t, shared, ColumnsOfGroup, group, col0, cols, into);
        t.Op("ret");
        return t.Finish(name, Threads, Warps * ColumnsOfGroup * 4);
    }

    /// <summary>dx = dy·GELU′(x) of bfloat16, 8 numbers a thread; dx may be dy's memory.</summary>
    public static PtxKernel GeluBackward(string name)
    {
        var t = new PtxText();
        string dx = t.Parameter("dx", "u64"), dy = t.Parameter("dy", "u64"), x = t.Parameter("x", "u64"), eighths = t.Parameter("eighths", "u32");
        string i = t.Int("mad.lo.u32", t.Int("mov.u32", "%ctaid.x"), Threads, t.Int("mov.u32", "%tid.x")), inside = t.Test("setp.lt.u32", i, eighths);
        string[] up = [.. Enumerable.Range(0, 4).Select(_ => t.Int("mov.u32", 0))], at = [.. Enumerable.Range(0, 4).Select(_ => t.Int("mov.u32", 0))];
        t.Op($"@{inside} ld.global.v4.b32 {{{string.Join(", ", up)}}}, [{t.Long("mad.wide.u32", i, 16, dy)}]");
        t.Op($"@{inside} ld.global.v4.b32 {{{string.Join(", ", at)}}}, [{t.Long("mad.wide.u32", i, 16, x)}]");
        string[] d = [.. Enumerable.Range(0, 4).Select(p => Fragments.Pack(t, Slope(p, false), Slope(p, true)))];
        t.Op($"@{inside} st.global.v4.b32 [{t.Long("mad.wide.u32", i, 16, dx)}], {{{string.Join(", ", d)}}}");
        t.Op("ret");
        return t.Finish(name, Threads, 0);

        string Slope(int pair, bool high) => t.Float("mul.f32", Fragments.Unpack(t, up[pair], high), PtxMath.GeluSlope(t, Fragments.Unpack(t, at[pair], high)));
    }

    private static (string Lane, string Warp) Place(PtxText t)
    {
        string thread = t.Int("mov.u32", "%tid.x");
        return (t.Int("and.b32", thread, 31), t.Int("shr.u32", thread, 5));
    }

    /// <summary>Address of the lane's first 4 numbers of a row, or of a vector.</summary>
    private static string Lane(PtxText t, string matrix, string? row, int cols, string lane, int bytes)
    {
        string start = row is null ? matrix : t.Long("add.s64", matrix, t.Long("mul.wide.u32", row, cols * bytes));
        return t.Long("mad.wide.u32", lane, 4 * bytes, start);
    }

    private static string[] Load(PtxText t, string from, int cols, bool half)
    {
        List<string> all = [];
        for (int c = 0; c < cols; c += 128)
            if (half)
            {
                string[] pairs = t.B32(2);
                t.Op($"ld.global.nc.v2.b32 {{{pairs[0]}, {pairs[1]}}}, [{from}+{2 * c}]");
                foreach (string p in pairs) all.AddRange([Fragments.Unpack(t, p, high: false), Fragments.Unpack(t, p, high: true)]);
            }
            else
            {
                string[] four = t.F32(4);
                t.Op($"ld.global.nc.v4.f32 {{{string.Join(", ", four)}}}, [{from}+{4 * c}]");
                all.AddRange(four);
            }
        return [.. all];
    }

    private static void Store(PtxText t, string to, string[] values, bool half)
    {
        for (int c = 0; c < values.Length; c += 4)
            if (half)
                t.Op($"st.global.v2.b32 [{to}+{64 * c}], {{{Fragments.Pack(t, values[c], values[c + 1])}, {Fragments.Pack(t, values[c + 2], values[c + 3])}}}");
            else t.Op($"st.global.v4.f32 [{to}+{128 * c}], {{{string.Join(", ", values[c..(c + 4)])}}}");
    }

    private static string Total(PtxText t, string[] values)
    {
        string sum = values[0];
        foreach (string v in values.Skip(1)) sum = t.Float("add.f32", sum, v);
        return AcrossWarp(t, sum);
    }

    /// <summary>Every lane gets the sum of all.</summary>
    private static string AcrossWarp(PtxText t, string value)
    {
        foreach (int distance in new[] { 16, 8, 4, 2, 1 })
        {
            string theirs = t.Int("shfl.sync.bfly.b32", t.Int("mov.b32", value), distance, 31, "0xffffffff");
            value = t.Float("add.f32", value, t.Float("mov.b32", theirs));
        }
        return value;
    }

    /// <summary>Adds [warp][column] of shared memory over warps in order and writes the columns that exist to row <paramref name="group"/>.</summary>
    private static void SumWarps(PtxText t, string shared, int width, string group, string firstColumn, string cols, string into)
    {
        string thread = t.Int("mov.u32", "%tid.x");
        for (int c = 0; c < width; c += Threads)
        {
            string column = c == 0 ? thread : t.Int("add.u32", thread, c), at = t.Int("mad.lo.u32", column, 4, shared), sum = t.Float("mov.f32", 0f);
            string inside = t.Test("setp.lt.u32", column, width), all = t.Int("add.u32", firstColumn, column);
            for (int w = 0; w < Warps; w++)
            {
                string one = t.Float("mov.f32", 0f);
                t.Op($"@{inside} ld.shared.f32 {one}, [{at}+{4 * width * w}]");
                sum = t.Float("add.f32", sum, one);
            }
            string here = t.Test("and.pred", inside, t.Test("setp.lt.u32", all, cols));
            string index = t.Long("add.u64", t.Long("mul.wide.u32", group, cols), t.Long("cvt.u64.u32", all));
            t.Op($"@{here} st.global.f32 [{t.Long("mad.lo.u64", index, 4, into)}], {sum}");
        }
    }
}
