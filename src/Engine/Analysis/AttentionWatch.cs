using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Kernels;

namespace MimEngine.Engine.Analysis;

/// <summary>Takes the statistics of every block's attention while an encoder looks at pictures.</summary>
/// <param name="count">Pictures that count; what the last pass holds beyond them is a filler.</param>
public sealed class AttentionWatch(Backend backend, int grid, int patchPixels, int count) : IBlockWatch, IDisposable
{
    private const double MagnitudeEps = 1e-6;
    private readonly List<Seen> _seen = [];
    private Storage? _storage;

    /// <summary>Pictures × heads of one block; magnitudes a picture.</summary>
    private sealed record Seen(int Block, HeadStatistics[][] Images, double[] Cls, double[] Patches);

    /// <summary>Keep [cls]'s attention of the first picture in every block and head, for drawing.</summary>
    public bool KeepMaps { get; init; }

    /// <summary>[cls]'s attention to the L patches of the first picture: by block, then head.</summary>
    public List<float[][]> Maps { get; } = [];

    /// <inheritdoc/>
    public void Attended(Tape t, int block, Tensor before, Tensor qkv, int heads, Tensor? bias, Tensor? gamma, Tensor after)
    {
        (int batch, int n, int c) = (before.Shape.D0, before.Shape.D1, before.Shape.D2);
        var shape = new Shape(batch, heads, n, n);
        _storage ??= backend.Allocate(shape.Count * backend.Real.Size());
        var p = new Tensor(_storage, 0, shape, backend.Real);
        backend.AttentionProbabilities(p, qkv, heads, bias);
        int images = Math.Min(count - _seen.Where(s => s.Block == block).Sum(s => s.Cls.Length), batch);
        float[] a = Transfer.Floats(backend, p.Slice(0, images));
        HeadStatistics[][] all = [.. Enumerable.Range(0, images).Select(b => Enumerable.Range(0, heads)
            .Select(h => HeadStatistics.Of(a.AsSpan((b * heads + h) * n * n, n * n), grid, patchPixels)).ToArray())];
        if (KeepMaps && !_seen.Exists(s => s.Block == block))
            Maps.Add([.. Enumerable.Range(0, heads).Select(h => a.AsSpan(h * n * n + 1, n - 1).ToArray())]);
        (double[] cls, double[] patches) = Magnitudes(Transfer.Floats(backend, before.Slice(0, images)), Transfer.Floats(backend, after.Slice(0, images)),
            gamma is { } scale ? Transfer.Floats(backend, scale) : null, images, n, c);
        _seen.Add(new Seen(block, all, cls, patches));
    }

    /// <summary>What was seen, block by block.</summary>
    public BlockStatistics[] Blocks() =>
    [
        .. _seen.GroupBy(s => s.Block).OrderBy(g => g.Key).Select(g =>
        {
            HeadStatistics[][] images = [.. g.SelectMany(s => s.Images)];
            HeadStatistics[] each = [.. images.Select(HeadStatistics.Mean)];
            return new BlockStatistics
            {
                Block = g.Key + 1,
                Mean = HeadStatistics.Mean(each),
                Heads = [.. Enumerable.Range(0, images[0].Length).Select(h => HeadStatistics.Mean([.. images.Select(i => i[h])]))],
                ClsMagnitude = g.SelectMany(s => s.Cls).Average(),
                PatchMagnitude = g.SelectMany(s => s.Patches).Average(),
                DistanceError = StandardError([.. each.Select(e => e.Distance)]),
                NmiError = StandardError([.. each.Select(e => e.Nmi)]),
            };
        }),
    ];

    public void Dispose() => _storage?.Dispose();

    /// <summary>‖(y − x)/gamma‖/(‖x‖ + 1e-6) of every token, LayerScale taken out: at [cls], and mean over patches, a picture each.</summary>
    private static (double[] Cls, double[] Patches) Magnitudes(float[] x, float[] y, float[]? gamma, int images, int tokens, int width)
    {
        double[] cls = new double[images], patches = new double[images];
        for (int i = 0; i < images * tokens; i++)
        {
            double before = 0, branch = 0;
            for (int k = i * width; k < (i + 1) * width; k++)
            {
                double scale = gamma is null ? 1 : gamma[k % width], d = scale == 0 ? 0 : ((double)y[k] - x[k]) / scale;
                (before, branch) = (before + (double)x[k] * x[k], branch + d * d);
            }
            double ratio = Math.Sqrt(branch) / (Math.Sqrt(before) + MagnitudeEps);
            if (i % tokens == 0) cls[i / tokens] = ratio;
            else patches[i / tokens] += ratio / (tokens - 1);
        }
        return (cls, patches);
    }

    private static double StandardError(double[] values)
    {
        if (values.Length < 2) return 0;
        double mean = values.Average();
        return Math.Sqrt(values.Sum(v => (v - mean) * (v - mean)) / (values.Length - 1) / values.Length);
    }
}
