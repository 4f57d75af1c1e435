using System.Runtime.CompilerServices;

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
            AttentionCut cut = AttentionCut.Of<TV>(qkv, heads);
            Desks desks = on.NewDesks(AttentionSlot, cut.Chunks, AttentionForwardChunks<TV, TE>.Floats(cut));
            rows.For(cut.Chunks, 1,
                new AttentionForwardChunks<TV, TE>(cut, y.Raw, lse.F32, qkv.Raw, bias is { } given ? given.F32 : null, desks));
        }
    }

    /// <summary>One row is one chunk of the cut.</summary>
    private readonly struct AttentionForwardChunks<TV, TE>(AttentionCut cut, void* y, float* lse, void* qkv, float* bias, Desks desks)
        : IRowKernel where TV : struct, ILanes<TV> where TE : struct, IElement
    {
        /// <summary>kᵀ, v, and a tile of q, scores and outputs.</summary>
        public static long Floats(in AttentionCut cut) => AttentionCut.ChunkFloats((long)cut.Depth * cut.KeyStride
            + (long)cut.Tokens * cut.DepthStride + (long)cut.TileRows * (2 * cut.DepthStride + cut.KeyStride));

        [MethodImpl(MethodImplOptions.NoInlining)]
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
                void* q = TE.At(qkv, (nint)b * tokens * row + h * depth);
                HeadRows<TV>.Transpose<TE>(keys, cut.KeyStride, TE.At(q, width), row, tokens, depth);
                HeadRows<TV>.Gather<TE>(values, cut.DepthStride, TE.At(q, 2 * width), row, tokens, depth, 1f);
                for (int i = 0; i < tokens; i += cut.TileRows)
                {
                    int rows = Math.Min(cut.TileRows, tokens - i), padded = SixRows<TV>.Pad(rows);
                    HeadRows<TV>.Gather<TE>(queries, cut.DepthStride, TE.At(q, (nint)i * row), row, rows, depth, cut.BinaryScale);
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
                        Lines<TV>.Scale<TE, F32Element>(TE.At(y, ((nint)b * tokens + i + r) * width + h * depth), outputs + (long)r * cut.DepthStride,
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
