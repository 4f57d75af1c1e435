using System.Runtime.ExceptionServices;
using MimEngine.Engine.Imaging;

namespace MimEngine.Engine.Data;

/// <summary>How <see cref="Packer"/> packs.</summary>
public sealed record PackOptions
{
    /// <summary>Pictures whose shorter side is longer than this are reduced to it; 0 keeps every picture as it is.</summary>
    public int ShortSide { get; init; }

    /// <summary>Decoding threads; the file does not depend on it.</summary>
    public int Threads { get; init; } = 1;
}

/// <summary>Pictures done so far, of how many, and bytes of pixels in the pack.</summary>
public readonly record struct PackProgress(int Done, int Total, long Bytes);

/// <summary>What a pack holds, and the unreadable pictures that were left out.</summary>
public sealed record PackReport(int Train, int Test, long FileBytes, CorruptPictures LeftOut);

/// <summary>Turns any dataset into one .mimpack file: decodes once what training would decode every epoch.</summary>
public static class Packer
{
    private const int Ahead = 4;

    /// <summary>Packs one dataset as training pictures.</summary>
    public static PackReport Run(IDataset dataset, string path, PackOptions options, IProgress<PackProgress>? progress = null,
        CancellationToken cancel = default) => Run(dataset, null, path, options, progress, cancel);

    /// <summary>Packs training and test pictures; either may be null. Unreadable pictures are left out, up to 1 %.</summary>
    /// <param name="cancel">Ends with <see cref="OperationCanceledException"/>, leaving no file.</param>
    /// <exception cref="DataException">Nothing to pack, too many unreadable pictures, classes that differ, or a file that cannot be written.</exception>
    public static PackReport Run(IDataset? train, IDataset? test, string path, PackOptions options, IProgress<PackProgress>? progress = null,
        CancellationToken cancel = default)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(options.Threads);
        ArgumentOutOfRangeException.ThrowIfNegative(options.ShortSide);
        IDataset first = train ?? test ?? throw new ArgumentNullException(nameof(train));
        if (train is not null && test is not null && !train.Classes.SequenceEqual(test.Classes))
            throw new DataException($"{train.Name} has {train.Classes.Count} classes and {test.Name} {test.Classes.Count}; a pack needs the same in both.");
        var leftOut = new CorruptPictures();
        int total = (train?.Count ?? 0) + (test?.Count ?? 0);
        try
        {
            using var writer = new PackWriter(path, Path.GetFileNameWithoutExtension(path), first.Classes);
            if (train is not null) Pack(train, Split.Train, writer, options, leftOut, total, progress, cancel);
            int trainCount = writer.Count;
            if (test is not null) Pack(test, Split.Test, writer, options, leftOut, total, progress, cancel);
            writer.Complete();
            return new PackReport(trainCount, writer.Count - trainCount, new FileInfo(path).Length, leftOut);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new DataException($"{path}: cannot be written ({e.Message.TrimEnd('.')}).", e);
        }
    }

    // Thread t decodes the pictures t, t + T, t + 2T, …; the caller collects them in order.
    private static void Pack(IDataset dataset, Split split, PackWriter writer, PackOptions options, CorruptPictures leftOut, int total,
        IProgress<PackProgress>? progress, CancellationToken cancel)
    {
        int before = split == Split.Train ? 0 : total - dataset.Count;
        using var stop = new CancellationTokenSource();
        var lanes = new Lane[options.Threads];
        for (int t = 0; t < lanes.Length; t++) lanes[t] = new Lane(dataset, t, lanes.Length, options.ShortSide, stop.Token);
        try
        {
            var failures = new List<PictureFailure>();
            for (int i = 0; i < dataset.Count; i++)
            {
                cancel.ThrowIfCancellationRequested();
                (RgbImage? picture, string? reason) = lanes[i % lanes.Length].Receive();
                failures.Clear();
                if (picture is null) failures.Add(new PictureFailure(0, 0, i, reason!));
                else writer.Add(picture, dataset.Label(i), split);
                leftOut.Add(picture is null ? 0 : 1, failures, dataset.Count, dataset.Name);
                lanes[i % lanes.Length].Release();
                progress?.Report(new(before + i + 1, total, writer.Bytes));
            }
        }
        finally
        {
            stop.Cancel();
            foreach (Lane lane in lanes) lane.Dispose();
        }
    }

    private sealed class Lane : IDisposable
    {
        private readonly RgbImage[] _pictures = [.. Enumerable.Range(0, Ahead).Select(_ => new RgbImage())];
        private readonly Exception?[] _errors = new Exception?[Ahead];
        private readonly SemaphoreSlim _full = new(0), _free = new(Ahead);
        private readonly Thread _thread;
        private int _next;

        public Lane(IDataset dataset, int first, int stride, int shortSide, CancellationToken stop)
        {
            _thread = new Thread(() => Work(dataset, first, stride, shortSide, stop)) { IsBackground = true, Name = $"mim pack {first}" };
            _thread.Start();
        }

        /// <summary>The lane's next picture, or the sentence that says why there is none. Lent until <see cref="Release"/>.</summary>
        public (RgbImage? Picture, string? Reason) Receive()
        {
            _full.Wait();
            if (_errors[_next] is null) return (_pictures[_next], null);
            if (_errors[_next] is not DataException) ExceptionDispatchInfo.Throw(_errors[_next]!);
            return (null, _errors[_next]!.Message);
        }

        public void Release()
        {
            _next = (_next + 1) % Ahead;
            _free.Release();
        }

        public void Dispose()
        {
            _thread.Join();
            _full.Dispose();
            _free.Dispose();
        }

        private void Work(IDataset dataset, int first, int stride, int shortSide, CancellationToken stop)
        {
            var source = new RgbImage();
            var reducer = new Reducer(shortSide);
            int slot = 0;
            try
            {
                for (int i = first; i < dataset.Count; i += stride, slot = (slot + 1) % Ahead)
                {
                    _free.Wait(stop);
                    try
                    {
                        _errors[slot] = null;
                        dataset.Read(i, shortSide > 0 ? source : _pictures[slot]);
                        if (shortSide > 0) reducer.Reduce(source, _pictures[slot]);
                    }
                    catch (Exception e)
                    {
                        _errors[slot] = e;
                    }
                    _full.Release();
                }
            }
            catch (OperationCanceledException)
            {
                // The collector gave up; nobody waits for the rest.
            }
        }
    }

    /// <summary>Antialiased bilinear reduction of the shorter side, the other one truncated, as torchvision's Resize does.</summary>
    private sealed class Reducer(int shortSide)
    {
        private readonly Resampler _resampler = new();
        private byte[] _planar = [];

        public void Reduce(RgbImage from, RgbImage into)
        {
            int shorter = Math.Min(from.Width, from.Height);
            if (shorter <= shortSide)
            {
                into.Resize(from.Width, from.Height);
                from.Bytes.CopyTo(into.Bytes);
                return;
            }
            into.Resize((int)((long)from.Width * shortSide / shorter), (int)((long)from.Height * shortSide / shorter));
            int plane = into.Width * into.Height;
            if (_planar.Length < 3 * plane) _planar = new byte[3 * plane];
            _resampler.Crop(from, CropBox.Of(from), into.Width, into.Height, CropBox.Of(into), Interpolation.Bilinear, antialias: true, _planar);
            Span<byte> rgb = into.Bytes;
            for (int i = 0; i < plane; i++) (rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2]) = (_planar[i], _planar[plane + i], _planar[2 * plane + i]);
        }
    }
}
