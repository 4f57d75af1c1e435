namespace MimEngine.Kernels.Ptx;

/// <summary>
/// Gradients of attention on tensor cores, probabilities made again block by block: p = exp(logits − lse), ds = p ⊙ (dy·vᵀ − delta). Two
/// kernels, so that no sum is shared between groups: one owns queries and makes dq, one owns keys and makes dk and dv.
/// </summary>
internal static class FlashBackward
{
    /// <param name="ofQueries">dq; otherwise dk and dv.</param>
    public static PtxKernel Write(string name, FlashTiling tiling, bool hasBias, bool ofQueries)
    {
        var t = new PtxText();
        string dqkv = t.Parameter("dqkv", "u64"), qkv = t.Parameter("qkv", "u64"), dy = t.Parameter("dy", "u64"), lse = t.Parameter("lse", "u64"),
            delta = t.Parameter("delta", "u64"), tokens = t.Parameter("tokens", "u32"), heads = t.Parameter("heads", "u32"),
            scale = t.Parameter("scale", "f32");
        string? bias = hasBias ? t.Parameter("bias", "u64") : null;
        var at = new FlashTiles(t, tiling, tokens, heads);
        string scaleLog2 = t.Float("mul.f32", scale, PtxMath.Log2E), zero = t.Int("mov.u32", 0), shared = t.Int("mov.u32", "smem");
        string q = at.HeadAddress(qkv, at.Stride, 0), k = at.HeadAddress(qkv, at.Stride, 1), v = at.HeadAddress(qkv, at.Stride, 2),
            upstream = at.HeadAddress(dy, at.Columns, 0), statistics = t.Int("mul.lo.u32", at.ImageHead, tokens);
        // Shared memory: both own tiles; then two stages of both passing tiles and, for keys, lse and delta of the passing queries.
        string secondOwn = t.Int("add.u32", shared, tiling.OwnBytes), ring = t.Int("add.u32", shared, 2 * tiling.OwnBytes),
            secondRing = t.Int("add.u32", ring, tiling.BlockBytes);
        int stageBytes = 2 * tiling.BlockBytes + 8 * tiling.Block;
        at.Copy(tiling.Own, ofQueries ? q : k, at.Stride, at.First, shared).Next(zero);
        at.Copy(tiling.Own, ofQueries ? upstream : v, ofQueries ? at.Columns : at.Stride, at.First, secondOwn).Next(zero);
        TileCopy one = at.Copy(tiling.Block, ofQueries ? k : q, at.Stride, zero, ring),
            two = at.Copy(tiling.Block, ofQueries ? v : upstream, ofQueries ? at.Stride : at.Columns, zero, secondRing);
        string lseAt = t.Long("mad.wide.u32", statistics, 4, lse), deltaAt = t.Long("mad.wide.u32", statistics, 4, delta);
        string first = t.Int("mov.u32", 0), ahead = t.Int("mov.u32", 0), stage = t.Int("mov.u32", 0), loop = t.NewLabel("block");

        void Next(string into)
        {
            one.Next(into);
            two.Next(into);
            t.Op("cp.async.commit_group");
            if (!ofQueries) CopyStatistics(t, tiling, at, lseAt, deltaAt, ahead, t.Int("add.u32", t.Int("add.u32", ring, into), 2 * tiling.BlockBytes));
            t.Op($"add.u32 {ahead}, {ahead}, {tiling.Block}");
        }

        Next(zero);
        t.Op("cp.async.wait_group 0");
        t.Op("bar.sync 0");
        string[][] own1 = at.Own(shared), own2 = at.Own(secondOwn);
        string[][] sums1 = at.Zeros(tiling.Width / 8), sums2 = ofQueries ? [] : at.Zeros(tiling.Width / 8);
        string[] along1 = at.AlongLanes(ring), along2 = at.AlongLanes(secondRing), summed1 = at.SummedLanes(ring), summed2 = at.SummedLanes(secondRing);
        string[] rowLse = ofQueries ? RowStatistics(t, at, lseAt, PtxMath.Log2E) : [], rowDelta = ofQueries ? RowStatistics(t, at, deltaAt, 1f) : [];

        t.Label(loop);
        string other = t.Int("sub.u32", stageBytes, stage);
        Next(other);
        string[][] p = at.Dot(own1, at.At(along1, stage));
        at.Scale(p, scaleLog2, bias, first, ownIsQuery: ofQueries);
        if (ofQueries) at.MaskPastEnd(p, first);
        string column = t.Int("add.u32", t.Int("add.u32", t.Int("add.u32", ring, stage), 2 * tiling.BlockBytes), t.Int("shl.b32", at.Pair, 2));
        for (int j = 0; j < p.Length; j++)
        {
            string[] columnLse = ofQueries ? [] : ColumnStatistics(t, column, 32 * j);
            for (int i = 0; i < 4; i++)
            {
                t.Op($"sub.f32 {p[j][i]}, {p[j][i]}, {(ofQueries ? rowLse[i / 2] : columnLse[i % 2])}");
                t.Op($"ex2.approx.ftz.f32 {p[j][i]}, {p[j][i]}");
            }
        }
        if (!ofQueries) at.Spread(sums2, p, at.At(summed2, stage));
        string[][] ds = at.Dot(own2, at.At(along2, stage));
        for (int j = 0; j < ds.Length; j++)
        {
            string[] columnDelta = ofQueries ? [] : ColumnStatistics(t, column, 4 * tiling.Block + 32 * j);
            for (int i = 0; i < 4; i++)
            {
                t.Op($"sub.f32 {ds[j][i]}, {ds[j][i]}, {(ofQueries ? rowDelta[i / 2] : columnDelta[i % 2])}");
                t.Op($"mul.f32 {ds[j][i]}, {ds[j][i]}, {p[j][i]}");
            }
        }
        at.Spread(sums1, ds, at.At(summed1, stage));
        t.Op("cp.async.wait_group 0");
        t.Op("bar.sync 0");
        t.Op($"mov.u32 {stage}, {other}");
        t.Op($"add.u32 {first}, {first}, {tiling.Block}");
        t.Op($"@{t.Test("setp.lt.u32", first, tokens)} bra.uni {loop}");

        foreach (string f in sums1.SelectMany(s => s)) t.Op($"mul.f32 {f}, {f}, {scale}");
        at.Store(sums1, at.HeadAddress(dqkv, at.Stride, ofQueries ? 0 : 1), at.Stride);
        if (!ofQueries) at.Store(sums2, at.HeadAddress(dqkv, at.Stride, 2), at.Stride);
        t.Op("ret");
        return t.Finish(name, tiling.Threads, 2 * tiling.OwnBytes + 2 * stageBytes);
    }

    /// <summary>lse (times log2 e) and delta of the passing queries into shared memory; past the last one +∞ and 0, which make p = 0.</summary>
    private static void CopyStatistics(PtxText t, FlashTiling tiling, FlashTiles at, string lse, string delta, string first, string to)
    {
        string inBlock = t.Test("setp.lt.u32", at.Thread, tiling.Block), token = t.Int("add.u32", first, at.Thread);
        string there = t.Test("and.pred", inBlock, t.Test("setp.lt.u32", token, at.Tokens)), place = t.Int("mad.lo.u32", at.Thread, 4, to);
        string l = t.Float("mov.f32", float.PositiveInfinity), d = t.Float("mov.f32", 0f);
        t.Op($"@{there} ld.global.nc.f32 {l}, [{t.Long("mad.wide.u32", token, 4, lse)}]");
        t.Op($"@{there} ld.global.nc.f32 {d}, [{t.Long("mad.wide.u32", token, 4, delta)}]");
        t.Op($"@{inBlock} st.shared.f32 [{place}], {t.Float("mul.f32", l, PtxMath.Log2E)}");
        t.Op($"@{inBlock} st.shared.f32 [{place}+{4 * tiling.Block}], {d}");
    }

    private static string[] ColumnStatistics(PtxText t, string at, int offset)
    {
        string[] pair = t.F32(2);
        t.Op($"ld.shared.v2.f32 {{{pair[0]}, {pair[1]}}}, [{at}+{offset}]");
        return pair;
    }

    private static string[] RowStatistics(PtxText t, FlashTiles at, string from, float times) => [.. new[] { 0, 8 }.Select(on =>
    {
        string row = t.Int("add.u32", at.Row, on), value = t.Float("mov.f32", 0f);
        t.Op($"@{t.Test("setp.lt.u32", row, at.Tokens)} ld.global.nc.f32 {value}, [{t.Long("mad.wide.u32", row, 4, from)}]");
        return t.Float("mul.f32", value, times);
    })];
}
