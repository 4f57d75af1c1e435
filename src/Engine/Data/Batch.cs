namespace MimEngine.Engine.Data;

/// <summary>One step's pictures. Belongs to its <see cref="Loader"/>: hand it back with <see cref="Loader.Return"/>.</summary>
public sealed class Batch
{
    internal Batch(int capacity, int views, int size)
    {
        Pixels = GC.AllocateUninitializedArray<byte>(checked(capacity * views * 3 * size * size), pinned: true);
        Labels = new int[capacity];
        Ids = new int[capacity];
        (Views, Size) = (views, size);
    }

    /// <summary>(V·Count, 3, S, S) u8, planar, view-major: crop v of slot i is row v·Count + i. Pinned. A short batch uses the beginning.</summary>
    public byte[] Pixels { get; }

    /// <summary>Labels by slot; −1 = none.</summary>
    public int[] Labels { get; }

    /// <summary>Indices into the dataset by slot, after substitution of unreadable pictures.</summary>
    public int[] Ids { get; }

    /// <summary>Filled slots: the batch size, or fewer in the last batch of an ordered pass.</summary>
    public int Count { get; internal set; }

    /// <summary>The step these pictures belong to, from 0 at the beginning of the run.</summary>
    public long Step { get; internal set; }

    /// <summary>Crops of each picture, V.</summary>
    public int Views { get; }

    /// <summary>Crop pixels a side, S.</summary>
    public int Size { get; }

    /// <summary>The filled part of <see cref="Pixels"/>.</summary>
    public ReadOnlySpan<byte> Filled => Pixels.AsSpan(0, Views * Count * CropBytes);

    internal int CropBytes => 3 * Size * Size;

    // The loader's own state, under its lock: slots nobody has taken yet and slots not finished yet; what went wrong.
    internal int Taken { get; set; }
    internal int Unfinished { get; set; }
    internal bool OutWithCaller { get; set; }
    internal List<PictureFailure> Failures { get; } = [];
    internal Exception? Error { get; set; }
    internal int ErrorSlot { get; set; }
}
