using System.Runtime.InteropServices;

namespace MimEngine.Engine.Runs;

/// <summary>A weight file that cannot be read or does not fit. The message is one sentence for the user and names the file.</summary>
public sealed class WeightFileException(string message, Exception? inner = null) : Exception(message, inner);

/// <summary>One tensor of a weight file.</summary>
/// <param name="DType">In safetensors' words: F64 F32 F16 BF16 F8_E4M3 F8_E5M2 I64 I32 I16 I8 U64 U32 U16 U8 BOOL.</param>
/// <param name="Shape">Extents, row-major; empty for a scalar.</param>
/// <param name="Offset">Bytes from the start of the file's data section, or of the tensor's storage.</param>
/// <param name="Bytes">Elements × element size.</param>
public sealed record TensorEntry(string Name, string DType, long[] Shape, long Offset, long Bytes)
{
    /// <summary>Number of elements; 1 for a scalar.</summary>
    public long Count => Bytes / SafeTensors.ElementSize(DType);

    /// <summary>"F32 (2304, 768)".</summary>
    public override string ToString() => $"{DType} ({string.Join(", ", Shape)})";
}

/// <summary>Named tensors in a file: <see cref="SafeTensors"/> or <see cref="TorchFile"/>. Data are read on demand; safe for concurrent reads.</summary>
public abstract class WeightFile : IDisposable
{
    /// <summary>Name shown in messages: the path, or what the caller called the bytes.</summary>
    public abstract string File { get; }

    /// <summary>Length of the whole file.</summary>
    public abstract long FileBytes { get; }

    /// <summary>Tensors in the order of the file.</summary>
    public abstract IReadOnlyList<TensorEntry> Entries { get; }

    /// <summary>The tensor of this name.</summary>
    /// <exception cref="WeightFileException">There is none.</exception>
    public abstract TensorEntry this[string name] { get; }

    /// <summary>Whether a tensor of this name exists.</summary>
    public abstract bool Contains(string name);

    /// <summary>Reads <paramref name="destination"/>.Length raw bytes of a tensor, row-major, from byte <paramref name="offset"/> of it.</summary>
    public abstract void ReadBytes(TensorEntry entry, long offset, Span<byte> destination);

    /// <summary>Closes the file.</summary>
    public abstract void Dispose();

    /// <summary>Opens a weight file of any kind; its content decides, not its name.</summary>
    /// <exception cref="WeightFileException">Missing, unreadable, damaged, or of no known kind.</exception>
    public static WeightFile Open(string path)
    {
        Span<byte> start = stackalloc byte[9];
        int length;
        using (ByteFile file = ByteFile.Open(path))
        {
            length = (int)Math.Min(start.Length, file.Length);
            file.ReadAt(0, start[..length]);
        }
        if (length == 0) throw new WeightFileException($"{path}: the file is empty.");
        // Safetensors first: its beginning is a number, which may look like the two others.
        if (length == 9 && start[8] == (byte)'{') return SafeTensors.Open(path);
        if (start.StartsWith("PK"u8) || start[0] == TorchFile.PickleStart) return TorchFile.Open(path);
        throw new WeightFileException($"{path}: it is neither safetensors nor a PyTorch file (.pth), or its beginning is destroyed.");
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

    /// <summary>The elements as 64-bit integers: I64, I32, I16, I8, U8 or BOOL.</summary>
    public long[] Longs(string name)
    {
        TensorEntry entry = this[name];
        return entry.DType switch
        {
            "I64" => Elements<long>(entry, 8),
            "I32" => Array.ConvertAll(Elements<int>(entry, 4), i => (long)i),
            "I16" => Array.ConvertAll(Elements<short>(entry, 2), i => (long)i),
            "I8" => Array.ConvertAll(Elements<sbyte>(entry, 1), i => (long)i),
            "U8" or "BOOL" => Array.ConvertAll(Elements<byte>(entry, 1), b => (long)b),
            _ => throw Wrong(entry, "I64, I32, I16, I8, U8 or BOOL"),
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

    private protected WeightFileException Bad(string what) => new($"{File}: {what}.");

    private unsafe T[] Elements<T>(TensorEntry entry, int size) where T : unmanaged
    {
        System.Diagnostics.Debug.Assert(sizeof(T) == size);
        if (entry.Bytes / size > Array.MaxLength) throw Bad($"tensor '{entry.Name}' has {entry.Bytes} bytes, too many for one array");
        T[] values = GC.AllocateUninitializedArray<T>((int)(entry.Bytes / size));
        // A span of bytes ends at 2 GB while an array of floats may hold 8: read by pieces.
        int piece = (1 << 28) / size;
        for (int i = 0; i < values.Length; i += piece)
            ReadBytes(entry, (long)i * size, MemoryMarshal.AsBytes(values.AsSpan(i, Math.Min(piece, values.Length - i))));
        return values;
    }

    private WeightFileException Wrong(TensorEntry entry, string wanted) => Bad($"tensor '{entry.Name}' is {entry}, wanted {wanted}");
}
