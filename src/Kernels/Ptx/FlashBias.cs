namespace MimEngine.Kernels.Ptx;

/// <summary>
/// The gradient of a bias that all images share, on tensor cores: dbias = Σ over images of ds = p ⊙ (dy·vᵀ − delta). A group keeps one block
/// of one head's matrix in registers while images pass by in order; slices of the images write matrices of their own.
/// </summary>
internal static class FlashBias
{
    public static PtxKernel Write(string name, FlashTiling tiling)
    {
        var t = new PtxText();
        string dbias = t.Parameter("dbias", "u64"), qkv = t.Parameter("qkv", "u64"), dy = t.Parameter("dy", "u64"), lse = t.Parameter("lse", "u64"),
            delta = t.Parameter("delta", "u64"), bias = t.Parameter("bias", "u64"), tokens = t.Parameter("tokens", "u32"),
            heads = t.Parameter("heads", "u32"), images = t.Parameter("images", "u32"), part = t.Parameter("part", "u32"),
            scale = t.Parameter("scale", "f32");
        string slice = t.Int("mov.u32", "%ctaid.y"), firstImage = t.Int("mul.lo.u32", slice, part);
        string left = t.Int("sub.s32", t.Int("min.u32", images, t.Int("add.u32", firstImage, part)), firstImage);
        var at = new FlashTiles(t, tiling, tokens, heads, firstImage);
        string scaleLog2 = t.Float("mul.f32", scale, PtxMath.Log2E), zero = t.Int("mov.u32", 0), shared = t.Int("mov.u32", "smem");
        string wideStep = t.Long("mul.wide.u32", tokens, t.Int("shl.b32", at.Stride, 1)), narrowStep = t.Long("mul.wide.u32", tokens, t.Int("shl.b32", at.Columns, 1));
        // A stage: own queries, own dy, keys, values.
        int stageBytes = 2 * tiling.OwnBytes + 2 * tiling.BlockBytes;
        string upstreamAt = t.Int("add.u32", shared, tiling.OwnBytes), keysAt = t.Int("add.u32", shared, 2 * tiling.OwnBytes),
            valuesAt = t.Int("add.u32", keysAt, tiling.BlockBytes);
        TileCopy queries = at.Copy(tiling.Own, at.HeadAddress(qkv, at.Stride, 0), at.Stride, at.First, shared),
            upstream = at.Copy(tiling.Own, at.HeadAddress(dy, at.Columns, 0), at.Columns, at.First, upstreamAt),
            keys = at.Copy(tiling.Block, at.HeadAddress(qkv, at.Stride, 1), at.Stride, at.OtherFirst, keysAt),
            values = at.Copy(tiling.Block, at.HeadAddress(qkv, at.Stride, 2), at.Stride, at.OtherFirst, valuesAt);

        void Next(string stage)
        {
            foreach (TileCopy copy in new[] { queries, keys, values }) copy.Next(stage, wideStep);
            upstream.Next(stage, narrowStep);
            t.Op("cp.async.commit_group");
        }

        string[][] biases = at.Bias(bias, at.OtherFirst), sums = at.Zeros(tiling.Block / 8);
        string[] along1 = at.AlongLanes(keysAt), along2 = at.AlongLanes(valuesAt);
        string[] statistics = [.. new[] { 0, 8 }.Select(on => t.Int("add.u32", at.Row, on))];
        string[] here = [.. statistics.Select(row => t.Test("setp.lt.u32", row, tokens))];
        string index = t.Int("mad.lo.u32", at.ImageHead, tokens, at.Row), step = t.Int("mul.lo.u32", heads, tokens), stage = t.Int("mov.u32", 0);
        string loop = t.NewLabel("image"), last = t.NewLabel("last");
        Next(zero);
        t.Label(loop);
        t.Op("cp.async.wait_group 0");
        t.Op("bar.sync 0");
        string other = t.Int("sub.u32", stageBytes, stage);
        // Past the slice's last image nothing is fetched: the matrices may end there.
        t.Op($"@{t.Test("setp.le.s32", left, 1)} bra.uni {last}");
        Next(other);
        t.Label(last);
        string[] rowLse = new string[2], rowDelta = new string[2];
        for (int half = 0; half < 2; half++)
        {
            string l = t.Float("mov.f32", float.PositiveInfinity);
            rowDelta[half] = t.Float("mov.f32", 0f);
            string from = t.Int("add.u32", index, 8 * half);
            t.Op($"@{here[half]} ld.global.nc.f32 {l}, [{t.Long("mad.wide.u32", from, 4, lse)}]");
            t.Op($"@{here[half]} ld.global.nc.f32 {rowDelta[half]}, [{t.Long("mad.wide.u32", from, 4, delta)}]");
            rowLse[half] = t.Float("mul.f32", l, PtxMath.Log2E);
        }
        string[][] p = at.Dot(at.Own(t.Int("add.u32", shared, stage)), at.At(along1, stage));
        for (int j = 0; j < p.Length; j++)
            for (int i = 0; i < 4; i++) t.Op($"fma.rn.f32 {p[j][i]}, {p[j][i]}, {scaleLog2}, {biases[j][i]}");
        at.MaskPastEnd(p, at.OtherFirst);
        for (int j = 0; j < p.Length; j++)
            for (int i = 0; i < 4; i++)
            {
                t.Op($"sub.f32 {p[j][i]}, {p[j][i]}, {rowLse[i / 2]}");
                t.Op($"ex2.approx.ftz.f32 {p[j][i]}, {p[j][i]}");
            }
        string[][] ds = at.Dot(at.Own(t.Int("add.u32", upstreamAt, stage)), at.At(along2, stage));
        for (int j = 0; j < p.Length; j++)
            for (int i = 0; i < 4; i++)
                t.Op($"fma.rn.f32 {sums[j][i]}, {p[j][i]}, {t.Float("sub.f32", ds[j][i], rowDelta[i / 2])}, {sums[j][i]}");
        t.Op($"mov.u32 {stage}, {other}");
        t.Op($"add.u32 {index}, {index}, {step}");
        t.Op($"sub.s32 {left}, {left}, 1");
        t.Op($"@{t.Test("setp.gt.s32", left, 0)} bra.uni {loop}");
        string matrix = t.Int("mul.lo.u32", t.Int("mul.lo.u32", t.Int("mul.lo.u32", slice, heads), tokens), tokens);
        at.StoreBlock(sums, t.Long("mad.wide.u32", matrix, 4, dbias), at.OtherFirst);
        t.Op("ret");
        return t.Finish(name, tiling.Threads, 2 * stageBytes);
    }
}
