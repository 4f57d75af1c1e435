using System.Buffers.Binary;
using System.Text;
using MimEngine.Engine.Imaging;

namespace MimEngine.Engine.Data;

/// <summary>Decoded pictures of any sizes in one memory-mapped .mimpack file, written by <see cref="PackWriter"/> (`mim pack`).</summary>
/// <remarks>
/// Opening checks length, checksum of header, index and names, and every entry, so a truncated or altered file is refused. Each picture
/// carries its own checksum, compared whenever it is read.
/// </remarks>
public sealed class PackedDataset : IDataset
{
    private readonly MappedFile _file;
    private readonly long _index;

    private PackedDataset(string name, MappedFile file, long index, int count, IReadOnlyList<string> classes) =>
        (Name, _file, _index, Count, Classes) = (name, file, index, count, classes);

    public string Name { get; }
    public int Count { get; }
    public IReadOnlyList<string> Classes { get; }
    public int Label(int index) => At(index).Label;

    public void Read(int index, RgbImage into)
    {
        PackFormat.Entry entry = At(index);
        into.Resize(entry.Width, entry.Height);
        Span<byte> to = into.Bytes;
        _file.Bytes(entry.Offset, to.Length).CopyTo(to);
        if (PackFormat.Checksum(0, to) != entry.Crc)
            throw new DataException($"{_file.Path}: picture {index} does not match its checksum; the file is damaged, pack it again.");
    }

    public void Dispose() => _file.Dispose();

    private PackFormat.Entry At(int index)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)index, (uint)Count, nameof(index));
        return PackFormat.Entry.Read(_file.Bytes(_index + (long)index * PackFormat.EntryBytes, PackFormat.EntryBytes));
    }

    internal static bool Recognises(string path)
    {
        if (Path.GetExtension(path).Equals(".mimpack", StringComparison.OrdinalIgnoreCase)) return true;
        using FileStream file = File.OpenRead(path);
        Span<byte> magic = stackalloc byte[8];
        return file.ReadAtLeast(magic, 8, throwOnEndOfStream: false) == 8 && magic.SequenceEqual(PackFormat.Magic);
    }

    internal static bool Has(string path, Split split)
    {
        using var file = new MappedFile(path);
        PackFormat.Header header = Verified(file);
        return split == Split.Train ? header.TrainCount > 0 : header.TrainCount < header.Count;
    }

    /// <param name="split">Train or Test; the file has it.</param>
    internal static PackedDataset Open(string path, Split split)
    {
        var file = new MappedFile(path);
        try
        {
            PackFormat.Header header = Verified(file);
            string[] names = CheckEntriesReadNames(file, header);
            int first = split == Split.Train ? 0 : header.TrainCount;
            int count = split == Split.Train ? header.TrainCount : header.Count - header.TrainCount;
            string name = header.TrainCount == header.Count ? names[0] : $"{names[0]} {Datasets.Word(split)}";
            return new PackedDataset(name, file, header.IndexStart + (long)first * PackFormat.EntryBytes, count, names[1..]);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    private static PackFormat.Header Verified(MappedFile file)
    {
        string path = file.Path;
        if (file.Length < PackFormat.HeaderBytes)
            throw new DataException($"{path}: {file.Length} bytes are fewer than a pack's {PackFormat.HeaderBytes}-byte header; pack it again.");
        ReadOnlySpan<byte> bytes = file.Bytes(0, PackFormat.HeaderBytes);
        if (!bytes[..8].SequenceEqual(PackFormat.Magic))
            throw new DataException($"{path}: does not begin with {Encoding.ASCII.GetString(PackFormat.Magic)}, so it is no pack this version reads.");
        PackFormat.Header header = PackFormat.Header.Read(bytes);
        if (header.Length != file.Length)
            throw new DataException($"{path}: {file.Length} bytes, but its header says {header.Length}; it is truncated or damaged, pack it again.");
        long index = file.Length - header.IndexStart;
        if (header.IndexStart < PackFormat.HeaderBytes || index < (long)header.Count * PackFormat.EntryBytes || index > int.MaxValue
            || header.Count <= 0 || header.TrainCount < 0 || header.TrainCount > header.Count || header.Classes < 0
            || !PackFormat.Header.Verify(bytes, file.Bytes(header.IndexStart, (int)index)))
            throw new DataException($"{path}: header and index do not match their checksum; the file is damaged, pack it again.");
        return header;
    }

    // The checksum proves what the writer wrote; this proves that no read can leave the mapping.
    private static string[] CheckEntriesReadNames(MappedFile file, PackFormat.Header header)
    {
        string path = file.Path;
        int entries = header.Count * PackFormat.EntryBytes;
        ReadOnlySpan<byte> index = file.Bytes(header.IndexStart, (int)(file.Length - header.IndexStart));
        for (int i = 0; i < header.Count; i++)
        {
            PackFormat.Entry entry = PackFormat.Entry.Read(index[(i * PackFormat.EntryBytes)..]);
            if (entry.Width <= 0 || entry.Height <= 0 || entry.Bytes > Array.MaxLength || entry.Offset < PackFormat.HeaderBytes
                || entry.Offset > header.IndexStart - entry.Bytes || entry.Label < -1 || entry.Label >= header.Classes)
                throw new DataException($"{path}: entry {i} is impossible ({entry.Width} × {entry.Height} pixels, label {entry.Label}); pack it again.");
        }
        string[] names = new string[header.Classes + 1];
        ReadOnlySpan<byte> rest = index[entries..];
        for (int i = 0; i < names.Length; i++)
        {
            if (rest.Length < 2 || rest.Length < 2 + BinaryPrimitives.ReadUInt16LittleEndian(rest))
                throw new DataException($"{path}: ends inside its {header.Classes} class names; pack it again.");
            int length = BinaryPrimitives.ReadUInt16LittleEndian(rest);
            names[i] = Encoding.UTF8.GetString(rest.Slice(2, length));
            rest = rest[(2 + length)..];
        }
        return names;
    }
}
