using System.Buffers.Binary;
using System.Text.Json;

namespace MimEngine.Engine.Runs;

/// <summary>
/// A safetensors file, opened and checked: u64 little-endian header length, JSON header, raw little-endian data without holes or overlaps.
/// Only the header is held in memory; data are read on demand, straight into the caller's memory. Safe for concurrent reads.
/// </summary>
/// <remarks>Format and its refusals: huggingface/safetensors, README "Format" and the 2023 Trail of Bits audit.</remarks>
public sealed class SafeTensors : WeightFile
{
    /// <summary>The reference implementation's limit; ours too, so that a damaged length cannot ask for memory.</summary>
    public const int MaxHeaderBytes = 100_000_000;

    private readonly ByteFile _file;
    private readonly Dictionary<string, TensorEntry> _byName = new(StringComparer.Ordinal);
    private readonly Dictionary<string, string> _metadata = new(StringComparer.Ordinal);
    private readonly List<TensorEntry> _entries = [];
    private readonly long _dataStart;

    private SafeTensors(ByteFile file)
    {
        _file = file;
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

    /// <inheritdoc/>
    public override string File => _file.Name;

    /// <inheritdoc/>
    public override long FileBytes => _file.Length;

    /// <inheritdoc/>
    public override IReadOnlyList<TensorEntry> Entries => _entries;

    /// <summary>The optional <c>__metadata__</c> strings.</summary>
    public IReadOnlyDictionary<string, string> Metadata => _metadata;

    /// <summary>Opens and checks a file; its data are read on demand.</summary>
    /// <exception cref="WeightFileException">Missing, unreadable, or not exactly a safetensors file.</exception>
    public static new SafeTensors Open(string path)
    {
        ByteFile file = ByteFile.Open(path);
        try
        {
            return new SafeTensors(file);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>The same for a file that is in memory already.</summary>
    /// <param name="name">What messages call it.</param>
    public static SafeTensors Read(ReadOnlyMemory<byte> bytes, string name) => new(new ByteFile(bytes, name));

    /// <summary>Bytes of one element, 0 for a type this reader does not know.</summary>
    public static int ElementSize(string dtype) => dtype switch
    {
        "F64" or "I64" or "U64" => 8,
        "F32" or "I32" or "U32" => 4,
        "F16" or "BF16" or "I16" or "U16" => 2,
        "I8" or "U8" or "BOOL" or "F8_E4M3" or "F8_E5M2" => 1,
        _ => 0,
    };

    /// <inheritdoc/>
    public override bool Contains(string name) => _byName.ContainsKey(name);

    /// <inheritdoc/>
    public override TensorEntry this[string name] => _byName.TryGetValue(name, out TensorEntry? entry)
        ? entry
        : throw Bad($"there is no tensor '{name}' among its {_entries.Count}");

    /// <inheritdoc/>
    public override void ReadBytes(TensorEntry entry, long offset, Span<byte> destination)
    {
        if (offset < 0 || offset + destination.Length > entry.Bytes)
            throw new ArgumentOutOfRangeException(nameof(offset),
                $"[{offset}, {offset + destination.Length}) of the {entry.Bytes} bytes of {entry.Name}.");
        ReadAt(_dataStart + entry.Offset + offset, destination);
    }

    /// <summary>Reads any part of the file, header included; for checksums.</summary>
    internal void ReadAt(long position, Span<byte> destination) => _file.ReadAt(position, destination);

    /// <inheritdoc/>
    public override void Dispose() => _file.Dispose();

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

    private static string Short(string text) => text.Length <= 40 ? text : text[..40] + "…";
}
