namespace MimEngine.Kernels.Ptx;

/// <summary>How a product of warpgroups is cut: a group of Consumers warpgroups makes 64·Consumers × Cols results; one more warp fetches.</summary>
internal readonly record struct WgmmaTiling(int Consumers, int Cols, int Stages, int GroupsAtOnce)
{
    public const int Depth = 64;
    public int Rows => 64 * Consumers;
    public int Threads => 128 * Consumers + 32;
    public int StageBytes => (Rows + Cols) * Depth * 2;

    /// <summary>The ring of tiles, then two barriers a stage.</summary>
    public int SharedBytes => Stages * (StageBytes + 16);

    public override string ToString() => $"{Rows}x{Cols}x{Depth}_{Stages}_{GroupsAtOnce}";
}

/// <summary>
/// c[m, n] = Σ_k a[m, k]·b[n, k] of bfloat16 matrices with float32 sums on Hopper's tensor cores: one warp has the copy engine fill a ring of
/// tiles, warpgroups multiply them out of shared memory (PTX ISA 8.0, wgmma and cp.async.bulk.tensor, target sm_90a).
/// </summary>
internal static class GemmWgmma
{
    /// <summary>Rows (or depths) of the box that one copy fetches; its other side is 64 numbers, the 128 bytes of a swizzled line.</summary>
    public static int BoxLines(bool alongDepth, int extent) => alongDepth ? extent : WgmmaTiling.Depth;

    /// <param name="aAlongDepth">a is stored (M, K); otherwise (K, M).</param>
    /// <param name="bAlongDepth">b is stored (N, K); otherwise (K, N).</param>
    public static PtxKernel Write(string name, bool aAlongDepth, bool bAlongDepth, WgmmaTiling tiling, GemmEpilogue epilogue)
    {
        var t = new PtxText();
        string a = t.Parameter("a", "map"), b = t.Parameter("b", "map"), rows = t.Parameter("rows", "u32"), cols = t.Parameter("cols", "u32"),
            depth = t.Parameter("depth", "u32"), part = t.Parameter("part", "u32");
        epilogue.Parameters(t);
        string thread = t.Int("mov.u32", "%tid.x"), group = t.Int("mov.u32", "%ctaid.x"), slice = t.Int("mov.u32", "%ctaid.y");
        string across = t.Int("div.u32", t.Int("add.u32", cols, tiling.Cols - 1), tiling.Cols), down = t.Int("div.u32", group, across);
        string row0 = t.Int("mul.lo.u32", down, tiling.Rows);
        string col0 = t.Int("mul.lo.u32", t.Int("sub.u32", group, t.Int("mul.lo.u32", down, across)), tiling.Cols);
        string k0 = t.Int("mul.lo.u32", slice, part), kEnd = t.Int("min.u32", depth, t.Int("add.u32", k0, part));
        string steps = t.Int("shr.u32", t.Int("add.u32", t.Int("sub.u32", kEnd, k0), WgmmaTiling.Depth - 1), 6);
        string warp = t.Int("shr.u32", thread, 5), lane = t.Int("and.b32", thread, 31), shared = t.Int("mov.u32", "smem");
        int ringBytes = tiling.Stages * tiling.StageBytes;
        string full = t.Int("add.u32", shared, ringBytes), empty = t.Int("add.u32", full, 8 * tiling.Stages);
        string isFirst = t.Test("setp.eq.u32", thread, 0);
        for (int s = 0; s < tiling.Stages; s++)
        {
            t.Op($"@{isFirst} mbarrier.init.shared::cta.b64 [{full}+{8 * s}], 1");
            t.Op($"@{isFirst} mbarrier.init.shared::cta.b64 [{empty}+{8 * s}], {tiling.Consumers}");
        }
        t.Op("fence.mbarrier_init.release.cluster");
        t.Op("bar.sync 0");
        string stage = t.Int("mov.u32", 0), phase = t.Int("mov.u32", 0), fetch = t.NewLabel("fetch"), done = t.NewLabel("done");
        t.Op($"@{t.Test("setp.ge.u32", warp, 4 * tiling.Consumers)} bra.uni {fetch}");

        Consume(t, aAlongDepth, bAlongDepth, tiling, epilogue, new Place(shared, full, empty, stage, phase, steps), warp, lane, row0, col0, rows, cols, slice);
        t.Op($"bra.uni {done}");

        t.Label(fetch);
        string step = t.Int("mov.u32", 0), loop = t.NewLabel("copy"), isLeader = t.Test("setp.eq.u32", lane, 0);
        t.Label(loop);
        Wait(t, t.Int("mad.lo.u32", stage, 8, empty), t.Int("xor.b32", phase, 1));
        string barrier = t.Int("mad.lo.u32", stage, 8, full), to = t.Int("mad.lo.u32", stage, tiling.StageBytes, shared);
        t.Op($"@{isLeader} mbarrier.arrive.expect_tx.shared::cta.b64 _, [{barrier}], {tiling.StageBytes}");
        string k = t.Int("mad.lo.u32", step, WgmmaTiling.Depth, k0);
        Fetch(t, isLeader, a, aAlongDepth, tiling.Rows, row0, k, to, 0, barrier);
        Fetch(t, isLeader, b, bAlongDepth, tiling.Cols, col0, k, to, tiling.Rows * WgmmaTiling.Depth * 2, barrier);
        Advance(t, tiling, stage, phase);
        t.Op($"add.u32 {step}, {step}, 1");
        t.Op($"@{t.Test("setp.lt.u32", step, steps)} bra.uni {loop}");
        t.Label(done);
        t.Op("ret");
        return t.Finish(name, tiling.Threads, tiling.SharedBytes, tiling.GroupsAtOnce, "sm_90a", "8.0");
    }

    private readonly record struct Place(string Shared, string Full, string Empty, string Stage, string Phase, string Steps);

    private static void Consume(PtxText t, bool aAlongDepth, bool bAlongDepth, WgmmaTiling tiling, GemmEpilogue epilogue, Place at, string warp,
        string lane, string row0, string col0, string rows, string cols, string slice)
    {
        int wide = tiling.Cols / 8, aBytes = tiling.Rows * WgmmaTiling.Depth * 2;
        string warpgroup = t.Int("shr.u32", warp, 2);
        // 64 rows of either layout are 8 KB: 64 lines of 128 bytes.
        string left = Descriptor(t, t.Int("mad.lo.u32", warpgroup, 8192, at.Shared), aAlongDepth);
        string right = Descriptor(t, t.Int("add.u32", at.Shared, aBytes), bAlongDepth);
        string[][] sums = [.. Enumerable.Range(0, wide).Select(_ => t.F32(4))];
        foreach (string f in sums.SelectMany(s => s)) t.Op($"mov.f32 {f}, 0f00000000");
        string registers = string.Join(", ", sums.SelectMany(s => s)), always = t.Test("setp.eq.u32", at.Stage, 0);
        string step = t.Int("mov.u32", 0), before = t.Int("mov.u32", 0), loop = t.NewLabel("multiply");
        string isLeader = t.Test("setp.eq.u32", t.Int("and.b32", t.Int("mov.u32", "%tid.x"), 127), 0);
        t.Label(loop);
        Wait(t, t.Int("mad.lo.u32", at.Stage, 8, at.Full), at.Phase);
        string offset = t.Long("mul.wide.u32", at.Stage, tiling.StageBytes / 16);
        string x = t.Long("add.s64", left, offset), w = t.Long("add.s64", right, offset);
        t.Op("wgmma.fence.sync.aligned");
        for (int k = 0; k < WgmmaTiling.Depth / 16; k++)
        {
            string xk = k == 0 ? x : t.Long("add.s64", x, k * StepUnits(aAlongDepth)), wk = k == 0 ? w : t.Long("add.s64", w, k * StepUnits(bAlongDepth));
            t.Op($"wgmma.mma_async.sync.aligned.m64n{tiling.Cols}k16.f32.bf16.bf16 {{{registers}}}, {xk}, {wk}, {always}, 1, 1, "
                + $"{(aAlongDepth ? 0 : 1)}, {(bAlongDepth ? 0 : 1)}");
        }
        t.Op("wgmma.commit_group.sync.aligned");
        // The products of the step before are over: its stage may be filled again.
        t.Op("wgmma.wait_group.sync.aligned 1");
        string release = t.Test("and.pred", isLeader, t.Test("setp.ne.u32", step, 0));
        t.Op($"@{release} mbarrier.arrive.shared::cta.b64 _, [{t.Int("mad.lo.u32", before, 8, at.Empty)}]");
        t.Op($"mov.u32 {before}, {at.Stage}");
        Advance(t, tiling, at.Stage, at.Phase);
        t.Op($"add.u32 {step}, {step}, 1");
        t.Op($"@{t.Test("setp.lt.u32", step, at.Steps)} bra.uni {loop}");
        t.Op("wgmma.wait_group.sync.aligned 0");
        string row = t.Int("add.u32", t.Int("mad.lo.u32", warp, 16, row0), t.Int("shr.u32", lane, 2));
        string col = t.Int("add.u32", col0, t.Int("shl.b32", t.Int("and.b32", lane, 3), 1));
        epilogue.Store(t, [sums], row, col, rows, cols, slice);
    }

    /// <summary>16 further along k, in units of 16 bytes: 32 bytes of a line, or 16 lines.</summary>
    private static int StepUnits(bool alongDepth) => alongDepth ? 2 : 128;

    /// <summary>
    /// A matrix in shared memory in lines of 128 bytes, chunks swizzled by line: start, stride between boxes of 64 (only read across
    /// lines), stride of eight lines, 128-byte swizzle.
    /// </summary>
    private static string Descriptor(PtxText t, string address, bool alongDepth)
    {
        const ulong eightLines = 1024 >> 4, nextBox = 8192 >> 4, swizzle128 = 1UL << 62;
        ulong constant = swizzle128 | eightLines << 32 | (alongDepth ? 1UL : nextBox) << 16;
        return t.Long("or.b64", t.Long("cvt.u64.u32", t.Int("shr.u32", t.Int("and.b32", address, 0x3FFFF), 4)), constant);
    }

    private static void Fetch(PtxText t, string predicate, string map, bool alongDepth, int extent, string first, string k, string to, int offset,
        string barrier)
    {
        for (int box = 0; box < (alongDepth ? 1 : extent / 64); box++)
        {
            string place = alongDepth ? $"{k}, {first}" : $"{t.Int("add.u32", first, 64 * box)}, {k}";
            t.Op($"@{predicate} cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                + $"[{t.Int("add.u32", to, offset + 8192 * box)}], [{map}, {{{place}}}], [{barrier}]");
        }
    }

    private static void Wait(PtxText t, string barrier, string parity)
    {
        string again = t.NewLabel("wait"), over = t.Pred();
        t.Label(again);
        t.Op($"mbarrier.try_wait.parity.shared::cta.b64 {over}, [{barrier}], {parity}");
        t.Op($"@!{over} bra {again}");
    }

    private static void Advance(PtxText t, WgmmaTiling tiling, string stage, string phase)
    {
        t.Op($"add.u32 {stage}, {stage}, 1");
        string around = t.Test("setp.eq.u32", stage, tiling.Stages);
        t.Op($"selp.b32 {stage}, 0, {stage}, {around}");
        t.Op($"@{around} xor.b32 {phase}, {phase}, 1");
    }
}
