using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace MimEngine.Kernels.Cpu;

/// <summary>
/// How attention is cut on the CPU. A chunk is one head of a group of images: at most <see cref="MaxChunks"/> where the heads are fewer,
/// whatever the batch and the threads. Inside, query rows come in tiles whose scores stay in L2.
/// </summary>
internal readonly struct AttentionCut
{
    private const int MaxChunks = 32;
    private const int MaxTileRows = 48;   // 48 rows of 145 scores are 32 kB; a tile's product with the keys is 1,152 multiply-adds a load

    public int Images { get; private init; }
    public int Tokens { get; private init; }
    public int Heads { get; private init; }
    public int Depth { get; private init; }
    public int Groups { get; private init; }

    /// <summary>Query rows of a tile, a multiple of six.</summary>
    public int TileRows { get; private init; }

    /// <summary>Vectors of a row of scores, and floats between two of them: an odd number of cache lines, so that columns spread over L1.</summary>
    public int KeyVectors { get; private init; }
    public int KeyStride { get; private init; }

    /// <summary>Vectors of a row of q, k, v or y of one head, and floats between two of them.</summary>
    public int DepthVectors { get; private init; }
    public int DepthStride { get; private init; }

    public int Chunks => Heads * Groups;
    public int Width => Heads * Depth;
    public float Scale => 1f / MathF.Sqrt(Depth);

    /// <summary>Logits are counted in units of ln 2 inside a tile: q is multiplied by this, a bias by log₂e.</summary>
    public float BinaryScale => Scale * Log2E;

    public const float Log2E = 1.44269504f;
    public const float Ln2 = 0.693147181f;

    public static AttentionCut Of<TV>(Tensor qkv, int heads) where TV : struct, ILanes<TV>
    {
        int images = qkv.Shape.D0, tokens = qkv.Shape.D1, depth = qkv.Shape.D2 / 3 / heads;
        int padded = SixRows<TV>.Pad(tokens), keyVectors = SixRows<TV>.Vectors(padded), depthVectors = SixRows<TV>.Vectors(depth);
        int tiles = Rows.Chunks(tokens, MaxTileRows);
        return new AttentionCut
        {
            Images = images,
            Tokens = tokens,
            Heads = heads,
            Depth = depth,
            Groups = Math.Clamp(MaxChunks / heads, 1, Math.Max(1, images)),
            TileRows = SixRows<TV>.Pad(Rows.Chunks(tokens, tiles)),
            KeyVectors = SixRows<TV>.Vectors(tokens),
            KeyStride = (TV.Count > 1 ? keyVectors | 1 : keyVectors) * TV.Count,
            DepthVectors = depthVectors,
            DepthStride = depthVectors * TV.Count,
        };
    }

    /// <summary>The images of a chunk.</summary>
    public (int First, int Last) Group(int chunk)
    {
        int g = chunk % Groups;
        return ((int)((long)Images * g / Groups), (int)((long)Images * (g + 1) / Groups));
    }

    /// <summary>Floats of a chunk's working memory, so that each starts on a cache line.</summary>
    public static long ChunkFloats(long floats) => (floats + 15) / 16 * 16;
}

public sealed unsafe partial class CpuBackend
{
    private const int AttentionSlot = 2;
    private const int BiasSlot = 3;

    /// <summary>
    /// Working memory for as many chunks as run at once. A chunk takes any free part, which its thread has probably just used and so has in
    /// its cache; what it computes does not depend on which.
    /// </summary>
    private readonly struct Desks(int* taken, float* memory, long floats, int count)
    {
        public const int HeaderBytes = 1024;   // one word a desk, in front of the memory
        public const int Most = HeaderBytes / sizeof(int);

        public float* Take(out int desk)
        {
            for (desk = Thread.CurrentThread.ManagedThreadId % count; Interlocked.CompareExchange(ref taken[desk], 1, 0) != 0;)
                desk = (desk + 1) % count;
            return memory + desk * floats;
        }

        public void Leave(int desk) => Volatile.Write(ref taken[desk], 0);
    }

    private Desks NewDesks(int slot, int chunks, long floats)
    {
        int count = Math.Min(Math.Min(Threads, Desks.Most), chunks);
        byte* at = Scratch(slot, Desks.HeaderBytes + count * floats * sizeof(float));
        if (!_dry) new Span<int>(at, Desks.Most).Clear();
        return new Desks((int*)at, (float*)(at + Desks.HeaderBytes), floats, count);
    }

    public override void AttentionForward(Tensor y, Tensor lse, Tensor qkv, int heads, Tensor? bias)
    {
        switch (Level)
        {
            case SimdLevel.Vector512: Attend<Lanes16>(y, lse, qkv, heads, bias); break;
            case SimdLevel.Vector256: Attend<Lanes8>(y, lse, qkv, heads, bias); break;
            default: Attend<Lanes1>(y, lse, qkv, heads, bias); break;
        }
    }

    private void Attend<TV>(Tensor y, Tensor lse, Tensor qkv, int heads, Tensor? bias) where TV : struct, ILanes<TV>
    {
        AttentionCut cut = AttentionCut.Of<TV>(qkv, heads);
        long floats = AttentionForwardChunks<TV>.Floats(cut);
        Desks desks = NewDesks(AttentionSlot, cut.Chunks, floats);
        _rows.For(cut.Chunks, 1,
            new AttentionForwardChunks<TV>(cut, y.F32, lse.F32, qkv.F32, bias is { } given ? given.F32 : null, desks));
    }

    /// <summary>One row is one chunk of the cut.</summary>
    private readonly struct AttentionForwardChunks<TV>(AttentionCut cut, float* y, float* lse, float* qkv, float* bias, Desks desks)
        : IRowKernel where TV : struct, ILanes<TV>
    {
        /// <summary>kᵀ, v, and a tile of q, scores and outputs.</summary>
        public static long Floats(in AttentionCut cut) => AttentionCut.ChunkFloats((long)cut.Depth * cut.KeyStride
            + (long)cut.Tokens * cut.DepthStride + (long)cut.TileRows * (2 * cut.DepthStride + cut.KeyStride));

        public void Run(int first, int last, int chunk)
        {
            int tokens = cut.Tokens, depth = cut.Depth, width = cut.Width, row = 3 * width;
            float* keys = desks.Take(out int desk), values = keys + (long)depth * cut.KeyStride;
            float* queries = values + (long)tokens * cut.DepthStride, outputs = queries + (long)cut.TileRows * cut.DepthStride;
            float* scores = outputs + (long)cut.TileRows * cut.DepthStride;
            int h = chunk / cut.Groups;
            (int from, int to) = cut.Group(chunk);
            float* pad = stackalloc float[16];
            HeadRows<TV>.Padding(pad, tokens);
            for (int b = from; b < to; b++)
            {
                float* q = qkv + (long)b * tokens * row + h * depth;
                HeadRows<TV>.Transpose(keys, cut.KeyStride, q + width, row, tokens, depth);
                HeadRows<TV>.Gather(values, cut.DepthStride, q + 2 * width, row, tokens, depth, 1f);
                for (int i = 0; i < tokens; i += cut.TileRows)
                {
                    int rows = Math.Min(cut.TileRows, tokens - i), padded = SixRows<TV>.Pad(rows);
                    HeadRows<TV>.Gather(queries, cut.DepthStride, q + (long)i * row, row, rows, depth, cut.BinaryScale);
                    SixRows<TV>.Multiply(scores, cut.KeyStride, queries, cut.DepthStride, 1, keys, cut.KeyStride, padded, cut.KeyVectors,
                        depth, accumulate: false);
                    long at = ((long)b * cut.Heads + h) * tokens + i;
                    for (int r = 0; r < rows; r++)
                    {
                        float* line = bias == null ? null : bias + ((long)h * tokens + i + r) * tokens;
                        lse[at + r] = Softmax(scores + (long)r * cut.KeyStride, line, TV.Load(pad), out float sum);
                        // q is done with: 1/Σ waits in its place for the product with v.
                        queries[(long)r * cut.DepthStride] = 1f / sum;
                    }
                    SixRows<TV>.Multiply(outputs, cut.DepthStride, scores, cut.KeyStride, 1, values, cut.DepthStride, padded,
                        cut.DepthVectors, tokens, accumulate: false);
                    for (int r = 0; r < rows; r++)
                    {
                        Lines<TV>.Scale(y + ((long)b * tokens + i + r) * width + h * depth, outputs + (long)r * cut.DepthStride,
                            queries[(long)r * cut.DepthStride], accumulate: false, depth);
                    }
                }
            }
            desks.Leave(desk);
        }

        /// <summary>A row of logits/ln 2 becomes exp(logit − max), not yet divided by its sum; returns ln Σ exp(logit).</summary>
        private float Softmax(float* s, float* line, TV pad, out float sum)
        {
            int last = (cut.KeyVectors - 1) * TV.Count;
            TV units = TV.All(AttentionCut.Log2E), tail = TV.Load(s + last) + pad;
            if (line != null) tail = TV.MulAdd(units, Lines<TV>.Load(line + last, cut.Tokens - last), tail);
            tail.Store(s + last);
            TV largest = tail;
            for (int j = 0; j < last; j += TV.Count)
            {
                TV v = TV.Load(s + j);
                if (line != null)
                {
                    v = TV.MulAdd(units, TV.Load(line + j), v);
                    v.Store(s + j);
                }
                largest = TV.Max(largest, v);
            }
            float max = largest.Largest();
            TV m = TV.All(max), s0 = TV.Zero, s1 = TV.Zero;
            int i = 0;
            for (; i <= last - TV.Count; i += 2 * TV.Count)
            {
                TV a = VectorMath.Exp2(TV.Load(s + i) - m), b = VectorMath.Exp2(TV.Load(s + i + TV.Count) - m);
                a.Store(s + i);
                b.Store(s + i + TV.Count);
                s0 += a;
                s1 += b;
            }
            if (i <= last)
            {
                TV a = VectorMath.Exp2(TV.Load(s + i) - m);
                a.Store(s + i);
                s0 += a;
            }
            sum = (s0 + s1).Sum();
            return max * AttentionCut.Ln2 + MathF.Log(sum);
        }
    }

    public override void RelativePositionBiasForward(Tensor bias, Tensor table, int grid)
        => _rows.For(table.Shape.D1, 1, new RelativeBiasHeads(bias.F32, table.F32, null, accumulate: false, table.Shape.D1, grid));

    public override void RelativePositionBiasBackward(Grad dtable, Tensor dbias, int grid)
    {
        if (!dtable.Wanted) return;
        int heads = dbias.Shape.D0, side = 2 * grid - 1;
        float* sums = (float*)Scratch(BiasSlot, (long)heads * (side * side + 3) * sizeof(float));
        _rows.For(heads, 1, new RelativeBiasHeads(dbias.F32, dtable.Into.F32, sums, dtable.Accumulate, heads, grid));
    }

    /// <summary>One row is one head. Without sums the table is read into the bias; with sums the bias is summed into the table.</summary>
    private readonly struct RelativeBiasHeads(float* bias, float* table, float* sums, bool accumulate, int heads, int grid) : IRowKernel
    {
        public void Run(int first, int last, int chunk)
        {
            int tokens = 1 + grid * grid, side = 2 * grid - 1, entries = side * side + 3;
            for (int h = first; h < last; h++)
            {
                float* b = bias + (long)h * tokens * tokens, t = table + h, sum = sums + (long)h * entries;
                if (sums == null)
                {
                    for (int i = 0; i < tokens; i++)
                        for (int j = 0; j < tokens; j++, b++) *b = t[(long)Entry(i, j, side, entries) * heads];
                    continue;
                }
                new Span<float>(sum, entries).Clear();
                for (int i = 0; i < tokens; i++)
                    for (int j = 0; j < tokens; j++, b++) sum[Entry(i, j, side, entries)] += *b;
                for (int r = 0; r < entries; r++, t += heads) *t = accumulate ? *t + sum[r] : sum[r];
            }
        }

        private int Entry(int i, int j, int side, int entries)
        {
            if (i == 0) return j == 0 ? entries - 1 : entries - 3;
            if (j == 0) return entries - 2;
            (int ri, int ci) = Math.DivRem(i - 1, grid);
            (int rj, int cj) = Math.DivRem(j - 1, grid);
            return (ri - rj + grid - 1) * side + ci - cj + grid - 1;
        }
    }
}

/// <summary>Moves the rows of one head between the (B, N, 3·C) tensor and scratch.</summary>
internal static unsafe class HeadRows<TV> where TV : struct, ILanes<TV>
{
    /// <summary>What is added to the last vector of a row of logits: 0 on keys, and so little past them that their share is 0.</summary>
    public static void Padding(float* pad, int tokens)
    {
        for (int i = 0; i < TV.Count; i++) pad[i] = i < tokens - (SixRows<TV>.Vectors(tokens) - 1) * TV.Count ? 0f : -1e30f;
    }

    /// <summary>to[r, d] = scale·from[r, d].</summary>
    public static void Gather(float* to, int stride, float* from, int row, int rows, int depth, float scale)
    {
        for (int r = 0; r < rows; r++) Lines<TV>.Scale(to + (long)r * stride, from + (long)r * row, scale, accumulate: false, depth);
    }

    /// <summary>to[d, r] = from[r, d], columns past the rows 0. Blocks of 4×4 where the processor has the shuffles.</summary>
    public static void Transpose(float* to, int stride, float* from, int row, int rows, int depth)
    {
        int r = 0;
        for (; Sse.IsSupported && r <= rows - 4; r += 4)
        {
            float* p0 = from + (long)r * row, p1 = p0 + row, p2 = p1 + row, p3 = p2 + row;
            int d = 0;
            for (; d <= depth - 4; d += 4)
            {
                Vector128<float> a = Vector128.Load(p0 + d), b = Vector128.Load(p1 + d), c = Vector128.Load(p2 + d), e = Vector128.Load(p3 + d);
                Vector128<float> ab = Sse.UnpackLow(a, b), ce = Sse.UnpackLow(c, e), ba = Sse.UnpackHigh(a, b), ec = Sse.UnpackHigh(c, e);
                float* at = to + (long)d * stride + r;
                Sse.MoveLowToHigh(ab, ce).Store(at);
                Sse.MoveHighToLow(ce, ab).Store(at + stride);
                Sse.MoveLowToHigh(ba, ec).Store(at + 2 * stride);
                Sse.MoveHighToLow(ec, ba).Store(at + 3 * stride);
            }
            for (; d < depth; d++)
            {
                float* at = to + (long)d * stride + r;
                (at[0], at[1], at[2], at[3]) = (p0[d], p1[d], p2[d], p3[d]);
            }
        }
        for (; r < rows; r++)
            for (int d = 0; d < depth; d++) to[(long)d * stride + r] = from[(long)r * row + d];
        for (int d = 0; d < depth; d++)
            for (int pad = rows; pad < stride; pad++) to[(long)d * stride + pad] = 0f;
    }
}
