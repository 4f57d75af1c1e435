namespace MimEngine.Kernels.Cpu;

/// <summary>
/// How attention is cut on the CPU. A chunk is one head of one image, and a thread does an image's heads one after another; with a bias, which is
/// transposed once a chunk, one head of a group of images: at most <see cref="MaxChunks"/> where the heads are fewer. Inside, queries come in panels
/// one register tile wide, and the scores of a panel are held transposed, a key a row: so maxima, exponentials and sums run across the lanes with
/// no tail along the keys, keys and values are the rows of the tiles, and a panel's scores (145 keys × 48 queries: 28 kB) stay in L1.
/// </summary>
internal readonly struct AttentionCut
{
    private const int MaxChunks = 32;

    public int Images { get; private init; }
    public int Tokens { get; private init; }
    public int Heads { get; private init; }
    public int Depth { get; private init; }
    public int Groups { get; private init; }

    /// <summary>Queries of a panel: also what lies between two rows of scores.</summary>
    public int Panel { get; private init; }

    /// <summary>Rows of a register tile whose rows are keys; keys rounded up to whole ones.</summary>
    public int TileRows { get; private init; }
    public int KeyRows { get; private init; }

    /// <summary>Rows of a register tile whose rows are queries: a divisor of the panel.</summary>
    public int QueryRows { get; private init; }

    /// <summary>Vectors of a row of q, k, v or y of one head, and floats between two of them.</summary>
    public int DepthVectors { get; private init; }
    public int DepthStride { get; private init; }

    /// <summary>Groups of at most three such vectors, as even as can be: 4 are 2 + 2.</summary>
    public int DepthGroups { get; private init; }

    public int Chunks => Heads * Groups;

    /// <summary>A chunk is a head of several images.</summary>
    public bool Biased { get; private init; }

    /// <summary>Chunks from one to the next that the same thread will probably take.</summary>
    public int Threads { get; private init; }
    public int Width => Heads * Depth;
    public float Scale => 1f / MathF.Sqrt(Depth);

    /// <summary>All panels of queries, side by side.</summary>
    public int Panels => (Tokens + Panel - 1) / Panel;
    public int AllQueries => Panels * Panel;

    /// <summary>Logits are counted in units of ln 2: scores are multiplied by this, a bias by log₂e.</summary>
    public float BinaryScale => Scale * Log2E;

    public const float Log2E = 1.44269504f;
    public const float Ln2 = 0.693147181f;

    public static AttentionCut Of<TV>(Tensor qkv, int heads, bool biased, int threads) where TV : struct, ILanes<TV>
    {
        int images = qkv.Shape.D0, tokens = qkv.Shape.D1, depth = qkv.Shape.D2 / 3 / heads, tileRows = MicroKernels.Rows<TV>();
        int panel = MicroKernels.Vectors * TV.Count, vectors = (depth + TV.Count - 1) / TV.Count;
        return new AttentionCut
        {
            Images = images,
            Tokens = tokens,
            Heads = heads,
            Depth = depth,
            Biased = biased,
            Threads = threads,
            Groups = biased ? Math.Clamp(MaxChunks / heads, 1, Math.Max(1, images)) : images,
            Panel = panel,
            TileRows = tileRows,
            KeyRows = (tokens + tileRows - 1) / tileRows * tileRows,
            QueryRows = panel % tileRows == 0 ? tileRows : panel,
            DepthVectors = vectors,
            DepthStride = vectors * TV.Count,
            DepthGroups = (vectors + MicroKernels.Vectors - 1) / MicroKernels.Vectors,
        };
    }

    /// <summary>The head of a chunk and its images.</summary>
    public (int Head, int First, int Last) Part(int chunk)
    {
        if (!Biased)
        {
            // As many images side by side as there are threads: each thread stays with an image, whose rows its heads share.
            int first = chunk / (Heads * Threads) * Threads, together = Math.Min(Threads, Images - first), at = chunk - first * Heads;
            return (at / together, first + at % together, first + at % together + 1);
        }
        int g = chunk % Groups;
        return (chunk / Groups, (int)((long)Images * g / Groups), (int)((long)Images * (g + 1) / Groups));
    }

    /// <summary>The head and image that this thread will probably turn to after this image; image -1 for none.</summary>
    public (int Head, int Image) After(int chunk, int image, int last)
    {
        if (image + 1 < last) return (chunk / Groups, image + 1);
        int next = chunk + Threads;
        if (next >= Chunks) return (0, -1);
        (int head, int first, _) = Part(next);
        return (head, first);
    }

    /// <summary>Tiles of one image and head whose rows are keys, all of the depth or all queries wide, or whose rows are queries.</summary>
    public int ScoreTiles => KeyRows / TileRows * Panels;
    public int KeyTiles => KeyRows / TileRows * Panels * DepthGroups;
    public int QueryTiles => (Tokens + QueryRows - 1) / QueryRows * DepthGroups;

    /// <summary>First vector and number of vectors of a group of the depth.</summary>
    public (int First, int Count) DepthGroup(int g)
    {
        int first = DepthVectors * g / DepthGroups;
        return (first, DepthVectors * (g + 1) / DepthGroups - first);
    }

    /// <summary>Floats of a chunk's working memory, so that each starts on a cache line.</summary>
    public static long ChunkFloats(long floats) => (floats + 15) / 16 * 16;
}
