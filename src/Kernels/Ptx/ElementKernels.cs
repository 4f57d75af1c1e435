namespace MimEngine.Kernels.Ptx;

/// <summary>Emitted kernels that see every number once: what they move is all they cost, so they move 16 bytes a thread and access.</summary>
internal static class ElementKernels
{
    public const int Threads = 256;

    /// <summary>Elements of a segment that a group of <see cref="AdamW"/> updates.</summary>
    public const int Chunk = 4096;

    /// <summary>
    /// Bytes of a segment in the list that <see cref="AdamW"/> reads: offset of the gradient (64 bits), then offset, length, first, first chunk, flags,
    /// then three float32.
    /// </summary>
    public const int SegmentBytes = 40;

    /// <summary>
    /// AdamW over a list of segments that begin at multiples of 4, as their gradients do: a group is one chunk of one segment, found by
    /// bisection; the three numbers are 1 − lr·decay, lr/(1 − β1^t) and 1/√(1 − β2^t).
    /// </summary>
    public static PtxKernel AdamW(string name)
    {
        var t = new PtxText();
        string p = t.Parameter("p", "u64"), m = t.Parameter("m", "u64"), v = t.Parameter("v", "u64"), copy = t.Parameter("copy", "u64"),
            gradient = t.Parameter("gradient", "u64"), scales = t.Parameter("scales", "u64"), segments = t.Parameter("segments", "u64"),
            count = t.Parameter("count", "u32"), beta1 = t.Parameter("beta1", "f32"), rest1 = t.Parameter("rest1", "f32"), beta2 = t.Parameter("beta2", "f32"),
            rest2 = t.Parameter("rest2", "f32"), eps = t.Parameter("eps", "f32");
        string chunk = t.Int("mov.u32", "%ctaid.x"), low = t.Int("mov.u32", 0), high = t.Int("sub.u32", count, 1);
        string search = t.NewLabel("search"), found = t.NewLabel("found");
        t.Label(search);
        t.Op($"@{t.Test("setp.ge.u32", low, high)} bra.uni {found}");
        string middle = t.Int("shr.u32", t.Int("add.u32", t.Int("add.u32", low, high), 1), 1), first = t.B32();
        t.Op($"ld.global.nc.u32 {first}, [{t.Long("mad.wide.u32", middle, SegmentBytes, segments)}+20]");
        string begun = t.Test("setp.le.u32", first, chunk);
        t.Op($"selp.b32 {low}, {middle}, {low}, {begun}");
        t.Op($"selp.b32 {high}, {high}, {t.Int("sub.u32", middle, 1)}, {begun}");
        t.Op($"bra.uni {search}");
        t.Label(found);
        string ofGradient = t.B64(), offset = t.B32(), length = t.B32(), firstChunk = t.B32(), keep = t.F32(), rate = t.F32(), root = t.F32();
        string row = t.Long("mad.wide.u32", low, SegmentBytes, segments), scale = t.Float("mov.f32", 1f);
        t.Op($"ld.global.nc.u64 {ofGradient}, [{row}]");
        t.Op($"ld.global.nc.v2.u32 {{{offset}, {length}}}, [{row}+8]");
        t.Op($"ld.global.nc.u32 {firstChunk}, [{row}+20]");
        t.Op($"ld.global.nc.f32 {keep}, [{row}+28]");
        t.Op($"ld.global.nc.v2.f32 {{{rate}, {root}}}, [{row}+32]");
        t.Op($"@{t.Test("setp.ne.u64", scales, 0)} ld.global.nc.f32 {scale}, [{t.Long("mad.wide.u32", low, 4, scales)}]");
        string hasCopy = t.Test("setp.ne.u64", copy, 0);
        string slopes = t.Long("mad.lo.u64", ofGradient, 4, gradient);
        string start = t.Int("mul.lo.u32", t.Int("sub.u32", chunk, firstChunk), Chunk);
        string end = t.Int("min.u32", length, t.Int("add.u32", start, Chunk));
        string at = t.Int("add.u32", start, t.Int("shl.b32", t.Int("mov.u32", "%tid.x"), 2));
        for (int step = 0; step < Chunk; step += 4 * Threads)
        {
            string n = step == 0 ? at : t.Int("add.u32", at, step), i = t.Int("add.u32", offset, n);
            var quad = new Quad(t, t.Int("sub.s32", end, n));
            string ofP = t.Long("mad.wide.u32", i, 4, p), ofM = t.Long("mad.wide.u32", i, 4, m), ofV = t.Long("mad.wide.u32", i, 4, v);
            string[] g = quad.Load(t.Long("mad.wide.u32", n, 4, slopes)), before = quad.Load(ofP), first4 = quad.Load(ofM), second4 = quad.Load(ofV);
            string[] updated = new string[4];
            for (int k = 0; k < 4; k++)
            {
                string scaled = t.Float("mul.f32", g[k], scale);
                first4[k] = t.Float("fma.rn.f32", beta1, first4[k], t.Float("mul.f32", rest1, scaled));
                second4[k] = t.Float("fma.rn.f32", beta2, second4[k], t.Float("mul.f32", rest2, t.Float("mul.f32", scaled, scaled)));
                string under = t.Float("fma.rn.f32", t.Float("sqrt.rn.f32", second4[k]), root, eps);
                string change = t.Float("div.rn.f32", t.Float("mul.f32", rate, first4[k]), under);
                updated[k] = t.Float("sub.f32", t.Float("mul.f32", before[k], keep), change);
            }
            quad.Store(ofM, first4);
            quad.Store(ofV, second4);
            quad.Store(ofP, updated);
            quad.StoreHalves(t.Long("mad.wide.u32", i, 2, copy), updated, hasCopy);
        }
        t.Op("ret");
        return t.Finish(name, Threads, 0);
    }

    /// <summary>Columns and threads of a group of <see cref="Combine"/>: a lane a column, a warp every 32nd chunk.</summary>
    public const int CombinedColumns = 32, CombineThreads = 1024;

    /// <summary>
    /// y = Σ of the chunks' rows, or y += it. One thread a column would wait for one number of memory after the other; here 32 warps read four
    /// chunks each at a time. The order is fixed: a warp's chunks, then the warps.
    /// </summary>
    public static PtxKernel Combine(string name)
    {
        const int warps = CombineThreads / 32, ahead = 4;
        var t = new PtxText();
        string y = t.Parameter("y", "u64"), partial = t.Parameter("partial", "u64"), chunks = t.Parameter("chunks", "u32"), cols = t.Parameter("cols", "u32"),
            accumulate = t.Parameter("accumulate", "u32");
        string thread = t.Int("mov.u32", "%tid.x"), lane = t.Int("and.b32", thread, 31), warp = t.Int("shr.u32", thread, 5);
        string column = t.Int("mad.lo.u32", t.Int("mov.u32", "%ctaid.x"), CombinedColumns, lane), inside = t.Test("setp.lt.u32", column, cols);
        string from = t.Long("mad.lo.u64", t.Long("add.u64", t.Long("mul.wide.u32", warp, cols), t.Long("cvt.u64.u32", column)), 4, partial);
        string step = t.Long("mul.wide.u32", cols, 4 * warps), chunk = t.Int("mov.u32", warp), sum = t.Float("mov.f32", 0f);
        string loop = t.NewLabel("chunks"), done = t.NewLabel("done");
        t.Op($"@{t.Test("setp.ge.u32", chunk, chunks)} bra.uni {done}");
        t.Label(loop);
        string[] read = [.. Enumerable.Range(0, ahead).Select(_ => t.Float("mov.f32", 0f))];
        for (int k = 0; k < ahead; k++)
        {
            string here = t.Test("and.pred", inside, t.Test("setp.lt.u32", t.Int("add.u32", chunk, warps * k), chunks));
            t.Op($"@{here} ld.global.nc.f32 {read[k]}, [{from}]");
            t.Op($"add.s64 {from}, {from}, {step}");
        }
        foreach (string one in read) t.Op($"add.f32 {sum}, {sum}, {one}");
        t.Op($"add.u32 {chunk}, {chunk}, {warps * ahead}");
        t.Op($"@{t.Test("setp.lt.u32", chunk, chunks)} bra.uni {loop}");
        t.Label(done);
        string shared = t.Int("mov.u32", "smem");
        t.Op($"st.shared.f32 [{t.Int("mad.lo.u32", thread, 4, shared)}], {sum}");
        t.Op("bar.sync 0");
        string first = t.Test("and.pred", inside, t.Test("setp.eq.u32", warp, 0)), place = t.Int("mad.lo.u32", lane, 4, shared), total = t.Float("mov.f32", 0f);
        string to = t.Long("mad.wide.u32", column, 4, y), adds = t.Test("and.pred", first, t.Test("setp.ne.u32", accumulate, 0)), old = t.Float("mov.f32", 0f);
        t.Op($"@{adds} ld.global.f32 {old}, [{to}]");
        for (int w = 0; w < warps; w++)
        {
            string one = t.Float("mov.f32", 0f);
            t.Op($"@{first} ld.shared.f32 {one}, [{place}+{128 * w}]");
            t.Op($"add.f32 {total}, {total}, {one}");
        }
        t.Op($"@{first} st.global.f32 [{to}], {t.Float("add.f32", old, total)}");
        t.Op("ret");
        return t.Finish(name, CombineThreads, CombineThreads * 4);
    }

    /// <summary>delta[image, head, token] = Σ over the head of dy·y, both bfloat16: a lane holds 8 numbers, width/8 lanes a head.</summary>
    /// <param name="width">Of a head: 32, 64 or 128.</param>
    public static PtxKernel HeadDots(string name, int width)
    {
        var t = new PtxText();
        string delta = t.Parameter("delta", "u64"), dy = t.Parameter("dy", "u64"), y = t.Parameter("y", "u64"), eighths = t.Parameter("eighths", "u32"),
            tokens = t.Parameter("tokens", "u32"), heads = t.Parameter("heads", "u32");
        int lanes = width / 8;
        (string i, string inside) = Index(t, eighths);
        string[] up = Eight(t, dy, i, inside), made = Eight(t, y, i, inside);
        string sum = t.Float("mov.f32", 0f);
        for (int k = 0; k < 4; k++)
            foreach (bool high in new[] { false, true })
                sum = t.Float("fma.rn.f32", Fragments.Unpack(t, up[k], high), Fragments.Unpack(t, made[k], high), sum);
        for (int distance = 1; distance < lanes; distance *= 2)
        {
            string theirs = t.Int("shfl.sync.bfly.b32", t.Int("mov.b32", sum), distance, 31, "0xffffffff");
            sum = t.Float("add.f32", sum, t.Float("mov.b32", theirs));
        }
        string perRow = t.Int("mul.lo.u32", heads, lanes), row = t.Int("div.u32", i, perRow);
        string head = t.Int("div.u32", t.Int("sub.u32", i, t.Int("mul.lo.u32", row, perRow)), lanes), image = t.Int("div.u32", row, tokens);
        string token = t.Int("sub.u32", row, t.Int("mul.lo.u32", image, tokens));
        string index = t.Int("mad.lo.u32", t.Int("mad.lo.u32", image, heads, head), tokens, token);
        string leads = t.Test("and.pred", inside, t.Test("setp.eq.u32", t.Int("and.b32", i, lanes - 1), 0));
        t.Op($"@{leads} st.global.f32 [{t.Long("mad.wide.u32", index, 4, delta)}], {sum}");
        t.Op("ret");
        return t.Finish(name, Threads, 0);
    }

    /// <summary>scaled = rowScale·dy (where it is wanted) and branch = gamma·rowScale·dy, both bfloat16; dy float32, 8 numbers a thread.</summary>
    public static PtxKernel BranchGradient(string name)
    {
        var t = new PtxText();
        string branch = t.Parameter("branch", "u64"), scaled = t.Parameter("scaled", "u64"), dy = t.Parameter("dy", "u64"), gamma = t.Parameter("gamma", "u64"),
            rowScale = t.Parameter("rowScale", "u64"), eighths = t.Parameter("eighths", "u32"), perRow = t.Parameter("perRow", "u32"),
            rowsPerScale = t.Parameter("rowsPerScale", "u32");
        (string i, string inside) = Index(t, eighths);
        string row = t.Int("div.u32", i, perRow), column = t.Int("sub.u32", i, t.Int("mul.lo.u32", row, perRow)), scale = t.Float("mov.f32", 1f);
        string ofRow = t.Test("and.pred", inside, t.Test("setp.ne.u32", rowsPerScale, 0)), ofColumn = t.Test("and.pred", inside, t.Test("setp.ne.u64", gamma, 0));
        string image = t.Int("div.u32", row, t.Int("max.u32", rowsPerScale, 1));
        t.Op($"@{ofRow} ld.global.nc.f32 {scale}, [{t.Long("mad.wide.u32", image, 4, rowScale)}]");
        string from = t.Long("mad.wide.u32", i, 32, dy), factors = t.Long("mad.wide.u32", column, 32, gamma);
        string[] v = Floats(from, inside, 0f), g = Floats(factors, ofColumn, 1f);
        v = [.. v.Select(e => t.Float("mul.f32", e, scale))];
        string kept = t.Test("and.pred", inside, t.Test("setp.ne.u64", scaled, 0));
        Put(scaled, kept, v);
        Put(branch, inside, [.. v.Select((e, k) => t.Float("mul.f32", e, g[k]))]);
        t.Op("ret");
        return t.Finish(name, Threads, 0);

        string[] Floats(string address, string here, float otherwise)
        {
            string[] all = [.. Enumerable.Range(0, 8).Select(_ => t.Float("mov.f32", otherwise))];
            for (int k = 0; k < 8; k += 4) t.Op($"@{here} ld.global.nc.v4.f32 {{{string.Join(", ", all[k..(k + 4)])}}}, [{address}+{4 * k}]");
            return all;
        }

        void Put(string matrix, string here, string[] values)
        {
            string[] pairs = [.. Enumerable.Range(0, 4).Select(k => Fragments.Pack(t, values[2 * k], values[2 * k + 1]))];
            t.Op($"@{here} st.global.v4.b32 [{t.Long("mad.wide.u32", i, 16, matrix)}], {{{string.Join(", ", pairs)}}}");
        }
    }

    private static (string Index, string Inside) Index(PtxText t, string count)
    {
        string i = t.Int("mad.lo.u32", t.Int("mov.u32", "%ctaid.x"), Threads, t.Int("mov.u32", "%tid.x"));
        return (i, t.Test("setp.lt.u32", i, count));
    }

    /// <summary>Eight bfloat16 as four pairs; zeros where there are none.</summary>
    private static string[] Eight(PtxText t, string matrix, string i, string inside)
    {
        string[] pairs = [.. Enumerable.Range(0, 4).Select(_ => t.Int("mov.u32", 0))];
        t.Op($"@{inside} ld.global.nc.v4.b32 {{{string.Join(", ", pairs)}}}, [{t.Long("mad.wide.u32", i, 16, matrix)}]");
        return pairs;
    }

    /// <summary>Four neighbouring numbers of which so many exist: in one access if all do, else one by one.</summary>
    private sealed class Quad
    {
        private readonly PtxText _t;
        private readonly string _whole;
        private readonly string[] _single;

        public Quad(PtxText t, string left)
        {
            _t = t;
            _whole = t.Test("setp.ge.s32", left, 4);
            string partial = t.Test("setp.lt.s32", left, 4);
            _single = [.. Enumerable.Range(0, 3).Select(k => t.Test("and.pred", partial, t.Test("setp.gt.s32", left, k)))];
        }

        public string[] Load(string from)
        {
            string[] four = [.. Enumerable.Range(0, 4).Select(_ => _t.Float("mov.f32", 0f))];
            _t.Op($"@{_whole} ld.global.v4.f32 {{{string.Join(", ", four)}}}, [{from}]");
            for (int k = 0; k < 3; k++) _t.Op($"@{_single[k]} ld.global.f32 {four[k]}, [{from}+{4 * k}]");
            return four;
        }

        public void Store(string to, string[] four)
        {
            _t.Op($"@{_whole} st.global.v4.f32 [{to}], {{{string.Join(", ", four)}}}");
            for (int k = 0; k < 3; k++) _t.Op($"@{_single[k]} st.global.f32 [{to}+{4 * k}], {four[k]}");
        }

        public void StoreHalves(string to, string[] four, string wanted)
        {
            string[] pairs = [Fragments.Pack(_t, four[0], four[1]), Fragments.Pack(_t, four[2], four[3])];
            _t.Op($"@{_t.Test("and.pred", _whole, wanted)} st.global.v2.b32 [{to}], {{{pairs[0]}, {pairs[1]}}}");
            string[] halves = [pairs[0], _t.Int("shr.u32", pairs[0], 16), pairs[1]];
            for (int k = 0; k < 3; k++) _t.Op($"@{_t.Test("and.pred", _single[k], wanted)} st.global.b16 [{to}+{2 * k}], {halves[k]}");
        }
    }
}
