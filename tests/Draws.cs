using MimEngine.Kernels;

namespace MimEngine.Tests;

/// <summary>Rules for test values.</summary>
internal static class Draws
{
    public static Draw Normal(double mean = 0, double deviation = 1) => Each((ref RngSequence r) => mean + deviation * r.Normal());

    public static Draw Uniform(double low, double high) => Each((ref RngSequence r) => low + (high - low) * r.UniformDouble());

    /// <summary>Of either sign, with a magnitude in [low, high): stays away from 0.</summary>
    public static Draw TwoSided(double low, double high)
        => Each((ref RngSequence r) => (r.Below(2) == 0 ? -1 : 1) * (low + (high - low) * r.UniformDouble()));

    /// <summary>Whole numbers in [low, high].</summary>
    public static Draw Integers(int low, int high) => Each((ref RngSequence r) => low + r.Below(high - low + 1));

    public static Draw Constant(double value) => Each((ref RngSequence _) => value);

    /// <summary>1 with this probability, else 0.</summary>
    public static Draw Bits(double probability) => Each((ref RngSequence r) => r.UniformDouble() < probability ? 1 : 0);

    /// <summary>0 or 1/keep, as stochastic depth has it.</summary>
    public static Draw DropPath(double keep) => Each((ref RngSequence r) => r.UniformDouble() < keep ? 1 / keep : 0);

    /// <summary>Normal values in which some elements are replaced by special ones.</summary>
    public static Draw NormalWith(params double[] specials)
        => Each((ref RngSequence r) => r.Below(4) == 0 ? specials[r.Below(specials.Length)] : r.Normal());

    /// <summary>Rows that are distributions: positive and summing to 1.</summary>
    public static Draw Distributions() => (Span<double> values, ref RngSequence random, Shape shape) =>
    {
        for (int row = 0; row < shape.Rows; row++)
        {
            Span<double> cells = values.Slice(row * shape.Cols, shape.Cols);
            double sum = 0;
            foreach (ref double v in cells) sum += v = random.UniformDouble() + 1e-3;
            foreach (ref double v in cells) v /= sum;
        }
    };

    /// <summary>Rows with exactly this many ones, the rest 0.</summary>
    public static Draw RowBits(int ones) => (Span<double> values, ref RngSequence random, Shape shape) =>
    {
        for (int row = 0; row < shape.Rows; row++)
        {
            Span<double> cells = values.Slice(row * shape.Cols, shape.Cols);
            cells.Clear();
            cells[..ones].Fill(1);
            random.Shuffle(cells);
        }
    };

    /// <summary>Rows with a single 1.</summary>
    public static Draw OneHot() => (Span<double> values, ref RngSequence random, Shape shape) =>
    {
        values.Clear();
        for (int row = 0; row < shape.Rows; row++) values[row * shape.Cols + random.Below(shape.Cols)] = 1;
    };

    /// <summary>Grey values in flat blocks of this many pixels a side: plateaus, so that neighbouring corners tie.</summary>
    public static Draw Blocks(int side, int contrast) => (Span<double> values, ref RngSequence random, Shape shape) =>
    {
        (int height, int width) = (shape[shape.Rank - 2], shape[shape.Rank - 1]);
        uint salt = random.Word();
        for (int i = 0; i < values.Length; i++)
        {
            int plane = i / (height * width), y = i / width % height / side, x = i % width / side;
            uint hash = (uint)((plane * 8191 + y) * 8191 + x) * 2654435761u ^ salt;
            hash = (hash ^ hash >> 15) * 2246822519u;
            values[i] = 128 - contrast / 2 + (hash ^ hash >> 13) % (uint)contrast;
        }
    };

    private delegate double One(ref RngSequence random);

    private static Draw Each(One one) => (Span<double> values, ref RngSequence random, Shape _) =>
    {
        foreach (ref double v in values) v = one(ref random);
    };
}
