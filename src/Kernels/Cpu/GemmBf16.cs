using System.Numerics;
using System.Runtime.CompilerServices;
using MimEngine.Kernels.Cpu.Emitted;

namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    private const int Bf16Slot = 8;              // packed operands of one product, partial sums
    private const int Bf16OtherSlot = 9;         // the other operand of a weight gradient; the second rounded copy
    private const int Bf16DeskSlot = 10;
    private const int LongestBf16Block = 1024;   // of the sum: a chunk of A of 96 to 256 rows and some panels of B stay in L2
    private const int BlockTokensBf16 = 800;     // of a weight gradient: parts of 384 × 384 and their operands are 1.8 MB
    private const int PartBf16 = 384;

    /// <summary>Words between packed rows and panels: strides that are multiples of 4096 bytes share cache sets.</summary>
    private const int Bf16Gap = 16;

    /// <summary>What a bfloat16 product multiplies with: where the pairs of A and B lie, and how they are cut.</summary>
    private struct PairProduct
    {
        public Product P;

        /// <summary>Pairs of a block of the sum.</summary>
        public readonly int BlockPairs => P.Block / 2;

        /// <summary>Words between two panels and two blocks of B.</summary>
        public nint Panel, BBlock;
        public uint* B;
        public Bf16Routines Code;
    }

    private PairProduct Pairs(Product p)
    {
        Bf16Routines code = _bf16!;
        int panels = Ceiling(p.N, code.Width);
        p.Block = Ceiling(Ceiling(p.K, Ceiling(p.K, LongestBf16Block)), AmxCode.Step) * AmxCode.Step;
        // Chunks as tall as A's block fits beside B, fewer where there are few.
        int tall = Math.Clamp(512 * 1024 / (2 * p.Block) / AmxCode.Rows, 3, 8) * AmxCode.Rows;
        p.ChunkRows = (nint)p.N * p.Block * 2 <= 1 << 20 || Ceiling(p.M, tall) < 8 ? 3 * AmxCode.Rows : tall;
        if (Ceiling(p.M, p.ChunkRows) * panels < LeastUnits) p.ChunkRows = AmxCode.Rows;
        int chunks = Math.Max(1, Ceiling(p.M, p.ChunkRows));
        p.GroupPanels = Ceiling(panels, Math.Min(panels, Ceiling(LeastUnits / 4, chunks)));
        p.Groups = Ceiling(panels, p.GroupPanels);
        var q = new PairProduct { P = p, Code = code };
        q.Panel = q.BlockPairs * code.Width + Bf16Gap;
        q.BBlock = panels * q.Panel;
        q.B = (uint*)Scratch(Bf16Slot, Ceiling(p.K, p.Block) * q.BBlock * sizeof(uint));
        return q;
    }

    /// <summary>y = x·wᵀ (+ b) of bfloat16 operands, or what the product's finish makes of it.</summary>
    private void MultiplyPairsByTransposed(Product p, float* x, float* w)
    {
        PairProduct q = Pairs(p);
        _rows.For(Ceiling(p.N, q.Code.Width) * Ceiling(p.K, q.P.Block), 1, new PackPairColumns(q, w));
        MultiplyPairs(q, x);
    }

    /// <summary>C = a·b (+ C) of bfloat16 operands, a (M, K), b (K, N) row-major.</summary>
    private void MultiplyPairsPlain(Product p, float* a, float* b)
    {
        PairProduct q = Pairs(p);
        _rows.For(Ceiling(p.K, q.P.Block) * (q.P.Block / AmxCode.Step), 1, new PackPairRows(q, b));
        MultiplyPairs(q, a);
    }

    private void MultiplyPairs(PairProduct q, float* a)
    {
        q.P.A = a;
        int units = Ceiling(q.P.M, q.P.ChunkRows) * q.P.Groups;
        long desk = (long)q.P.ChunkRows * (q.BlockPairs + Bf16Gap) + (AmxCode.Rows + 1) * MicroKernels.Vectors * 16;
        _rows.For(units, 1, new PairUnits(q, NewDesks(Bf16DeskSlot, units, desk)));
    }

    private readonly struct PackPairColumns(PairProduct q, float* w) : IRowKernel
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int width = q.Code.Width, panels = Ceiling(q.P.N, width);
            for (int i = first; i < last; i++)
            {
                int block = i / panels, panel = i % panels, k = block * q.P.Block, n = panel * width;
                Bf16Pack.Columns(q.B + block * q.BBlock + panel * q.Panel, width, q.BlockPairs, w + (nint)n * q.P.K + k, q.P.K,
                    Math.Min(width, q.P.N - n), Math.Min(q.P.Block, q.P.K - k));
            }
        }
    }

    private readonly struct PackPairRows(PairProduct q, float* b) : IRowKernel
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int groups = q.P.Block / AmxCode.Step, width = q.Code.Width;
            for (int i = first; i < last; i++)
            {
                int block = i / groups, group = i % groups, k = block * q.P.Block + group * AmxCode.Step;
                Bf16Pack.InterleavedRows(q.B + block * q.BBlock + group * Bf16Pack.Group * width, q.Panel, width, Bf16Pack.Group,
                    b + (nint)k * q.P.N, q.P.N, Math.Clamp(q.P.K - k, 0, AmxCode.Step), q.P.N, null);
            }
        }
    }

    private readonly struct PairUnits(PairProduct q, Desks desks) : IRowKernel
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            float* area = desks.Take(out int desk);
            q.Code.Enter();
            for (int unit = first; unit < last; unit++)
                Unit(unit / q.P.Groups * q.P.ChunkRows, unit % q.P.Groups * q.P.GroupPanels, (uint*)area);
            q.Code.Leave();
            desks.Leave(desk);
        }

        private void Unit(int firstRow, int firstPanel, uint* area)
        {
            Product p = q.P;
            int width = q.Code.Width, tileRows = q.Code.TileRows, lastRow = Math.Min(p.M, firstRow + p.ChunkRows);
            int lastPanel = Math.Min(firstPanel + p.GroupPanels, Ceiling(p.N, width)), rows = lastRow - firstRow;
            nint aRow = q.BlockPairs + Bf16Gap;
            float* spare = (float*)(area + p.ChunkRows * aRow);   // a block of the product that is cut, or added to a residual
            float* edge = spare + AmxCode.Rows * width;           // the last panel's bias
            bool apart = p.Finish == Finish.Residual;
            for (int k = 0, block = 0; k < p.K; k += p.Block, block++)
            {
                int length = Math.Min(p.Block, p.K - k), pairs = Ceiling(length, AmxCode.Step) * Bf16Pack.Group;
                bool starts = k == 0, ends = k + length == p.K;
                Bf16Pack.Rows(area, aRow, pairs, p.A + (nint)firstRow * p.K + k, p.K, rows, length);
                int padded = Ceiling(rows, tileRows) * tileRows;
                for (int r = rows; r < padded; r++) new Span<uint>(area + r * aRow, pairs).Clear();
                for (int panel = firstPanel; panel < lastPanel; panel++)
                {
                    int col = panel * width, cols = Math.Min(width, p.N - col);
                    uint* b = q.B + block * q.BBlock + panel * q.Panel;
                    float* bias = !starts || p.Bias == null ? null : p.Bias + col;
                    if (bias != null && cols < width)
                    {
                        new Span<float>(bias, cols).CopyTo(new Span<float>(edge, cols));
                        new Span<float>(edge + cols, width - cols).Clear();
                        bias = edge;
                    }
                    for (int row = firstRow; row < lastRow; row += tileRows)
                    {
                        int n = Math.Min(tileRows, lastRow - row);
                        uint* a = area + (row - firstRow) * aRow;
                        float* c = p.C + (nint)row * p.N + col;
                        bool adds = !apart && (!starts || p.Accumulate);
                        if (n == tileRows && cols == width && !apart)
                            q.Code.Block(pairs, a, aRow, false, b, c, p.N, adds ? c : bias, adds ? p.N : 0, cols);
                        else
                        {
                            if (adds) Open(spare, width, c, p.N, n, cols);
                            q.Code.Block(pairs, a, aRow, false, b, spare, width, adds ? spare : bias, adds ? width : 0, width);
                            if (apart) AddBranch(p, spare, width, row, n, col, cols, starts);
                            else Close(spare, width, c, p.N, n, cols);
                        }
                    }
                    if (p.Finish == Finish.Gelu && ends && ((panel + 1 - firstPanel) % GeluPanels == 0 || panel + 1 == lastPanel))
                        TakeGelu<Lanes16>(p, firstRow, lastRow, (firstPanel + (panel - firstPanel) / GeluPanels * GeluPanels) * width, col + cols);
                }
            }
        }

        private static void AddBranch(in Product p, float* branch, int width, int row, int rows, int col, int cols, bool starts)
        {
            for (int r = row; r < row + rows; r++, branch += width)
            {
                float* c = p.C + (nint)r * p.N + col, x = starts ? p.Residual + (nint)r * p.N + col : c;
                ScaleAddRow<Lanes16>(c, branch, x, p.Scales.Gamma == null ? null : p.Scales.Gamma + col, p.Scales.OfRow(r), cols);
            }
        }
    }

    /// <summary>c's part of a cut block, zeros outside of it.</summary>
    private static void Open(float* spare, int width, float* c, nint cRow, int rows, int cols)
    {
        new Span<float>(spare, AmxCode.Rows * width).Clear();
        for (int r = 0; r < rows; r++) new Span<float>(c + r * cRow, cols).CopyTo(new Span<float>(spare + r * width, cols));
    }

    private static void Close(float* spare, int width, float* c, nint cRow, int rows, int cols)
    {
        for (int r = 0; r < rows; r++) new Span<float>(spare + r * width, cols).CopyTo(new Span<float>(c + r * cRow, cols));
    }

    /// <summary>x rounded to bfloat16 and kept as float32, for machines that cannot multiply bfloat16.</summary>
    private float* Rounded(float* x, long count, int slot)
    {
        float* y = (float*)Scratch(slot, count * sizeof(float));
        _rows.For(checked((int)count), ElementGrain, new RoundRows(y, x));
        return y;
    }

    private readonly struct RoundRows(float* y, float* x) : IRowKernel
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int i = first;
            for (; i <= last - Vector<float>.Count; i += Vector<float>.Count)
            {
                var v = Unsafe.ReadUnaligned<Vector<float>>(x + i);
                Vector<uint> u = Vector.AsVectorUInt32(v), near = u + new Vector<uint>(0x7FFF) + ((u >> 16) & Vector<uint>.One);
                Vector<uint> kept = Vector.ConditionalSelect(Vector.AsVectorUInt32(Vector.Equals(v, v)), near, u | new Vector<uint>(0x0040_0000));
                Unsafe.WriteUnaligned(y + i, kept & new Vector<uint>(0xFFFF_0000));
            }
            for (; i < last; i++)
            {
                uint u = BitConverter.SingleToUInt32Bits(x[i]);
                u = float.IsNaN(x[i]) ? u | 0x0040_0000 : u + 0x7FFF + (u >> 16 & 1);
                y[i] = BitConverter.UInt32BitsToSingle(u & 0xFFFF_0000);
            }
        }
    }
}
