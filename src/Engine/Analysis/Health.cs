using System.Diagnostics;
using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;

namespace MimEngine.Engine.Analysis;

/// <summary>
/// What becomes of attention while a run goes on: distance, NMI and entropy of every block, on the same few unmasked pictures each time.
/// It draws nothing, changes nothing, and costs one small forward pass.
/// </summary>
public sealed class Health
{
    private const long MostElements = 4L << 20;   // of one block's attention: 16 MB
    private readonly Backend _backend;
    private readonly VitConfig _config;
    private readonly byte[] _crops;
    private readonly int _count;

    /// <param name="crops">(n, 3, S, S) U8, planar; as many as fit are looked at.</param>
    public Health(Backend backend, VitConfig config, byte[] crops)
    {
        (_backend, _config) = (backend, config);
        int picture = 3 * config.ImagePixels * config.ImagePixels;
        _count = (int)Math.Clamp(MostElements / ((long)config.Heads * config.Tokens * config.Tokens), 1, crops.Length / picture);
        _crops = crops[..(_count * picture)];
    }

    /// <summary>
    /// "health.3.distance" in pixels, "health.3.nmi", "health.3.entropy" of patches in nats, block by block; and "health.seconds", what the look cost.
    /// </summary>
    /// <param name="arena">Memory for one forward pass: a guest of the training arena.</param>
    public List<Metric> Look(Encoder encoder, Arena arena)
    {
        long started = Stopwatch.GetTimestamp();
        using var watch = new AttentionWatch(_backend, encoder.Grid, encoder.TokenPixels, _count);
        var shape = new Shape(_count, 3, _config.ImagePixels, _config.ImagePixels);
        var tape = new Tape(_backend, arena);
        tape.BeginNoGrad();
        Tensor u8 = tape.Keep(shape, DType.U8), images = tape.Keep(shape);
        _backend.Upload(u8, _crops);
        _backend.NormalizeImages(images, u8, Normalization.Mean, Normalization.Std);
        encoder.Encode(tape, images, new EncodeRequest(Watch: watch));
        tape.EndNoGrad();
        tape.Reset();
        List<Metric> metrics = [];
        foreach (BlockStatistics b in watch.Blocks())
            metrics.AddRange([new($"health.{b.Block}.distance", b.Mean.Distance), new($"health.{b.Block}.nmi", b.Mean.Nmi),
                new($"health.{b.Block}.entropy", b.Mean.PatchEntropy)]);
        metrics.Add(new("health.seconds", Stopwatch.GetElapsedTime(started).TotalSeconds));
        return metrics;
    }
}
