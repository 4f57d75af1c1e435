namespace MimEngine.Engine.Analysis;

/// <summary>What one head of attention does, or the mean of several (SPEC D.4, A.10). Token 0 is [cls].</summary>
/// <param name="ClsCls">[cls]'s attention to itself.</param>
/// <param name="PatchSelf">A patch's attention to itself, mean over patches.</param>
/// <param name="ClsClsAdjusted">ClsCls over what [cls] gives all patches (+ 1e-6).</param>
/// <param name="PatchSelfAdjusted">PatchSelf over what each patch gives all patches (+ 1e-6).</param>
/// <param name="ClsPatch">[cls]'s attention to a patch, mean over patches.</param>
/// <param name="PatchCls">A patch's attention to [cls], mean over patches.</param>
/// <param name="ClsEntropy">Entropy, in nats, of [cls]'s attention over patches; ln of their number = uniform.</param>
/// <param name="PatchEntropy">The same of a patch's, mean over patches.</param>
/// <param name="Distance">Mean distance in pixels between a patch and those it attends to, [cls] left out.</param>
/// <param name="Nmi">Normalised mutual information of querying and attended patch: 0 = all patches attend alike, 1 = each its own way.</param>
public readonly record struct HeadStatistics(double ClsCls, double PatchSelf, double ClsClsAdjusted, double PatchSelfAdjusted, double ClsPatch,
    double PatchCls, double ClsEntropy, double PatchEntropy, double Distance, double Nmi)
{
    private const double SumEps = 1e-6, DistanceEps = 1e-32, NmiEps = 1e-8;

    /// <summary>Of one image's attention in one head.</summary>
    /// <param name="a">(N, N), N = 1 + G².</param>
    /// <param name="patchPixels">Pixels of a patch, a side.</param>
    public static HeadStatistics Of(ReadOnlySpan<float> a, int grid, double patchPixels)
    {
        int n = 1 + grid * grid, patches = n - 1;
        double self = 0, selfAdjusted = 0, toCls = 0, entropy = 0, clsSum = 0, clsEntropy = 0;
        for (int i = 0; i < n; i++)
        {
            ReadOnlySpan<float> row = a.Slice(i * n, n);
            double sum = 0, h = 0;
            foreach (float v in row[1..]) sum += v;
            foreach (float v in row[1..]) h -= v / (sum + SumEps) * Math.Log(v / (sum + SumEps) + SumEps);
            if (i == 0) (clsSum, clsEntropy) = (sum, h);
            else (self, selfAdjusted, toCls, entropy) = (self + row[i], selfAdjusted + row[i] / (sum + SumEps), toCls + row[0], entropy + h);
        }
        return new(a[0], self / patches, a[0] / (clsSum + SumEps), selfAdjusted / patches, clsSum / patches, toCls / patches, clsEntropy,
            entropy / patches, MeanDistance(a, grid, patchPixels), MutualInformation(a, grid));
    }

    /// <summary>Element by element.</summary>
    public static HeadStatistics Mean(IReadOnlyCollection<HeadStatistics> all) => new(all.Average(s => s.ClsCls), all.Average(s => s.PatchSelf),
        all.Average(s => s.ClsClsAdjusted), all.Average(s => s.PatchSelfAdjusted), all.Average(s => s.ClsPatch), all.Average(s => s.PatchCls),
        all.Average(s => s.ClsEntropy), all.Average(s => s.PatchEntropy), all.Average(s => s.Distance), all.Average(s => s.Nmi));

    /// <summary>Σ_j a_ij·‖position i − position j‖ over renormalised rows, mean over queries; uniform attention on 12 × 12 patches of 16 px: 99.75.</summary>
    private static double MeanDistance(ReadOnlySpan<float> a, int grid, double patchPixels)
    {
        int n = 1 + grid * grid;
        double total = 0;
        for (int i = 1; i < n; i++)
        {
            double sum = 0, weighted = 0;
            for (int j = 1; j < n; j++)
            {
                double v = a[i * n + j] + DistanceEps, dy = (i - 1) / grid - (j - 1) / grid, dx = (i - 1) % grid - (j - 1) % grid;
                (sum, weighted) = (sum + v, weighted + v * Math.Sqrt(dx * dx + dy * dy));
            }
            total += weighted / sum;
        }
        return patchPixels * total / (n - 1);
    }

    /// <summary>With p(q) = 1/L: Σ p(q, k)·ln(p(k | q)/p(k)) / √(H(q)·H(k)).</summary>
    private static double MutualInformation(ReadOnlySpan<float> a, int grid)
    {
        int n = 1 + grid * grid, patches = n - 1;
        double[] conditional = new double[patches * patches], marginal = new double[patches];
        for (int i = 0; i < patches; i++)
        {
            double sum = 0;
            for (int j = 0; j < patches; j++) sum += a[(i + 1) * n + j + 1] + NmiEps;
            for (int j = 0; j < patches; j++)
                marginal[j] += (conditional[i * patches + j] = (a[(i + 1) * n + j + 1] + NmiEps) / sum) / patches;
        }
        double information = 0, entropy = 0;
        for (int i = 0; i < conditional.Length; i++) information += conditional[i] / patches * Math.Log(conditional[i] / marginal[i % patches]);
        foreach (double p in marginal) entropy -= p * Math.Log(p);
        return patches == 1 ? 0 : information / Math.Sqrt(Math.Log(patches) * entropy);
    }
}

/// <summary>Attention of one block over some pictures.</summary>
public sealed record BlockStatistics
{
    /// <summary>1-based.</summary>
    public required int Block { get; init; }

    /// <summary>Mean over heads and pictures.</summary>
    public required HeadStatistics Mean { get; init; }

    /// <summary>Mean over pictures, a head each.</summary>
    public required HeadStatistics[] Heads { get; init; }

    /// <summary>‖attention branch‖/(‖residual stream‖ + 1e-6) at [cls], mean over pictures; the branch before LayerScale.</summary>
    public required double ClsMagnitude { get; init; }

    /// <summary>The same, mean over patches.</summary>
    public required double PatchMagnitude { get; init; }

    /// <summary>Standard error over pictures of Mean.Distance.</summary>
    public required double DistanceError { get; init; }

    /// <summary>Standard error over pictures of Mean.Nmi.</summary>
    public required double NmiError { get; init; }
}
