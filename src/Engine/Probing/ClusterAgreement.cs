namespace MimEngine.Engine.Probing;

/// <summary>
/// How well groups that nobody named agree with labels: normalised mutual information (arithmetic mean of the entropies), adjusted Rand index
/// (Hubert and Arabie 1985) and Fowlkes–Mallows index, as iBOT's clustering evaluation takes them from scikit-learn.
/// </summary>
public readonly record struct ClusterAgreement(double Nmi, double AdjustedRand, double FowlkesMallows)
{
    /// <param name="groups">A group for every picture; numbers need not be dense.</param>
    public static ClusterAgreement Of(ReadOnlySpan<int> labels, ReadOnlySpan<int> groups)
    {
        if (labels.Length != groups.Length || labels.Length == 0)
            throw new ArgumentException($"{labels.Length} labels and {groups.Length} groups; both must be as many, and some.");
        Dictionary<int, long> rows = [], columns = [];
        Dictionary<(int, int), long> cells = [];
        for (int i = 0; i < labels.Length; i++)
        {
            rows[labels[i]] = rows.GetValueOrDefault(labels[i]) + 1;
            columns[groups[i]] = columns.GetValueOrDefault(groups[i]) + 1;
            cells[(labels[i], groups[i])] = cells.GetValueOrDefault((labels[i], groups[i])) + 1;
        }
        double n = labels.Length, information = 0;
        foreach (((int label, int group), long both) in cells)
            information += both / n * Math.Log(both * n / ((double)rows[label] * columns[group]));
        double entropies = (Entropy(rows.Values, n) + Entropy(columns.Values, n)) / 2;
        // Pairs of pictures that are together in both, in the labels, in the groups.
        double together = Pairs(cells.Values), ofLabels = Pairs(rows.Values), ofGroups = Pairs(columns.Values);
        double expected = ofLabels * ofGroups / (n * (n - 1) / 2), most = (ofLabels + ofGroups) / 2;
        return new ClusterAgreement(entropies == 0 ? 1 : Math.Max(0, information) / entropies,
            most == expected ? 1 : (together - expected) / (most - expected),
            together == 0 ? 0 : together / Math.Sqrt(ofLabels * ofGroups));
    }

    private static double Entropy(IEnumerable<long> counts, double n) => -counts.Sum(c => c / n * Math.Log(c / n));

    private static double Pairs(IEnumerable<long> counts) => counts.Sum(c => c * (c - 1) / 2.0);
}
