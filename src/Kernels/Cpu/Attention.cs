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
                Desks halves = on.NewDesks(AttentionSlot, cut.Chunks, AttentionForwardPairs.Floats(cut));
                rows.For(cut.Chunks, 1, new AttentionForwardPairs(cut, y.BF16, lse.F32, qkv.BF16, given, halves, pairs));
                return;
            }
            Desks desks = on.NewDesks(AttentionSlot, cut.Chunks, AttentionForwardChunks<TV, TE>.Floats(cut));
            rows.For(cut.Chunks, 1, new AttentionForwardChunks<TV, TE>(cut, y.Raw, lse.F32, qkv.Raw, given, desks, on.BandsOf<TV>()));
        }
    }

    /// <summary>One row is one chunk of the cut.</summary>
    private readonly struct AttentionForwardChunks<TV, TE>(AttentionCut cut, void* y, float* lse, void* qkv, float* bias, Desks desks,
        AttentionRoutines? emitted) : IRowKernel where TV : struct, ILanes<TV> where TE : struct, IElement
    {
        /// <summary>Zeros; k, v; a panel of qᵀ, of scores and of outputs; an odd query's scores; the head's bias transposed.</summary>
        public static long Floats(in AttentionCut cut) => AttentionCut.ChunkFloats(cut.Panel + cut.DepthStride
            + 2L * cut.Tokens * cut.DepthStride + (long)cut.Panel * (cut.Depth + cut.Tokens + cut.DepthStride) + cut.Line
            + (cut.Biased ? (long)cut.Tokens * cut.AllQueries : 0));

        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int tokens = cut.Tokens, depth = cut.Depth, width = cut.Width, row = 3 * width, panel = cut.Panel, stride = cut.DepthStride;
            float* zeros = desks.Take(out int desk), copies = zeros + panel + stride;
            float* across = copies + 2 * (nint)tokens * stride, scores = across + (nint)depth * panel;
            float* outputs = scores + (nint)tokens * panel, line = outputs + (nint)panel * stride, lines = line + cut.Line;
            float* inverse = stackalloc float[BandCode.Vectors * 16];
            new Span<float>(zeros, panel + stride).Clear();
            AttentionAhead ahead;
            var tiles = new AttentionTiles<TV>(zeros, &ahead, emitted);
            (int h, int from, int to) = cut.Part(chunk);
            if (bias != null) HeadRows<TV>.Transpose<F32Element>(lines, cut.AllQueries, bias + (nint)h * tokens * tokens, tokens, tokens, tokens);
            for (int b = from; b < to; b++)
            {
                void* q = TE.At(qkv, (nint)b * tokens * row + h * depth), k = TE.At(q, width), v = TE.At(q, 2 * width);
                void* result = TE.At(y, (nint)b * tokens * width + h * depth);
                ForwardAhead<TE>(ref ahead, cut, chunk, b, to, qkv, y);
                float* keys = HeadRows<TV>.Operand<TE>(copies, stride, k, row, tokens, depth, wide: false, out int keyRow);
                float* values = HeadRows<TV>.Operand<TE>(copies + (nint)tokens * stride, stride, v, row, tokens, depth, wide: true, out int valueRow);
                float* lseRows = lse + ((nint)b * cut.Heads + h) * tokens;
                for (int p = 0; p < cut.Panels; p++)
                {
                    (int i, int vectors, int queries) = cut.PanelAt(p);
                    HeadRows<TV>.Transpose<TE>(across, panel, TE.At(q, (nint)i * row), row, queries, depth);
                    tiles.Sums(scores, panel, keys, keyRow, 1, across, panel, tokens, vectors, depth, accumulate: false);
                    for (int at = 0; at < queries; at += TV.Count)
                        Softmax<TV>(cut, emitted, scores + at, null, bias == null ? null : lines + i + at, inverse + at, lseRows + i + at, queries - at);
                    Outputs(tiles, TE.At(result, (nint)i * width), scores, 1, panel, values, valueRow, queries, inverse, outputs);
                }
                for (int i = cut.Whole; i < tokens; i++)
                {
                    AttentionRows<TV>.Dots<TE>(line, TE.At(q, (nint)i * row), 0, k, row, tokens, depth);
                    (inverse[0], lseRows[i]) = AttentionRows<TV>.Softmax(line, tokens, cut.BinaryScale);
                    Outputs(tiles, TE.At(result, (nint)i * width), line, 0, 1, values, valueRow, 1, inverse, outputs);
                }
            }
            desks.Leave(desk);
        }

        /// <summary>y of some queries: p·v, each row by its scale.</summary>
        private void Outputs(in AttentionTiles<TV> tiles, void* result, float* p, int pRow, int pStep, float* values, int valueRow, int queries, float* scales,
            float* sums)
        {
            bool direct = typeof(TE) == typeof(F32Element) && tiles.Scales && cut.Depth % TV.Count == 0;
            for (int g = 0; g < cut.DepthGroups; g++)
            {
                (int at, int count) = cut.DepthGroup(g);
                at *= TV.Count;
                if (direct) tiles.Scaled((float*)result + at, cut.Width, p, pRow, pStep, values + at, valueRow, queries, count, cut.Tokens, scales, 1);
                else tiles.Sums(sums + at, cut.DepthStride, p, pRow, pStep, values + at, valueRow, queries, count, cut.Tokens, accumulate: false);
            }
            if (!direct) HeadRows<TV>.Spread<TE>(result, cut.Width, sums, cut.DepthStride, queries, cut.Depth, 1f, scales, accumulate: false);
        }
    }

    /// <summary>What the forward of the head and image after this one will touch.</summary>
    private static void ForwardAhead<TE>(ref AttentionAhead ahead, in AttentionCut cut, int chunk, int image, int last, void* qkv, void* y)
        where TE : struct, IElement
    {
        ahead.Clear();
        (int head, int next) = cut.After(chunk, image, last);
        if (next < 0) return;
        nint size = (nint)TE.At(null, 1), width = cut.Width, token = (nint)next * cut.Tokens;
        void* q = TE.At(qkv, 3 * token * width + head * cut.Depth);
        for (int part = 0; part < 3; part++) ahead.Add(TE.At(q, part * width), 3 * width * size, cut.Tokens, cut.Depth * (int)size);
        ahead.Add(TE.At(y, token * width + head * cut.Depth), width * size, cut.Tokens, cut.Depth * (int)size);
    }

    /// <summary>
    /// One vector of queries, all keys: scores become exp(logit − max), not yet divided by their sum; 1/sum goes to <paramref name="inverse"/>,
    /// ln Σ exp(logit) to the first <paramref name="queries"/> of <paramref name="lse"/>.
    /// </summary>
    /// <param name="pairs">Where pairs of neighbouring keys go, rounded, if the routines are those of pairs. The scores are lost then.</param>
    /// <param name="line">The bias, transposed, or null.</param>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void Softmax<TV>(in AttentionCut cut, AttentionRoutines? routines, float* scores, uint* pairs, float* line, float* inverse, float* lse,
        int queries) where TV : struct, ILanes<TV>
    {
        float* found = stackalloc float[2 * 16];
        if (routines != null && line == null)
        {
            var column = new SlopeColumn
            {
                S = scores, Row = cut.Panel * sizeof(float), Keys = cut.Tokens, Scale = cut.BinaryScale, First = found, Second = found + 16,
                Pairs = pairs, PairRow = cut.Panel * sizeof(uint),
            };
            routines.Softmax(&column);
        }
        else
        {
            Exponentials<TV>(cut, scores, line, found);
            if (pairs != null) AttentionPairs.PairUp(pairs, cut.Panel, scores, cut.Tokens, cut.Panel);
        }
        TV sum = TV.Load(found + 16);
        (TV.All(1f) / sum).Store(inverse);
        Lines<TV>.Store(TV.Load(found) * TV.All(AttentionCut.Ln2) + TV.Log(sum), lse, queries);
    }

    /// <summary>Scores become exp(logit − max); the largest logit and the sum come in units of ln 2, 16 numbers apart.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void Exponentials<TV>(in AttentionCut cut, float* scores, float* line, float* found) where TV : struct, ILanes<TV>
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
        m0.Store(found);
        (s0 + s1).Store(found + 16);
    }

    /// <summary>The routines for attention in float32, or null.</summary>
    private AttentionRoutines? BandsOf<TV>() where TV : struct, ILanes<TV> => TV.Count == 16 && _emits && !_dry ? AttentionRoutines.Floats : null;

    /// <summary>The routines for attention in bfloat16 pairs: bfloat16 storage and products, whole pairs along the depth; else null.</summary>
    private AttentionRoutines? PairsOf<TV>(DType dtype, in AttentionCut cut) where TV : struct, ILanes<TV>
        => dtype == DType.BF16 && _bf16 != null && TV.Count == 16 && cut.Depth % 2 == 0 ? AttentionRoutines.Pairs : null;

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
