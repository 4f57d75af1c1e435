using System.Runtime.CompilerServices;

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
            AttentionCut cut = AttentionCut.Of<TV>(qkv, heads);
            long square = (long)cut.Tokens * cut.Tokens;
            Desks desks = on.NewDesks(AttentionSlot, cut.Chunks, AttentionBackwardChunks<TV, TE>.Floats(cut));
            float* partial = dbias.Wanted ? (float*)on.Scratch(BiasSlot, cut.Chunks * square * sizeof(float)) : null;
            rows.For(cut.Chunks, 1, new AttentionBackwardChunks<TV, TE>(cut, dqkv.Wanted ? dqkv.Into.Raw : null, dqkv.Accumulate, partial, dy.Raw,
                y.Raw, lse.F32, qkv.Raw, bias is { } given ? given.F32 : null, desks));
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
        float* lse, void* qkv, float* bias, Desks desks) : IRowKernel where TV : struct, ILanes<TV> where TE : struct, IElement
    {
        /// <summary>kᵀ, vᵀ; k, dk, dv; a tile of p and ds; a tile of q, dy, dq, and of δ.</summary>
        public static long Floats(in AttentionCut cut) => AttentionCut.ChunkFloats(2L * cut.Depth * cut.KeyStride
            + 3L * SixRows<TV>.Pad(cut.Tokens) * cut.DepthStride
            + (long)cut.TileRows * (2 * cut.KeyStride + 3 * cut.DepthStride + 1));

        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int tokens = cut.Tokens, depth = cut.Depth, width = cut.Width, row = 3 * width, padded = SixRows<TV>.Pad(tokens);
            long keySize = (long)depth * cut.KeyStride, headSize = (long)padded * cut.DepthStride;
            long scoreSize = (long)cut.TileRows * cut.KeyStride, tileSize = (long)cut.TileRows * cut.DepthStride;
            float* keysAcross = desks.Take(out int desk), valuesAcross = keysAcross + keySize;
            float* keys = valuesAcross + keySize, dk = keys + headSize, dv = dk + headSize;
            float* p = dv + headSize, ds = p + scoreSize, queries = ds + scoreSize, upstream = queries + tileSize, dq = upstream + tileSize;
            float* delta = dq + tileSize;
            int h = chunk / cut.Groups;
            (int from, int to) = cut.Group(chunk);
            float* biasSum = dbias == null ? null : dbias + (long)chunk * tokens * tokens;
            for (int b = from; b < to; b++)
            {
                nint start = (nint)b * tokens * row + h * depth;
                void* q = TE.At(qkv, start), into = dqkv == null ? null : TE.At(dqkv, start);
                HeadRows<TV>.Transpose<TE>(keysAcross, cut.KeyStride, TE.At(q, width), row, tokens, depth);
                HeadRows<TV>.Transpose<TE>(valuesAcross, cut.KeyStride, TE.At(q, 2 * width), row, tokens, depth);
                HeadRows<TV>.Gather<TE>(keys, cut.DepthStride, TE.At(q, width), row, tokens, depth, 1f);
                for (int i = 0; i < tokens; i += cut.TileRows)
                {
                    int rows = Math.Min(cut.TileRows, tokens - i), whole = SixRows<TV>.Pad(rows);
                    nint token = ((nint)b * tokens + i) * width + h * depth;
                    void* dyRows = TE.At(dy, token), yRows = TE.At(y, token);
                    HeadRows<TV>.Gather<TE>(queries, cut.DepthStride, TE.At(q, (nint)i * row), row, rows, depth, cut.BinaryScale);
                    HeadRows<TV>.Gather<TE>(upstream, cut.DepthStride, dyRows, width, rows, depth, 1f);
                    for (int r = 0; r < rows; r++) delta[r] = Lines<TV>.Dot<TE>(TE.At(dyRows, (nint)r * width), TE.At(yRows, (nint)r * width), depth);

                    SixRows<TV>.Multiply(p, cut.KeyStride, queries, cut.DepthStride, 1, keysAcross, cut.KeyStride, whole, cut.KeyVectors,
                        depth, accumulate: false);
                    SixRows<TV>.Multiply(ds, cut.KeyStride, upstream, cut.DepthStride, 1, valuesAcross, cut.KeyStride, whole,
                        cut.KeyVectors, depth, accumulate: false);
                    float* lseRows = lse + ((long)b * cut.Heads + h) * tokens + i;
                    for (int r = 0; r < rows; r++)
                    {
                        long at = ((long)h * tokens + i + r) * tokens;
                        float* pRow = p + (long)r * cut.KeyStride, dsRow = ds + (long)r * cut.KeyStride;
                        Scores(pRow, dsRow, bias == null ? null : bias + at, lseRows[r], delta[r]);
                        if (biasSum != null) Lines<TV>.Put(biasSum + (long)(i + r) * tokens, dsRow, b > from, tokens);
                    }
                    if (dqkv == null) continue;

                    SixRows<TV>.Multiply(dq, cut.DepthStride, ds, cut.KeyStride, 1, keys, cut.DepthStride, whole, cut.DepthVectors, tokens,
                        accumulate: false);
                    Spread(TE.At(into, (nint)i * row), dq, rows, cut.Scale);
                    // q in scratch carries the factor log₂e/√D: ln 2 is left for the end.
                    SixRows<TV>.Multiply(dk, cut.DepthStride, ds, 1, cut.KeyStride, queries, cut.DepthStride, padded, cut.DepthVectors,
                        rows, accumulate: i > 0);
                    SixRows<TV>.Multiply(dv, cut.DepthStride, p, 1, cut.KeyStride, upstream, cut.DepthStride, padded, cut.DepthVectors,
                        rows, accumulate: i > 0);
                }
                if (dqkv == null) continue;
                Spread(TE.At(into, width), dk, tokens, AttentionCut.Ln2);
                Spread(TE.At(into, 2 * width), dv, tokens, 1f);
            }
            desks.Leave(desk);
        }

        /// <summary>A row of logits/ln 2 becomes p = exp(logit − lse), a row of dp becomes ds = p·(dp − δ).</summary>
        private void Scores(float* s, float* dp, float* line, float lseRow, float deltaRow)
        {
            TV units = TV.All(AttentionCut.Log2E), l = TV.All(lseRow) * units, d = TV.All(deltaRow);
            int n = cut.KeyVectors * TV.Count, tail = cut.Tokens - TV.Count;
            for (int j = 0; j < n; j += TV.Count)
            {
                TV logit = TV.Load(s + j) - l;
                if (line != null) logit = TV.MulAdd(units, j <= tail ? TV.Load(line + j) : TV.LoadFirst(line + j, cut.Tokens - j), logit);
                TV e = VectorMath.Exp2(logit);
                e.Store(s + j);
                (e * (TV.Load(dp + j) - d)).Store(dp + j);
            }
        }

        /// <summary>Puts scratch rows into one head's columns of dqkv.</summary>
        private void Spread(void* to, float* rows, int count, float scale)
        {
            for (int r = 0; r < count; r++)
                Lines<TV>.Scale<TE, F32Element>(TE.At(to, (nint)r * 3 * cut.Width), rows + (long)r * cut.DepthStride, scale, accumulate, cut.Depth);
        }
    }
}
