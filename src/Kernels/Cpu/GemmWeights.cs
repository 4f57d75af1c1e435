using System.Runtime.CompilerServices;
using MimEngine.Kernels.Cpu.Emitted;

namespace MimEngine.Kernels.Cpu;

/// <summary>
/// The weight gradient c = aᵀ·b, small in both extents and long in its sum. A unit of work is a part of c over a range of tokens. It
/// packs its own tokens block after block, asks for the next block's lines while it multiplies, and never waits for another unit.
/// Where c alone makes too few units the tokens are cut into ranges whose products are added in range order. Cuts follow from shapes.
/// </summary>
internal unsafe struct WeightGradient
{
    private const int PartRows = 384;         // of c in a unit: A's block of 240 tokens takes 369 kB of L2
    private const int PartCols = 768;         // a unit packs B for its part alone; the wider it is, the more often A is reused
    private const int LeastUnits = 4, LeastUnitsOfFew = 8, Few = 1 << 16;   // of few sums more can be kept and added
    private const int LeastTokens = 128;      // of a range: below that, adding the ranges costs more than more units bring
    private const int LongestBlock = 240;     // steps of the sum: a panel of B takes 46 kB, most of L1
    private const int NarrowCols = 512;       // rows of b this short lie densely enough in the caches to be multiplied where they are

    /// <summary>Columns of a, columns of b, rows of both.</summary>
    public int M, N, K;
    public void* A, B;
    public DType TypeA, TypeB;
    public float* C;
    public bool Accumulate;

    /// <summary>(blocks, M) column sums of a, or null.</summary>
    public float* Sums;

    /// <summary>(ranges, M, N) where the ranges are several.</summary>
    public float* Partial;

    /// <summary>Tokens of a block, blocks of a range, and counts.</summary>
    public int Block, RangeBlocks, Blocks, Ranges, RowParts, ColParts, Threads;

    /// <summary>Machine code to prefer to the JIT's, or null.</summary>
    public TileRoutines? Emitted;

    /// <summary>Tiles of bfloat16 pairs: a step of the sum is two tokens. Null: float32, a token a step.</summary>
    public readonly TileRoutines? Dots;

    public readonly bool BInPlace => N <= NarrowCols && Dots == null;

    /// <summary>Steps of the sum that some tokens are.</summary>
    public readonly int Steps(int tokens) => Dots == null ? tokens : Ceiling(tokens, 2);

    public readonly byte* AtA(nint token, nint row) => (byte*)A + (token * M + row) * TypeA.Size();
    public readonly byte* AtB(nint token, nint col) => (byte*)B + (token * N + col) * TypeB.Size();
    public readonly int Units => Ranges * RowParts * ColParts;

    public WeightGradient(int m, int n, int k, int threads, TileRoutines? dots)
    {
        (M, N, K, Threads, Dots) = (m, n, k, threads, dots);
        Block = BlockTokens(m, n, k, dots == null ? 1 : 2);
        Blocks = Ceiling(k, Block);
        (RowParts, ColParts) = (Ceiling(m, PartRows), Ceiling(n, PartCols));
        RangeBlocks = Ceiling(Blocks, Math.Min(Blocks, RangesWanted(m, n, k)));
        Ranges = Ceiling(Blocks, RangeBlocks);
    }

    /// <summary>
    /// Tokens whose products and column sums are one chain: a function of the shape alone. Every range gets as many blocks as the others.
    /// </summary>
    /// <param name="tokensOfStep">1, or 2 where bfloat16 pairs are multiplied.</param>
    public static int BlockTokens(int m, int n, int k, int tokensOfStep)
    {
        int ranges = RangesWanted(m, n, k), blocks = Ceiling(Ceiling(k, LongestBlock * tokensOfStep), ranges) * ranges;
        return Ceiling(Ceiling(k, blocks), 8) * 8;
    }

    private static int RangesWanted(int m, int n, int k) => Math.Min(Math.Max(1, k / LeastTokens),
        Ceiling((long)m * n <= Few ? LeastUnitsOfFew : LeastUnits, Ceiling(m, PartRows) * Ceiling(n, PartCols)));

    /// <summary>First row (or column) of part i of n when an extent is cut into even parts of whole tiles.</summary>
    public static int PartStart(int extent, int parts, int i) => Math.Min(extent, Ceiling(Ceiling(extent, parts), 48) * 48 * i);

    public static int Ceiling(int a, int b) => (a + b - 1) / b;
}

public sealed unsafe partial class CpuBackend
{
    private const int GemmDeskSlot = 1;        // what units of work pack for themselves

    /// <summary>
    /// c = aᵀ·b (+ c) for row-major a (K, M) and b (K, N); with it the column sums of a (+ sums). TA are the lanes of half a tile's
    /// panel of A: eight, or one.
    /// </summary>
    /// <param name="typeA">bfloat16 only with <paramref name="dots"/>.</param>
    /// <param name="typeB">Likewise.</param>
    /// <param name="dots">Tiles that multiply bfloat16 pairs, to which operands are rounded; null multiplies float32.</param>
    private void MultiplyTransposed<TV, TA>(float* c, bool accumulate, float* sums, bool accumulateSums, void* a, void* b,
        int m, int n, int k, DType typeA = DType.F32, DType typeB = DType.F32, TileRoutines? dots = null)
        where TV : struct, ILanes<TV> where TA : struct, ILanes<TA>
    {
        var g = new WeightGradient(m, n, k, Threads, dots)
        {
            A = a, B = b, TypeA = typeA, TypeB = typeB, C = c, Accumulate = accumulate, Emitted = dots == null ? Emitted : null,
        };
        nint partial = g.Ranges > 1 ? (nint)g.Ranges * m * n : 0;
        float* scratch = GemmScratch(partial + (nint)g.Blocks * m);
        g.Partial = partial == 0 ? null : scratch;
        g.Sums = sums == null ? null : scratch + partial;
        _rows.For(g.Units, 1, new WeightUnits<TV, TA>(g, NewDesks(GemmDeskSlot, g.Units, AreaFloats<TV, TA>(g))));
        if (sums != null) AddInOrder<TV>(sums, g.Sums, m, g.Blocks, accumulateSums);
        if (g.Partial != null) AddInOrder<TV>(c, g.Partial, m * n, g.Ranges, accumulate);
    }

    private static nint AreaFloats<TV, TA>(in WeightGradient g) where TV : struct, ILanes<TV> where TA : struct, ILanes<TA>
    {
        int width = MicroKernels.Vectors * TV.Count;
        int rows = WeightGradient.PartStart(g.M, g.RowParts, 1), cols = WeightGradient.PartStart(g.N, g.ColParts, 1);
        nint a = (nint)Ceiling(rows, 3 * TA.Count) * 3 * (g.Steps(g.Block) * TA.Count + PanelGap);
        if (g.Dots != null) a += TileCode.Rows * width;   // a cut tile
        return g.BInPlace ? a : a + (nint)Ceiling(cols, width) * (g.Steps(g.Block) * width + PanelGap);
    }

    private readonly struct WeightUnits<TV, TA>(WeightGradient g, Desks desks) : IRowKernel
        where TV : struct, ILanes<TV> where TA : struct, ILanes<TA>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            float* area = desks.Take(out int desk);
            for (int unit = first; unit < last; unit++) Unit(unit, area);
            desks.Leave(desk);
        }

        private void Unit(int unit, float* area)
        {
            int part = unit % (g.RowParts * g.ColParts), range = unit / (g.RowParts * g.ColParts);
            int rowPart = part / g.ColParts, colPart = part % g.ColParts;
            int row = WeightGradient.PartStart(g.M, g.RowParts, rowPart), rows = WeightGradient.PartStart(g.M, g.RowParts,
                rowPart + 1) - row;
            int col = WeightGradient.PartStart(g.N, g.ColParts, colPart), cols = WeightGradient.PartStart(g.N, g.ColParts,
                colPart + 1) - col;
            if (rows <= 0 || cols <= 0) return;
            int width = MicroKernels.Vectors * TV.Count;
            nint aPanel = g.Steps(g.Block) * TA.Count + PanelGap, bPanel = g.BInPlace ? width : g.Steps(g.Block) * width + PanelGap;
            float* packedB = area + Ceiling(rows, 3 * TA.Count) * 3 * aPanel;
            float* spare = packedB;
            if (g.Dots != null) packedB += TileCode.Rows * width;
            float* c = (g.Partial == null ? g.C : g.Partial + (nint)range * g.M * g.N) + (nint)row * g.N + col;
            int firstBlock = range * g.RangeBlocks, lastBlock = Math.Min(g.Blocks, firstBlock + g.RangeBlocks);
            for (int block = firstBlock; block < lastBlock; block++)
            {
                int k = block * g.Block, length = Math.Min(g.Block, g.K - k);
                float* sums = g.Sums == null || colPart > 0 ? null : g.Sums + (nint)block * g.M + row;
                byte* a = g.AtA(k, row), b = g.AtB(k, col);
                if (g.Dots != null)
                {
                    PackPairs(g.TypeA, area, aPanel, TileCode.Rows, a, g.M, length, rows, sums);
                    PackPairs(g.TypeB, packedB, bPanel, width, b, g.N, length, cols, null);
                }
                else
                {
                    GemmPack.Rows<TA>(area, aPanel, 3 * aPanel, TA.Count, (float*)a, g.M, length, rows, sums);
                    if (!g.BInPlace) GemmPack.Rows<TV>(packedB, TV.Count, bPanel, width, (float*)b, g.N, length, cols, null);
                }
                // The next block of this unit, or the first of the unit that this thread will probably take next.
                int coming = block + 1 < lastBlock ? unit : unit + g.Threads, parts = g.RowParts * g.ColParts;
                int token = Math.Min(coming == unit ? k + length : coming / parts * g.RangeBlocks * g.Block, g.K);
                byte* nextA = g.AtA(token, WeightGradient.PartStart(g.M, g.RowParts, coming % parts / g.ColParts));
                byte* nextB = g.AtB(token, WeightGradient.PartStart(g.N, g.ColParts, coming % g.ColParts));
                bool adds = block > firstBlock || (g.Partial == null && g.Accumulate);
                var next = new Coming { A = nextA, B = nextB, Rows = Math.Min(g.Block, g.K - token) };
                Tiles(c, rows, cols, area, aPanel, g.BInPlace ? (float*)b : packedB, bPanel, g.Steps(length), adds, next, spare);
            }
        }

        /// <summary>The block that comes next: its corner in both matrices, and its tokens.</summary>
        private struct Coming
        {
            public byte* A, B;
            public int Rows;
        }

        private static void PackPairs(DType type, float* panels, nint panel, int width, void* x, int xRow, int tokens, int cols, float* sums)
        {
            int pairs = Ceiling(tokens, 2);
            if (type == DType.BF16) Bf16Pack.InterleavedRows<Bf16Element>((uint*)panels, panel, width, pairs, x, xRow, tokens, cols, sums);
            else Bf16Pack.InterleavedRows<F32Element>((uint*)panels, panel, width, pairs, x, xRow, tokens, cols, sums);
        }

        /// <summary>One run of the coming block for every tile: where run number <paramref name="at"/> starts. Rows of a block that are whole
        /// rows of the matrix are contiguous.</summary>
        private byte* Ahead(in Coming next, int at, int rows, int cols)
        {
            int inA = next.Rows * rows, inB = at - inA;
            return at < inA ? next.A + ((nint)(at / rows) * g.M + at % rows) * g.TypeA.Size()
                : next.B + ((nint)(inB / cols) * g.N + inB % cols) * g.TypeB.Size();
        }

        /// <summary>One block's tiles; each asks for its share of the next block's rows.</summary>
        [SkipLocalsInit]
        private void Tiles(float* c, int rows, int cols, float* a, nint aPanel, float* b, nint bPanel, int length, bool accumulate,
            in Coming next, float* spare)
        {
            int tileRows = MicroKernels.Rows<TV>(), width = MicroKernels.Vectors * TV.Count;
            float* zeros = stackalloc float[3 * 16];
            new Span<float>(zeros, 3 * 16).Clear();
            Tile t = default;
            (t.K, t.ARow, t.AStep, t.BRow, t.CRow) = (length, TA.Count == 1 ? aPanel : 1, TA.Count, g.BInPlace ? g.N : width, g.N);
            t.Accumulate = accumulate;
            t.Start = zeros;
            int wanted = next.Rows * (rows + cols), share = Ceiling(wanted, Ceiling(rows, tileRows) * Ceiling(cols, width)), at = 0;
            t.AheadStep = Math.Min(64, Ceiling(share * Math.Max(g.TypeA.Size(), g.TypeB.Size()), length));
            for (int j = 0; j < cols; j += width)
            {
                int n = Math.Min(width, cols - j), vectors = Ceiling(n, TV.Count);
                t.Tail = n % TV.Count;
                t.B = b + j / width * bPanel;
                for (int i = 0; i < rows; i += tileRows, at += share)
                {
                    t.A = a + i / TA.Count * aPanel + i % TA.Count;
                    t.C = c + (nint)i * g.N + j;
                    t.Ahead = Ahead(next, at, rows, cols);
                    if (g.Dots is { } dots) Pairs(dots, t, Math.Min(tileRows, rows - i), n, spare);
                    else if (g.Emitted is { } emitted && rows - i >= TileCode.Rows && t.Tail == 0) emitted.Across(&t, vectors);
                    else MicroKernels.Run<TV>(t, Math.Min(tileRows, rows - i), vectors, g.BInPlace);
                }
            }
        }

        /// <summary>A tile of pairs; a cut one is made apart, since panels are padded but c is not.</summary>
        private void Pairs(TileRoutines dots, Tile t, int rows, int cols, float* spare)
        {
            if (rows == TileCode.Rows && cols % 16 == 0)
            {
                dots.Across(&t, cols / 16);
                return;
            }
            float* c = t.C;
            const int width = MicroKernels.Vectors * 16;
            if (t.Accumulate) Open(spare, TileCode.Rows, width, c, g.N, rows, cols);
            t.C = spare;
            t.CRow = width;
            dots.Across(&t, MicroKernels.Vectors);
            Close(spare, width, c, g.N, rows, cols);
        }
    }
}
