using MimEngine.Kernels.Cpu.Emitted;

namespace MimEngine.Kernels.Cpu;

/// <summary>
/// How attention is cut on the CPU. A chunk is one head of one image, and a thread does an image's heads one after another; with a bias, which is
/// transposed once a chunk, one head of a group of images: at most <see cref="MaxChunks"/> where the heads are fewer. Inside, queries come in panels
/// a register tile wide, and their scores are held transposed, a key a row: so maxima, exponentials and sums run across the lanes with no tail along
/// the keys, and keys and values are the rows of the tiles. One or two queries past the last whole vector ([cls] beside a square of patches) are rows
/// of their own (<see cref="AttentionRows{TV}"/>): as a vector they would cost as much as sixteen.
/// </summary>
internal readonly struct AttentionCut
{
    private const int MaxChunks = 32, MostOdd = 2;

    // Probabilities and slopes of so many bytes leave room in L2 for the head's operands, and for those of the next.
    private const int BlockBytes = 320 << 10;

    public int Images { get; private init; }
    public int Tokens { get; private init; }
    public int Heads { get; private init; }
    public int Depth { get; private init; }
    public int Groups { get; private init; }

    /// <summary>Lanes of a vector, and the most vectors of a tile.</summary>
    public int Lanes { get; private init; }
    private int Most { get; init; }

    /// <summary>Queries that are rows of their own: the last ones.</summary>
    public int Odd { get; private init; }

    /// <summary>Vectors of the other queries, of which the last one may be cut, and panels of them as even as can be.</summary>
    public int QueryVectors { get; private init; }
    public int Panels { get; private init; }

    /// <summary>Queries of the widest panel: also what lies between two rows of a panel's scores.</summary>
    public int Panel { get; private init; }

    /// <summary>Panels whose probabilities and slopes the backward pass holds at a time, at most, and the blocks that this makes.</summary>
    public int Blocks { get; private init; }

    /// <summary>Vectors of a row of q, k, v or y of one head, and floats between two of them.</summary>
    public int DepthVectors { get; private init; }
    public int DepthStride => DepthVectors * Lanes;

    /// <summary>Groups of such vectors, as even as can be.</summary>
    public int DepthGroups { get; private init; }

    public int Chunks => Heads * Groups;

    /// <summary>A chunk is a head of several images.</summary>
    public bool Biased { get; private init; }

    /// <summary>Chunks from one to the next that the same thread will probably take.</summary>
    public int Threads { get; private init; }
    public int Width => Heads * Depth;
    public float Scale => 1f / MathF.Sqrt(Depth);

    /// <summary>Queries that are not odd; the same rounded up to whole vectors, the odd ones included.</summary>
    public int Whole => Tokens - Odd;
    public int AllQueries => (QueryVectors + (Odd > 0 ? 1 : 0)) * Lanes;

    /// <summary>A line of all keys, or of all queries of a block, rounded up to whole cache lines.</summary>
    public int Line => (Tokens + 15) / 16 * 16;
    public int BlockLine => ((Panels + Blocks - 1) / Blocks * Panel + (Odd > 0 ? Lanes : 0) + 15) / 16 * 16;

    /// <summary>Logits are counted in units of ln 2: scores are multiplied by this, a bias by log₂e.</summary>
    public float BinaryScale => Scale * Log2E;

    public const float Log2E = 1.44269504f;
    public const float Ln2 = 0.693147181f;

    public static AttentionCut Of<TV>(Tensor qkv, int heads, bool biased, int threads) where TV : struct, ILanes<TV>
    {
        int images = qkv.Shape.D0, tokens = qkv.Shape.D1, depth = qkv.Shape.D2 / 3 / heads, lanes = TV.Count;
        int most = lanes == 16 ? BandCode.Vectors : MicroKernels.Vectors, rest = tokens % lanes;
        int odd = !biased && rest <= MostOdd && tokens > rest ? rest : 0, vectors = (tokens - odd + lanes - 1) / lanes;
        int panels = (vectors + most - 1) / most, panel = (vectors + panels - 1) / panels * lanes, across = (depth + lanes - 1) / lanes;
        long panelBytes = 2L * sizeof(float) * tokens * panel;
        return new AttentionCut
        {
            Images = images,
            Tokens = tokens,
            Heads = heads,
            Depth = depth,
            Biased = biased,
            Threads = threads,
            Groups = biased ? Math.Clamp(MaxChunks / heads, 1, Math.Max(1, images)) : images,
            Lanes = lanes,
            Most = most,
            Odd = odd,
            QueryVectors = vectors,
            Panels = panels,
            Panel = panel,
            Blocks = (int)Math.Min(panels, (panels * panelBytes + BlockBytes - 1) / BlockBytes),
            DepthVectors = across,
            DepthGroups = (across + most - 1) / most,
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

    /// <summary>First query, vectors and queries of a panel; the last vector may be cut.</summary>
    public (int First, int Vectors, int Queries) PanelAt(int p)
    {
        int first = QueryVectors * p / Panels, vectors = QueryVectors * (p + 1) / Panels - first;
        return (first * Lanes, vectors, Math.Min(vectors * Lanes, Whole - first * Lanes));
    }

    /// <summary>First panel of a block; that of block Blocks is Panels.</summary>
    public int BlockAt(int block) => Panels * block / Blocks;

    /// <summary>First vector and number of vectors of a group of the depth.</summary>
    public (int First, int Count) DepthGroup(int g)
    {
        int first = DepthVectors * g / DepthGroups;
        return (first, DepthVectors * (g + 1) / DepthGroups - first);
    }

    /// <summary>Floats of a chunk's working memory, so that each starts on a cache line.</summary>
    public static long ChunkFloats(long floats) => (floats + 15) / 16 * 16;
}
