using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text.Json;
using Microsoft.Win32.SafeHandles;

namespace MimEngine.Engine.Runs;

/// <summary>A weight file that cannot be read or does not fit. The message is one sentence for the user and names the file.</summary>
public sealed class WeightFileException(string message, Exception? inner = null) : Exception(message, inner);

/// <summary>One tensor of a safetensors file.</summary>
/// <param name="DType">As in the file: F64 F32 F16 BF16 F8_E4M3 F8_E5M2 I64 I32 I16 I8 U64 U32 U16 U8 BOOL.</param>
/// <param name="Shape">Extents, row-major; empty for a scalar.</param>
/// <param name="Offset">Bytes from the start of the data section.</param>
/// <param name="Bytes">Elements × element size.</param>
public sealed record TensorEntry(string Name, string DType, long[] Shape, long Offset, long Bytes)
{
    /// <summary>Number of elements; 1 for a scalar.</summary>
    public long Count => Bytes / SafeTensors.ElementSize(DType);

    /// <summary>"F32 (2304, 768)".</summary>
    public override string ToString() => $"{DType} ({string.Join(", ", Shape)})";
}

/// <summary>
/// A safetensors file, opened and checked: u64 little-endian header length, JSON header, raw little-endian data without holes or overlaps.
/// Only the header is held in memory; data are read on demand, straight into the caller's memory. Safe for concurrent reads.
/// </summary>
/// <remarks>Format and its refusals: huggingface/safetensors, README "Format" and the 2023 Trail of Bits audit.</remarks>
public sealed class SafeTensors : IDisposable
{
    /// <summary>The reference implementation's limit; ours too, so that a damaged length cannot ask for memory.</summary>
    public const int MaxHeaderBytes = 100_000_000;

    private readonly SafeFileHandle? _file;
    private readonly ReadOnlyMemory<byte> _memory;
    private readonly Dictionary<string, TensorEntry> _byName = new(StringComparer.Ordinal);
    private readonly Dictionary<string, string> _metadata = new(StringComparer.Ordinal);
    private readonly List<TensorEntry> _entries = [];
    private readonly long _dataStart;

    private SafeTensors(string file, SafeFileHandle? handle, ReadOnlyMemory<byte> memory)
    {
        (File, _file, _memory) = (file, handle, memory);
        FileBytes = handle is null ? memory.Length : RandomAccess.GetLength(handle);
        if (FileBytes < 8) throw Bad($"{FileBytes} bytes are too few for a safetensors file");
        Span<byte> prefix = stackalloc byte[8];
        ReadAt(0, prefix);
        ulong length = BinaryPrimitives.ReadUInt64LittleEndian(prefix);
        if (length > MaxHeaderBytes)
            throw Bad($"the header claims {length} bytes, more than {MaxHeaderBytes}: not a safetensors file, or a damaged one");
        if (length > (ulong)(FileBytes - 8))
            throw Bad($"the header claims {length} bytes but only {FileBytes - 8} follow: the file is truncated");
        if (length < 2) throw Bad($"the header claims {length} bytes; the smallest is {{}}");
        byte[] header = new byte[(int)length];
        ReadAt(8, header);
        _dataStart = 8 + (long)length;
        ParseHeader(header);
        CheckLayout();
    }

    /// <summary>Name shown in messages: the path, or what the caller called the bytes.</summary>
    public string File { get; }

    /// <summary>Length of the whole file.</summary>
    public long FileBytes { get; }

    /// <summary>Tensors in the order of the header.</summary>
    public IReadOnlyList<TensorEntry> Entries => _entries;

    /// <summary>The optional <c>__metadata__</c> strings.</summary>
    public IReadOnlyDictionary<string, string> Metadata => _metadata;

    /// <summary>Opens and checks a file; its data are read on demand.</summary>
    /// <exception cref="WeightFileException">Missing, unreadable, or not exactly a safetensors file.</exception>
    public static SafeTensors Open(string path)
    {
        SafeFileHandle? handle = null;
        try
        {
            handle = System.IO.File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete);
            return new SafeTensors(path, handle, default);
        }
        catch (Exception e)
        {
            handle?.Dispose();
            if (e is FileNotFoundException or DirectoryNotFoundException) throw new WeightFileException($"{path}: no such file.", e);
            if (e is IOException or UnauthorizedAccessException or NotSupportedException)
                throw new WeightFileException($"{path}: cannot be read ({e.Message.TrimEnd('.')}).", e);
            throw;
        }
    }

    /// <summary>The same for a file that is in memory already.</summary>
    /// <param name="name">What messages call it.</param>
    public static SafeTensors Read(ReadOnlyMemory<byte> bytes, string name) => new(name, null, bytes);

    /// <summary>Bytes of one element, 0 for a type this reader does not know.</summary>
    public static int ElementSize(string dtype) => dtype switch
    {
        "F64" or "I64" or "U64" => 8,
        "F32" or "I32" or "U32" => 4,
        "F16" or "BF16" or "I16" or "U16" => 2,
        "I8" or "U8" or "BOOL" or "F8_E4M3" or "F8_E5M2" => 1,
        _ => 0,
    };

    /// <summary>Whether a tensor of this name exists.</summary>
    public bool Contains(string name) => _byName.ContainsKey(name);

    /// <summary>The tensor of this name.</summary>
    /// <exception cref="WeightFileException">There is none.</exception>
    public TensorEntry this[string name] => _byName.TryGetValue(name, out TensorEntry? entry)
        ? entry
        : throw Bad($"there is no tensor '{name}' among its {_entries.Count}");

    /// <summary>Reads <paramref name="destination"/>.Length raw bytes of a tensor from byte <paramref name="offset"/> of it.</summary>
    public void ReadBytes(TensorEntry entry, long offset, Span<byte> destination)
    {
        if (offset < 0 || offset + destination.Length > entry.Bytes)
            throw new ArgumentOutOfRangeException(nameof(offset),
                $"[{offset}, {offset + destination.Length}) of the {entry.Bytes} bytes of {entry.Name}.");
        ReadAt(_dataStart + entry.Offset + offset, destination);
    }

    /// <summary>All raw bytes of a tensor, little-endian.</summary>
    public byte[] Raw(string name) => Elements<byte>(this[name], 1);

    /// <summary>The elements as float32: F32 as they are, F16 and BF16 widened exactly. Other types are refused.</summary>
    public float[] Floats(string name)
    {
        TensorEntry entry = this[name];
        return entry.DType switch
        {
            "F32" => Elements<float>(entry, 4),
            "F16" => Array.ConvertAll(Elements<Half>(entry, 2), h => (float)h),
            "BF16" => Array.ConvertAll(Elements<ushort>(entry, 2), u => BitConverter.UInt32BitsToSingle((uint)u << 16)),
            _ => throw Wrong(entry, "F32, F16 or BF16"),
        };
    }

    /// <summary>The elements as float64: F64 as they are, the shorter floats widened exactly.</summary>
    public double[] Doubles(string name)
    {
        TensorEntry entry = this[name];
        return entry.DType == "F64" ? Elements<double>(entry, 8) : Array.ConvertAll(Floats(name), f => (double)f);
    }

    /// <summary>The elements as 64-bit integers: I64, I32, U8 or BOOL.</summary>
    public long[] Longs(string name)
    {
        TensorEntry entry = this[name];
        return entry.DType switch
        {
            "I64" => Elements<long>(entry, 8),
            "I32" => Array.ConvertAll(Elements<int>(entry, 4), i => (long)i),
            "U8" or "BOOL" => Array.ConvertAll(Elements<byte>(entry, 1), b => (long)b),
            _ => throw Wrong(entry, "I64, I32, U8 or BOOL"),
        };
    }

    /// <summary>The elements as 32-bit integers, as <see cref="Longs"/>; a value that does not fit is refused.</summary>
    public int[] Ints(string name) => Array.ConvertAll(Longs(name), v => v is >= int.MinValue and <= int.MaxValue
        ? (int)v
        : throw Bad($"tensor '{name}' holds {v}, which does not fit 32 bits"));

    /// <summary>The elements of a U8 or BOOL tensor.</summary>
    public byte[] Bytes(string name)
    {
        TensorEntry entry = this[name];
        return entry.DType is "U8" or "BOOL" ? Elements<byte>(entry, 1) : throw Wrong(entry, "U8 or BOOL");
    }

    /// <summary>Reads any part of the file, header included; for checksums.</summary>
    internal void ReadAt(long position, Span<byte> destination)
    {
        if (_file is null)
        {
            _memory.Span.Slice(checked((int)position), destination.Length).CopyTo(destination);
            return;
        }
        while (destination.Length > 0)
        {
            int got = RandomAccess.Read(_file, destination, position);
            if (got == 0) throw Bad($"the file ended at byte {position} while it was being read");
            position += got;
            destination = destination[got..];
        }
    }

    /// <summary>Closes the file.</summary>
    public void Dispose() => _file?.Dispose();

    private unsafe T[] Elements<T>(TensorEntry entry, int size) where T : unmanaged
    {
        System.Diagnostics.Debug.Assert(sizeof(T) == size);
        if (entry.Bytes / size > Array.MaxLength) throw Bad($"tensor '{entry.Name}' has {entry.Bytes} bytes, too many for one array");
        T[] values = GC.AllocateUninitializedArray<T>((int)(entry.Bytes / size));
        ReadBytesLong(entry, values);
        return values;
    }

    private unsafe void ReadBytesLong<T>(TensorEntry entry, T[] values) where T : unmanaged
    {
        // A span of bytes ends at 2 GB while an array of floats may hold 8: read by pieces.
        int piece = (1 << 28) / sizeof(T);
        for (int i = 0; i < values.Length; i += piece)
            ReadBytes(entry, (long)i * sizeof(T), MemoryMarshal.AsBytes(values.AsSpan(i, Math.Min(piece, values.Length - i))));
    }

    private void ParseHeader(byte[] header)
    {
        if (header[0] != (byte)'{') throw Bad("the header does not start with '{': not a safetensors file");
        try
        {
            using JsonDocument json = JsonDocument.Parse(header, new() { AllowDuplicateProperties = false, MaxDepth = 8 });
            foreach (JsonProperty property in json.RootElement.EnumerateObject())
                if (property.Name == "__metadata__") ParseMetadata(property.Value);
                else ParseEntry(property.Name, property.Value);
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)   // the latter: strings that are not valid Unicode
        {
            throw new WeightFileException($"{File}: the header is not valid JSON ({e.Message.TrimEnd('.')}).", e);
        }
    }

    private void ParseMetadata(JsonElement json)
    {
        if (json.ValueKind != JsonValueKind.Object) throw Bad("__metadata__ is not an object");
        foreach (JsonProperty property in json.EnumerateObject())
            _metadata[property.Name] = property.Value.ValueKind == JsonValueKind.String
                ? property.Value.GetString()!
                : throw Bad($"__metadata__ '{property.Name}' is not a string");
    }

    private void ParseEntry(string name, JsonElement json)
    {
        string? dtype = null;
        long[]? shape = null, offsets = null;
        if (json.ValueKind != JsonValueKind.Object) throw Bad($"tensor '{name}' is not described by an object");
        foreach (JsonProperty property in json.EnumerateObject())
            switch (property.Name)
            {
                case "dtype" when property.Value.ValueKind == JsonValueKind.String: dtype = property.Value.GetString(); break;
                case "shape": shape = Extents(name, property); break;
                case "data_offsets": offsets = Extents(name, property); break;
                default: throw Bad($"tensor '{name}' has an unknown or mistyped key '{property.Name}'");
            }
        if (dtype is null || shape is null || offsets is null) throw Bad($"tensor '{name}' lacks dtype, shape or data_offsets");
        int size = ElementSize(dtype);
        if (size == 0) throw Bad($"tensor '{name}' has the unknown type '{dtype}'");
        if (offsets.Length != 2 || offsets[1] < offsets[0])
            throw Bad($"tensor '{name}' has data_offsets [{string.Join(", ", offsets)}]; they must be [start, end]");

        UInt128 bytes = (UInt128)size;
        foreach (long extent in shape)
            if ((bytes *= (UInt128)extent) > long.MaxValue) throw Bad($"tensor '{name}' of shape ({string.Join(", ", shape)}) overflows");
        if (bytes != (UInt128)(offsets[1] - offsets[0]))
            throw Bad($"tensor '{name}' is {dtype} ({string.Join(", ", shape)}), {bytes} bytes, but its data_offsets span "
                + $"{offsets[1] - offsets[0]}");
        TensorEntry entry = new(name, dtype, shape, offsets[0], (long)bytes);
        _byName.Add(name, entry);
        _entries.Add(entry);
    }

    private long[] Extents(string name, JsonProperty property)
    {
        if (property.Value.ValueKind != JsonValueKind.Array) throw Bad($"'{property.Name}' of tensor '{name}' is not an array");
        long[] values = new long[property.Value.GetArrayLength()];
        int i = 0;
        foreach (JsonElement element in property.Value.EnumerateArray())
            if (element.ValueKind != JsonValueKind.Number || !element.TryGetInt64(out values[i++]) || values[i - 1] < 0)
                throw Bad($"'{property.Name}' of tensor '{name}' holds {Short(element.GetRawText())}, not a whole number of at least 0");
        return values;
    }

    private void CheckLayout()
    {
        long end = 0;
        foreach (TensorEntry entry in _entries.OrderBy(e => e.Offset).ThenBy(e => e.Bytes))
        {
            if (entry.Offset != end)
                throw Bad($"tensor '{entry.Name}' starts at byte {entry.Offset}, the one before ends at {end}: "
                    + (entry.Offset < end ? "overlap" : "hole"));
            end += entry.Bytes;
        }
        long data = FileBytes - _dataStart;
        if (end > data) throw Bad($"the data should be {end} bytes but only {data} are there: the file is truncated");
        if (end < data) throw Bad($"{data - end} bytes follow the last tensor");
    }

    private WeightFileException Wrong(TensorEntry entry, string wanted) => Bad($"tensor '{entry.Name}' is {entry}, wanted {wanted}");

    private WeightFileException Bad(string what) => new($"{File}: {what}.");

    private static string Short(string text) => text.Length <= 40 ? text : text[..40] + "…";
}
