using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using MimEngine.Kernels.Cpu.Emitted;

namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    /// <summary>One row is one chunk of the cut.</summary>
    private readonly struct AttentionBackwardPairs(AttentionCut cut, ushort* dqkv, bool accumulate, float* dbias, ushort* dy, ushort* y, float* lse,
        ushort* qkv, float* bias, Desks desks, AttentionRoutines dots) : IRowKernel
    {
        private const int Lanes = 16;

        /// <summary>
        /// δ; pairs of k, q and dy; sums; a panel of qᵀ, dyᵀ, scores and dp; of a block p and ds in pairs of queries and ds in pairs of keys; an odd
        /// query's p and ds, twice; the head's bias transposed, and the sum of ds.
        /// </summary>
        public static long Floats(in AttentionCut cut) => AttentionCut.ChunkFloats(cut.Line + 3 * ((cut.Tokens + 1L) / 2) * cut.DepthStride
            + 3L * cut.Tokens * cut.DepthStride + (long)cut.Panel * (cut.Depth + 2 * cut.Tokens)
            + (cut.Tokens + (cut.Tokens + 1L) / 2) * cut.BlockLine + 4 * cut.Line + (cut.Biased ? 2L * cut.Tokens * cut.AllQueries : 0));

        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int tokens = cut.Tokens, depth = cut.Depth, half = depth / 2, width = cut.Width, row = 3 * width;
            int panel = cut.Panel, stride = cut.DepthStride, keyPairs = (tokens + 1) / 2, columns = cut.BlockLine;
            nint paired = (nint)keyPairs * stride, head = (nint)tokens * stride, square = (nint)tokens * (columns / 2);
            float* delta = desks.Take(out int desk), keyRows = delta + cut.Line, queryRows = keyRows + paired, dyRows = queryRows + paired;
            float* dq = dyRows + paired, dk = dq + head, dv = dk + head, queriesAcross = dv + head, upstreamAcross = queriesAcross + (nint)half * panel;
            float* s = upstreamAcross + (nint)half * panel, dp = s + (nint)tokens * panel;
            float* p = dp + (nint)tokens * panel, ds = p + square, dsAcross = ds + square;
            float* line = dsAcross + (nint)keyPairs * columns, slopes = line + cut.Line;
            ushort* pairedLine = (ushort*)(slopes + cut.Line), pairedSlopes = pairedLine + 2 * cut.Line;
            float* lines = (float*)(pairedSlopes + 2 * cut.Line), dlines = lines + (nint)tokens * cut.AllQueries;
            new Span<float>(delta, cut.Line).Clear();
            AttentionAhead ahead;
            var tiles = new AttentionTiles<Lanes16>(null, &ahead, dots);
            (int h, int from, int to) = cut.Part(chunk);
            if (bias != null)
                HeadRows<Lanes16>.Transpose<F32Element>(lines, cut.AllQueries, bias + (nint)h * tokens * tokens, tokens, tokens, tokens);
            for (int b = from; b < to; b++)
            {
                nint start = (nint)b * tokens * row + h * depth, token = (nint)b * tokens * width + h * depth;
                ushort* q = qkv + start, k = q + width, v = q + 2 * width, upstream = dy + token, into = dqkv == null ? null : dqkv + start;
                BackwardAhead<Bf16Element>(ref ahead, cut, chunk, b, to, dqkv, qkv, dy, y);
                if (dqkv != null)
                {
                    AttentionPairs.Interleave(keyRows, stride, k, row, tokens, depth);
                    AttentionPairs.Interleave(queryRows, stride, q, row, tokens, depth);
                    AttentionPairs.Interleave(dyRows, stride, upstream, width, tokens, depth);
                }
                AttentionRows<Lanes16>.Dots<Bf16Element>(delta, upstream, width, y + token, width, tokens, depth);
                float* lseRows = lse + ((nint)b * cut.Heads + h) * tokens;
                for (int block = 0; block < cut.Blocks; block++)
                {
                    int firstPanel = cut.BlockAt(block), endPanel = cut.BlockAt(block + 1), i0 = cut.PanelAt(firstPanel).First, queries = 0;
                    for (int n = firstPanel; n < endPanel; n++)
                    {
                        (int i, int vectors, int count) = cut.PanelAt(n);
                        HeadRows<Lanes16>.Transpose<F32Element>(queriesAcross, panel, q + (nint)i * row, row / 2, count, half);
                        HeadRows<Lanes16>.Transpose<F32Element>(upstreamAcross, panel, upstream + (nint)i * width, width / 2, count, half);
                        tiles.Sums(s, panel, (float*)k, row / 2, 1, queriesAcross, panel, tokens, vectors, half, accumulate: false);
                        tiles.Sums(dp, panel, (float*)v, row / 2, 1, upstreamAcross, panel, tokens, vectors, half, accumulate: false);
                        for (int at = 0; at < count; at += Lanes)
                        {
                            int column = i - i0 + at;
                            PairedSlopes(s + at, dp + at, bias == null ? null : lines + i + at, dbias == null ? null : dlines + i + at,
                                Lines<Lanes16>.Load(lseRows + i + at, count - at), Lanes16.Load(delta + i + at), b > from,
                                (ushort*)p + column, (ushort*)ds + column, (uint*)dsAcross + column);
                        }
                        queries = i + count - i0;
                    }
                    if (dqkv == null) continue;
                    Put(tiles, into + (nint)i0 * row, dq, dsAcross, 1, columns, keyRows, queries, keyPairs, cut.Scale, 0, 1);
                    if (block == cut.Blocks - 1 && cut.Odd > 0)
                    {
                        for (int i = cut.Whole; i < tokens; i++)
                        {
                            AttentionRows<Lanes16>.Dots<Bf16Element>(line, q + (nint)i * row, 0, k, row, tokens, depth);
                            AttentionRows<Lanes16>.Dots<Bf16Element>(slopes, upstream + (nint)i * width, 0, v, row, tokens, depth);
                            AttentionRows<Lanes16>.Slopes(line, slopes, tokens, cut.BinaryScale, lseRows[i], delta[i]);
                            AttentionPairs.Round(line, pairedLine, tokens);
                            AttentionPairs.Round(slopes, pairedSlopes, tokens);
                            Stand((ushort*)p + queries, pairedLine, i == tokens - 1);
                            Stand((ushort*)ds + queries, pairedSlopes, i == tokens - 1);
                            Put(tiles, into + (nint)i * row, dq, (float*)pairedSlopes, 0, 1, keyRows, 1, keyPairs, cut.Scale, 0, 1);
                            queries++;
                        }
                    }
                    nint skip = (nint)(i0 / 2) * stride;
                    Put(tiles, into + width, dk, ds, columns / 2, 1, queryRows + skip, tokens, (queries + 1) / 2, cut.Scale, block, cut.Blocks);
                    Put(tiles, into + 2 * width, dv, p, columns / 2, 1, dyRows + skip, tokens, (queries + 1) / 2, 1f, block, cut.Blocks);
                }
            }
            if (dbias != null)
                HeadRows<Lanes16>.Transpose<F32Element>(dbias + (nint)chunk * tokens * tokens, tokens, dlines, cut.AllQueries, tokens, tokens);
            desks.Leave(desk);
        }

        /// <summary>A line of keys as a column; behind the last one a column of zeros, which may be the other half of its pair.</summary>
        private void Stand(ushort* to, ushort* line, bool last)
        {
            for (int j = 0; j < cut.Tokens; j++, to += cut.BlockLine)
            {
                to[0] = line[j];
                if (last) to[1] = 0;
            }
        }

        /// <summary>
        /// One vector of queries, all keys, as <see cref="Slopes"/>; but p and ds leave rounded, in rows of keys, and ds in pairs of keys too.
        /// </summary>
        private void PairedSlopes(float* s, float* dp, float* line, float* dline, Lanes16 lse, Lanes16 delta, bool add, ushort* p, ushort* ds, uint* dsAcross)
        {
            int panel = cut.Panel, columns = cut.BlockLine;
            if (line != null || dline != null)
            {
                Slopes(cut, null, panel, s, dp, line, dline, lse, delta, add);
                AttentionPairs.Round(p, columns, s, cut.Tokens, panel);
                AttentionPairs.Round(ds, columns, dp, cut.Tokens, panel);
                AttentionPairs.PairUp(dsAcross, columns, dp, cut.Tokens, panel);
                return;
            }
            float* given = stackalloc float[2 * Lanes];
            (Lanes16.Zero - lse * Lanes16.All(AttentionCut.Log2E)).Store(given);
            delta.Store(given + Lanes);
            var column = new SlopeColumn
            {
                S = s, Dp = dp, Row = panel * sizeof(float), Keys = cut.Tokens, Scale = cut.BinaryScale, First = given, Second = given + Lanes,
                P = p, Ds = ds, HalfRow = columns * sizeof(ushort), Pairs = dsAcross, PairRow = columns * sizeof(uint),
            };
            dots.Slopes(&column);
        }

        /// <summary>scale·(a·b) into one head's columns of dqkv, in parts whose sums gather in scratch until the last.</summary>
        private void Put(in AttentionTiles<Lanes16> tiles, ushort* result, float* sums, float* a, int aRow, int aStep, float* b, int rows, int length,
            float scale, int part, int parts)
        {
            bool direct = cut.Depth % Lanes == 0 && !accumulate && parts == 1;
            int row = 3 * cut.Width, stride = cut.DepthStride;
            for (int g = 0; g < cut.DepthGroups; g++)
            {
                (int at, int count) = cut.DepthGroup(g);
                at *= Lanes;
                if (direct) tiles.Scaled(result + at, row, a, aRow, aStep, b + at, stride, rows, count, length, &scale, 0);
                else tiles.Sums(sums + at, stride, a, aRow, aStep, b + at, stride, rows, count, length, accumulate: part > 0);
            }
            if (!direct && part == parts - 1) HeadRows<Lanes16>.Spread<Bf16Element>(result, row, sums, stride, rows, cut.Depth, scale, null, accumulate);
        }
    }
}
