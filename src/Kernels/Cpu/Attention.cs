using System.Runtime.CompilerServices;
using MimEngine.Kernels.Cpu.Emitted;

namespace MimEngine.Kernels.Cpu;

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
        => Run(OneType(nameof(AttentionForward), y, qkv), new AttentionOp(this, y, lse, qkv, heads, bias));

    private readonly struct AttentionOp(CpuBackend on, Tensor y, Tensor lse, Tensor qkv, int heads, Tensor? bias) : IElementOp
    {
        public void Run<TV, TE>(Rows rows) where TV : struct, ILanes<TV> where TE : struct, IElement
        {
            AttentionCut cut = AttentionCut.Of<TV>(qkv, heads, bias != null, on.Threads);
            float* given = bias is { } b ? b.F32 : null;
            if (on.PairsOf<TV>(qkv.DType, cut) is { } pairs)
            {
                Desks halves = on.NewDesks(AttentionSlot, cut.Chunks, AttentionForwardPairs.Floats(cut, given != null));
                rows.For(cut.Chunks, 1, new AttentionForwardPairs(cut, y.BF16, lse.F32, qkv.BF16, given, halves, pairs));
                return;
            }
            Desks desks = on.NewDesks(AttentionSlot, cut.Chunks, AttentionForwardChunks<TV, TE>.Floats(cut, given != null));
            rows.For(cut.Chunks, 1, new AttentionForwardChunks<TV, TE>(cut, y.Raw, lse.F32, qkv.Raw, given, desks, on.Emitted));
        }
    }

    /// <summary>One row is one chunk of the cut.</summary>
    private readonly struct AttentionForwardChunks<TV, TE>(AttentionCut cut, void* y, float* lse, void* qkv, float* bias, Desks desks,
        TileRoutines? emitted) : IRowKernel where TV : struct, ILanes<TV> where TE : struct, IElement
    {
        /// <summary>Zeros; k, v; a panel of qᵀ, of scores and of outputs; the head's bias transposed.</summary>
        public static long Floats(in AttentionCut cut, bool biased) => AttentionCut.ChunkFloats(cut.Panel + 2L * cut.KeyRows * cut.DepthStride
            + (long)cut.Panel * (cut.Depth + cut.KeyRows + cut.DepthStride) + (biased ? (long)cut.Tokens * cut.AllQueries : 0));

        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int tokens = cut.Tokens, depth = cut.Depth, width = cut.Width, row = 3 * width, panel = cut.Panel, stride = cut.DepthStride;
            float* zeros = desks.Take(out int desk), keys = zeros + panel, values = keys + (nint)cut.KeyRows * stride;
            float* across = values + (nint)cut.KeyRows * stride, scores = across + (nint)depth * panel;
            float* outputs = scores + (nint)cut.KeyRows * panel, lines = outputs + (nint)panel * stride;
            float* sums = stackalloc float[MicroKernels.Vectors * 16];
            new Span<float>(zeros, panel).Clear();
            AttentionAhead ahead = default;
            var tiles = new AttentionTiles<TV>(cut, zeros, &ahead, TV.Count == 16 ? emitted : null);
            (int h, int from, int to) = cut.Part(chunk);
            if (bias != null) HeadRows<TV>.Transpose<F32Element>(lines, cut.AllQueries, bias + (nint)h * tokens * tokens, tokens, tokens, tokens);
            for (int b = from; b < to; b++)
            {
                void* q = TE.At(qkv, (nint)b * tokens * row + h * depth);
                ahead = ForwardAhead<TE>(cut, chunk, b, to, qkv, y);
                HeadRows<TV>.Gather<TE>(keys, stride, TE.At(q, width), row, tokens, depth);
                HeadRows<TV>.Gather<TE>(values, stride, TE.At(q, 2 * width), row, tokens, depth);
                for (int i = 0; i < tokens; i += panel)
                {
                    int queries = Math.Min(panel, tokens - i), vectors = (queries + TV.Count - 1) / TV.Count;
                    HeadRows<TV>.Transpose<TE>(across, panel, TE.At(q, (nint)i * row), row, queries, depth);
                    tiles.Along(scores, panel, keys, stride, across, cut.KeyRows, vectors, depth, accumulate: false);
                    float* lseRows = lse + ((nint)b * cut.Heads + h) * tokens + i;
                    for (int v = 0; v < vectors; v++)
                        Softmax<TV>(cut, scores + v * TV.Count, bias == null ? null : lines + i + v * TV.Count, sums + v * TV.Count,
                            lseRows + v * TV.Count, queries - v * TV.Count);
                    for (int g = 0; g < cut.DepthGroups; g++)
                    {
                        (int at, int count) = cut.DepthGroup(g);
                        tiles.Across(outputs + at * TV.Count, stride, scores, values + at * TV.Count, stride, queries, count, tokens);
                    }
                    HeadRows<TV>.Spread<TE>(TE.At(y, ((nint)b * tokens + i) * width + h * depth), width, outputs, stride, queries, depth, 1f, sums,
                        accumulate: false);
                }
            }
            desks.Leave(desk);
        }
    }

    /// <summary>What the forward of the head and image after this one will touch.</summary>
    private static AttentionAhead ForwardAhead<TE>(in AttentionCut cut, int chunk, int image, int last, void* qkv, void* y) where TE : struct, IElement
    {
        (int head, int next) = cut.After(chunk, image, last);
        if (next < 0) return default;
        nint size = (nint)TE.At(null, 1), width = cut.Width, token = (nint)next * cut.Tokens;
        var ahead = new AttentionAhead(cut.Tokens, cut.Depth * (int)size, cut.ScoreTiles + cut.QueryTiles);
        void* q = TE.At(qkv, 3 * token * width + head * cut.Depth);
        for (int part = 0; part < 3; part++) ahead.Add(TE.At(q, part * width), 3 * width * size);
        ahead.Add(TE.At(y, token * width + head * cut.Depth), width * size);
        return ahead;
    }

    /// <summary>
    /// One vector of queries, all keys: scores become exp(logit − max), not yet divided by their sum; 1/sum goes to <paramref name="inverse"/>,
    /// ln Σ exp(logit) to the first <paramref name="queries"/> of <paramref name="lse"/>.
    /// </summary>
    /// <param name="line">The bias, transposed, or null.</param>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void Softmax<TV>(in AttentionCut cut, float* scores, float* line, float* inverse, float* lse, int queries)
        where TV : struct, ILanes<TV>
    {
        int n = cut.Tokens, panel = cut.Panel, all = cut.AllQueries;
        TV scale = TV.All(cut.BinaryScale), units = TV.All(AttentionCut.Log2E);
        TV m0 = TV.Load(scores), m1 = m0;
        if (line != null)
        {
            for (int j = 0; j < n; j++)
            {
                TV x = TV.MulAdd(units, TV.Load(line + (nint)j * all), scale * TV.Load(scores + (nint)j * panel));
                x.Store(scores + (nint)j * panel);
                m0 = j == 0 ? x : TV.Max(m0, x);
            }
            scale = TV.All(1f);
        }
        else
        {
            int j = 1;
            for (; j < n - 1; j += 2)
            {
                m0 = TV.Max(m0, TV.Load(scores + (nint)j * panel));
                m1 = TV.Max(m1, TV.Load(scores + (nint)(j + 1) * panel));
            }
            if (j < n) m0 = TV.Max(m0, TV.Load(scores + (nint)j * panel));
            m0 = scale * TV.Max(m0, m1);
        }
        TV low = TV.Zero - m0, s0 = TV.Zero, s1 = TV.Zero;
        float* s = scores;
        int k = 0;
        for (; k < n - 1; k += 2, s += 2 * panel)
        {
            TV a = VectorMath.Exp2(TV.MulAdd(scale, TV.Load(s), low)), b = VectorMath.Exp2(TV.MulAdd(scale, TV.Load(s + panel), low));
            a.Store(s);
            b.Store(s + panel);
            s0 += a;
            s1 += b;
        }
        if (k < n)
        {
            TV a = VectorMath.Exp2(TV.MulAdd(scale, TV.Load(s), low));
            a.Store(s);
            s0 += a;
        }
        TV sum = s0 + s1;
        (TV.All(1f) / sum).Store(inverse);
        float* largest = stackalloc float[16], total = stackalloc float[16];
        m0.Store(largest);
        sum.Store(total);
        for (int i = 0; i < Math.Min(queries, TV.Count); i++) lse[i] = largest[i] * AttentionCut.Ln2 + MathF.Log(total[i]);
    }

    /// <summary>The routines for attention in bfloat16 pairs: bfloat16 storage and products, whole pairs along the depth; else null.</summary>
    private TileRoutines? PairsOf<TV>(DType dtype, in AttentionCut cut) where TV : struct, ILanes<TV>
        => dtype == DType.BF16 && _bf16 != null && TV.Count == 16 && cut.Depth % 2 == 0 ? Bf16Routines.Of(Bf16Unit.Dot)?.Dots : null;

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
        [MethodImpl(MethodImplOptions.NoInlining)]
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
