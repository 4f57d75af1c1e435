using System.Buffers.Binary;
using System.Text;
using MimEngine.Engine.Imaging;

namespace MimEngine.Engine.Data;

/// <summary>
/// Writes a .mimpack file: <see cref="Add"/> every picture, then <see cref="Complete"/>. The file appears under its name only when it is
/// whole and on the disk; without Complete, disposing leaves nothing behind.
/// </summary>
public sealed class PackWriter : IDisposable
{
    private readonly string _path, _partial;
    private readonly string _name;
    private readonly IReadOnlyList<string> _classes;
    private readonly FileStream _file;
    private readonly List<PackFormat.Entry> _entries = [];
    private int _trainCount;
    private bool _complete;

    /// <param name="path">Replaced if it exists.</param>
    /// <param name="name">What the dataset calls itself.</param>
    /// <param name="classes">Names by label; empty = unlabelled.</param>
    public PackWriter(string path, string name, IReadOnlyList<string> classes)
    {
        (_path, _partial, _name, _classes) = (path, path + ".partial", name, classes);
        try
        {
            _file = new FileStream(_partial, FileMode.Create, FileAccess.Write, FileShare.None, 1 << 20);
            _file.Write(new byte[PackFormat.HeaderBytes]);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new DataException($"{path}: cannot be written ({e.Message.TrimEnd('.')}).", e);
        }
    }

    /// <summary>Pictures added.</summary>
    public int Count => _entries.Count;

    /// <summary>Bytes of the pictures added.</summary>
    public long Bytes { get; private set; }

    /// <param name="label">−1 = none.</param>
    /// <param name="split">Train or Test; training pictures come first.</param>
    public void Add(RgbImage picture, int label, Split split)
    {
        if (label < -1 || label >= _classes.Count)
            throw new ArgumentOutOfRangeException(nameof(label), $"PackWriter: label {label} with {_classes.Count} classes.");
        if (split == Split.Train && _trainCount < Count) throw new InvalidOperationException("PackWriter: training pictures come before test pictures.");
        ReadOnlySpan<byte> bytes = picture.Bytes;
        _entries.Add(new(PackFormat.HeaderBytes + Bytes, picture.Width, picture.Height, label, PackFormat.Checksum(0, bytes)));
        _file.Write(bytes);
        Bytes += bytes.Length;
        if (split == Split.Train) _trainCount++;
    }

    /// <summary>Writes index and header, waits for the disk and gives the file its name.</summary>
    /// <exception cref="DataException">Nothing was added.</exception>
    public void Complete()
    {
        if (Count == 0) throw new DataException($"{_path}: there is no picture to pack.");
        byte[] index = Index();
        _file.Write(index);
        var header = new PackFormat.Header(Count, _trainCount, _classes.Count, PackFormat.HeaderBytes + Bytes, PackFormat.HeaderBytes + Bytes + index.Length);
        byte[] bytes = new byte[PackFormat.HeaderBytes];
        header.Write(bytes, index);
        _file.Position = 0;
        _file.Write(bytes);
        _file.Flush(flushToDisk: true);
        _file.Dispose();
        File.Move(_partial, _path, overwrite: true);
        _complete = true;
    }

    public void Dispose()
    {
        if (_complete) return;
        // Closing flushes, which fails again on a full disk; the exception that brought us here says why already.
        try
        {
            _file.Dispose();
        }
        catch (IOException)
        {
        }
        File.Delete(_partial);
    }

    private byte[] Index()
    {
        using var stream = new MemoryStream();
        Span<byte> buffer = stackalloc byte[PackFormat.EntryBytes];
        foreach (PackFormat.Entry entry in _entries)
        {
            entry.Write(buffer);
            stream.Write(buffer);
        }
        foreach (string name in _classes.Prepend(_name))
        {
            byte[] utf8 = Encoding.UTF8.GetBytes(name);
            if (utf8.Length > ushort.MaxValue) throw new DataException($"{_path}: a name of {utf8.Length} bytes is too long for a pack.");
            BinaryPrimitives.WriteUInt16LittleEndian(buffer, (ushort)utf8.Length);
            stream.Write(buffer[..2]);
            stream.Write(utf8);
        }
        return stream.ToArray();
    }
}
