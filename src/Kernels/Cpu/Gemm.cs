using System.Runtime.CompilerServices;
using MimEngine.Kernels.Cpu.Emitted;

namespace MimEngine.Kernels.Cpu;

/// <summary>What becomes of a finished product.</summary>
internal enum Finish : byte
{
    /// <summary>It is the result.</summary>
    Plain,

    /// <summary>It is kept, and its GELU goes beside it.</summary>
    Gelu,

    /// <summary>It is multiplied by GELU′ of what lies beside it.</summary>
    Slope,

    /// <summary>Scaled by row and column it is added to a residual.</summary>
    Residual,
}

/// <summary>
/// C = bias + A·B (+ C), blocked: C is (M, N), A is read where it lies, B comes in panels. Some tiles one above the other times a group of
/// panels, all of them unless there are few rows, are taken at a time; inside, the blocks of K come first (A's block and B's panel stay in L2),
/// then panels, then tiles (a panel is read from L2 by every tile, a tile's rows of A stay in L1).
/// </summary>
internal unsafe struct Product
{
    public int M, N, K;

    /// <summary>Length of a block of the sum; only the last may be shorter.</summary>
    public int Block;

    /// <summary>(M, K), read where it lies.</summary>
    public float* A;

    /// <summary>Panels of B: block after block BBlock apart, in a block panel after panel BPanel apart, in a panel K rows of
    /// Width.</summary>
    public float* B;
    public nint BBlock, BPanel;

    public float* C;

    /// <summary>(N) added to every row, or null.</summary>
    public float* Bias;

    /// <summary>C's old content takes part.</summary>
    public bool Accumulate;

    public Finish Finish;

    /// <summary>(M, N) of C's type: written with GELU(C), or read for its GELU′.</summary>
    public float* Beside;

    /// <summary>(M, N), may be C, and how the product is scaled before it is added.</summary>
    public float* Residual;
    public CpuBackend.BranchScales Scales;

    /// <summary>Rows taken at a time at most, a multiple of the tile's; panels of a group; groups in all.</summary>
    public int ChunkRows, GroupPanels, Groups;

    /// <summary>Machine code to prefer to the JIT's, or null.</summary>
    public TileRoutines? Emitted;
}

public sealed unsafe partial class CpuBackend
{
    private const int GemmSlot = 0;            // one op's packed operands and partial sums
    private const int LongestBlock = 768;      // of the sum: 8 rows of A are 24 kB (half of L1), a panel of B 147 kB
    private const int PanelGap = 16;           // floats between panels: strides that are multiples of 4096 bytes share cache sets
    // one above the other, taken at a time: that often a panel is used once it is in L2, with 295 kB of A, a third of the smallest L2
    private const int ChunkTiles = 12;
    private const int LeastTiles = 3;          // of the last ones, 10 to 40 µs: threads wait for one another no longer
    private const int SharesOfThread = 8;      // so many of those last ones there must be for a thread
    private const long LeastShared = 1 << 20;  // flops: 5 µs of one thread, twice what it takes to call another and to wait for it
    private const int PackFlops = 64;          // that a number packed costs as much time as

    /// <summary>y = x·wᵀ (+ b), or what the product's finish makes of it.</summary>
    private void MultiplyByTransposed<TV>(Product p, float* x, float* w) where TV : struct, ILanes<TV>
    {
        int width = MicroKernels.Vectors * TV.Count, panels = Ceiling(p.N, width);
        PlaceB<TV>(ref p, GemmScratch(PackedFloats(p.N, p.K, width)));
        int tasks = panels * Ceiling(p.K, p.Block);
        _rows.For(tasks, Grain(tasks, 1, PackFlops * (long)p.N * p.K), new PackColumns(p, width, panels, w));
        p.A = x;
        Multiply<TV>(p);
    }

    /// <summary>C = start + a·b for row-major a (M, K) and b (K, N).</summary>
    private void MultiplyPlain<TV>(Product p, float* a, float* b) where TV : struct, ILanes<TV>
    {
        PlaceB<TV>(ref p, GemmScratch(PackedFloats(p.N, p.K, MicroKernels.Vectors * TV.Count)));
        _rows.For(p.K, Grain(p.Block, GemmPack.TaskRows, PackFlops * (long)p.N * p.K), new PackRows<TV>(p, b));
        p.A = a;
        Multiply<TV>(p);
    }

    /// <summary>sums = Σ of the rows of partial (+ sums), in row order.</summary>
    private void AddInOrder<TV>(float* sums, float* partial, int n, int rows, bool accumulate) where TV : struct, ILanes<TV>
        => _rows.For(n, Math.Max(1024, ElementGrain / rows), new AddRows<TV>(sums, partial, n, rows, accumulate));

    private readonly struct AddRows<TV>(float* sums, float* x, nint stride, int rows, bool accumulate) : IRowKernel
        where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int j = first;
            for (; j <= last - TV.Count; j += TV.Count)
            {
                TV s = accumulate ? TV.Load(sums + j) : TV.Zero;
                for (int r = 0; r < rows; r++) s += TV.Load(x + r * stride + j);
                s.Store(sums + j);
            }
            int n = last - j;
            if (n == 0) return;
            TV tail = accumulate ? TV.LoadFirst(sums + j, n) : TV.Zero;
            for (int r = 0; r < rows; r++) tail += TV.LoadFirst(x + r * stride + j, n);
            tail.StoreFirst(sums + j, n);
        }
    }

    private void Multiply<TV>(Product p) where TV : struct, ILanes<TV>
    {
        int tiles = Ceiling(p.M, MicroKernels.Rows<TV>());
        p.ChunkRows = ChunkTiles * MicroKernels.Rows<TV>();
        Group(ref p, tiles, LeastTiles, Ceiling(p.N, MicroKernels.Vectors * TV.Count));
        p.Emitted = Emitted;
        int all = tiles * p.Groups;
        _rows.ForAnyCut(all, Grain(all, LeastTiles, 2L * p.M * p.N * p.K), ChunkTiles, new ProductTiles<TV>(p, tiles));
    }

    /// <summary>What threads take at a time: a share, or all where calling them takes longer than the work.</summary>
    private static int Grain(int all, int share, long flops) => flops < LeastShared ? Math.Max(1, all) : share;

    private static void PlaceB<TV>(ref Product p, float* scratch) where TV : struct, ILanes<TV>
    {
        int width = MicroKernels.Vectors * TV.Count;
        p.Block = BlockLength(p.K);
        p.B = scratch;
        p.BPanel = p.Block * width + PanelGap;
        p.BBlock = Ceiling(p.N, width) * p.BPanel;
    }

    /// <summary>Groups of panels where rows alone are too few to share: products of few rows, or many threads.</summary>
    private void Group(ref Product p, int tiles, int leastTiles, int panels)
    {
        int shares = Math.Max(1, Ceiling(tiles, leastTiles));
        p.GroupPanels = Math.Max(1, Ceiling(panels, Math.Min(Math.Max(1, panels), Ceiling(SharesOfThread * Threads, shares))));
        p.Groups = Ceiling(panels, p.GroupPanels);
    }

    /// <summary>Blocks of equal length, at most <see cref="LongestBlock"/>, whole packing tasks.</summary>
    private static int BlockLength(int k) => Ceiling(Ceiling(k, Ceiling(k, LongestBlock)), GemmPack.TaskRows) * GemmPack.TaskRows;

    private static nint PackedFloats(int n, int k, int width)
        => (nint)Ceiling(n, width) * Ceiling(k, BlockLength(k)) * (BlockLength(k) * width + PanelGap);

    private float* GemmScratch(nint floats) => (float*)Scratch(GemmSlot, floats * sizeof(float));

    private static int Ceiling(int a, int b) => (a + b - 1) / b;

    private readonly struct PackColumns(Product p, int width, int panels, float* w) : IRowKernel
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (int i = first; i < last; i++)
            {
                int block = i / panels, panel = i % panels, k = block * p.Block, n = panel * width;
                GemmPack.Columns(p.B + block * p.BBlock + panel * p.BPanel, width, w + (nint)n * p.K + k, p.K,
                    Math.Min(width, p.N - n), Math.Min(p.Block, p.K - k));
            }
        }
    }

    private readonly struct PackRows<TV>(Product p, float* b) : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int width = MicroKernels.Vectors * TV.Count, block = first / p.Block;   // a task never crosses blocks: they are whole tasks
            GemmPack.Rows<TV>(p.B + block * p.BBlock + (first - block * p.Block) * width, TV.Count, p.BPanel, width,
                b + (nint)first * p.N, p.N, last - first, p.N, null);
        }
    }

    /// <summary>Tiles one above the other, group of panels after group.</summary>
    private readonly struct ProductTiles<TV>(Product p, int tiles) : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int tileRows = MicroKernels.Rows<TV>();
            while (first < last)
            {
                (int group, int tile) = Math.DivRem(first, tiles);
                int n = Math.Min(Math.Min(last - first, tiles - tile), ChunkTiles);
                Unit(tile * tileRows, Math.Min(p.M, (tile + n) * tileRows), group * p.GroupPanels);
                first += n;
            }
        }

        [SkipLocalsInit]
        private void Unit(int firstRow, int lastRow, int firstPanel)
        {
            int tileRows = MicroKernels.Rows<TV>(), width = MicroKernels.Vectors * TV.Count;
            int lastPanel = Math.Min(firstPanel + p.GroupPanels, Ceiling(p.N, width));
            float* zeros = stackalloc float[3 * 16];
            float* branch = stackalloc float[8 * 3 * 16], ones = stackalloc float[3 * 16], scales = stackalloc float[8];
            new Span<float>(zeros, 3 * 16).Clear();
            new Span<float>(ones, 3 * 16).Fill(1f);
            Tile t = default;
            bool apart = p.Finish == Finish.Residual;
            bool finishes = p.Finish != Finish.Plain && TV.Count == 16 && p.Emitted != null && (apart || p.Block >= p.K && !p.Accumulate);
            (t.ARow, t.AStep, t.BRow) = (p.K, 1, width);
            t.RowScales = scales;
            for (int k = 0, block = 0; k < p.K; k += p.Block, block++)
            {
                t.K = Math.Min(p.Block, p.K - k);
                bool starts = k == 0, ends = k + t.K == p.K;
                t.Accumulate = !apart && (!starts || p.Accumulate);
                for (int panel = firstPanel; panel < lastPanel; panel++)
                {
                    int col = panel * width, cols = Math.Min(width, p.N - col), vectors = Ceiling(cols, TV.Count);
                    t.Tail = cols % TV.Count;
                    t.B = p.B + block * p.BBlock + panel * p.BPanel;
                    // The first panel's tiles fetch the next tile's rows of A, an eighth of the steps for each; the others' fetch among them the panel
                    // of B that comes next, which may be the next block's first.
                    bool fetchesA = panel == firstPanel;
                    float* nextB = panel + 1 < lastPanel ? t.B + p.BPanel : p.B + (block + 1) * p.BBlock + firstPanel * p.BPanel;
                    int shareOfB = Ceiling((int)p.BPanel, Ceiling(lastRow - firstRow, tileRows));
                    t.AheadStep = fetchesA ? tileRows * sizeof(float) : Math.Min(64, Ceiling(shareOfB * sizeof(float), t.K));
                    t.AheadJump = fetchesA ? (p.K - t.K / 16 * 16) * (nint)sizeof(float) : 0;
                    t.Start = starts && p.Bias != null ? p.Bias + col : zeros;
                    t.Gamma = p.Scales.Gamma == null ? ones : p.Scales.Gamma + col;
                    for (int row = firstRow; row < lastRow; row += tileRows)
                    {
                        int rows = Math.Min(tileRows, lastRow - row);
                        float* c = p.C + (nint)row * p.N + col;
                        t.A = p.A + (nint)row * p.K + k;
                        t.Ahead = (byte*)(fetchesA ? t.A + (nint)tileRows * p.K : nextB);
                        nextB += shareOfB;
                        if (finishes && rows == tileRows && t.Tail == 0)
                        {
                            t.C = c;
                            t.CRow = p.N;
                            t.Beside = apart && !starts ? c : (apart ? p.Residual : p.Beside) + (nint)row * p.N + col;
                            if (apart) p.Scales.OfRows(scales, row, rows);
                            p.Emitted!.AlongFinished(&t, vectors, p.Finish);
                            continue;
                        }
                        t.C = apart ? branch : c;
                        t.CRow = apart ? width : p.N;
                        MicroKernels.Run<TV>(t, rows, vectors, false, p.Emitted);
                        nint ahead = Ahead(p, row, tileRows, firstRow, lastRow, panel + 1 == lastPanel, width);
                        if (apart) AddBranch(branch, row, rows, col, cols, starts, ahead);
                        else if (ends && p.Finish == Finish.Gelu) TakeGelu<TV>(c, p.Beside + (nint)row * p.N + col, p.N, ahead, rows, cols);
                        else if (ends && p.Finish == Finish.Slope) TakeSlope<TV>(c, p.Beside + (nint)row * p.N + col, p.N, ahead, rows, cols);
                    }
                }
            }
        }

        /// <summary>C = base + rowScale·gamma·branch; the base is the residual, or C once the first block has been added to it.</summary>
        private void AddBranch(float* branch, int row, int rows, int col, int cols, bool starts, nint ahead)
        {
            for (int r = row; r < row + rows; r++, branch += MicroKernels.Vectors * TV.Count)
            {
                float* c = p.C + (nint)r * p.N + col, x = starts ? p.Residual + (nint)r * p.N + col : c;
                AskAhead<TV>(x, c, ahead, cols);
                ScaleAddRow<TV>(c, branch, x, p.Scales.Gamma == null ? null : p.Scales.Gamma + col, p.Scales.OfRow(r), cols);
            }
        }
    }
}
