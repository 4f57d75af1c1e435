using System.Numerics;
using System.Runtime.CompilerServices;
using MimEngine.Kernels.Cpu.Emitted;

namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    private const int Bf16Slot = 8;              // packed operands of one product, partial sums
    private const int Bf16OtherSlot = 9;         // the other operand of a weight gradient; the second rounded copy
    private const int Bf16DeskSlot = 10;
    private const int LongestBf16Block = 1024;   // of the sum on AMX: a chunk of A of 96 to 256 rows and some panels of B stay in L2
    private const int LongestDotBlock = 1536;    // with VDPBF16PS: 8 rows of A are 24 kB (half of L1), a panel of B 147 kB
    private const int BlockTokensBf16 = 800;     // of a weight gradient on AMX: parts of 384 × 384 and their operands are 1.8 MB
    private const int PartBf16 = 384;

    /// <summary>Words between packed rows and panels: strides that are multiples of 4096 bytes share cache sets.</summary>
    private const int Bf16Gap = 16;

    /// <summary>What a bfloat16 product multiplies with: where the pairs of A and B lie, and how they are cut. Product's A and B are unused.</summary>
    private struct PairProduct
    {
        public Product P;

        /// <summary>(M, K), float32 or bfloat16.</summary>
        public void* A;
        public bool HalfA;

        /// <summary>Product's C is bfloat16; so is its GELU.</summary>
        public bool HalfC;

        /// <summary>Words between two panels and two blocks of B.</summary>
        public nint Panel, BBlock;
        public uint* B;
        public Bf16Routines Code;

        /// <summary>Pairs of a block of the sum, and of the whole sum, padded.</summary>
        public readonly int BlockPairs => P.Block / 2;
        public readonly int Pairs => Ceiling(P.K, AmxCode.Step) * Bf16Pack.Group;

        /// <summary>Whole tiles of A are read where they lie: its pairs are neighbours already.</summary>
        public readonly bool InPlace => HalfA && P.K % 2 == 0 && Code.Unit == Bf16Unit.Dot;

        /// <summary>Words of A that a unit packs: its rows, or only those of a cut tile.</summary>
        public readonly nint PackedWords => (InPlace ? Code.TileRows : Ceiling(P.ChunkRows, Code.TileRows) * Code.TileRows) * (nint)(Pairs + Bf16Gap);
    }

    private PairProduct Pairs(Product p, Tensor a, DType c)
    {
        Bf16Routines code = _bf16!;
        bool dot = code.Unit == Bf16Unit.Dot;
        int panels = Ceiling(p.N, code.Width);
        p.Block = Ceiling(Ceiling(p.K, Ceiling(p.K, dot ? LongestDotBlock : LongestBf16Block)), AmxCode.Step) * AmxCode.Step;
        // Chunks as tall as A fits beside B, fewer where there are few.
        int tall = Math.Clamp(512 * 1024 / (2 * p.K) / AmxCode.Rows, 3, dot ? 3 : 8) * AmxCode.Rows;
        p.ChunkRows = (nint)p.N * p.Block * 2 <= 1 << 20 || Ceiling(p.M, tall) < 8 ? 3 * AmxCode.Rows : tall;
        Group(ref p, Ceiling(p.M, code.TileRows), dot ? LeastTiles : 1, panels);
        var q = new PairProduct { P = p, Code = code, A = a.Raw, HalfA = a.DType == DType.BF16, HalfC = c == DType.BF16 };
        q.Panel = q.BlockPairs * code.Width + Bf16Gap;
        q.BBlock = panels * q.Panel;
        q.B = (uint*)Scratch(Bf16Slot, Ceiling(p.K, p.Block) * q.BBlock * sizeof(uint));
        return q;
    }

    /// <summary>y = x·wᵀ (+ b) of bfloat16 operands, or what the product's finish makes of it.</summary>
    private void MultiplyPairsByTransposed(Product p, DType y, Tensor x, Tensor w)
    {
        PairProduct q = Pairs(p, x, y);
        int tasks = Ceiling(p.N, q.Code.Width) * Ceiling(p.K, q.P.Block);
        int grain = Grain(tasks, 1, PackFlops * (long)p.N * p.K);
        if (w.DType == DType.BF16) _rows.For(tasks, grain, new PackPairColumns<Bf16Element>(q, w.Raw));
        else _rows.For(tasks, grain, new PackPairColumns<F32Element>(q, w.Raw));
        MultiplyPairs(q);
    }

    /// <summary>C = a·b (+ C) of bfloat16 operands, a (M, K), b (K, N) row-major.</summary>
    private void MultiplyPairsPlain(Product p, DType c, Tensor a, Tensor b)
    {
        PairProduct q = Pairs(p, a, c);
        int tasks = Ceiling(p.K, q.P.Block) * (q.P.Block / AmxCode.Step);
        int grain = Grain(tasks, 1, PackFlops * (long)p.N * p.K);
        if (b.DType == DType.BF16) _rows.For(tasks, grain, new PackPairRows<Bf16Element>(q, b.Raw));
        else _rows.For(tasks, grain, new PackPairRows<F32Element>(q, b.Raw));
        MultiplyPairs(q);
    }

    private void MultiplyPairs(PairProduct q)
    {
        int tiles = Ceiling(q.P.M, q.Code.TileRows), all = tiles * q.P.Groups;
        long desk = q.PackedWords + (AmxCode.Rows + 2) * MicroKernels.Vectors * 16;
        int least = Grain(all, q.Code.Dots != null ? LeastTiles : 1, (long)q.P.M * q.P.N * q.P.K);
        _rows.ForAnyCut(all, least, q.P.ChunkRows / q.Code.TileRows, new PairTiles(q, tiles, NewDesks(Bf16DeskSlot, all, desk)));
    }

    private readonly struct PackPairColumns<TE>(PairProduct q, void* w) : IRowKernel where TE : struct, IElement
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int width = q.Code.Width, panels = Ceiling(q.P.N, width);
            for (int i = first; i < last; i++)
            {
                int block = i / panels, panel = i % panels, k = block * q.P.Block, n = panel * width;
                Bf16Pack.Columns<TE>(q.B + block * q.BBlock + panel * q.Panel, width, q.BlockPairs, TE.At(w, (nint)n * q.P.K + k), q.P.K,
                    Math.Min(width, q.P.N - n), Math.Min(q.P.Block, q.P.K - k));
            }
        }
    }

    private readonly struct PackPairRows<TE>(PairProduct q, void* b) : IRowKernel where TE : struct, IElement
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int groups = q.P.Block / AmxCode.Step, width = q.Code.Width;
            for (int i = first; i < last; i++)
            {
                int block = i / groups, group = i % groups, k = block * q.P.Block + group * AmxCode.Step;
                Bf16Pack.InterleavedRows<TE>(q.B + block * q.BBlock + group * Bf16Pack.Group * width, q.Panel, width, Bf16Pack.Group,
                    TE.At(b, (nint)k * q.P.N), q.P.N, Math.Clamp(q.P.K - k, 0, AmxCode.Step), q.P.N, null);
            }
        }
    }

    /// <summary>Tiles one above the other of a group: panel by panel, tile by tile, and in a tile the blocks of the sum, whose operands are in L2.</summary>
    private readonly struct PairTiles(PairProduct q, int tiles, Desks desks) : IRowKernel
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            float* area = desks.Take(out int desk);
            q.Code.Enter();
            int tileRows = q.Code.TileRows;
            while (first < last)
            {
                (int group, int tile) = Math.DivRem(first, tiles);
                int n = Math.Min(Math.Min(last - first, tiles - tile), q.P.ChunkRows / tileRows);
                Unit(tile * tileRows, Math.Min(q.P.M, (tile + n) * tileRows), group * q.P.GroupPanels, (uint*)area);
                first += n;
            }
            q.Code.Leave();
            desks.Leave(desk);
        }

        private void Unit(int firstRow, int lastRow, int firstPanel, uint* area)
        {
            Product p = q.P;
            int width = q.Code.Width, tileRows = q.Code.TileRows;
            int lastPanel = Math.Min(firstPanel + p.GroupPanels, Ceiling(p.N, width)), rowTiles = Ceiling(lastRow - firstRow, tileRows);
            nint packedRow = q.Pairs + Bf16Gap;
            float* spare = (float*)(area + q.PackedWords);   // a tile of the product that is cut, rounded or added to a residual
            float* edge = spare + AmxCode.Rows * width;      // the last panel's bias
            float* zeros = edge + width;
            new Span<float>(zeros, width).Clear();
            int packFrom = q.InPlace ? firstRow + (lastRow - firstRow) / tileRows * tileRows : firstRow;
            if (packFrom < lastRow) PackA(area, packedRow, packFrom, lastRow - packFrom);
            bool apart = p.Finish == Finish.Residual, sloped = p.Finish == Finish.Slope, curved = sloped || p.Finish == Finish.Gelu;
            bool inOne = q.Code.Dots != null && p.Block >= p.K && !p.Accumulate;
            Tile t = default;
            (t.AStep, t.BRow) = (1, width);
            float* ones = stackalloc float[3 * 16], scales = stackalloc float[8];
            new Span<float>(ones, 3 * 16).Fill(1f);
            t.RowScales = scales;
            for (int panel = firstPanel; panel < lastPanel; panel++)
            {
                int col = panel * width, cols = Math.Min(width, p.N - col), vectors = Ceiling(cols, 16);
                float* bias = p.Bias == null ? zeros : p.Bias + col;
                if (p.Bias != null && cols < width)
                {
                    new Span<float>(bias, cols).CopyTo(new Span<float>(edge, cols));
                    new Span<float>(edge + cols, width - cols).Clear();
                    bias = edge;
                }
                // As in float32: the first panel's tiles fetch the next tile's rows of A, the others' the next panel of B among them.
                bool fetchesA = panel == firstPanel && q.InPlace;
                nint shareOfB = Ceiling(q.BlockPairs * width, rowTiles), nextB = (nint)(q.B + (panel + 1) * q.Panel);
                t.Gamma = p.Scales.Gamma == null ? ones : p.Scales.Gamma + col;
                t.AheadStep = fetchesA ? tileRows * sizeof(uint) : Math.Min(64, Ceiling((int)shareOfB * sizeof(uint), q.BlockPairs));
                for (int row = firstRow; row < lastRow; row += tileRows, nextB += shareOfB * sizeof(uint))
                {
                    int n = Math.Min(tileRows, lastRow - row);
                    bool inPlace = q.InPlace && n == tileRows, whole = n == tileRows && (cols == width || q.Code.Dots != null && cols % 16 == 0);
                    bool adds = inOne && whole && apart, rounds = inOne && whole && !apart && q.HalfC, direct = adds || whole && !apart && !q.HalfC;
                    uint* a = inPlace ? (uint*)q.A + (nint)row * (p.K / 2) : area + (row - packFrom) * packedRow;
                    t.ARow = inPlace ? p.K / 2 : packedRow;
                    nint at = (nint)row * p.N + col;
                    t.Beside = apart ? (void*)(p.Residual + at) : (ushort*)p.Beside + at;
                    if (adds) p.Scales.OfRows(scales, row, n);
                    for (int k = 0, block = 0; k < p.K; k += p.Block, block++)
                    {
                        int length = Math.Min(p.Block, p.K - k);
                        t.K = q.Code.Dots != null ? Ceiling(length, 2) : Ceiling(length, AmxCode.Step) * Bf16Pack.Group;
                        t.A = (float*)(a + k / 2);
                        t.B = (float*)(q.B + block * q.BBlock + panel * q.Panel);
                        t.Start = k == 0 ? bias : zeros;
                        t.Accumulate = k > 0 || direct && p.Accumulate;
                        t.C = direct ? p.C + at : rounds ? (float*)((ushort*)p.C + at) : spare;
                        t.CRow = direct || rounds ? p.N : width;
                        t.Ahead = fetchesA ? (byte*)(a + tileRows * t.ARow) + k / 2 * t.AheadStep : block == 0 ? (byte*)nextB : (byte*)t.B;
                        if (adds || rounds && curved) q.Code.Dots!.AlongFinished(&t, vectors, p.Finish);
                        else q.Code.Run(&t, vectors, rounds);
                    }
                    if (rounds || adds) continue;
                    nint ahead = Ahead(p, row, tileRows, firstRow, lastRow, panel + 1 == lastPanel, width);
                    if (curved && q.HalfC) Curve(spare, width, at, ahead, n, cols);
                    else
                    {
                        if (!direct) Put(spare, width, row, n, col, cols, apart, ahead);
                        if (p.Finish == Finish.Gelu) TakeGelu<Lanes16>(p.C + at, p.Beside + at, p.N, ahead, n, cols);
                        else if (p.Finish == Finish.Slope) TakeSlope<Lanes16>(p.C + at, p.Beside + at, p.N, ahead, n, cols);
                    }
                }
            }
        }

        /// <summary>Rows of A from the given one as pairs, zeros up to a whole tile.</summary>
        private void PackA(uint* area, nint packedRow, int row, int rows)
        {
            nint at = (nint)row * q.P.K;
            if (q.HalfA) Bf16Pack.Rows<Bf16Element>(area, packedRow, q.Pairs, (ushort*)q.A + at, q.P.K, rows, q.P.K);
            else Bf16Pack.Rows<F32Element>(area, packedRow, q.Pairs, (float*)q.A + at, q.P.K, rows, q.P.K);
            int padded = Ceiling(rows, q.Code.TileRows) * q.Code.TileRows;
            for (int r = rows; r < padded; r++) new Span<uint>(area + r * packedRow, q.Pairs).Clear();
        }

        /// <summary>What a tile apart becomes in C: residual + rowScale·gamma·tile, or the tile (+ C), rounded where C is bfloat16.</summary>
        private void Put(float* tile, int width, int row, int rows, int col, int cols, bool apart, nint ahead)
        {
            for (int r = row; r < row + rows; r++, tile += width)
            {
                nint at = (nint)r * q.P.N + col;
                if (apart)
                {
                    AskAhead<Lanes16>(q.P.Residual + at, q.P.C + at, ahead, cols);
                    ScaleAddRow<Lanes16>(q.P.C + at, tile, q.P.Residual + at, q.P.Scales.Gamma == null ? null : q.P.Scales.Gamma + col,
                        q.P.Scales.OfRow(r), cols);
                }
                else if (q.HalfC) PutRow<Bf16Element>(at, tile, cols);
                else PutRow<F32Element>(at, tile, cols);
            }
        }

        private void PutRow<TE>(nint at, float* x, int n) where TE : struct, IElement
        {
            for (int j = 0; j < n; j += 16)
            {
                Lanes16 v = Lines<Lanes16>.Load(x + j, n - j);
                Lines<Lanes16>.Store<TE>(q.P.Accumulate ? v + Lines<Lanes16>.Load<TE>(q.P.C, at + j, n - j) : v, q.P.C, at + j, n - j);
            }
        }

        /// <summary>A tile apart whose results are bfloat16: C and its GELU, or the tile times GELU′ of what lies beside C.</summary>
        private void Curve(float* tile, int width, nint at, nint ahead, int rows, int cols)
        {
            ushort* c = (ushort*)q.P.C + at, beside = (ushort*)q.P.Beside + at;
            if (q.P.Finish == Finish.Gelu) TakeGelu(c, beside, q.P.N, ahead, tile, width, rows, cols);
            else TakeSlope(c, beside, q.P.N, ahead, tile, width, rows, cols);
        }
    }

    /// <summary>c's part of a cut block, zeros outside of it.</summary>
    private static void Open(float* spare, int tileRows, int width, float* c, nint cRow, int rows, int cols)
    {
        new Span<float>(spare, tileRows * width).Clear();
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
