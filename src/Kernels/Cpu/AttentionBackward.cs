using System.Runtime.CompilerServices;
using MimEngine.Kernels.Cpu.Emitted;

namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    public override void AttentionBackward(Grad dqkv, Grad dbias, Tensor dy, Tensor y, Tensor lse, Tensor qkv, int heads, Tensor? bias)
    {
        if (!dqkv.Wanted && !dbias.Wanted) return;
        DType dtype = OneType(nameof(AttentionBackward), dy, y, qkv);
        if (dqkv.Wanted) OneType(nameof(AttentionBackward), qkv, dqkv.Into);
        Run(dtype, new AttentionBackwardOp(this, dqkv, dbias, dy, y, lse, qkv, heads, bias));
    }

    private readonly struct AttentionBackwardOp(CpuBackend on, Grad dqkv, Grad dbias, Tensor dy, Tensor y, Tensor lse, Tensor qkv, int heads,
        Tensor? bias) : IElementOp
    {
        public void Run<TV, TE>(Rows rows) where TV : struct, ILanes<TV> where TE : struct, IElement
        {
            AttentionCut cut = AttentionCut.Of<TV>(qkv, heads, bias != null || dbias.Wanted, on.Threads);
            long square = (long)cut.Tokens * cut.Tokens;
            float* partial = dbias.Wanted ? (float*)on.Scratch(BiasSlot, cut.Chunks * square * sizeof(float)) : null;
            float* given = bias is { } b ? b.F32 : null;
            void* into = dqkv.Wanted ? dqkv.Into.Raw : null;
            if (on.PairsOf<TV>(qkv.DType, cut) is { } pairs)
            {
                Desks halves = on.NewDesks(AttentionSlot, cut.Chunks, AttentionBackwardPairs.Floats(cut));
                rows.For(cut.Chunks, 1, new AttentionBackwardPairs(cut, (ushort*)into, dqkv.Accumulate, partial, dy.BF16, y.BF16, lse.F32, qkv.BF16,
                    given, halves, pairs));
            }
            else
            {
                Desks desks = on.NewDesks(AttentionSlot, cut.Chunks, AttentionBackwardChunks<TV, TE>.Floats(cut));
                rows.For(cut.Chunks, 1, new AttentionBackwardChunks<TV, TE>(cut, into, dqkv.Accumulate, partial, dy.Raw, y.Raw, lse.F32, qkv.Raw,
                    given, desks, on.BandsOf<TV>()));
            }
            if (!dbias.Wanted) return;
            rows.For(heads, 1, new BiasSumHeads<TV>(dbias.Into.F32, dbias.Accumulate, partial, cut.Groups, checked((int)square)));
        }
    }

    /// <summary>One row is one head: its chunks' sums of ds, in the order of the images.</summary>
    private readonly struct BiasSumHeads<TV>(float* dbias, bool accumulate, float* partial, int groups, int square) : IRowKernel
        where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (int h = first; h < last; h++)
                for (int g = 0; g < groups; g++)
                    Lines<TV>.Put(dbias + (long)h * square, partial + ((long)h * groups + g) * square, accumulate || g > 0, square);
        }
    }

    /// <summary>One row is one chunk of the cut.</summary>
    private readonly struct AttentionBackwardChunks<TV, TE>(AttentionCut cut, void* dqkv, bool accumulate, float* dbias, void* dy, void* y,
        float* lse, void* qkv, float* bias, Desks desks, AttentionRoutines? emitted) : IRowKernel where TV : struct, ILanes<TV> where TE : struct, IElement
    {
        /// <summary>
        /// Zeros, δ; k, v, q, dy; sums; a panel of qᵀ, dyᵀ; p, ds of a block; an odd query's; the head's bias transposed, and the sum of ds.
        /// </summary>
        public static long Floats(in AttentionCut cut) => AttentionCut.ChunkFloats(cut.Panel + cut.DepthStride + cut.Line
            + 7L * cut.Tokens * cut.DepthStride + 2L * cut.Depth * cut.Panel + 2L * cut.Tokens * cut.BlockLine + 2 * cut.Line
            + (cut.Biased ? 2L * cut.Tokens * cut.AllQueries : 0));

        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int tokens = cut.Tokens, depth = cut.Depth, width = cut.Width, row = 3 * width, panel = cut.Panel, stride = cut.DepthStride;
            nint head = (nint)tokens * stride;
            int columns = cut.BlockLine;
            float* zeros = desks.Take(out int desk), delta = zeros + panel + stride, copies = delta + cut.Line, dq = copies + 4 * head;
            float* dk = dq + head, dv = dk + head, queriesAcross = dv + head, upstreamAcross = queriesAcross + (nint)depth * panel;
            float* p = upstreamAcross + (nint)depth * panel, ds = p + (nint)tokens * columns, line = ds + (nint)tokens * columns;
            float* slopes = line + cut.Line, lines = slopes + cut.Line, dlines = lines + (nint)tokens * cut.AllQueries;
            new Span<float>(zeros, panel + stride).Clear();
            new Span<float>(delta, cut.Line).Clear();
            AttentionAhead ahead;
            var tiles = new AttentionTiles<TV>(zeros, &ahead, emitted);
            (int h, int from, int to) = cut.Part(chunk);
            if (bias != null) HeadRows<TV>.Transpose<F32Element>(lines, cut.AllQueries, bias + (nint)h * tokens * tokens, tokens, tokens, tokens);
            for (int b = from; b < to; b++)
            {
                nint start = (nint)b * tokens * row + h * depth, token = (nint)b * tokens * width + h * depth;
                void* q = TE.At(qkv, start), into = dqkv == null ? null : TE.At(dqkv, start), upstream = TE.At(dy, token);
                BackwardAhead<TE>(ref ahead, cut, chunk, b, to, dqkv, qkv, dy, y);
                float* keys = HeadRows<TV>.Operand<TE>(copies, stride, TE.At(q, width), row, tokens, depth, wide: true, out int keyRow);
                float* values = HeadRows<TV>.Operand<TE>(copies + head, stride, TE.At(q, 2 * width), row, tokens, depth, wide: false, out int valueRow);
                float* queryRows = HeadRows<TV>.Operand<TE>(copies + 2 * head, stride, q, row, tokens, depth, wide: true, out int queryRow);
                float* dyRows = HeadRows<TV>.Operand<TE>(copies + 3 * head, stride, upstream, width, tokens, depth, wide: true, out int dyRow);
                AttentionRows<TV>.Dots<TE>(delta, upstream, width, TE.At(y, token), width, tokens, depth);
                float* lseRows = lse + ((nint)b * cut.Heads + h) * tokens;
                for (int block = 0; block < cut.Blocks; block++)
                {
                    int firstPanel = cut.BlockAt(block), endPanel = cut.BlockAt(block + 1), i0 = cut.PanelAt(firstPanel).First, queries = 0;
                    for (int n = firstPanel; n < endPanel; n++)
                    {
                        (int i, int vectors, int count) = cut.PanelAt(n);
                        float* pPanel = p + (i - i0), dsPanel = ds + (i - i0);
                        HeadRows<TV>.Transpose<TE>(queriesAcross, panel, TE.At(q, (nint)i * row), row, count, depth);
                        HeadRows<TV>.Transpose<TE>(upstreamAcross, panel, TE.At(upstream, (nint)i * width), width, count, depth);
                        tiles.Sums(pPanel, columns, keys, keyRow, 1, queriesAcross, panel, tokens, vectors, depth, accumulate: false);
                        tiles.Sums(dsPanel, columns, values, valueRow, 1, upstreamAcross, panel, tokens, vectors, depth, accumulate: false);
                        for (int at = 0; at < count; at += TV.Count)
                            Slopes<TV>(cut, emitted, columns, pPanel + at, dsPanel + at, bias == null ? null : lines + i + at, dbias == null ? null : dlines + i + at,
                                Lines<TV>.Load(lseRows + i + at, count - at), TV.Load(delta + i + at), b > from);
                        queries = i + count - i0;
                    }
                    if (dqkv == null) continue;
                    Put(tiles, TE.At(into, (nint)i0 * row), dq, ds, 1, columns, keys, keyRow, queries, tokens, cut.Scale, 0, 1);
                    for (int i = cut.Whole; i < tokens && block == cut.Blocks - 1; i++, queries++)
                    {
                        AttentionRows<TV>.Dots<TE>(line, TE.At(q, (nint)i * row), 0, TE.At(q, width), row, tokens, depth);
                        AttentionRows<TV>.Dots<TE>(slopes, TE.At(upstream, (nint)i * width), 0, TE.At(q, 2 * width), row, tokens, depth);
                        AttentionRows<TV>.Slopes(line, slopes, tokens, cut.BinaryScale, lseRows[i], delta[i]);
                        for (int j = 0; j < tokens; j++) (p[(nint)j * columns + queries], ds[(nint)j * columns + queries]) = (line[j], slopes[j]);
                        Put(tiles, TE.At(into, (nint)i * row), dq, slopes, 0, 1, keys, keyRow, 1, tokens, cut.Scale, 0, 1);
                    }
                    Put(tiles, TE.At(into, width), dk, ds, columns, 1, queryRows + (nint)i0 * queryRow, queryRow, tokens, queries, cut.Scale, block, cut.Blocks);
                    Put(tiles, TE.At(into, 2 * width), dv, p, columns, 1, dyRows + (nint)i0 * dyRow, dyRow, tokens, queries, 1f, block, cut.Blocks);
                }
            }
            if (dbias != null)
                HeadRows<TV>.Transpose<F32Element>(dbias + (nint)chunk * tokens * tokens, tokens, dlines, cut.AllQueries, tokens, tokens);
            desks.Leave(desk);
        }

        /// <summary>scale·(a·b) into one head's columns of dqkv, in parts whose sums gather in scratch until the last.</summary>
        private void Put(in AttentionTiles<TV> tiles, void* result, float* sums, float* a, int aRow, int aStep, float* b, int bRow, int rows, int length,
            float scale, int part, int parts)
        {
            bool direct = typeof(TE) == typeof(F32Element) && tiles.Scales && cut.Depth % TV.Count == 0 && !accumulate && parts == 1;
            int row = 3 * cut.Width;
            for (int g = 0; g < cut.DepthGroups; g++)
            {
                (int at, int count) = cut.DepthGroup(g);
                at *= TV.Count;
                if (direct) tiles.Scaled((float*)result + at, row, a, aRow, aStep, b + at, bRow, rows, count, length, &scale, 0);
                else tiles.Sums(sums + at, cut.DepthStride, a, aRow, aStep, b + at, bRow, rows, count, length, accumulate: part > 0);
            }
            if (!direct && part == parts - 1) HeadRows<TV>.Spread<TE>(result, row, sums, cut.DepthStride, rows, cut.Depth, scale, null, accumulate);
        }
    }

    /// <summary>What the backward of the head and image after this one will touch.</summary>
    private static void BackwardAhead<TE>(ref AttentionAhead ahead, in AttentionCut cut, int chunk, int image, int last, void* dqkv, void* qkv, void* dy,
        void* y) where TE : struct, IElement
    {
        ahead.Clear();
        (int head, int next) = cut.After(chunk, image, last);
        if (next < 0) return;
        nint size = (nint)TE.At(null, 1), width = cut.Width, token = (nint)next * cut.Tokens;
        nint at = 3 * token * width + head * cut.Depth, row = token * width + head * cut.Depth;
        int bytes = cut.Depth * (int)size;
        for (int part = 0; part < 3; part++) ahead.Add(TE.At(qkv, at + part * width), 3 * width * size, cut.Tokens, bytes);
        ahead.Add(TE.At(dy, row), width * size, cut.Tokens, bytes);
        ahead.Add(TE.At(y, row), width * size, cut.Tokens, bytes);
        for (int part = 0; part < 3 && dqkv != null; part++) ahead.Add(TE.At(dqkv, at + part * width), 3 * width * size, cut.Tokens, bytes);
    }

    /// <summary>
    /// One vector of queries, all keys: scores become p = exp(logit − lse), dp becomes ds = p·(dp − δ). The bias and the sum of ds are transposed.
    /// </summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void Slopes<TV>(in AttentionCut cut, AttentionRoutines? routines, int stride, float* s, float* dp, float* line, float* dline, TV lse,
        TV delta, bool add) where TV : struct, ILanes<TV>
    {
        int n = cut.Tokens;
        TV scale = TV.All(cut.BinaryScale), units = TV.All(AttentionCut.Log2E), low = TV.Zero - lse * units;
        if (routines != null && line == null && dline == null)
        {
            float* given = stackalloc float[2 * 16];
            low.Store(given);
            delta.Store(given + 16);
            var column = new SlopeColumn
            {
                S = s, Dp = dp, Row = stride * sizeof(float), Keys = n, Scale = cut.BinaryScale, First = given, Second = given + 16,
            };
            routines.Slopes(&column);
            return;
        }
        for (int j = 0; j < n; j++, s += stride, dp += stride)
        {
            TV logit = TV.MulAdd(scale, TV.Load(s), line == null ? low : TV.MulAdd(units, TV.Load(line + (nint)j * cut.AllQueries), low));
            TV p = VectorMath.Exp2(logit), slope = p * (TV.Load(dp) - delta);
            p.Store(s);
            slope.Store(dp);
            if (dline == null) continue;
            float* sum = dline + (nint)j * cut.AllQueries;
            (add ? slope + TV.Load(sum) : slope).Store(sum);
        }
    }
}
