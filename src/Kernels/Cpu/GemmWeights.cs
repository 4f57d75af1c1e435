using System.Runtime.CompilerServices;
using MimEngine.Kernels.Cpu.Emitted;

namespace MimEngine.Kernels.Cpu;

/// <summary>
/// The weight gradient c = aᵀ·b, small in both extents and long in its sum. A thread has a part of c over all tokens, block after block of
/// them; in a block come the panels of b, and in a panel the tiles. What the tiles read packed is packed just before: of b one panel, which stays in
/// L1, of a a strip of tiles while the first panel is multiplied; emitted float32 tiles pack both themselves as they read. Lines are asked for one
/// panel or strip before, so that little waits in L2. Every number of c is one chain of block sums, whatever the parts: they may follow the threads,
/// and who is done first takes from the others.
/// </summary>
internal unsafe struct WeightGradient
{
    private const int LongestBlock = 200;     // steps of the sum: a panel of B takes 38 kB, most of L1
    private const int LargestRows = 768;      // of a part: A's block takes 614 kB, most of the smallest L2
    public const int Strip = 32;              // rows of c whose A is packed together: whole lines of either type

    /// <summary>Columns of a, columns of b, rows of both.</summary>
    public int M, N, K;
    public void* A, B;
    public DType TypeA, TypeB;
    public float* C;
    public bool Accumulate;

    /// <summary>(blocks, M) column sums of a, or null.</summary>
    public float* Sums;

    /// <summary>Tokens of a block; rows and columns of a part; and counts.</summary>
    public int Block, Blocks, PartRows, PartCols, RowParts, ColParts;

    /// <summary>The parts, and after them a place for every thread to put what it takes from others; how many of the parts have a thread.</summary>
    public WeightPart* Parts;
    public int* Taken;
    public int Takers;

    /// <summary>Machine code to prefer to the JIT's, or null.</summary>
    public TileRoutines? Emitted;

    /// <summary>Tiles of bfloat16 pairs: a step of the sum is two tokens. Null: float32, a token a step.</summary>
    public readonly TileRoutines? Dots;

    /// <summary>a is float32, and rounded where it is packed.</summary>
    public readonly bool Rounds => Dots != null && TypeA == DType.F32;

    /// <summary>Steps of the sum that some tokens are.</summary>
    public readonly int Steps(int tokens) => Dots == null ? tokens : Ceiling(tokens, 2);

    public readonly byte* AtA(nint token, nint row) => (byte*)A + (token * M + row) * TypeA.Size();
    public readonly byte* AtB(nint token, nint col) => (byte*)B + (token * N + col) * TypeB.Size();
    public readonly int Count => RowParts * ColParts;

    /// <summary>Turns that are worth taking from another thread: a million multiply-adds, some 10 µs.</summary>
    public readonly long LeastTurns(int rows) => Ceiling(1 << 20, rows * MicroKernels.Vectors * 16 * Block);

    public WeightGradient(int m, int n, int k, int threads, TileRoutines? dots)
    {
        (M, N, K, Dots) = (m, n, k, dots);
        Block = BlockTokens(k, dots == null ? 1 : 2);
        Blocks = Ceiling(k, Block);
        Cut(threads);
    }

    /// <summary>Tokens whose products and column sums are one chain: blocks of equal length.</summary>
    /// <param name="tokensOfStep">1, or 2 where bfloat16 pairs are multiplied.</param>
    public static int BlockTokens(int k, int tokensOfStep) => Ceiling(Ceiling(k, Ceiling(k, LongestBlock * tokensOfStep)), 8) * 8;

    /// <summary>
    /// The cut of c that takes least time: of as many parts as the busiest thread gets, each as long as its tiles and the first ones of every row and
    /// panel, which read unpacked operands.
    /// </summary>
    private void Cut(int threads)
    {
        int least = Ceiling(M, LargestRows), most = Math.Max(least, 4 * threads);
        double best = double.PositiveInfinity;
        for (int r = least; r <= most && (r - 1) * Strip < M; r++)
            for (int c = 1; r * c <= most && (c - 1) * 48 < N; c++)
            {
                int rows = Ceiling(Ceiling(M, r), Strip) * Strip, cols = Ceiling(Ceiling(N, c), 48) * 48;
                int rowParts = Ceiling(M, rows), colParts = Ceiling(N, cols);
                double time = Ceiling(rowParts * colParts, threads) * (rows + 24.0) * (cols + 12.0);
                if (time >= best) continue;
                best = time;
                (PartRows, PartCols, RowParts, ColParts) = (rows, cols, rowParts, colParts);
            }
    }

    /// <summary>Writes the parts and the empty places.</summary>
    /// <param name="width">Columns of a panel.</param>
    public readonly void Share(int width)
    {
        *Taken = 0;
        for (int i = 0; i < Count + Takers; i++)
        {
            int row = i / ColParts * PartRows, col = i % ColParts * PartCols;
            Parts[i] = i >= Count ? default
                : new WeightPart(row, Math.Min(PartRows, M - row), col / width, Ceiling(Math.Min(col + PartCols, N), width));
        }
    }

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
        g.Takers = (dots == null ? 2L : 1L) * m * n * k < LeastShared ? 1 : Threads;
        byte* scratch = Scratch(GemmSlot, (long)(g.Count + g.Takers + 1) * sizeof(WeightPart) + (sums == null ? 0 : (long)g.Blocks * m * sizeof(float)));
        g.Taken = (int*)scratch;
        g.Parts = (WeightPart*)scratch + 1;
        g.Sums = sums == null ? null : (float*)(g.Parts + g.Count + g.Takers);
        if (!_dry) g.Share(MicroKernels.Vectors * TV.Count);
        _rows.For(g.Takers, 1, new WeightParts<TV, TA>(g, NewDesks(GemmDeskSlot, g.Takers, AreaFloats<TV, TA>(g))));
        if (sums != null) AddInOrder<TV>(sums, g.Sums, m, g.Blocks, accumulateSums);
    }

    /// <summary>A's panels, a panel of B, and a tile that is cut (or sums nobody wants).</summary>
    private static nint AreaFloats<TV, TA>(in WeightGradient g) where TV : struct, ILanes<TV> where TA : struct, ILanes<TA>
    {
        int width = MicroKernels.Vectors * TV.Count, steps = g.Steps(g.Block);
        return (nint)Ceiling(g.PartRows, TA.Count) * (steps * TA.Count + PanelGap) + steps * width + PanelGap + TileCode.Rows * MicroKernels.Vectors * 16;
    }

    /// <summary>One thread's work: parts as long as there are, then of what others have left.</summary>
    private readonly struct WeightParts<TV, TA>(WeightGradient g, Desks desks) : IRowKernel
        where TV : struct, ILanes<TV> where TA : struct, ILanes<TA>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            float* area = desks.Take(out int desk);
            for (int i = Interlocked.Increment(ref *g.Taken) - 1; i < g.Count; i = Interlocked.Increment(ref *g.Taken) - 1) Sum(ref g.Parts[i], area);
            ref WeightPart mine = ref g.Parts[g.Count + chunk];
            while (TakeFromOthers(ref mine)) Sum(ref mine, area);
            desks.Leave(desk);
        }

        /// <summary>Takes half of what the busiest has left, if that can be shared; else of the next one.</summary>
        private bool TakeFromOthers(ref WeightPart mine)
        {
            long refused = long.MaxValue;
            while (true)
            {
                int busiest = -1;
                long most = 0;
                for (int i = 0; i < g.Count + g.Takers; i++)
                {
                    long left = g.Parts[i].Left(g.Blocks) * g.Parts[i].Rows;
                    if (left > most && left < refused) (busiest, most) = (i, left);
                }
                if (busiest < 0) return false;
                if (g.Parts[busiest].Split(g.Blocks, g.LeastTurns(g.Parts[busiest].Rows), out WeightPart half))
                {
                    mine.Become(half);
                    return true;
                }
                refused = most;
            }
        }

        private void Sum(ref WeightPart part, float* area)
        {
            var p = new Place { Row = part.Row, Rows = part.Rows, APanel = g.Steps(g.Block) * TA.Count + PanelGap, PackedA = area };
            p.PackedB = area + Ceiling(g.PartRows, TA.Count) * p.APanel;
            p.Spare = p.PackedB + g.Steps(g.Block) * MicroKernels.Vectors * TV.Count + PanelGap;
            while (part.Advance(g.Blocks, out WeightPart.Turn turn)) Panel(ref p, turn);
        }
        /// <summary>Where a panel lies in c and in the tokens, where its thread packs, and how the rows of a were packed.</summary>
        private struct Place
        {
            public int Row, Rows, Col, Cols, Token, Tokens;
            public float* PackedA, PackedB, Spare, Sums;
            public nint APanel;

            /// <summary>Emitted tiles pack what whole tiles of whole vectors read; that many rows of a, and panels of b.</summary>
            public int Whole;
            public bool Gathers;
        }

        [SkipLocalsInit]
        private void Panel(ref Place p, in WeightPart.Turn turn)
        {
            int tileRows = MicroKernels.Rows<TV>(), width = MicroKernels.Vectors * TV.Count;
            float* zeros = stackalloc float[3 * 16];
            new Span<float>(zeros, 3 * 16).Clear();
            (p.Token, p.Col) = (turn.Block * g.Block, turn.Panel * width);
            (p.Tokens, p.Cols) = (Math.Min(g.Block, g.K - p.Token), Math.Min(width, g.N - p.Col));
            p.Sums = g.Sums == null || p.Col > 0 ? null : g.Sums + (nint)turn.Block * g.M + p.Row;
            Tile t = default;
            (t.K, t.ARow, t.CRow) = (g.Steps(p.Tokens), TA.Count == 1 ? p.APanel : 1, g.N);
            t.Accumulate = turn.Block > 0 || g.Accumulate;
            t.Start = zeros;
            t.Tail = p.Cols % TV.Count;
            int vectors = Ceiling(p.Cols, TV.Count);
            if (turn.Opens)
            {
                // If there is a whole tile in the first row and the first panel; of pairs every tile is whole, if all tokens are in pairs.
                p.Gathers = t.Tail == 0
                    && (g.Dots == null ? g.Emitted != null && p.Rows >= TileCode.Rows : g.TypeB == DType.BF16 && p.Tokens % 2 == 0);
                p.Whole = p.Gathers ? p.Rows / TileCode.Rows * TileCode.Rows : 0;
            }
            bool gathersB = p.Gathers && t.Tail == 0;
            if (!gathersB) PackB(p);
            var asks = new Asks(g, p, t.K, turn);
            for (int i = 0; i < p.Rows; i += tileRows)
            {
                if (turn.Opens && i >= p.Whole && (i % WeightGradient.Strip == 0 || i == p.Whole)) PackA(p, i);
                int rows = Math.Min(tileRows, p.Rows - i);
                bool firstA = turn.Opens && i < p.Whole, firstB = gathersB && i == 0;
                t.CopyA = p.PackedA + i / TA.Count * p.APanel + i % TA.Count;
                t.CopyB = p.PackedB;
                t.A = firstA ? (float*)g.AtA(p.Token, p.Row + i) : t.CopyA;
                t.B = firstB ? (float*)g.AtB(p.Token, p.Col) : t.CopyB;
                (t.AStep, t.BRow) = (firstA ? g.M : TA.Count, firstB ? g.N : width);
                t.C = g.C + (nint)(p.Row + i) * g.N + p.Col;
                t.Sums = p.Sums == null ? p.Spare : p.Sums + i;
                if (gathersB && i < p.Whole)
                {
                    asks.Next(ref t, i, p.Rows);
                    (g.Dots ?? g.Emitted!).Gather(&t, vectors, firstA, firstB, g.Rounds);
                }
                else if (g.Dots is { } dots)
                {
                    asks.Next(ref t, i, p.Rows);
                    Pairs(dots, t, rows, p.Cols, p.Spare, firstB);
                }
                else
                {
                    t.Ahead = (byte*)t.A;
                    t.AheadStep = 0;
                    MicroKernels.Run<TV>(t, rows, vectors, false);
                }
            }
        }

        /// <summary>The rest of a strip of rows from the i-th on, and its sums.</summary>
        private void PackA(in Place p, int i)
        {
            int rows = Math.Min((i / WeightGradient.Strip + 1) * WeightGradient.Strip, p.Rows) - i;
            float* panels = p.PackedA + i / TA.Count * p.APanel, sums = p.Sums == null ? null : p.Sums + i;
            byte* a = g.AtA(p.Token, p.Row + i);
            if (g.Dots != null) PackPairs(g.TypeA, panels, p.APanel, TileCode.Rows, a, g.M, p.Tokens, rows, sums);
            else GemmPack.Rows<TA>(panels, p.APanel, 3 * p.APanel, TA.Count, (float*)a, g.M, p.Tokens, rows, sums);
        }

        private void PackB(in Place p)
        {
            int width = MicroKernels.Vectors * TV.Count;
            byte* b = g.AtB(p.Token, p.Col);
            if (g.Dots != null) PackPairs(g.TypeB, p.PackedB, 0, width, b, g.N, p.Tokens, p.Cols, null);
            else GemmPack.Rows<TV>(p.PackedB, TV.Count, 0, width, (float*)b, g.N, p.Tokens, p.Cols, null);
        }

        private static void PackPairs(DType type, float* panels, nint panel, int width, void* x, int xRow, int tokens, int cols, float* sums)
        {
            int pairs = Ceiling(tokens, 2);
            if (type == DType.BF16) Bf16Pack.InterleavedRows<Bf16Element>((uint*)panels, panel, width, pairs, x, xRow, tokens, cols, sums);
            else Bf16Pack.InterleavedRows<F32Element>((uint*)panels, panel, width, pairs, x, xRow, tokens, cols, sums);
        }

        /// <summary>
        /// What the tiles of a panel ask for, a line every two steps: while the first panel is multiplied the next lines of a, and with the first tiles of
        /// every panel the next panel of b, at the end of a block the corner of the next one. A line is a column of rows far apart.
        /// </summary>
        private struct Asks
        {
            private readonly byte* _a;
            private byte* _b, _corner;
            private readonly nint _aRow, _bRow, _aPiece, _bPiece;
            private readonly int _aTiles, _aRows, _bLines;
            private int _left, _line, _corners;

            /// <summary>Before a panel.</summary>
            public Asks(in WeightGradient g, in Place p, int steps, in WeightPart.Turn turn)
            {
                int asks = steps / 2, aSize = g.TypeA.Size(), bSize = g.TypeB.Size(), next = turn.NextBlock * g.Block;
                bool last = turn.NextBlock != turn.Block;
                (_aRow, _bRow) = ((nint)g.M * aSize, (nint)g.N * bSize);
                (_aPiece, _bPiece) = (asks * _aRow, asks * _bRow);
                _aTiles = 64 / aSize / TileCode.Rows;
                _aRows = p.Gathers && g.Rounds ? 2 : 1;   // in a turn
                _bLines = bSize == 2 ? 2 : 3;
                _left = p.Tokens / Math.Max(1, asks);
                _a = turn.Opens ? g.AtA(p.Token, p.Row) : null;
                _b = g.AtB(next, turn.NextPanel * MicroKernels.Vectors * 16);
                _corners = last ? _aRows * _aTiles : 0;
                _corner = g.AtA(next, p.Row);
            }

            /// <summary>For the tile at row i; tiles come in order.</summary>
            public void Next(ref Tile t, int i, int rows)
            {
                t.Ahead = t.Also = (byte*)t.Start;
                t.AheadStep = t.AlsoStep = 0;
                int tile = i / TileCode.Rows & (_aTiles - 1);
                if (_a != null && i + (_aTiles - tile) * TileCode.Rows < rows)
                {
                    t.Ahead = _a + (i / (_aTiles * TileCode.Rows) + 1) * 64 + tile * _aRows * _aPiece;
                    t.AheadStep = _aRows * _aRow;
                }
                if (_left > 0)
                {
                    t.Also = _b + _line * 64;
                    t.AlsoStep = _bRow;
                    if (++_line < _bLines) return;
                    _line = 0;
                    _left--;
                    _b += _bPiece;
                }
                else if (_corners > 0)
                {
                    t.Also = _corner;
                    t.AlsoStep = _aRow;
                    _corners--;
                    _corner += _aPiece;
                }
            }
        }

        /// <summary>A tile of pairs; a cut one is made apart, since panels are padded but c is not.</summary>
        private void Pairs(TileRoutines dots, Tile t, int rows, int cols, float* spare, bool copiesB)
        {
            if (rows == TileCode.Rows && cols % 16 == 0)
            {
                dots.Gather(&t, cols / 16, copiesB: copiesB);
                return;
            }
            float* c = t.C;
            const int width = MicroKernels.Vectors * 16;
            if (t.Accumulate) Open(spare, TileCode.Rows, width, c, g.N, rows, cols);
            t.C = spare;
            t.CRow = width;
            dots.Gather(&t, Ceiling(cols, 16), copiesB: copiesB);
            Close(spare, width, c, g.N, rows, cols);
        }
    }
}
