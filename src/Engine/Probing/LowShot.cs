using MimEngine.Kernels;

namespace MimEngine.Engine.Probing;

/// <summary>k-NN with few labelled pictures: five supports, each scored on all test pictures.</summary>
/// <param name="Encoder">"pretrained" or "random-init".</param>
/// <param name="Shots">Labelled pictures of each class, ν.</param>
/// <param name="Draws">Top-1 of each support.</param>
public sealed record LowShotRow(string Encoder, int Shots, int Neighbours, double[] Draws)
{
    public double Mean => Draws.Average();

    /// <summary>Standard deviation over the supports, n − 1; 0 for a single one.</summary>
    public double Deviation => Draws.Length < 2 ? 0 : Math.Sqrt(Draws.Sum(d => (d - Mean) * (d - Mean)) / (Draws.Length - 1));
}

/// <summary>
/// Low-shot evaluation of iBOT and AttMask (SPEC E.6): the support is pictures start … start + ν − 1 of every class in the order of the files,
/// for five starts; one neighbour for one picture, else twenty.
/// </summary>
public static class LowShot
{
    private const int Supports = 5, FewestApart = 5, Neighbours = 20;

    /// <summary>Starts are 0, 5, 10, … for one and five pictures, 0, ν, 2ν, … for more, so that supports of more never overlap.</summary>
    public static int StartOf(int shots, int draw) => draw * Math.Max(FewestApart, shots);

    /// <summary>Indices of a support, class by class in the order in which classes first appear.</summary>
    /// <returns>None when a class has too few pictures.</returns>
    public static int[]? Support(ReadOnlySpan<int> labels, int shots, int start)
    {
        Dictionary<int, List<int>> byClass = [];
        for (int i = 0; i < labels.Length; i++)
            (byClass.TryGetValue(labels[i], out List<int>? of) ? of : byClass[labels[i]] = []).Add(i);
        return byClass.Values.Any(of => of.Count < start + shots) ? null : [.. byClass.Values.SelectMany(of => of.Skip(start).Take(shots))];
    }

    /// <summary>Scores one number of labelled pictures; supports that a class is too small for are left out.</summary>
    /// <returns>None when no support can be had.</returns>
    public static LowShotRow? Score(Backend backend, KnnConfig config, string encoder, FeatureSet train, FeatureSet test, int classes, int shots,
        CancellationToken stop = default)
    {
        int k = shots == 1 ? 1 : Neighbours;
        List<double> draws = [];
        for (int draw = 0; draw < Supports; draw++)
        {
            if (Support(train.Labels, shots, StartOf(shots, draw)) is not { } support) continue;
            int most = Math.Min(k, support.Length);
            draws.Add(KnnProbe.Score(backend, config with { Neighbours = [most] }, train.At(support), test, classes, stop: stop)[0].Top1);
        }
        return draws.Count == 0 ? null : new LowShotRow(encoder, shots, k, [.. draws]);
    }
}
