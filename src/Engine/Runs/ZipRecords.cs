using System.Buffers.Binary;
using System.Text;

namespace MimEngine.Engine.Runs;

/// <summary>One stored record of a zip archive.</summary>
/// <param name="Offset">Of its first byte in the file.</param>
/// <param name="Bytes">In the archive.</param>
/// <param name="Checksum">CRC-32 that the archive states.</param>
/// <param name="Compressed">Its bytes are not what was stored; such a record is never read.</param>
internal readonly record struct ZipRecord(string Name, long Offset, long Bytes, uint Checksum, bool Compressed);

/// <summary>
/// The directory of a zip archive as <c>torch.save</c> writes them: records stored without compression, so that no record is larger than the
/// file. Zip64 included. Every offset and length is checked against the file before it is used.
/// </summary>
/// <remarks>PKWARE APPNOTE 6.3, sections 4.3.7 (local header), 4.3.12 (directory), 4.3.14–16 (ends).</remarks>
internal sealed class ZipRecords
{
    private const int EndBytes = 22, LocatorBytes = 20, End64Bytes = 56, EntryBytes = 46, LocalBytes = 30, LongestComment = 65535;
    private const long LongestDirectory = 64 << 20;
    private readonly ByteFile _file;
    private readonly Dictionary<string, ZipRecord> _records = new(StringComparer.Ordinal);
    private long _total;

    /// <exception cref="WeightFileException">No archive, a damaged one, or one that torch.save does not write.</exception>
    public ZipRecords(ByteFile file)
    {
        _file = file;
        (long count, long at, long bytes) = End();
        if (bytes > LongestDirectory) throw Bad($"its directory claims {bytes} bytes, more than {LongestDirectory}");
        if (at < 0 || bytes < 0 || at > file.Length - bytes) throw Bad("its directory lies outside the file: the file is truncated or damaged");
        byte[] directory = new byte[bytes];
        file.ReadAt(at, directory);
        ReadOnlySpan<byte> rest = directory;
        for (long i = 0; i < count; i++) rest = rest[Entry(rest, i)..];
    }

    /// <summary>All records.</summary>
    public IReadOnlyCollection<ZipRecord> All => _records.Values;

    public bool TryGet(string name, out ZipRecord record) => _records.TryGetValue(name, out record);

    /// <summary>Reads a record through and compares its checksum.</summary>
    /// <exception cref="WeightFileException">It differs, or the record is compressed.</exception>
    public void Verify(in ZipRecord record, byte[] buffer)
    {
        if (record.Compressed)
            throw Bad($"record '{Short(record.Name)}' is compressed, which torch.save never does; unpack the archive and zip it without "
                + "compression (zip -0)");
        uint crc = 0;
        for (long at = 0; at < record.Bytes; at += buffer.Length)
        {
            Span<byte> piece = buffer.AsSpan(0, (int)Math.Min(buffer.Length, record.Bytes - at));
            _file.ReadAt(record.Offset + at, piece);
            crc = Crc32.Append(crc, piece);
        }
        if (crc != record.Checksum)
            throw Bad($"the checksum of record '{record.Name}' is {crc:x8}, the archive says {record.Checksum:x8}: the file is damaged");
    }

    /// <summary>One directory entry and its local header; returns the entry's length.</summary>
    private int Entry(ReadOnlySpan<byte> entry, long number)
    {
        if (entry.Length < EntryBytes || !entry.StartsWith("PK\x1\x2"u8)) throw Bad($"entry {number} of its directory is damaged");
        ushort flags = U16(entry, 8), method = U16(entry, 10);
        uint checksum = U32(entry, 16);
        long packed = U32(entry, 20), bytes = U32(entry, 24), local = U32(entry, 42);
        int nameBytes = U16(entry, 28), extraBytes = U16(entry, 30), length = EntryBytes + nameBytes + extraBytes + U16(entry, 32);
        if (length > entry.Length) throw Bad($"entry {number} of its directory is longer than the directory");
        string name = Encoding.UTF8.GetString(entry.Slice(EntryBytes, nameBytes));
        Widen(entry.Slice(EntryBytes + nameBytes, extraBytes), ref bytes, ref packed, ref local);
        if ((flags & 1) != 0) throw Bad($"record '{Short(name)}' is encrypted");
        bool compressed = method != 0 || packed != bytes;
        if (local < 0 || local > _file.Length - LocalBytes) throw Bad($"record '{Short(name)}' starts outside the file");
        Span<byte> header = stackalloc byte[LocalBytes];
        _file.ReadAt(local, header);
        if (!header.StartsWith("PK\x3\x4"u8)) throw Bad($"record '{Short(name)}' does not start where the directory says");
        long at = local + LocalBytes + U16(header, 26) + U16(header, 28);
        if (packed < 0 || at > _file.Length - packed) throw Bad($"record '{Short(name)}' claims {packed} bytes, more than the file has left");
        if ((_total += packed) > _file.Length) throw Bad("its records overlap: together they are longer than the file");
        if (!_records.TryAdd(name, new ZipRecord(name, at, packed, checksum, compressed))) throw Bad($"it holds two records '{Short(name)}'");
        return length;
    }

    /// <summary>Takes those numbers from the zip64 field that the entry itself marks as too large for 32 bits.</summary>
    private static void Widen(ReadOnlySpan<byte> extra, ref long bytes, ref long packed, ref long local)
    {
        while (extra.Length >= 4)
        {
            int size = U16(extra, 2);
            if (size > extra.Length - 4) return;
            if (U16(extra, 0) == 1)
            {
                ReadOnlySpan<byte> field = extra.Slice(4, size);
                Next(ref field, ref bytes);
                Next(ref field, ref packed);
                Next(ref field, ref local);
                return;
            }
            extra = extra[(4 + size)..];
        }

        static void Next(ref ReadOnlySpan<byte> field, ref long value)
        {
            if (value != uint.MaxValue || field.Length < 8) return;
            value = BinaryPrimitives.ReadInt64LittleEndian(field);
            field = field[8..];
        }
    }

    private (long Count, long At, long Bytes) End()
    {
        int length = (int)Math.Min(_file.Length, EndBytes + LongestComment);
        byte[] tail = new byte[length];
        _file.ReadAt(_file.Length - length, tail);
        int end = length < EndBytes ? -1 : tail.AsSpan().LastIndexOf("PK\x5\x6"u8);
        if (end < 0 || end > length - EndBytes) throw Bad("it starts like a zip archive but has no directory at its end: the file is truncated");
        ReadOnlySpan<byte> record = tail.AsSpan(end);
        (long count, long bytes, long at) = (U16(record, 10), U32(record, 12), U32(record, 16));
        if (count != ushort.MaxValue && bytes != uint.MaxValue && at != uint.MaxValue) return (count, at, bytes);
        if (end < LocatorBytes || !tail.AsSpan(end - LocatorBytes).StartsWith("PK\x6\x7"u8)) return (count, at, bytes);
        long where = BinaryPrimitives.ReadInt64LittleEndian(tail.AsSpan(end - LocatorBytes + 8));
        if (where < 0 || where > _file.Length - End64Bytes) throw Bad("its zip64 directory lies outside the file");
        Span<byte> end64 = stackalloc byte[End64Bytes];
        _file.ReadAt(where, end64);
        if (!end64.StartsWith("PK\x6\x6"u8)) throw Bad("its zip64 directory is damaged");
        return (BinaryPrimitives.ReadInt64LittleEndian(end64[32..]), BinaryPrimitives.ReadInt64LittleEndian(end64[48..]),
            BinaryPrimitives.ReadInt64LittleEndian(end64[40..]));
    }

    private WeightFileException Bad(string what) => new($"{_file.Name}: {what}.");

    private static string Short(string text) => text.Length <= 60 ? text : text[..60] + "…";

    private static ushort U16(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt16LittleEndian(bytes[at..]);

    private static uint U32(ReadOnlySpan<byte> bytes, int at) => BinaryPrimitives.ReadUInt32LittleEndian(bytes[at..]);
}
