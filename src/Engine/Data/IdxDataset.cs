using System.Buffers.Binary;
using System.IO.Compression;
using MimEngine.Engine.Imaging;

namespace MimEngine.Engine.Data;

/// <summary>Grey pictures from a pair of MNIST-style idx files, plain or gzipped, held in memory; grey is repeated into R, G and B.</summary>
/// <remarks>Format: LeCun et al., "The MNIST database": big-endian magic 0x801 or 0x803, extents, bytes.</remarks>
public sealed class IdxDataset : IDataset
{
    private const int ImagesMagic = 0x803, LabelsMagic = 0x801;
    private readonly byte[] _pixels, _labels;
    private readonly int _rows, _cols;

    private IdxDataset(string name, byte[] pixels, int rows, int cols, byte[] labels, IReadOnlyList<string> classes) =>
        (Name, _pixels, _rows, _cols, _labels, Classes, Count) = (name, pixels, rows, cols, labels, classes, pixels.Length / (rows * cols));

    public string Name { get; }
    public int Count { get; }
    public IReadOnlyList<string> Classes { get; }
    public int Label(int index) => _labels.Length == 0 ? -1 : _labels[index];

    public void Read(int index, RgbImage into)
    {
        into.Resize(_cols, _rows);
        ReadOnlySpan<byte> gray = _pixels.AsSpan(index * _rows * _cols, _rows * _cols);
        Span<byte> rgb = into.Bytes;
        for (int i = 0; i < gray.Length; i++) rgb[3 * i] = rgb[3 * i + 1] = rgb[3 * i + 2] = gray[i];
    }

    public void Dispose() { }

    /// <summary>Whether <paramref name="folder"/> holds idx pictures of any split.</summary>
    internal static bool Recognises(string folder) => Images(folder, Split.Train) is not null || Images(folder, Split.Test) is not null;

    /// <summary>The splits that <paramref name="folder"/> holds pictures of.</summary>
    internal static bool Has(string folder, Split split) => Images(folder, split) is not null;

    /// <param name="split">Train or Test.</param>
    internal static IdxDataset Open(string folder, Split split)
    {
        string images = Images(folder, split)
            ?? throw new DataException($"{folder}: no {(split == Split.Train ? "train-images" : "t10k-images")}-idx3-ubyte file for the {Datasets.Word(split)} split.");
        byte[] labels = ReadLabels(folder, split);
        // Both splits must agree on the classes, even if one happens to lack the last of them.
        byte[] others = ReadLabels(folder, split == Split.Train ? Split.Test : Split.Train);
        int classes = labels.Length == 0 ? 0 : Math.Max(labels.Max(), others.Length == 0 ? 0 : others.Max()) + 1;
        string[] names = Datasets.ReadNames(Path.Combine(folder, "classes.txt"), classes) ?? [.. Enumerable.Range(0, classes).Select(i => $"{i}")];
        using Stream stream = OpenFile(images);
        return Read($"{folder} {Datasets.Word(split)}", images, stream, labels, names);
    }

    internal static IdxDataset Read(string name, string images, Stream stream, byte[] labels, IReadOnlyList<string> classes)
    {
        (int[] extents, byte[] pixels) = ReadIdx(images, stream, ImagesMagic);
        if (extents[0] == 0 || extents[1] == 0 || extents[2] == 0)
            throw new DataException($"{images}: {extents[0]} pictures of {extents[2]} × {extents[1]} pixels; there is nothing to read.");
        if (labels.Length > 0 && labels.Length != extents[0])
            throw new DataException($"{images}: {extents[0]} pictures but {labels.Length} labels beside them; the two files do not belong together.");
        return new IdxDataset(name, pixels, extents[1], extents[2], labels, classes);
    }

    internal static byte[] ReadLabels(string name, Stream stream) => ReadIdx(name, stream, LabelsMagic).Bytes;

    private static byte[] ReadLabels(string folder, Split split)
    {
        if (Images(folder, split) is not { } images) return [];
        string name = Path.GetFileName(images).Replace("images", "labels").Replace("idx3", "idx1");
        string plain = Path.Combine(folder, name.EndsWith(".gz", StringComparison.Ordinal) ? name[..^3] : name);
        string? path = File.Exists(plain) ? plain : File.Exists(plain + ".gz") ? plain + ".gz" : null;
        if (path is null) return [];
        using Stream stream = OpenFile(path);
        return ReadLabels(path, stream);
    }

    private static string? Images(string folder, Split split)
    {
        foreach (string path in Directory.GetFiles(folder, "*images*idx3-ubyte*").Order(StringComparer.Ordinal))
        {
            string name = Path.GetFileName(path);
            bool train = name.Contains("train", StringComparison.Ordinal);
            bool test = name.Contains("t10k", StringComparison.Ordinal) || name.Contains("test", StringComparison.Ordinal);
            if (split == Split.Train ? train : test && !train) return path;
        }
        return null;
    }

    private static Stream OpenFile(string path)
    {
        Stream file = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read, 1 << 16);
        return path.EndsWith(".gz", StringComparison.Ordinal) ? new GZipStream(file, CompressionMode.Decompress) : file;
    }

    private static (int[] Extents, byte[] Bytes) ReadIdx(string path, Stream stream, int magic)
    {
        try
        {
            int[] extents = new int[magic & 0xFF];
            Span<byte> header = stackalloc byte[4 + 4 * extents.Length];
            if (stream.ReadAtLeast(header, header.Length, throwOnEndOfStream: false) < header.Length)
                throw new DataException($"{path}: ends inside its {header.Length}-byte header; the file is truncated, fetch it again.");
            int found = BinaryPrimitives.ReadInt32BigEndian(header);
            if (found != magic)
                throw new DataException($"{path}: begins with 0x{found:X8}, an idx file of {(magic == ImagesMagic ? "pictures" : "labels")} with 0x{magic:X8}.");
            long total = 1;
            for (int i = 0; i < extents.Length; i++)
            {
                extents[i] = BinaryPrimitives.ReadInt32BigEndian(header[(4 + 4 * i)..]);
                total = extents[i] < 0 || total > Array.MaxLength ? long.MaxValue : total * extents[i];
            }
            if (total > Array.MaxLength)
                throw new DataException($"{path}: claims extents {string.Join(" × ", extents)}, more than {Array.MaxLength} bytes; the header is damaged.");
            byte[] bytes = ReadExactly(path, stream, (int)total);
            if (stream.ReadByte() >= 0) throw new DataException($"{path}: goes on after the {total} bytes its header claims; the file is damaged.");
            return (extents, bytes);
        }
        catch (InvalidDataException e)
        {
            throw new DataException($"{path}: damaged gzip data ({e.Message}); fetch the file again.", e);
        }
    }

    // Grows as it reads, so that a damaged header cannot make us ask for memory the file does not fill.
    private static byte[] ReadExactly(string path, Stream stream, int total)
    {
        byte[] bytes = new byte[Math.Min(total, 1 << 20)];
        for (int have = 0; ;)
        {
            have += stream.ReadAtLeast(bytes.AsSpan(have), bytes.Length - have, throwOnEndOfStream: false);
            if (have == total) return bytes;
            if (have < bytes.Length)
                throw new DataException($"{path}: {have} of the {total} bytes its header claims; the file is truncated, fetch it again.");
            Array.Resize(ref bytes, (int)Math.Min(total, 2L * have));
        }
    }
}
