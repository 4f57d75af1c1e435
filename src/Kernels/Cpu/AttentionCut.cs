namespace MimEngine.Kernels.Cpu;

/// <summary>
/// How attention is cut on the CPU. A chunk is one head of a group of images: at most <see cref="MaxChunks"/> where the heads are fewer,
/// whatever the batch and the threads. Inside, query rows come in tiles whose scores stay in L2.
/// </summary>
internal readonly struct AttentionCut
{
    private const int MaxChunks = 32;
    private const int MaxTileRows = 48;   // 48 rows of 145 scores are 32 kB; a tile's product with the keys is 1,152 multiply-adds a load

    public int Images { get; private init; }
    public int Tokens { get; private init; }
    public int Heads { get; private init; }
    public int Depth { get; private init; }
    public int Groups { get; private init; }

    /// <summary>Query rows of a tile, a multiple of six.</summary>
    public int TileRows { get; private init; }

    /// <summary>Vectors of a row of scores, and floats between two rows: an odd number of lines, so that columns spread over L1.</summary>
    public int KeyVectors { get; private init; }
    public int KeyStride { get; private init; }

    /// <summary>Vectors of a row of q, k, v or y of one head, and floats between two of them.</summary>
    public int DepthVectors { get; private init; }
    public int DepthStride { get; private init; }

    public int Chunks => Heads * Groups;
    public int Width => Heads * Depth;
    public float Scale => 1f / MathF.Sqrt(Depth);

    /// <summary>Logits are counted in units of ln 2 inside a tile: q is multiplied by this, a bias by log₂e.</summary>
    public float BinaryScale => Scale * Log2E;

    public const float Log2E = 1.44269504f;
    public const float Ln2 = 0.693147181f;

    public static AttentionCut Of<TV>(Tensor qkv, int heads) where TV : struct, ILanes<TV>
    {
        int images = qkv.Shape.D0, tokens = qkv.Shape.D1, depth = qkv.Shape.D2 / 3 / heads;
        int padded = SixRows<TV>.Pad(tokens), keyVectors = SixRows<TV>.Vectors(padded), depthVectors = SixRows<TV>.Vectors(depth);
        int tiles = Rows.Chunks(tokens, MaxTileRows);
        return new AttentionCut
        {
            Images = images,
            Tokens = tokens,
            Heads = heads,
            Depth = depth,
            Groups = Math.Clamp(MaxChunks / heads, 1, Math.Max(1, images)),
            TileRows = SixRows<TV>.Pad(Rows.Chunks(tokens, tiles)),
            KeyVectors = SixRows<TV>.Vectors(tokens),
            KeyStride = (TV.Count > 1 ? keyVectors | 1 : keyVectors) * TV.Count,
            DepthVectors = depthVectors,
            DepthStride = depthVectors * TV.Count,
        };
    }

    /// <summary>The images of a chunk.</summary>
    public (int First, int Last) Group(int chunk)
    {
        int g = chunk % Groups;
        return ((int)((long)Images * g / Groups), (int)((long)Images * (g + 1) / Groups));
    }

    /// <summary>Floats of a chunk's working memory, so that each starts on a cache line.</summary>
    public static long ChunkFloats(long floats) => (floats + 15) / 16 * 16;
}
