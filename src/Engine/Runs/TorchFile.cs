using System.Buffers.Binary;

namespace MimEngine.Engine.Runs;

/// <summary>
/// A PyTorch file (<c>.pth</c>, <c>.pt</c>), as <c>torch.save</c> writes it: a zip archive since 1.6, a plain stream before. Its pickle is read
/// as data and runs no code. Tensors lie under the path that leads to them, "model/blocks.0.attn.qkv.weight", views as their own values.
/// </summary>
/// <remarks>
/// Held in memory: the pickle's values, a small multiple of its bytes. Storages stay in the file; of an archive their checksums are compared
/// when it is opened. All tensors together never have more than <see cref="MostCopies"/> times the file's bytes (views may overlap).
/// Format: pytorch torch/serialization.py; SPEC K.
/// </remarks>
public sealed class TorchFile : WeightFile
{
    /// <summary>The first byte of a pickle, PROTO.</summary>
    internal const byte PickleStart = 0x80;

    private const int MostCopies = 4, SmallFile = 1 << 20, Deepest = 64, ProtocolVersion = 1001;
    private const long LongestPickle = 256L << 20;
    private const string Magic = "int 6cfc9c46f9206aa85019";   // 0x1950a86a20f9469cfc6c, little-endian
    private readonly ByteFile _file;
    private readonly List<TensorEntry> _entries = [];
    private readonly List<(string Path, string Class)> _skipped = [];
    private readonly Dictionary<string, (TensorEntry Entry, TorchTensor Tensor)> _byName = new(StringComparer.Ordinal);
    private readonly Dictionary<string, (TorchStorage Storage, long At)> _storages = new(StringComparer.Ordinal);
    private long _bytes, _names, _visited;

    private TorchFile(ByteFile file)
    {
        _file = file;
        if (file.Length < 4) throw Bad($"{file.Length} bytes are too few for a PyTorch file");
        Span<byte> start = stackalloc byte[2];
        file.ReadAt(0, start);
        try
        {
            Walk(start.SequenceEqual("PK"u8) ? ReadArchive() : ReadStream(), "", 0);
        }
        catch (PickleException e)
        {
            throw new WeightFileException($"{File}: its pickle is refused {(e.Message.StartsWith("at byte") ? "" : "because ")}{e.Message}.", e);
        }
    }

    /// <inheritdoc/>
    public override string File => _file.Name;

    /// <inheritdoc/>
    public override long FileBytes => _file.Length;

    /// <inheritdoc/>
    public override IReadOnlyList<TensorEntry> Entries => _entries;

    /// <summary>Objects of the file that are no tensors and were not read, with their class: ("args", "argparse.Namespace").</summary>
    public IReadOnlyList<(string Path, string Class)> Skipped => _skipped;

    /// <summary>Opens and checks a file; its tensors are read on demand.</summary>
    /// <exception cref="WeightFileException">Missing, damaged, hostile, or of a kind that is not read; one sentence.</exception>
    public static new TorchFile Open(string path)
    {
        ByteFile file = ByteFile.Open(path);
        try
        {
            return new TorchFile(file);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>The same for a file that is in memory already.</summary>
    /// <param name="name">What messages call it.</param>
    public static TorchFile Read(ReadOnlyMemory<byte> bytes, string name) => new(new ByteFile(bytes, name));

    /// <inheritdoc/>
    public override bool Contains(string name) => _byName.ContainsKey(name);

    /// <inheritdoc/>
    public override TensorEntry this[string name] => _byName.TryGetValue(name, out (TensorEntry Entry, TorchTensor) found)
        ? found.Entry
        : throw Bad($"there is no tensor '{name}' among its {_entries.Count}");

    /// <inheritdoc/>
    public override void ReadBytes(TensorEntry entry, long offset, Span<byte> destination)
    {
        if (offset < 0 || offset + destination.Length > entry.Bytes)
            throw new ArgumentOutOfRangeException(nameof(offset),
                $"[{offset}, {offset + destination.Length}) of the {entry.Bytes} bytes of {entry.Name}.");
        if (destination.Length == 0) return;
        TorchTensor tensor = _byName[entry.Name].Tensor;
        long at = _storages[tensor.Storage.Key].At;
        if (tensor.Contiguous) _file.ReadAt(at + entry.Offset + offset, destination);
        else Gather(tensor, at, offset, destination);
    }

    /// <inheritdoc/>
    public override void Dispose() => _file.Dispose();

    /// <summary>A view with gaps or in another order, element by element; its part of the storage is read once.</summary>
    private void Gather(TorchTensor tensor, long at, long offset, Span<byte> destination)
    {
        int size = SafeTensors.ElementSize(tensor.Storage.DType), axes = tensor.Shape.Length;
        if (offset % size != 0 || destination.Length % size != 0) throw new ArgumentException("A view is read by whole elements.", nameof(offset));
        long last = 0, rest = offset / size;
        for (int axis = 0; axis < axes; axis++) last += (tensor.Shape[axis] - 1) * tensor.Strides[axis];
        if (last >= Array.MaxLength / size) throw Bad($"a view of {last + 1} elements is too large to be read out of order");
        byte[] span = new byte[(last + 1) * size];
        _file.ReadAt(at + tensor.Offset * size, span);
        Span<long> index = stackalloc long[axes];
        for (int axis = axes - 1; axis >= 0; axis--) (rest, index[axis]) = Math.DivRem(rest, tensor.Shape[axis]);
        for (int to = 0; to < destination.Length; to += size)
        {
            long from = 0;
            for (int axis = 0; axis < axes; axis++) from += index[axis] * tensor.Strides[axis];
            span.AsSpan((int)(from * size), size).CopyTo(destination[to..]);
            for (int axis = axes - 1; axis >= 0 && ++index[axis] == tensor.Shape[axis]; axis--) index[axis] = 0;
        }
    }

    private object? ReadArchive()
    {
        ZipRecords zip = new(_file);
        if (zip.All.Any(r => r.Name.EndsWith("/constants.pkl", StringComparison.Ordinal)))
            throw Bad("it is a TorchScript program, not weights; save its state_dict() with torch.save instead");
        ZipRecord[] pickles = [.. zip.All.Where(r => r.Name.EndsWith("/data.pkl", StringComparison.Ordinal))];
        if (pickles.Length != 1) throw Bad($"it is a zip archive with {pickles.Length} records data.pkl, so torch.save did not write it");
        string root = pickles[0].Name[..^"data.pkl".Length];
        if (pickles[0].Bytes > LongestPickle) throw Bad($"its pickle has {pickles[0].Bytes} bytes, more than {LongestPickle}");
        byte[] buffer = new byte[(int)Math.Min(SmallFile, Math.Max(FileBytes, 1))];
        if (zip.TryGet(root + "byteorder", out ZipRecord order) && order.Bytes != "little".Length)
            throw Bad("its numbers are big-endian; save it again on a little-endian machine");
        zip.Verify(pickles[0], buffer);
        return Unpickle(new PickleSource(_file, pickles[0].Offset, pickles[0].Bytes), storage =>
        {
            if (!zip.TryGet($"{root}data/{storage.Key}", out ZipRecord record))
                throw new PickleException($"there is no record 'data/{storage.Key}'");
            if ((UInt128)storage.Elements * (UInt128)SafeTensors.ElementSize(storage.DType) != (UInt128)record.Bytes)
                throw new PickleException($"record 'data/{storage.Key}' has {record.Bytes} bytes, but should hold {storage.Elements} elements of "
                    + storage.DType);
            zip.Verify(record, buffer);
            return record.Offset;
        });
    }

    /// <summary>Pickles back to back (magic, version, machine, objects, storage keys), then each storage: u64 elements, data.</summary>
    private object? ReadStream()
    {
        PickleSource source = new(_file, 0, FileBytes);
        if (new Unpickler(source).Read() is not PickleOpaque { Class: Magic }) throw Bad("it is a pickle, but none that torch.save wrote");
        if (new Unpickler(source).Read() is not (long)ProtocolVersion)
            throw Bad($"its format is not version {ProtocolVersion}, the only one there is");
        if (new Unpickler(source).Read() is not PickleDict machine) throw Bad("it does not describe the machine it was written on");
        if (machine.Pairs.Any(p => p is { Key: "little_endian", Value: false }))
            throw Bad("its numbers are big-endian; save it again on a little-endian machine");
        object? objects = Unpickle(source, _ => -1);
        if (new Unpickler(source).Read() is not List<object?> keys) throw Bad("the list of its storages is missing");
        long at = source.Position;
        Span<byte> count = stackalloc byte[8];
        foreach (object? key in keys)
        {
            if (key is not string name || !_storages.TryGetValue(name, out (TorchStorage Storage, long At) known) || known.At >= 0)
                throw Bad($"its list of storages names '{key}', which no tensor uses, or names it twice");
            if (at > FileBytes - 8) throw Bad($"storage '{name}' is missing: the file is truncated");
            _file.ReadAt(at, count);
            long elements = BinaryPrimitives.ReadInt64LittleEndian(count);
            if (elements != known.Storage.Elements)
                throw Bad($"storage '{name}' has {elements} elements, its tensors were of {known.Storage.Elements}");
            UInt128 bytes = (UInt128)elements * (UInt128)SafeTensors.ElementSize(known.Storage.DType);
            if (bytes > (UInt128)(FileBytes - at - 8))
                throw Bad($"storage '{name}' needs {bytes} bytes, {FileBytes - at - 8} are left: the file is truncated");
            _storages[name] = (known.Storage, at + 8);
            at += 8 + (long)bytes;
        }
        if (_storages.FirstOrDefault(s => s.Value.At < 0).Key is { } missing) throw Bad($"storage '{missing}' is missing from the file");
        return objects;
    }

    private object? Unpickle(PickleSource source, Func<TorchStorage, long> locate)
    {
        return new Unpickler(source)
        {
            Outside = reference =>
            {
                // The stream format refers to a network's class together with its source text, which is dropped.
                if (reference.Items is ["module", PickleGlobal network, ..]) return network;
                TorchStorage storage = StorageReference.Parse(reference);
                if (!_storages.TryGetValue(storage.Key, out (TorchStorage Storage, long At) known))
                    _storages.Add(storage.Key, known = (storage, locate(storage)));
                return known.Storage == storage ? known.Storage
                    : throw new PickleException($"storage '{storage.Key}' is {known.Storage.DType} × {known.Storage.Elements} and "
                        + $"{storage.DType} × {storage.Elements}");
            },
        }.Read();
    }

    /// <summary>Gives every tensor the path that leads to it. A value shared by many paths is walked once a path, within bounds.</summary>
    private void Walk(object? value, string path, int depth)
    {
        if (depth > Deepest) throw Bad($"its values are nested deeper than {Deepest}");
        if (++_visited > 1000 + FileBytes || (_names += path.Length) > SmallFile + MostCopies * FileBytes)
            throw Bad("its values are repeated in more places than the file has bytes");
        switch (value)
        {
            case TorchTensor tensor: Add(path, tensor); break;
            case PickleOpaque opaque: _skipped.Add((path, opaque.Class)); break;
            case PickleTuple tuple: WalkAll(tuple.Items, path, depth); break;
            case List<object?> list: WalkAll(list, path, depth); break;
            case PickleDict dict:
                foreach ((object? key, object? inner) in dict.Pairs)
                    if (key is string or long) Walk(inner, Join(path, key), depth + 1);
                break;
        }
    }

    private void WalkAll(IEnumerable<object?> items, string path, int depth)
    {
        long i = 0;
        foreach (object? item in items) Walk(item, Join(path, i++), depth + 1);
    }

    private static string Join(string path, object key) => path.Length == 0 ? $"{key}" : $"{path}/{key}";

    private void Add(string path, TorchTensor tensor)
    {
        int size = SafeTensors.ElementSize(tensor.Storage.DType);
        UInt128 bytes = (UInt128)size;
        foreach (long extent in tensor.Shape) bytes *= (UInt128)extent;   // at most 2^63 elements, checked when it was made
        if (bytes > (UInt128)(SmallFile + MostCopies * FileBytes - _bytes))
            throw Bad($"tensor '{path}' of shape ({string.Join(", ", tensor.Shape)}) repeats its storage until all are more than "
                + $"{MostCopies} times the file");
        _bytes += (long)bytes;
        TensorEntry entry = new(path, tensor.Storage.DType, tensor.Shape, tensor.Offset * size, (long)bytes);
        if (!_byName.TryAdd(path, (entry, tensor))) throw Bad($"two tensors lie under '{path}'");
        _entries.Add(entry);
    }
}
