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
                    given, desks, on.Emitted));
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
        float* lse, void* qkv, float* bias, Desks desks, TileRoutines? emitted) : IRowKernel where TV : struct, ILanes<TV> where TE : struct, IElement
    {
        /// <summary>
        /// Zeros, δ; k, v, dk, dv; a panel of qᵀ, dyᵀ, q, dy, p, ds and dq; the head's bias transposed, and the sum of ds.
        /// </summary>
        public static long Floats(in AttentionCut cut) => AttentionCut.ChunkFloats(2 * cut.Panel + 4L * cut.KeyRows * cut.DepthStride
            + (long)cut.Panel * (2 * cut.Depth + 2 * cut.DepthGroups * cut.Panel + 2 * cut.KeyRows + cut.DepthStride)
            + 2L * cut.Tokens * cut.AllQueries);

        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int tokens = cut.Tokens, depth = cut.Depth, width = cut.Width, row = 3 * width, panel = cut.Panel, stride = cut.DepthStride;
            nint head = (nint)cut.KeyRows * stride, packed = (nint)cut.DepthGroups * panel * panel;
            float* zeros = desks.Take(out int desk), delta = zeros + panel, keys = delta + panel, values = keys + head;
            float* dk = values + head, dv = dk + head;
            float* queriesAcross = dv + head, upstreamAcross = queriesAcross + (nint)depth * panel;
            float* queryRows = upstreamAcross + (nint)depth * panel, upstreamRows = queryRows + packed;
            float* p = upstreamRows + packed, ds = p + (nint)cut.KeyRows * panel, dq = ds + (nint)cut.KeyRows * panel;
            float* lines = dq + (nint)panel * stride, dlines = lines + (nint)tokens * cut.AllQueries;
            new Span<float>(zeros, 2 * panel).Clear();
            AttentionAhead ahead = default;
            var tiles = new AttentionTiles<TV>(cut, zeros, &ahead, TV.Count == 16 ? emitted : null);
            (int h, int from, int to) = cut.Part(chunk);
            if (bias != null) HeadRows<TV>.Transpose<F32Element>(lines, cut.AllQueries, bias + (nint)h * tokens * tokens, tokens, tokens, tokens);
            for (int b = from; b < to; b++)
            {
                nint start = (nint)b * tokens * row + h * depth;
                void* q = TE.At(qkv, start), into = dqkv == null ? null : TE.At(dqkv, start);
                ahead = BackwardAhead<TE>(cut, chunk, b, to, dqkv, qkv, dy, y);
                HeadRows<TV>.Gather<TE>(keys, stride, TE.At(q, width), row, tokens, depth);
                HeadRows<TV>.Gather<TE>(values, stride, TE.At(q, 2 * width), row, tokens, depth);
                for (int i = 0; i < tokens; i += panel)
                {
                    int queries = Math.Min(panel, tokens - i), vectors = (queries + TV.Count - 1) / TV.Count;
                    nint token = ((nint)b * tokens + i) * width + h * depth;
                    void* dyRows = TE.At(dy, token), yRows = TE.At(y, token), qRows = TE.At(q, (nint)i * row);
                    HeadRows<TV>.Transpose<TE>(queriesAcross, panel, qRows, row, queries, depth);
                    HeadRows<TV>.Transpose<TE>(upstreamAcross, panel, dyRows, width, queries, depth);
                    for (int r = 0; r < queries; r++)
                        delta[r] = Lines<TV>.Dot<TE>(TE.At(dyRows, (nint)r * width), TE.At(yRows, (nint)r * width), depth);
                    tiles.Along(p, panel, keys, stride, queriesAcross, cut.KeyRows, vectors, depth, accumulate: false);
                    tiles.Along(ds, panel, values, stride, upstreamAcross, cut.KeyRows, vectors, depth, accumulate: false);
                    float* lseRows = lse + ((nint)b * cut.Heads + h) * tokens + i;
                    for (int v = 0; v < vectors; v++)
                    {
                        int at = v * TV.Count;
                        Slopes<TV>(cut, p + at, ds + at, bias == null ? null : lines + i + at, dbias == null ? null : dlines + i + at,
                            Lines<TV>.Load(lseRows + at, queries - at), TV.Load(delta + at), b > from);
                    }
                    if (dqkv == null) continue;
                    Pack(queryRows, qRows, row, queries);
                    Pack(upstreamRows, dyRows, width, queries);
                    for (int g = 0; g < cut.DepthGroups; g++)
                    {
                        (int at, int count) = cut.DepthGroup(g);
                        at *= TV.Count;
                        tiles.Across(dq + at, stride, ds, keys + at, stride, queries, count, tokens);
                        float* group = queryRows + (nint)g * panel * panel, up = upstreamRows + (nint)g * panel * panel;
                        tiles.Along(dk + at, stride, ds, panel, group, cut.KeyRows, count, queries, accumulate: i > 0);
                        tiles.Along(dv + at, stride, p, panel, up, cut.KeyRows, count, queries, accumulate: i > 0);
                    }
                    Spread(TE.At(into, (nint)i * row), dq, queries, cut.Scale);
                }
                if (dqkv == null) continue;
                Spread(TE.At(into, width), dk, tokens, cut.Scale);
                Spread(TE.At(into, 2 * width), dv, tokens, 1f);
            }
            if (dbias != null)
                HeadRows<TV>.Transpose<F32Element>(dbias + (nint)chunk * tokens * tokens, tokens, dlines, cut.AllQueries, tokens, tokens);
            desks.Leave(desk);
        }

        /// <summary>Rows of one head, each group of the depth by itself, one panel apart.</summary>
        private void Pack(float* to, void* from, int row, int count)
        {
            for (int g = 0; g < cut.DepthGroups; g++, to += (nint)cut.Panel * cut.Panel)
            {
                (int at, int vectors) = cut.DepthGroup(g);
                for (int r = 0; r < count; r++)
                    for (int v = 0; v < vectors; v++)
                        Lines<TV>.Load<TE>(TE.At(from, (nint)r * row), (at + v) * TV.Count, cut.Depth - (at + v) * TV.Count)
                            .Store(to + (nint)r * cut.Panel + v * TV.Count);
            }
        }

        /// <summary>Puts scratch rows into one head's columns of dqkv.</summary>
        private void Spread(void* to, float* rows, int count, float scale)
            => HeadRows<TV>.Spread<TE>(to, 3 * cut.Width, rows, cut.DepthStride, count, cut.Depth, scale, null, accumulate);
    }

    /// <summary>What the backward of the head and image after this one will touch.</summary>
    private static AttentionAhead BackwardAhead<TE>(in AttentionCut cut, int chunk, int image, int last, void* dqkv, void* qkv, void* dy, void* y)
        where TE : struct, IElement
    {
        (int head, int next) = cut.After(chunk, image, last);
        if (next < 0) return default;
        nint size = (nint)TE.At(null, 1), width = cut.Width, token = (nint)next * cut.Tokens;
        var ahead = new AttentionAhead(cut.Tokens, cut.Depth * (int)size, 2 * cut.ScoreTiles + cut.QueryTiles + 2 * cut.KeyTiles);
        nint at = 3 * token * width + head * cut.Depth, row = token * width + head * cut.Depth;
        for (int part = 0; part < 3; part++) ahead.Add(TE.At(qkv, at + part * width), 3 * width * size);
        ahead.Add(TE.At(dy, row), width * size);
        ahead.Add(TE.At(y, row), width * size);
        for (int part = 0; part < 3 && dqkv != null; part++) ahead.Add(TE.At(dqkv, at + part * width), 3 * width * size);
        return ahead;
    }

    /// <summary>
    /// One vector of queries, all keys: scores become p = exp(logit − lse), dp becomes ds = p·(dp − δ). The bias and the sum of ds are transposed.
    /// </summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void Slopes<TV>(in AttentionCut cut, float* s, float* dp, float* line, float* dline, TV lse, TV delta, bool add)
        where TV : struct, ILanes<TV>
    {
        int n = cut.Tokens, panel = cut.Panel;
        TV scale = TV.All(cut.BinaryScale), units = TV.All(AttentionCut.Log2E), low = TV.Zero - lse * units;
        for (int j = 0; j < n; j++, s += panel, dp += panel)
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
