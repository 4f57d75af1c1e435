using MimEngine.Engine.Data;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;

namespace MimEngine.Engine.Probing;

/// <summary>Training batches of a linear probe, in a shuffled order that depends on nothing but the seed.</summary>
public abstract class FeatureStream(int batchesPerEpoch) : IDisposable
{
    /// <summary>Batches of an epoch; the rest that fills none is dropped.</summary>
    public int BatchesPerEpoch { get; } = batchesPerEpoch;

    /// <summary>Batch number <paramref name="number"/> since the beginning; numbers are asked for in order.</summary>
    /// <param name="features">(B, C), written.</param>
    /// <param name="targets">(B, K), written: rows that sum to 1.</param>
    public abstract void Next(long number, Span<float> features, Span<float> targets);

    public virtual void Dispose() { }
}

/// <summary>Batches out of features that were computed once.</summary>
public sealed class CachedFeatures(FeatureSet set, int batch, int classes, ulong seed) : FeatureStream(set.Count / batch)
{
    private readonly EpochOrder _order = new(seed, set.Count);

    /// <inheritdoc/>
    public override void Next(long number, Span<float> features, Span<float> targets)
    {
        targets.Clear();
        for (int i = 0; i < batch; i++)
        {
            int sample = _order.Sample(number / BatchesPerEpoch, (int)(number % BatchesPerEpoch) * batch + i);
            set.Row(sample).CopyTo(features[(i * set.Width)..]);
            targets[i * classes + set.Labels[sample]] = 1f;
        }
    }
}

/// <summary>Batches of freshly augmented pictures, mixed where the probe asks for it, through the frozen encoder.</summary>
public sealed class AugmentedFeatures : FeatureStream
{
    private readonly FrozenEncoder _encoder;
    private readonly ProbeConfig _config;
    private readonly Loader _loader;
    private readonly int _classes, _pixels;
    private readonly float[] _images;

    /// <param name="data">Stays the caller's, as the encoder does.</param>
    public AugmentedFeatures(FrozenEncoder encoder, ProbeConfig config, IDataset data, IViews views, int threads)
        : base(data.Count / config.Batch)
    {
        (_encoder, _config, _classes, _pixels) = (encoder, config, data.Classes.Count, views.Size);
        _images = config.Mix == BatchMix.None ? [] : new float[checked(config.Batch * 3 * _pixels * _pixels)];
        _loader = new Loader(new LoaderConfig(data, views, config.Batch) { Seed = config.Seed, Threads = threads });
    }

    /// <summary>Pictures that could not be read.</summary>
    public CorruptPictures Corrupt => _loader.Corrupt;

    /// <inheritdoc/>
    public override void Next(long number, Span<float> features, Span<float> targets)
    {
        Batch batch = _loader.Next();
        if (batch.Step != number) throw new InvalidOperationException($"Batch {number} was asked for, {batch.Step} is next.");
        if (_config.Mix == BatchMix.None)
        {
            new Mixing(1f, null, MixPartner.Rolled).Targets(targets, batch.Labels.AsSpan(0, batch.Count), _classes);
            _encoder.Encode(features, batch.Filled, batch.Count);
        }
        else
        {
            RngSequence random = new Rng(_config.Seed, RandomStream.Mixup, (ulong)number).Start();
            Mixing mixing = Mixing.Kamim(ref random, _pixels, _pixels);
            Normalise(batch.Filled);
            mixing.Apply(_images, batch.Count, 3, _pixels, _pixels);
            mixing.Targets(targets, batch.Labels.AsSpan(0, batch.Count), _classes);
            _encoder.Encode(features, _images, batch.Count);
        }
        _loader.Return(batch);
    }

    public override void Dispose() => _loader.Dispose();

    // Mixing is linear, so mixing normalised pixels and normalising mixed ones are the same; bytes could not hold a mix.
    private void Normalise(ReadOnlySpan<byte> crops)
    {
        int plane = _pixels * _pixels;
        for (int i = 0; i < crops.Length; i++)
        {
            int channel = i / plane % 3;
            _images[i] = (crops[i] / 255f - Normalization.Mean[channel]) / Normalization.Std[channel];
        }
    }
}
