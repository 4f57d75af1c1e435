using MimEngine.Engine.Data;
using MimEngine.Engine.Pretraining;

namespace MimEngine.Engine.Probing;

/// <summary>Changes pictures in place.</summary>
/// <param name="crops">(count, 3, S, S) u8, planar, and perhaps more behind.</param>
public delegate void PictureChange(Span<byte> crops, int count);

/// <summary>The features of a dataset: (Count, Width) float32 rows and their labels.</summary>
public sealed record FeatureSet(float[] Values, int[] Labels, int Width)
{
    public int Count => Labels.Length;

    public ReadOnlySpan<float> Row(int index) => Values.AsSpan(index * Width, Width);

    /// <summary>Some of the pictures, in the given order.</summary>
    public FeatureSet At(ReadOnlySpan<int> indices)
    {
        float[] values = new float[indices.Length * Width];
        int[] labels = new int[indices.Length];
        for (int i = 0; i < indices.Length; i++)
        {
            Row(indices[i]).CopyTo(values.AsSpan(i * Width));
            labels[i] = Labels[indices[i]];
        }
        return new FeatureSet(values, labels, Width);
    }

    /// <summary>One part of every row, as a set of its own.</summary>
    public FeatureSet Only(FeatureRow row, FeaturePart part)
    {
        if (row.Parts.Count == 1) return this;
        float[] values = new float[(long)Count * part.Length];
        row.Take(values, part, Values);
        return new FeatureSet(values, Labels, part.Length);
    }

    /// <summary>Share of the class that is most frequent in <paramref name="train"/> among these labels: what knowing nothing scores.</summary>
    public double MajorityRate(FeatureSet train, int classes)
    {
        int[] counts = new int[classes];
        foreach (int label in train.Labels) counts[label]++;
        int majority = Array.IndexOf(counts, counts.Max());
        return Labels.Count(label => label == majority) / (double)Count;
    }

    /// <summary>Reads every picture once, in order.</summary>
    /// <param name="threads">Decoding threads.</param>
    /// <param name="progress">Told the number of pictures done, after every batch.</param>
    /// <param name="note">Told in a sentence about unreadable pictures, if there were any.</param>
    /// <param name="change">Changes pictures, (count, 3, S, S) u8, before the encoder sees them.</param>
    /// <exception cref="DataException">Too many pictures are unreadable, or one has no label.</exception>
    public static FeatureSet Extract(FrozenEncoder encoder, IDataset data, IViews views, int threads, Action<int>? progress = null,
        Action<string>? note = null, CancellationToken stop = default, PictureChange? change = null)
    {
        const int Batch = 256;
        if ((long)data.Count * encoder.Width > Array.MaxLength)
            throw new ConfigException($"Probe: features of {data.Count} pictures are {encoder.Width} numbers each, "
                + $"{4e-9 * data.Count * encoder.Width:0.#} GB in all, more than can be kept; leave abmilp out, or probe with fewer pictures.");
        long end = (data.Count + Batch - 1L) / Batch;
        float[] values = new float[checked(data.Count * encoder.Width)];
        int[] labels = new int[data.Count];
        using var loader = new Loader(new LoaderConfig(data, views, Batch) { Order = LoaderOrder.InOrder, EndStep = end, Threads = threads });
        for (int done = 0; done < data.Count;)
        {
            stop.ThrowIfCancellationRequested();
            Batch batch = loader.Next();
            change?.Invoke(batch.Pixels, batch.Count);
            encoder.Encode(values.AsSpan(done * encoder.Width, batch.Count * encoder.Width), batch.Filled, batch.Count);
            batch.Labels.AsSpan(0, batch.Count).CopyTo(labels.AsSpan(done));
            done += batch.Count;
            loader.Return(batch);
            progress?.Invoke(done);
        }
        if (loader.Corrupt.Report() is { Length: > 0 } sentence) note?.Invoke(sentence);
        int unlabelled = Array.FindIndex(labels, label => label < 0 || label >= data.Classes.Count);
        if (unlabelled >= 0)
            throw new DataException($"{data.PictureName(unlabelled)} has label {labels[unlabelled]}, but there are {data.Classes.Count} classes.");
        return new FeatureSet(values, labels, encoder.Width);
    }
}
