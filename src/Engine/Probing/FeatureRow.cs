using MimEngine.Engine.Nn;

namespace MimEngine.Engine.Probing;

/// <summary>One aggregation's place in a row of features.</summary>
/// <param name="Offset">First number.</param>
/// <param name="Tokens">Vectors of Width numbers: 1, or all tokens where the head aggregates them itself.</param>
public readonly record struct FeaturePart(Pooling Pooling, int Offset, int Tokens, int Width)
{
    public int Length => Tokens * Width;
}

/// <summary>What is kept of one picture: the features of several aggregations, one after the other.</summary>
public sealed class FeatureRow
{
    /// <param name="poolings">In the order of the row.</param>
    public FeatureRow(IEnumerable<Pooling> poolings, VitConfig encoder)
    {
        List<FeaturePart> parts = [];
        foreach (Pooling pooling in poolings)
        {
            int blocks = pooling == Pooling.ClsOfLastBlocks ? Aggregation.LastBlocks : 1;
            var part = new FeaturePart(pooling, Width, pooling == Pooling.AbMilp ? encoder.Tokens : 1, blocks * encoder.Width);
            parts.Add(part);
            Width += part.Length;
        }
        (Parts, Grid) = (parts, encoder.Grid);
    }

    /// <summary>One feature vector a picture.</summary>
    public FeatureRow(int width) => (Parts, Width) = ([new FeaturePart(Pooling.MeanPatches, 0, 1, width)], width);

    public IReadOnlyList<FeaturePart> Parts { get; }

    /// <summary>Numbers of a row.</summary>
    public int Width { get; }

    /// <summary>Patches a side.</summary>
    public int Grid { get; }

    /// <summary>Copies one part out of rows, side by side.</summary>
    /// <param name="to">(rows, part.Length), written.</param>
    /// <param name="rows">(rows, Width).</param>
    public void Take(Span<float> to, FeaturePart part, ReadOnlySpan<float> rows)
    {
        for (int i = 0, n = rows.Length / Width; i < n; i++)
            rows.Slice(i * Width + part.Offset, part.Length).CopyTo(to[(i * part.Length)..]);
    }
}
