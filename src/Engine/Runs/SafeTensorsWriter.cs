using System.Buffers.Binary;
using System.Text.Encodings.Web;
using System.Text.Json;
using MimEngine.Kernels;

namespace MimEngine.Engine.Runs;

/// <summary>Fills <paramref name="destination"/> with the bytes of a tensor from byte <paramref name="offset"/> on.</summary>
public delegate void TensorBytes(long offset, Span<byte> destination);

/// <summary>A tensor to be written: its bytes are asked for piece by piece, so that no second copy of a model is held.</summary>
/// <param name="DType">As in <see cref="TensorEntry.DType"/>.</param>
public sealed record NamedTensor(string Name, string DType, long[] Shape, TensorBytes Source)
{
    /// <summary>Elements × element size.</summary>
    public long Bytes => checked(Shape.Aggregate((long)SafeTensors.ElementSize(DType), (product, extent) => checked(product * extent)));

    /// <summary>A tensor on a device; host memory is copied directly, device memory downloaded piece by piece.</summary>
    /// <param name="shape">Its shape in the file; null takes the tensor's own.</param>
    public static NamedTensor From(string name, Tensor tensor, Backend backend, long[]? shape = null)
    {
        int size = tensor.DType.Size();
        shape ??= [.. Enumerable.Range(0, tensor.Shape.Rank).Select(axis => (long)tensor.Shape[axis])];
        return new(name, FileType(tensor.DType), shape, (offset, destination) => backend.Download(destination,
            tensor with { ByteOffset = tensor.ByteOffset + offset, Shape = new Shape(destination.Length / size) }));
    }

    /// <summary>Values in an array.</summary>
    public static NamedTensor From(string name, float[] values, params long[] shape) => new(name, "F32", shape, (offset, destination) =>
        System.Runtime.InteropServices.MemoryMarshal.AsBytes(values.AsSpan((int)(offset / 4), destination.Length / 4)).CopyTo(destination));

    private static string FileType(DType dtype) => dtype.ToString();   // the two vocabularies agree on every type we have
}

/// <summary>Writes safetensors: metadata first, then tensors by falling element size, so that every tensor is aligned.</summary>
public static class SafeTensorsWriter
{
    /// <summary>Bytes asked of a <see cref="NamedTensor"/> at a time; a multiple of every element size.</summary>
    public const int PieceBytes = 1 << 20;

    /// <summary>Writes a whole file.</summary>
    /// <param name="write">Receives the header, with no tensor, then data in order, at most <see cref="PieceBytes"/> at once.</param>
    /// <exception cref="ArgumentException">A name twice, or a type that safetensors does not know.</exception>
    public static void Write(IReadOnlyList<NamedTensor> tensors, IEnumerable<KeyValuePair<string, string>>? metadata,
        Action<ReadOnlyMemory<byte>, NamedTensor?> write)
    {
        // stable: the caller's order within a size
        NamedTensor[] ordered = [.. tensors.OrderByDescending(t => SafeTensors.ElementSize(t.DType))];
        write(Header(ordered, metadata ?? []), null);
        byte[] piece = new byte[PieceBytes];
        foreach (NamedTensor tensor in ordered)
            for (long at = 0, bytes = tensor.Bytes; at < bytes; at += PieceBytes)
            {
                int n = (int)Math.Min(PieceBytes, bytes - at);
                tensor.Source(at, piece.AsSpan(0, n));
                write(piece.AsMemory(0, n), tensor);
            }
    }

    /// <summary>Writes a whole file to a stream.</summary>
    public static void Write(Stream stream, IReadOnlyList<NamedTensor> tensors, IEnumerable<KeyValuePair<string, string>>? metadata = null)
        => Write(tensors, metadata, (bytes, _) => stream.Write(bytes.Span));

    private static byte[] Header(NamedTensor[] tensors, IEnumerable<KeyValuePair<string, string>> metadata)
    {
        using MemoryStream stream = new();
        stream.Write(new byte[8]);
        // The relaxed encoder leaves names as they are; the file is data, never part of a page.
        using (Utf8JsonWriter json = new(stream, new JsonWriterOptions { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
        {
            json.WriteStartObject();
            if (metadata.Any())
            {
                json.WriteStartObject("__metadata__");
                foreach ((string key, string value) in metadata) json.WriteString(key, value);
                json.WriteEndObject();
            }
            HashSet<string> names = ["__metadata__"];
            long at = 0;
            foreach (NamedTensor tensor in tensors)
            {
                if (!names.Add(tensor.Name))
                    throw new ArgumentException($"safetensors: the name '{tensor.Name}' is there twice or reserved.");
                if (SafeTensors.ElementSize(tensor.DType) == 0)
                    throw new ArgumentException($"safetensors: '{tensor.Name}' has the unknown type '{tensor.DType}'.");
                json.WriteStartObject(tensor.Name);
                json.WriteString("dtype", tensor.DType);
                json.WriteStartArray("shape");
                foreach (long extent in tensor.Shape) json.WriteNumberValue(extent);
                json.WriteEndArray();
                json.WriteStartArray("data_offsets");
                json.WriteNumberValue(at);
                json.WriteNumberValue(at += tensor.Bytes);
                json.WriteEndArray();
                json.WriteEndObject();
            }
            json.WriteEndObject();
        }
        while (stream.Length % 8 != 0) stream.WriteByte((byte)' ');   // data start 8-byte aligned
        if (stream.Length - 8 > SafeTensors.MaxHeaderBytes)
            throw new ArgumentException($"safetensors: a header of {stream.Length - 8} bytes; the limit is {SafeTensors.MaxHeaderBytes}.");
        byte[] header = stream.ToArray();
        BinaryPrimitives.WriteUInt64LittleEndian(header, (ulong)(header.Length - 8));
        return header;
    }
}
