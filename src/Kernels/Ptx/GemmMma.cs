namespace MimEngine.Kernels.Ptx;

/// <summary>How a product is cut: a group makes BlockRows × BlockCols results, a warp WarpRows × WarpCols of them.</summary>
internal readonly record struct GemmTiling(int BlockRows, int BlockCols, int WarpRows, int WarpCols, int Depth, int Stages, int GroupsAtOnce)
{
    public int Threads => BlockRows / WarpRows * (BlockCols / WarpCols) * 32;
    public int SharedBytes => Stages * (BlockRows + BlockCols) * Depth * 2;

    public override string ToString() => $"{BlockRows}x{BlockCols}x{Depth}_{WarpRows}x{WarpCols}_{Stages}";
}

/// <summary>
/// c[m, n] = Σ_k a[m, k]·b[n, k] of bfloat16 matrices with float32 sums on tensor cores: mma.sync out of a ring of tiles in shared memory
/// that cp.async fills ahead (NVIDIA, PTX ISA 7.0, compute capability 8.0 and newer). The summed axis may be cut into parts, one a row of the grid.
/// </summary>
internal static class GemmMma
{
    /// <param name="aAlongDepth">a is stored (M, K); otherwise (K, M).</param>
    /// <param name="bAlongDepth">b is stored (N, K); otherwise (K, N).</param>
    public static PtxKernel Write(string name, bool aAlongDepth, bool bAlongDepth, GemmTiling tiling, GemmEpilogue epilogue)
    {
        var t = new PtxText();
        string a = t.Parameter("a", "u64"), b = t.Parameter("b", "u64"), rows = t.Parameter("rows", "u32"), cols = t.Parameter("cols", "u32"),
            depth = t.Parameter("depth", "u32"), part = t.Parameter("part", "u32");
        epilogue.Parameters(t);
        string thread = t.Int("mov.u32", "%tid.x"), group = t.Int("mov.u32", "%ctaid.x"), slice = t.Int("mov.u32", "%ctaid.y");
        string across = t.Int("div.u32", t.Int("add.u32", cols, tiling.BlockCols - 1), tiling.BlockCols);
        string down = t.Int("div.u32", group, across);
        string row0 = t.Int("mul.lo.u32", down, tiling.BlockRows);
        string col0 = t.Int("mul.lo.u32", t.Int("sub.u32", group, t.Int("mul.lo.u32", down, across)), tiling.BlockCols);
        string k0 = t.Int("mul.lo.u32", slice, part), kEnd = t.Int("min.u32", depth, t.Int("add.u32", k0, part));

        MatrixTile left = new(tiling.BlockRows, tiling.Depth, aAlongDepth), right = new(tiling.BlockCols, tiling.Depth, bAlongDepth);
        int stageBytes = left.Bytes + right.Bytes, ringBytes = tiling.Stages * stageBytes;
        string shared = t.Int("mov.u32", "smem"), behind = t.Int("add.u32", shared, left.Bytes);
        var copyA = new TileCopy(t, left, tiling.Threads, thread, a, rows, aAlongDepth ? depth : rows, row0, k0, kEnd, shared);
        var copyB = new TileCopy(t, right, tiling.Threads, thread, b, cols, bAlongDepth ? depth : cols, col0, k0, kEnd, behind);

        string warp = t.Int("shr.u32", thread, 5), lane = t.Int("and.b32", thread, 31);
        int warpsAcross = tiling.BlockCols / tiling.WarpCols;
        string warpDown = t.Int("div.u32", warp, warpsAcross), warpAcross = t.Int("rem.u32", warp, warpsAcross);
        string warpRow = t.Int("mul.lo.u32", warpDown, tiling.WarpRows), warpCol = t.Int("mul.lo.u32", warpAcross, tiling.WarpCols);
        string[] lanesA = [.. left.Lanes(t, lane, warpRow, tiling.WarpRows, right: false).Select(o => t.Int("add.u32", o, shared))];
        string[] lanesB = [.. right.Lanes(t, lane, warpCol, tiling.WarpCols, right: true).Select(o => t.Int("add.u32", o, behind))];

        int tall = tiling.WarpRows / 16, wide = tiling.WarpCols / 8;
        string[][][] sums = [.. Enumerable.Range(0, tall).Select(_ => Enumerable.Range(0, wide).Select(_ => t.F32(4)).ToArray())];
        foreach (string f in sums.SelectMany(s => s).SelectMany(s => s)) t.Op($"mov.f32 {f}, 0f00000000");

        for (int s = 0; s < tiling.Stages - 1; s++)
        {
            string stage = t.Int("mov.u32", s * stageBytes);
            copyA.Next(stage);
            copyB.Next(stage);
            t.Op("cp.async.commit_group");
        }
        string reading = t.Int("mov.u32", 0), writing = t.Int("mov.u32", (tiling.Stages - 1) * stageBytes);
        string left0 = t.Int("sub.s32", kEnd, k0), loop = t.NewLabel("depth"), done = t.NewLabel("done");
        t.Op($"@{t.Test("setp.le.s32", left0, 0)} bra.uni {done}");
        t.Label(loop);
        t.Op($"cp.async.wait_group {tiling.Stages - 2}");
        t.Op("bar.sync 0");
        copyA.Next(writing);
        copyB.Next(writing);
        t.Op("cp.async.commit_group");
        string[] fromA = [.. lanesA.Select(o => t.Int("add.u32", o, reading))], fromB = [.. lanesB.Select(o => t.Int("add.u32", o, reading))];
        for (int k = 0; k < tiling.Depth; k += 16)
        {
            string[][] x = [.. Enumerable.Range(0, tall).Select(i => left.Load(t, fromA, 16 * i, k))];
            string[][] w = [.. Enumerable.Range(0, wide / 2).Select(j => right.Load(t, fromB, 16 * j, k))];
            for (int i = 0; i < tall; i++)
                for (int j = 0; j < wide; j++) Fragments.Multiply(t, sums[i][j], x[i], w[j / 2][j % 2 * 2], w[j / 2][j % 2 * 2 + 1]);
        }
        foreach (string stage in new[] { reading, writing })
        {
            t.Op($"add.u32 {stage}, {stage}, {stageBytes}");
            t.Op($"selp.b32 {stage}, 0, {stage}, {t.Test("setp.eq.u32", stage, ringBytes)}");
        }
        t.Op($"sub.s32 {left0}, {left0}, {tiling.Depth}");
        t.Op($"@{t.Test("setp.gt.s32", left0, 0)} bra.uni {loop}");
        t.Label(done);
        t.Op("cp.async.wait_group 0");

        string row = t.Int("add.u32", t.Int("add.u32", row0, warpRow), t.Int("shr.u32", lane, 2));
        string col = t.Int("add.u32", t.Int("add.u32", col0, warpCol), t.Int("shl.b32", t.Int("and.b32", lane, 3), 1));
        epilogue.Store(t, sums, row, col, rows, cols, slice);
        t.Op("ret");
        return t.Finish(name, tiling.Threads, tiling.SharedBytes, tiling.GroupsAtOnce);
    }
}
