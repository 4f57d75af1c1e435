using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using MimEngine.Kernels.Cpu.Emitted;

namespace MimEngine.Kernels.Cpu;

/// <summary>
/// Attention of bfloat16 tensors with VDPBF16PS: the cuts and the softmax of float32, but every product's operands are pairs along its sum, two
/// bfloat16 numbers in 32 bits. q, k, v and dy are multiplied as they are stored; probabilities and their slopes are rounded once, to nearest
/// even, as they leave the softmax, whose sum is of the unrounded ones.
/// </summary>
internal static unsafe class AttentionPairs
{
    /// <summary>to[r, d]: pairs (from[2r, d], from[2r + 1, d]) of all columns, in whole vectors; a row that is not there is zeros.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    public static void Interleave(float* to, int stride, ushort* from, int row, int rows, int depth)
    {
        Vector512<ushort> low = (Vector512<uint>.Indices | (Vector512<uint>.Indices + Vector512.Create(32u)) << 16).AsUInt16();
        Vector512<ushort> high = low + Vector512.Create((ushort)16);
        for (int r = 0; r < rows; r += 2, to += stride, from += 2 * row)
        {
            int d = 0;
            bool two = r + 1 < rows;
            for (; two && d <= depth - 32; d += 32)
            {
                Vector512<ushort> even = Vector512.Load(from + d), odd = Vector512.Load(from + row + d);
                Avx512BW.PermuteVar32x16x2(even, low, odd).AsSingle().Store(to + d);
                Avx512BW.PermuteVar32x16x2(even, high, odd).AsSingle().Store(to + d + 16);
            }
            for (; d < depth; d += 16)
            {
                Vector512<uint> even = Lines<Lanes16>.Load<Bf16Element>(from, d, depth - d).V.AsUInt32();
                Vector512<uint> odd = two ? Lines<Lanes16>.Load<Bf16Element>(from, row + d, depth - d).V.AsUInt32() : default;
                (even >> 16 | odd).Store((uint*)to + d);
            }
        }
    }

    /// <summary>Pairs of neighbouring keys of one vector of queries.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    public static void PairUp(uint* to, int toRow, float* rows, int keys, int row)
    {
        Vector512<uint> upper = Vector512.Create(0xFFFF_0000u);
        for (int j = 0; j < keys; j += 2, to += toRow, rows += 2 * row)
            (Rounded(Vector512.Load(rows)) >> 16 | (j + 1 < keys ? Rounded(Vector512.Load(rows + row)) & upper : default)).Store(to);
    }

    /// <summary>One vector of queries of every key, rounded.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    public static void Round(ushort* to, int toRow, float* rows, int keys, int row)
    {
        for (int j = 0; j < keys; j++, to += toRow, rows += row) Store(Vector512.Load(rows), to);
    }

    /// <summary>A line of numbers, and zeros up to a whole vector.</summary>
    public static void Round(float* line, ushort* to, int n)
    {
        for (int j = 0; j < n; j += 16) Store(Lines<Lanes16>.Load(line + j, n - j).V, to + j);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Store(Vector512<float> a, ushort* to) => Avx512F.ConvertToVector256UInt16(Rounded(a) >> 16).Store(to);

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
    private readonly struct AttentionForwardPairs(AttentionCut cut, ushort* y, float* lse, ushort* qkv, float* bias, Desks desks, AttentionRoutines dots)
        : IRowKernel
    {
        private const int Lanes = 16;

        /// <summary>Pairs of v; a panel of qᵀ, of scores, their pairs and outputs; an odd query's scores, twice; the head's bias transposed.</summary>
        public static long Floats(in AttentionCut cut) => AttentionCut.ChunkFloats((cut.Tokens + 1L) / 2 * cut.DepthStride
            + (long)cut.Panel * (cut.Depth / 2 + cut.Tokens + (cut.Tokens + 1) / 2 + cut.DepthStride) + 2 * cut.Line
            + (cut.Biased ? (long)cut.Tokens * cut.AllQueries : 0));

        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int tokens = cut.Tokens, depth = cut.Depth, half = depth / 2, width = cut.Width, row = 3 * width;
            int panel = cut.Panel, stride = cut.DepthStride, keyPairs = (tokens + 1) / 2;
            float* values = desks.Take(out int desk), across = values + (nint)keyPairs * stride, scores = across + (nint)half * panel;
            float* pairs = scores + (nint)tokens * panel, outputs = pairs + (nint)keyPairs * panel, line = outputs + (nint)panel * stride;
            float* pairedLine = line + cut.Line, lines = pairedLine + cut.Line;
            float* inverse = stackalloc float[BandCode.Vectors * Lanes];
            AttentionAhead ahead;
            var tiles = new AttentionTiles<Lanes16>(null, &ahead, dots);
            (int h, int from, int to) = cut.Part(chunk);
            if (bias != null)
                HeadRows<Lanes16>.Transpose<F32Element>(lines, cut.AllQueries, bias + (nint)h * tokens * tokens, tokens, tokens, tokens);
            for (int b = from; b < to; b++)
            {
                ushort* q = qkv + (nint)b * tokens * row + h * depth, result = y + (nint)b * tokens * width + h * depth;
                float* lseRows = lse + ((nint)b * cut.Heads + h) * tokens;
                ForwardAhead<Bf16Element>(ref ahead, cut, chunk, b, to, qkv, y);
                AttentionPairs.Interleave(values, stride, q + 2 * width, row, tokens, depth);
                for (int n = 0; n < cut.Panels; n++)
                {
                    (int i, int vectors, int queries) = cut.PanelAt(n);
                    // A pair is 32 bits that are only moved: rows are transposed as floats are.
                    HeadRows<Lanes16>.Transpose<F32Element>(across, panel, q + (nint)i * row, row / 2, queries, half);
                    tiles.Sums(scores, panel, (float*)(q + width), row / 2, 1, across, panel, tokens, vectors, half, accumulate: false);
                    for (int at = 0; at < queries; at += Lanes)
                        Softmax<Lanes16>(cut, dots, scores + at, (uint*)pairs + at, bias == null ? null : lines + i + at, inverse + at, lseRows + i + at,
                            queries - at);
                    Outputs(tiles, result + (nint)i * width, pairs, 1, panel, values, queries, inverse, outputs);
                }
                for (int i = cut.Whole; i < tokens; i++)
                {
                    AttentionRows<Lanes16>.Dots<Bf16Element>(line, q + (nint)i * row, 0, q + width, row, tokens, depth);
                    (inverse[0], lseRows[i]) = AttentionRows<Lanes16>.Softmax(line, tokens, cut.BinaryScale);
                    AttentionPairs.Round(line, (ushort*)pairedLine, tokens);
                    Outputs(tiles, result + (nint)i * width, pairedLine, 0, 1, values, 1, inverse, outputs);
                }
            }
            desks.Leave(desk);
        }

        /// <summary>y of some queries: p·v, each row by its scale.</summary>
        private void Outputs(in AttentionTiles<Lanes16> tiles, ushort* result, float* p, int pRow, int pStep, float* values, int queries, float* scales,
            float* sums)
        {
            bool direct = cut.Depth % Lanes == 0;
            int stride = cut.DepthStride, keyPairs = (cut.Tokens + 1) / 2;
            for (int g = 0; g < cut.DepthGroups; g++)
            {
                (int at, int count) = cut.DepthGroup(g);
                at *= Lanes;
                if (direct) tiles.Scaled(result + at, cut.Width, p, pRow, pStep, values + at, stride, queries, count, keyPairs, scales, 1);
                else tiles.Sums(sums + at, stride, p, pRow, pStep, values + at, stride, queries, count, keyPairs, accumulate: false);
            }
            if (!direct) HeadRows<Lanes16>.Spread<Bf16Element>(result, cut.Width, sums, stride, queries, cut.Depth, 1f, scales, accumulate: false);
        }
    }
}
