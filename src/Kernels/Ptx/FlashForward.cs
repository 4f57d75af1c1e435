namespace MimEngine.Kernels.Ptx;

/// <summary>
/// y = softmax(q·kᵀ/√D + bias)·v on tensor cores with online softmax: no more of the N × N matrix exists than 16 rows of a block in a
/// warp's registers (Dao 2023, FlashAttention-2).
/// </summary>
internal static class FlashForward
{
    public static PtxKernel Write(string name, FlashTiling tiling, bool hasBias)
    {
        var t = new PtxText();
        string y = t.Parameter("y", "u64"), lse = t.Parameter("lse", "u64"), qkv = t.Parameter("qkv", "u64"), tokens = t.Parameter("tokens", "u32"),
            heads = t.Parameter("heads", "u32"), scale = t.Parameter("scale", "f32");
        string? bias = hasBias ? t.Parameter("bias", "u64") : null;
        var at = new FlashTiles(t, tiling, tokens, heads);
        string scaleLog2 = t.Float("mul.f32", scale, PtxMath.Log2E);
        string shared = t.Int("mov.u32", "smem"), keysAt = t.Int("add.u32", shared, tiling.OwnBytes),
            valuesAt = t.Int("add.u32", keysAt, tiling.BlockBytes), zero = t.Int("mov.u32", 0);
        int stageBytes = 2 * tiling.BlockBytes;
        at.Copy(tiling.Own, at.HeadAddress(qkv, at.Stride, 0), at.Stride, at.First, shared).Next(zero);
        TileCopy keys = at.Copy(tiling.Block, at.HeadAddress(qkv, at.Stride, 1), at.Stride, zero, keysAt),
            values = at.Copy(tiling.Block, at.HeadAddress(qkv, at.Stride, 2), at.Stride, zero, valuesAt);
        keys.Next(zero);
        values.Next(zero);
        t.Op("cp.async.commit_group");
        t.Op("cp.async.wait_group 0");
        t.Op("bar.sync 0");
        string[][] q = at.Own(shared), output = at.Zeros(tiling.Width / 8);
        string[] keyLanes = at.AlongLanes(keysAt), valueLanes = at.SummedLanes(valuesAt);
        string[] max = [t.Float("mov.f32", float.NegativeInfinity), t.Float("mov.f32", float.NegativeInfinity)], total = [t.Float("mov.f32", 0f), t.Float("mov.f32", 0f)];
        string first = t.Int("mov.u32", 0), stage = t.Int("mov.u32", 0), loop = t.NewLabel("block");

        t.Label(loop);
        string other = t.Int("sub.u32", stageBytes, stage);
        keys.Next(other);
        values.Next(other);
        t.Op("cp.async.commit_group");
        string[][] s = at.Dot(q, at.At(keyLanes, stage));
        at.Scale(s, scaleLog2, bias, first, ownIsQuery: true);
        at.MaskPastEnd(s, first);
        for (int half = 0; half < 2; half++)
        {
            string largest = max[half];
            foreach (string[] tile in s) largest = t.Float("max.f32", t.Float("max.f32", tile[2 * half], tile[2 * half + 1]), largest);
            largest = AcrossRow(t, largest, "max.f32");
            string shrink = PtxMath.Exp2(t, t.Float("sub.f32", max[half], largest));
            t.Op($"mov.f32 {max[half]}, {largest}");
            t.Op($"mul.f32 {total[half]}, {total[half]}, {shrink}");
            foreach (string[] tile in s)
                for (int c = 2 * half; c < 2 * half + 2; c++)
                {
                    t.Op($"sub.f32 {tile[c]}, {tile[c]}, {largest}");
                    t.Op($"ex2.approx.ftz.f32 {tile[c]}, {tile[c]}");
                    t.Op($"add.f32 {total[half]}, {total[half]}, {tile[c]}");
                }
            foreach (string[] tile in output)
                for (int c = 2 * half; c < 2 * half + 2; c++) t.Op($"mul.f32 {tile[c]}, {tile[c]}, {shrink}");
        }
        at.Spread(output, s, at.At(valueLanes, stage));
        t.Op("cp.async.wait_group 0");
        t.Op("bar.sync 0");
        t.Op($"mov.u32 {stage}, {other}");
        t.Op($"add.u32 {first}, {first}, {tiling.Block}");
        t.Op($"@{t.Test("setp.lt.u32", first, tokens)} bra.uni {loop}");

        string lseAt = t.Long("mad.wide.u32", t.Int("mad.lo.u32", at.ImageHead, tokens, at.Row), 4, lse), leader = t.Test("setp.eq.u32", at.Pair, 0);
        for (int half = 0; half < 2; half++)
        {
            string sum = AcrossRow(t, total[half], "add.f32"), share = t.Float("rcp.rn.f32", sum);
            foreach (string[] tile in output)
                for (int c = 2 * half; c < 2 * half + 2; c++) t.Op($"mul.f32 {tile[c]}, {tile[c]}, {share}");
            string log = t.Float("mul.f32", t.Float("add.f32", max[half], t.Float("lg2.approx.ftz.f32", sum)), 1f / PtxMath.Log2E);
            string here = t.Test("and.pred", leader, t.Test("setp.lt.u32", t.Int("add.u32", at.Row, 8 * half), tokens));
            t.Op($"@{here} st.global.f32 [{lseAt}+{32 * half}], {log}");
        }
        at.Store(output, at.HeadAddress(y, at.Columns, 0), at.Columns);
        t.Op("ret");
        return t.Finish(name, tiling.Threads, tiling.OwnBytes + 2 * stageBytes);
    }

    /// <summary>Combines the four lanes that hold one row.</summary>
    public static string AcrossRow(PtxText t, string value, string operation)
    {
        foreach (int distance in new[] { 1, 2 })
        {
            string bits = t.Int("mov.b32", value), theirs = t.Int("shfl.sync.bfly.b32", bits, distance, 31, "0xffffffff");
            value = t.Float(operation, value, t.Float("mov.b32", theirs));
        }
        return value;
    }
}
