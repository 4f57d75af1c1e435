using System.Runtime.CompilerServices;
using MimEngine.Kernels.Cpu.Emitted;

namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    /// <summary>
    /// The weight gradient of bfloat16 operands on AMX, c = aᵀ·b (+ c) for a (K, M) and b (K, N). Both are packed once, each token range by itself; then
    /// parts of c are summed over ranges of tokens, and the ranges in order. Cuts follow from shapes.
    /// </summary>
    private struct PairGradient
    {
        public int M, N, K;
        public float* C;
        public bool Accumulate;
        public uint* PackedA, PackedB;

        /// <summary>Words between rows of A, and between panels of B.</summary>
        public nint AStride, BStride;

        /// <summary>(tasks, M) column sums of a, or null; (ranges, M, N) or null.</summary>
        public float* Sums, Partial;
        public int Pairs, RowParts, ColParts, Ranges, RangePairs;
        public Bf16Routines Code;
    }

    private const int PackTokens = 256;   // of one packing task

    private void MultiplyPairsTransposed(float* c, bool accumulate, float* sums, bool accumulateSums, Tensor a, Tensor b, int m, int n, int k)
    {
        if (_bf16!.Dots is { } dots)
        {
            MultiplyTransposed<Lanes16, Lanes8>(c, accumulate, sums, accumulateSums, a.Raw, b.Raw, m, n, k, a.DType, b.DType, dots);
            return;
        }
        var g = new PairGradient { M = m, N = n, K = k, C = c, Accumulate = accumulate, Code = _bf16! };
        g.Pairs = Ceiling(k, AmxCode.Step) * Bf16Pack.Group;
        (g.RowParts, g.ColParts) = (Ceiling(m, PartBf16), Ceiling(n, PartBf16));
        int ranges = Math.Min(Ceiling(k, BlockTokensBf16 / 2), Ceiling(4, g.RowParts * g.ColParts));
        g.RangePairs = Ceiling(Ceiling(g.Pairs, ranges), Bf16Pack.Group) * Bf16Pack.Group;
        g.Ranges = Ceiling(g.Pairs, g.RangePairs);
        g.AStride = g.Pairs + Bf16Gap;
        g.BStride = (nint)g.Pairs * g.Code.Width + Bf16Gap;
        int aPanels = Ceiling(m, AmxCode.Rows) * AmxCode.Rows, tasks = Ceiling(k, PackTokens);
        nint wordsA = aPanels * g.AStride, wordsB = Ceiling(n, g.Code.Width) * g.BStride;
        nint partial = g.Ranges > 1 ? (nint)g.Ranges * m * n : 0;
        g.PackedA = (uint*)Scratch(Bf16Slot, (wordsA + wordsB) * sizeof(uint));
        g.PackedB = g.PackedA + wordsA;
        float* other = (float*)Scratch(Bf16OtherSlot, (partial + (nint)tasks * m) * sizeof(float));
        g.Partial = partial == 0 ? null : other;
        g.Sums = sums == null ? null : other + partial;
        int packs = Ceiling(g.Pairs * 2, PackTokens);
        if (a.DType == DType.BF16) _rows.For(packs, 1, new PackGradientA<Bf16Element>(g, a.Raw));
        else _rows.For(packs, 1, new PackGradientA<F32Element>(g, a.Raw));
        if (b.DType == DType.BF16) _rows.For(packs, 1, new PackGradientB<Bf16Element>(g, b.Raw));
        else _rows.For(packs, 1, new PackGradientB<F32Element>(g, b.Raw));
        int units = g.Ranges * g.RowParts * g.ColParts;
        long desk = (AmxCode.Rows + 1) * AmxCode.Cols;
        _rows.For(units, 1, new PairGradientUnits(g, NewDesks(Bf16DeskSlot, units, desk)));
        if (sums != null) AddInOrder<Lanes16>(sums, g.Sums, m, tasks, accumulateSums);
        if (g.Partial != null) AddInOrder<Lanes16>(c, g.Partial, m * n, g.Ranges, accumulate);
    }

    private readonly struct PackGradientA<TE>(PairGradient g, void* a) : IRowKernel where TE : struct, IElement
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (int task = first; task < last; task++)
            {
                int token = task * PackTokens, pair = token / 2, pairs = Math.Min(PackTokens / 2, g.Pairs - pair);
                int rows = Math.Clamp(g.K - token, 0, 2 * pairs);
                void* x = TE.At(a, (nint)token * g.M);
                float* sums = g.Sums == null ? null : g.Sums + (nint)task * g.M;
                Bf16Pack.Transposed<TE>(g.PackedA + pair, g.AStride, pairs, x, g.M, rows, g.M, sums);
                for (int r = Ceiling(g.M, 16) * 16; r < Ceiling(g.M, AmxCode.Rows) * AmxCode.Rows; r++)
                    new Span<uint>(g.PackedA + r * g.AStride + pair, pairs).Clear();
            }
        }
    }

    private readonly struct PackGradientB<TE>(PairGradient g, void* b) : IRowKernel where TE : struct, IElement
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (int task = first; task < last; task++)
            {
                int token = task * PackTokens, pair = token / 2, pairs = Math.Min(PackTokens / 2, g.Pairs - pair);
                Bf16Pack.InterleavedRows<TE>(g.PackedB + (nint)pair * g.Code.Width, g.BStride, g.Code.Width, pairs, TE.At(b, (nint)token * g.N), g.N,
                    Math.Clamp(g.K - token, 0, 2 * pairs), g.N, null);
            }
        }
    }

    private readonly struct PairGradientUnits(PairGradient g, Desks desks) : IRowKernel
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            float* spare = desks.Take(out int desk);
            g.Code.Enter();
            for (int unit = first; unit < last; unit++) Unit(unit, spare);
            g.Code.Leave();
            desks.Leave(desk);
        }

        private void Unit(int unit, float* spare)
        {
            int part = unit % (g.RowParts * g.ColParts), range = unit / (g.RowParts * g.ColParts);
            (int firstRow, int lastRow) = Part(g.M, g.RowParts, part / g.ColParts);
            (int firstCol, int lastCol) = Part(g.N, g.ColParts, part % g.ColParts);
            float* c = g.Partial == null ? g.C : g.Partial + (nint)range * g.M * g.N, zeros = spare + AmxCode.Rows * AmxCode.Cols;
            new Span<float>(zeros, AmxCode.Cols).Clear();
            int firstPair = range * g.RangePairs, lastPair = Math.Min(g.Pairs, firstPair + g.RangePairs);
            for (int pair = firstPair; pair < lastPair; pair += BlockTokensBf16 / 2)
            {
                int pairs = Math.Min(BlockTokensBf16 / 2, lastPair - pair);
                bool adds = pair > firstPair || (g.Partial == null && g.Accumulate);
                Tile t = default;
                (t.K, t.ARow, t.AStep, t.BRow, t.Accumulate) = (pairs, g.AStride, 1, g.Code.Width, adds);
                t.Start = zeros;
                for (int col = firstCol; col < lastCol; col += g.Code.Width)
                {
                    int cols = Math.Min(g.Code.Width, lastCol - col);
                    t.B = (float*)(g.PackedB + col / g.Code.Width * g.BStride + (nint)pair * g.Code.Width);
                    for (int row = firstRow; row < lastRow; row += g.Code.TileRows)
                    {
                        int rows = Math.Min(g.Code.TileRows, lastRow - row);
                        bool whole = rows == g.Code.TileRows && cols == g.Code.Width;
                        float* at = c + (nint)row * g.N + col;
                        t.A = (float*)(g.PackedA + row * g.AStride + pair);
                        t.C = whole ? at : spare;
                        t.CRow = whole ? g.N : g.Code.Width;
                        if (!whole && adds) Open(spare, g.Code.TileRows, g.Code.Width, at, g.N, rows, cols);
                        g.Code.Run(&t, MicroKernels.Vectors, false);
                        if (!whole) Close(spare, g.Code.Width, at, g.N, rows, cols);
                    }
                }
            }
        }

        /// <summary>Whole blocks and panels in every part but the last: 96 is a multiple of 8, 32 and 48.</summary>
        private static (int First, int Last) Part(int extent, int parts, int i)
        {
            int step = Ceiling(Ceiling(extent, parts), 96) * 96;
            return (Math.Min(extent, i * step), Math.Min(extent, (i + 1) * step));
        }
    }
}
