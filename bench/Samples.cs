namespace MimEngine.Bench;

/// <summary>What is told of repeated measurements.</summary>
internal static class Samples
{
    /// <summary>The middle one; of an even number the upper of the two.</summary>
    public static double Median(this IReadOnlyCollection<double> values) => values.Order().ElementAt(values.Count / 2);
}
