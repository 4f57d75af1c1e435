namespace MimEngine.Engine.Data;

/// <summary>One step's pictures. Belongs to its <see cref="Loader"/>: hand it back with <see cref="Loader.Return"/>.</summary>
public sealed class Batch
{
    internal Batch(int capacity, IViews views)
    {
        (Views, Size, LocalViews, LocalSize) = (views.Count, views.Size, views.LocalCount, views.LocalSize);
        Pixels = GC.AllocateUninitializedArray<byte>(checked(capacity * (Views * CropBytes + LocalViews * LocalCropBytes)), pinned: true);
        Marks = views.NewMarker() is null ? [] : GC.AllocateUninitializedArray<byte>(checked(capacity * Views * Size * Size), pinned: true);
        Labels = new int[capacity];
        Ids = new int[capacity];
    }

    /// <summary>
    /// Global crops, (V·Count, 3, S, S) u8, planar, view-major: crop v of slot i is row v·Count + i. After them local crops, (v·Count, 3, s, s),
    /// in the same order. Pinned. A short batch uses the beginning.
    /// </summary>
    public byte[] Pixels { get; }

    /// <summary>(V·Count, S, S) u8 of 0 and 1: marks of the global crops, in their order; empty where nothing asked for them.</summary>
    public byte[] Marks { get; }

    /// <summary>Labels by slot; −1 = none.</summary>
    public int[] Labels { get; }

    /// <summary>Indices into the dataset by slot, after substitution of unreadable pictures.</summary>
    public int[] Ids { get; }

    /// <summary>Filled slots: the batch size, or fewer in the last batch of an ordered pass.</summary>
    public int Count { get; internal set; }

    /// <summary>The step these pictures belong to, from 0 at the beginning of the run.</summary>
    public long Step { get; internal set; }

    /// <summary>Global crops of each picture, V.</summary>
    public int Views { get; }

    /// <summary>Pixels of a global crop a side, S.</summary>
    public int Size { get; }

    /// <summary>Local crops of each picture.</summary>
    public int LocalViews { get; }

    /// <summary>Pixels of a local crop a side, s.</summary>
    public int LocalSize { get; }

    /// <summary>The filled part of <see cref="Pixels"/>: all global crops, then all local ones.</summary>
    public ReadOnlySpan<byte> Filled => Pixels.AsSpan(0, Count * (Views * CropBytes + LocalViews * LocalCropBytes));

    /// <summary>The filled part of <see cref="Marks"/>.</summary>
    public ReadOnlySpan<byte> FilledMarks => Marks.AsSpan(0, Marks.Length == 0 ? 0 : Count * Views * Size * Size);

    /// <summary>Where the marks of global crop number <paramref name="view"/> of a slot lie.</summary>
    internal Span<byte> MarksOf(int view, int slot) => Marks.AsSpan((view * Count + slot) * Size * Size, Size * Size);

    /// <summary>(V·Count, 3, S, S).</summary>
    public ReadOnlySpan<byte> Globals => Pixels.AsSpan(0, Count * Views * CropBytes);

    /// <summary>(LocalViews·Count, 3, s, s); empty without local crops.</summary>
    public ReadOnlySpan<byte> Locals => Filled[Globals.Length..];

    /// <summary>Where crop number <paramref name="view"/> of a slot lies, global ones first.</summary>
    internal Span<byte> Crop(int view, int slot) => view < Views
        ? Pixels.AsSpan((view * Count + slot) * CropBytes, CropBytes)
        : Pixels.AsSpan(Globals.Length + ((view - Views) * Count + slot) * LocalCropBytes, LocalCropBytes);

    private int CropBytes => 3 * Size * Size;
    private int LocalCropBytes => 3 * LocalSize * LocalSize;

    // The loader's own state, under its lock: slots nobody has taken yet and slots not finished yet; what went wrong.
    internal int Taken { get; set; }
    internal int Unfinished { get; set; }
    internal bool OutWithCaller { get; set; }
    internal List<PictureFailure> Failures { get; } = [];
    internal Exception? Error { get; set; }
    internal int ErrorSlot { get; set; }
}
