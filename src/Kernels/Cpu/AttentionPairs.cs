using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using MimEngine.Kernels.Cpu.Emitted;

namespace MimEngine.Kernels.Cpu;

/// <summary>
/// Attention of bfloat16 tensors with VDPBF16PS: the cuts and the softmax of float32, but every product's operands are pairs along its sum, two
/// bfloat16 numbers in 32 bits. q, k, v and dy are multiplied as they are stored; probabilities and their slopes are rounded once, to nearest
/// even, as they leave the softmax, whose sum is of the unrounded ones.
/// </summary>
internal static unsafe class AttentionPairs
{
    private static readonly Vector512<uint> s_upper = Vector512.Create(0xFFFF_0000u);

    /// <summary>to[r, d]: pairs (from[2r, d], from[2r + 1, d]) of columns [first, first + 16·vectors); a row that is not there is zeros.</summary>
    public static void Interleave(float* to, int stride, ushort* from, int row, int rows, int depth, int first, int vectors)
    {
        for (int r = 0; r < rows; r += 2, to += stride, from += 2 * row)
            for (int v = 0; v < vectors; v++)
            {
                int at = first + 16 * v, n = depth - at;
                Vector512<uint> even = Lines<Lanes16>.Load<Bf16Element>(from, at, n).V.AsUInt32();
                Vector512<uint> odd = r + 1 < rows ? Lines<Lanes16>.Load<Bf16Element>(from, row + at, n).V.AsUInt32() : default;
                (even >> 16 | odd).Store((uint*)to + 16 * v);
            }
    }

    /// <summary>Both rounded to bfloat16, the first low.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StorePair(Vector512<float> a, Vector512<float> b, uint* to) => (Rounded(a) >> 16 | (Rounded(b) & s_upper)).Store(to);

    // Numbers out of the softmax of bfloat16 operands: a NaN among them has no low bits that rounding could carry into its sign.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<uint> Rounded(Vector512<float> v)
    {
        Vector512<uint> u = v.AsUInt32();
        return u + Vector512.Create(0x7FFFu) + (u >> 16 & Vector512<uint>.One);
    }
}

public sealed unsafe partial class CpuBackend
{
    /// <summary>One row is one chunk of the cut.</summary>
    private readonly struct AttentionForwardPairs(AttentionCut cut, ushort* y, float* lse, ushort* qkv, float* bias, Desks desks, TileRoutines dots)
        : IRowKernel
    {
        private const int Lanes = 16;

        /// <summary>Zeros; k; pairs of v; a panel of qᵀ, of scores, their pairs and outputs; the head's bias transposed.</summary>
        public static long Floats(in AttentionCut cut, bool biased) => AttentionCut.ChunkFloats(cut.Panel + (long)cut.KeyRows * (cut.Depth / 2)
            + (cut.Tokens + 1L) / 2 * cut.DepthStride + (long)cut.Panel * (cut.Depth / 2 + cut.KeyRows + (cut.Tokens + 1) / 2 + cut.DepthStride)
            + (biased ? (long)cut.Tokens * cut.AllQueries : 0));

        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int tokens = cut.Tokens, depth = cut.Depth, half = depth / 2, width = cut.Width, row = 3 * width;
            int panel = cut.Panel, stride = cut.DepthStride, keyPairs = (tokens + 1) / 2;
            float* zeros = desks.Take(out int desk), keys = zeros + panel, values = keys + (nint)cut.KeyRows * half;
            float* across = values + (nint)keyPairs * stride, scores = across + (nint)half * panel, pairs = scores + (nint)cut.KeyRows * panel;
            float* outputs = pairs + (nint)keyPairs * panel, lines = outputs + (nint)panel * stride;
            float* sums = stackalloc float[MicroKernels.Vectors * Lanes];
            new Span<float>(zeros, panel).Clear();
            AttentionAhead ahead = default;
            var tiles = new AttentionTiles<Lanes16>(cut, zeros, &ahead, dots);
            (int h, int from, int to) = cut.Part(chunk);
            if (bias != null)
                HeadRows<Lanes16>.Transpose<F32Element>(lines, cut.AllQueries, bias + (nint)h * tokens * tokens, tokens, tokens, tokens);
            for (int b = from; b < to; b++)
            {
                ushort* q = qkv + (nint)b * tokens * row + h * depth;
                ahead = ForwardAhead<Bf16Element>(cut, chunk, b, to, qkv, y);
                // A pair is 32 bits that are only moved: rows are gathered and transposed as floats are.
                HeadRows<Lanes16>.Gather<F32Element>(keys, half, q + width, row / 2, tokens, half);
                AttentionPairs.Interleave(values, stride, q + 2 * width, row, tokens, depth, 0, cut.DepthVectors);
                for (int i = 0; i < tokens; i += panel)
                {
                    int queries = Math.Min(panel, tokens - i), vectors = (queries + Lanes - 1) / Lanes;
                    HeadRows<Lanes16>.Transpose<F32Element>(across, panel, q + (nint)i * row, row / 2, queries, half);
                    tiles.Along(scores, panel, keys, half, across, cut.KeyRows, vectors, half, accumulate: false);
                    float* lseRows = lse + ((nint)b * cut.Heads + h) * tokens + i;
                    for (int v = 0; v < vectors; v++)
                    {
                        int at = v * Lanes;
                        Softmax<Lanes16>(cut, scores + at, bias == null ? null : lines + i + at, sums + at, lseRows + at, queries - at);
                        PairUp((uint*)pairs + at, scores + at);
                    }
                    for (int g = 0; g < cut.DepthGroups; g++)
                    {
                        (int at, int count) = cut.DepthGroup(g);
                        tiles.Across(outputs + at * Lanes, stride, pairs, values + at * Lanes, stride, queries, count, keyPairs);
                    }
                    HeadRows<Lanes16>.Spread<Bf16Element>(y + ((nint)b * tokens + i) * width + h * depth, width, outputs, stride, queries, depth, 1f,
                        sums, accumulate: false);
                }
            }
            desks.Leave(desk);
        }

        /// <summary>Neighbouring keys of one vector of queries.</summary>
        [MethodImpl(MethodImplOptions.NoInlining)]
        private void PairUp(uint* to, float* scores)
        {
            int j = 0;
            for (; j < cut.Tokens - 1; j += 2, to += cut.Panel, scores += 2 * cut.Panel)
                AttentionPairs.StorePair(Vector512.Load(scores), Vector512.Load(scores + cut.Panel), to);
            if (j < cut.Tokens) AttentionPairs.StorePair(Vector512.Load(scores), default, to);
        }
    }

    /// <summary>One row is one chunk of the cut.</summary>
    private readonly struct AttentionBackwardPairs(AttentionCut cut, ushort* dqkv, bool accumulate, float* dbias, ushort* dy, ushort* y, float* lse,
        ushort* qkv, float* bias, Desks desks, TileRoutines dots) : IRowKernel
    {
        private const int Lanes = 16;

        /// <summary>
        /// Zeros, δ; k, v; pairs of k; dk, dv; a panel of qᵀ, dyᵀ, pairs of q and dy, scores and dp; p and ds in pairs of queries; ds in pairs
        /// of keys; dq; the head's bias transposed, and the sum of ds.
        /// </summary>
        public static long Floats(in AttentionCut cut) => AttentionCut.ChunkFloats(2 * cut.Panel + (long)cut.KeyRows * (cut.Depth / 2) * 2
            + (cut.Tokens + 1L) / 2 * cut.DepthStride + 2L * cut.KeyRows * cut.DepthStride
            + (long)cut.Panel * (cut.Depth + cut.DepthGroups * cut.Panel + 2 * cut.KeyRows + cut.KeyRows + (cut.Tokens + 1) / 2 + cut.DepthStride)
            + 2L * cut.Tokens * cut.AllQueries);

        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int tokens = cut.Tokens, depth = cut.Depth, half = depth / 2, width = cut.Width, row = 3 * width;
            int panel = cut.Panel, stride = cut.DepthStride, keyPairs = (tokens + 1) / 2;
            nint head = (nint)cut.KeyRows * stride, packed = (nint)cut.DepthGroups * panel * panel / 2, scores = (nint)cut.KeyRows * panel;
            float* zeros = desks.Take(out int desk), delta = zeros + panel, keys = delta + panel, values = keys + (nint)cut.KeyRows * half;
            float* pairedKeys = values + (nint)cut.KeyRows * half, dk = pairedKeys + (nint)keyPairs * stride, dv = dk + head;
            float* queriesAcross = dv + head, upstreamAcross = queriesAcross + (nint)half * panel;
            float* queryRows = upstreamAcross + (nint)half * panel, upstreamRows = queryRows + packed;
            float* s = upstreamRows + packed, dp = s + scores, p = dp + scores, ds = p + scores / 2, dsAcross = ds + scores / 2;
            float* dq = dsAcross + (nint)keyPairs * panel, lines = dq + (nint)panel * stride, dlines = lines + (nint)tokens * cut.AllQueries;
            new Span<float>(zeros, 2 * panel).Clear();
            AttentionAhead ahead = default;
            var tiles = new AttentionTiles<Lanes16>(cut, zeros, &ahead, dots);
            (int h, int from, int to) = cut.Part(chunk);
            if (bias != null)
                HeadRows<Lanes16>.Transpose<F32Element>(lines, cut.AllQueries, bias + (nint)h * tokens * tokens, tokens, tokens, tokens);
            for (int b = from; b < to; b++)
            {
                nint start = (nint)b * tokens * row + h * depth;
                ushort* q = qkv + start, into = dqkv == null ? null : dqkv + start;
                ahead = BackwardAhead<Bf16Element>(cut, chunk, b, to, dqkv, qkv, dy, y);
                HeadRows<Lanes16>.Gather<F32Element>(keys, half, q + width, row / 2, tokens, half);
                HeadRows<Lanes16>.Gather<F32Element>(values, half, q + 2 * width, row / 2, tokens, half);
                if (dqkv != null) AttentionPairs.Interleave(pairedKeys, stride, q + width, row, tokens, depth, 0, cut.DepthVectors);
                for (int i = 0; i < tokens; i += panel)
                {
                    int queries = Math.Min(panel, tokens - i), vectors = (queries + Lanes - 1) / Lanes, queryPairs = (queries + 1) / 2;
                    nint token = ((nint)b * tokens + i) * width + h * depth;
                    ushort* dyRows = dy + token, yRows = y + token, qRows = q + (nint)i * row;
                    HeadRows<Lanes16>.Transpose<F32Element>(queriesAcross, panel, qRows, row / 2, queries, half);
                    HeadRows<Lanes16>.Transpose<F32Element>(upstreamAcross, panel, dyRows, width / 2, queries, half);
                    for (int r = 0; r < queries; r++)
                        delta[r] = Lines<Lanes16>.Dot<Bf16Element>(dyRows + (nint)r * width, yRows + (nint)r * width, depth);
                    tiles.Along(s, panel, keys, half, queriesAcross, cut.KeyRows, vectors, half, accumulate: false);
                    tiles.Along(dp, panel, values, half, upstreamAcross, cut.KeyRows, vectors, half, accumulate: false);
                    float* lseRows = lse + ((nint)b * cut.Heads + h) * tokens + i;
                    for (int v = 0; v < vectors; v++)
                    {
                        int at = v * Lanes;
                        Slopes<Lanes16>(cut, s + at, dp + at, bias == null ? null : lines + i + at, dbias == null ? null : dlines + i + at,
                            Lines<Lanes16>.Load(lseRows + at, queries - at), Lanes16.Load(delta + at), b > from);
                        if (dqkv != null) PairUp((ushort*)p + at, (ushort*)ds + at, (uint*)dsAcross + at, s + at, dp + at);
                    }
                    if (dqkv == null) continue;
                    for (int g = 0; g < cut.DepthGroups; g++)
                    {
                        (int at, int count) = cut.DepthGroup(g);
                        at *= Lanes;
                        float* group = queryRows + (nint)g * panel * panel / 2, up = upstreamRows + (nint)g * panel * panel / 2;
                        AttentionPairs.Interleave(group, panel, qRows, row, queries, depth, at, count);
                        AttentionPairs.Interleave(up, panel, dyRows, width, queries, depth, at, count);
                        tiles.Across(dq + at, stride, dsAcross, pairedKeys + at, stride, queries, count, keyPairs);
                        tiles.Along(dk + at, stride, ds, panel / 2, group, cut.KeyRows, count, queryPairs, accumulate: i > 0);
                        tiles.Along(dv + at, stride, p, panel / 2, up, cut.KeyRows, count, queryPairs, accumulate: i > 0);
                    }
                    Spread(into + (nint)i * row, dq, queries, cut.Scale);
                }
                if (dqkv == null) continue;
                Spread(into + width, dk, tokens, cut.Scale);
                Spread(into + 2 * width, dv, tokens, 1f);
            }
            if (dbias != null)
                HeadRows<Lanes16>.Transpose<F32Element>(dbias + (nint)chunk * tokens * tokens, tokens, dlines, cut.AllQueries, tokens, tokens);
            desks.Leave(desk);
        }

        /// <summary>One vector of queries: p and ds rounded, key by key, and ds in pairs of keys.</summary>
        [MethodImpl(MethodImplOptions.NoInlining)]
        private void PairUp(ushort* p, ushort* ds, uint* dsAcross, float* s, float* dp)
        {
            int panel = cut.Panel;
            for (int j = 0; j < cut.Tokens; j += 2, dsAcross += panel, s += 2 * panel, dp += 2 * panel, p += 2 * panel, ds += 2 * panel)
            {
                bool two = j + 1 < cut.Tokens;
                Lanes16 a = Lanes16.Load(dp), b = two ? Lanes16.Load(dp + panel) : Lanes16.Zero;
                AttentionPairs.StorePair(a.V, b.V, dsAcross);
                Lanes16.Load(s).Store(p);
                a.Store(ds);
                if (!two) break;
                Lanes16.Load(s + panel).Store(p + panel);
                b.Store(ds + panel);
            }
        }

        /// <summary>Puts scratch rows into one head's columns of dqkv.</summary>
        private void Spread(ushort* to, float* rows, int count, float scale)
            => HeadRows<Lanes16>.Spread<Bf16Element>(to, 3 * cut.Width, rows, cut.DepthStride, count, cut.Depth, scale, null, accumulate);
    }
}
