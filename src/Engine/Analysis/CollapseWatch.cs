using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;

namespace MimEngine.Engine.Analysis;

/// <summary>
/// Whether a run with a teacher is falling into a trivial answer: the teacher's entropy and its distance from the student (KL) for each term,
/// the norm of each centre, and the effective rank of [cls] over a few fixed pictures. It changes nothing. (SPEC H: collapse.)
/// </summary>
public sealed class CollapseWatch
{
    private const double SmallKl = 0.01, UniformShare = 0.98, SharpShare = 0.02, SmallRank = 1.5;
    private readonly Backend _backend;
    private readonly PretrainConfig _config;
    private readonly byte[] _crops;
    private readonly int _count;
    private readonly HashSet<string> _warned = [];

    /// <param name="crops">(n, 3, S, S) U8, planar, n at most the batch.</param>
    public CollapseWatch(Backend backend, PretrainConfig config, byte[] crops)
    {
        (_backend, _config, _crops) = (backend, config, crops);
        _count = crops.Length / (3 * config.Encoder.ImagePixels * config.Encoder.ImagePixels);
    }

    /// <summary>"collapse.cls.entropy" and "collapse.cls.kl" in nats, "collapse.cls.center_norm"; with rank, "collapse.effective_rank".</summary>
    /// <param name="arena">Memory for one forward pass, or none = no rank this time.</param>
    /// <param name="mature">The first epoch is over: warnings may be given, each once.</param>
    public List<Metric> Look(in StepReadout read, Teacher teacher, Arena? arena, bool mature, Action<string> warn)
    {
        List<Metric> metrics = [];
        Dictionary<string, Tensor> centers = teacher.Centers.ToDictionary(c => c.Term, c => c.Center);
        for (int i = 0; i < _config.Terms.Length; i++)
        {
            Term term = _config.Terms[i];
            if (!centers.TryGetValue(term.Name, out Tensor center)) continue;
            double entropy = read.Entropies[i], kl = read.Losses[i] / term.Scale - entropy, most = Math.Log(center.Count);
            double norm = Math.Sqrt(Transfer.Floats(_backend, center).Sum(v => (double)v * v));
            metrics.AddRange([new($"collapse.{term.Name}.entropy", entropy), new($"collapse.{term.Name}.kl", kl),
                new($"collapse.{term.Name}.center_norm", norm)]);
            if (mature && Sentence(term, entropy, kl, most) is { } sentence && _warned.Add(term.Name)) warn(sentence);
        }
        if (arena is null) return metrics;
        double rank = EffectiveRank(teacher.Model.Encoder, arena);
        metrics.Add(new Metric("collapse.effective_rank", rank));
        if (mature && rank < SmallRank && _warned.Add("rank"))
            warn($"[cls] has an effective rank of {rank:0.0} over {_count} pictures: it says nearly the same about all of them. "
                + "Try a lower optim.rate, a higher teacher.momentum, or a longer optim.warmupEpochs.");
        return metrics;
    }

    /// <summary>What is wrong with one term, and what to try; none when nothing is.</summary>
    internal static string? Sentence(Term term, double entropy, double kl, double most)
    {
        if (!(kl < SmallKl)) return null;
        string what = $"Term '{term.Name}' has collapsed: student and teacher agree to {kl:0.0000} nats";
        if (entropy > UniformShare * most)
            return $"{what} on a uniform answer (entropy {entropy:0.00} of {most:0.00}). Try a lower target.temperature, a target.centerMomentum "
                + "nearer to 1, or a smaller optim.rate.";
        return entropy < SharpShare * most
            ? $"{what} on a single prototype (entropy {entropy:0.00} of {most:0.00}). Try a higher target.temperature and warmupTemperature, a lower "
                + "target.centerMomentum, or a longer head.freezeEpochs."
            : null;
    }

    /// <summary>
    /// exp of the entropy of the normalised singular values of [cls] over the pictures, the mean taken off (Roy and Vetterli 2007): 1 = all on a
    /// line, at most pictures − 1.
    /// </summary>
    private double EffectiveRank(Encoder encoder, Arena arena)
    {
        var shape = new Shape(_count, 3, _config.Encoder.ImagePixels, _config.Encoder.ImagePixels);
        var tape = new Tape(_backend, arena);
        tape.BeginNoGrad();
        Tensor u8 = tape.Keep(shape, DType.U8), images = tape.Keep(shape);
        _backend.Upload(u8, _crops);
        _backend.NormalizeImages(images, u8, Normalization.Mean, Normalization.Std);
        Value cls = tape.SliceTokens(encoder.Encode(tape, images, new EncodeRequest()).All, 0, 1);
        float[] features = Transfer.Floats(_backend, cls.Data);
        tape.EndNoGrad();
        tape.Reset();
        return EffectiveRank(features, _count);
    }

    internal static double EffectiveRank(ReadOnlySpan<float> features, int count)
    {
        int width = features.Length / count;
        double[] centred = new double[features.Length];
        for (int c = 0; c < width; c++)
        {
            double mean = 0;
            for (int i = 0; i < count; i++) mean += features[i * width + c] / (double)count;
            for (int i = 0; i < count; i++) centred[i * width + c] = features[i * width + c] - mean;
        }
        double[,] gram = new double[count, count];
        for (int i = 0; i < count; i++)
            for (int j = 0; j <= i; j++)
            {
                double dot = 0;
                for (int c = 0; c < width; c++) dot += centred[i * width + c] * centred[j * width + c];
                gram[i, j] = gram[j, i] = dot;
            }
        double[] singular = [.. Eigenvalues(gram).Select(v => Math.Sqrt(Math.Max(0, v)))];
        double sum = singular.Sum(), entropy = 0;
        if (!(sum > 0)) return 1;
        foreach (double s in singular)
            if (s > 0) entropy -= s / sum * Math.Log(s / sum);
        return Math.Exp(entropy);
    }

    /// <summary>Of a symmetric matrix, which is used up: Jacobi's rotations (Golub and Van Loan, section 8.5).</summary>
    private static double[] Eigenvalues(double[,] a)
    {
        int n = a.GetLength(0);
        for (int sweep = 0; sweep < 30; sweep++)
        {
            double off = 0, all = 0;
            for (int i = 0; i < n; i++)
                for (int j = 0; j < n; j++) (off, all) = (i == j ? off : off + a[i, j] * a[i, j], all + a[i, j] * a[i, j]);
            if (off <= 1e-20 * all) break;
            for (int p = 0; p < n; p++)
                for (int q = p + 1; q < n; q++)
                {
                    if (a[p, q] == 0) continue;
                    double theta = (a[q, q] - a[p, p]) / (2 * a[p, q]);
                    double t = (theta >= 0 ? 1 : -1) / (Math.Abs(theta) + Math.Sqrt(theta * theta + 1)), c = 1 / Math.Sqrt(t * t + 1), s = t * c;
                    for (int k = 0; k < n; k++) (a[k, p], a[k, q]) = (c * a[k, p] - s * a[k, q], s * a[k, p] + c * a[k, q]);
                    for (int k = 0; k < n; k++) (a[p, k], a[q, k]) = (c * a[p, k] - s * a[q, k], s * a[p, k] + c * a[q, k]);
                }
        }
        return [.. Enumerable.Range(0, n).Select(i => a[i, i])];
    }
}
