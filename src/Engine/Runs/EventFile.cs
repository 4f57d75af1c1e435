using System.Buffers.Binary;
using System.Globalization;
using System.Text;

namespace MimEngine.Engine.Runs;

/// <summary>A TensorBoard event file: scalars and PNG pictures. Protobuf written by hand; the subset needed is four messages.</summary>
/// <remarks>
/// Record: u64 length, masked CRC-32C of the length, payload, masked CRC-32C of the payload; mask(c) = rotate right by 15, + A282EAD8.
/// Payload: tensorflow/core/util/event.proto and framework/summary.proto.
/// </remarks>
public sealed class EventFile : IDisposable
{
    private readonly AppendFile _file;
    private readonly Func<double> _clock;
    private readonly MemoryStream _event = new(), _value = new(), _picture = new();

    private EventFile(FileStream file, Func<double> clock) => (_file, _clock) = (new AppendFile(file, file.Name), clock);

    /// <summary>
    /// Starts <c>events.out.tfevents.&lt;seconds&gt;.mim</c> in a folder. A resumed run starts another file, which tells TensorBoard to
    /// forget the steps after <paramref name="step"/> that the earlier ones hold.
    /// </summary>
    /// <param name="step">Updates done: 0 for a new run.</param>
    /// <param name="clock">Seconds since 1970, UTC; the engine itself never reads a clock.</param>
    /// <exception cref="RunException">The file cannot be made.</exception>
    public static EventFile Create(string folder, long step, Func<double> clock)
    {
        double now = clock();
        string path = "";
        try
        {
            // TensorBoard reads a folder's files in the order of their names: a restart within the same second must sort behind.
            long second = (long)now;
            do path = Path.Combine(folder, $"events.out.tfevents.{second++.ToString("0000000000", CultureInfo.InvariantCulture)}.mim");
            while (File.Exists(path));
            EventFile events = new(new FileStream(path, FileMode.CreateNew, FileAccess.Write, FileShare.Read, bufferSize: 0), clock);
            events.Begin(0);
            Text(events._event, 3, "brain.Event:2");
            events.End();
            if (step > 0)
            {
                events.Begin(step + 1);
                Number(events._value, 1, 1);   // SessionLog.status = START
                Nested(events._event, 7, events._value);
                events.End();
            }
            return events;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new RunException($"{path}: the TensorBoard file cannot be written ({e.Message.TrimEnd('.')}).", e);
        }
    }

    /// <summary>Adds one number.</summary>
    public void Scalar(long step, string tag, double value)
    {
        Begin(step);
        Text(_value, 1, tag);
        _value.WriteByte(2 << 3 | 5);   // simple_value, 32 bits
        Span<byte> bits = stackalloc byte[4];
        BinaryPrimitives.WriteSingleLittleEndian(bits, (float)value);
        _value.Write(bits);
        EndSummary();
    }

    /// <summary>Adds one picture.</summary>
    /// <param name="png">A whole PNG file of that size.</param>
    public void Picture(long step, string tag, int width, int height, ReadOnlySpan<byte> png)
    {
        Begin(step);
        _picture.SetLength(0);
        Number(_picture, 1, (ulong)height);
        Number(_picture, 2, (ulong)width);
        Number(_picture, 3, 3);   // RGB
        Bytes(_picture, 4, png);
        Text(_value, 1, tag);
        Nested(_value, 4, _picture);
        EndSummary();
    }

    /// <summary>Why records wait to be written (a full disk), a sentence; none when all are.</summary>
    public string? Trouble => _file.Trouble;

    public void Dispose() => _file.Dispose();

    private void Begin(long step)
    {
        _event.SetLength(0);
        _value.SetLength(0);
        Span<byte> bits = stackalloc byte[8];
        BinaryPrimitives.WriteDoubleLittleEndian(bits, _clock());
        _event.WriteByte(1 << 3 | 1);   // wall_time, 64 bits
        _event.Write(bits);
        if (step != 0) Number(_event, 2, (ulong)step);
    }

    private void EndSummary()
    {
        _picture.SetLength(0);
        Nested(_picture, 1, _value);    // Summary.value
        Nested(_event, 5, _picture);    // Event.summary
        End();
    }

    private void End()
    {
        ReadOnlySpan<byte> payload = _event.GetBuffer().AsSpan(0, (int)_event.Length);
        // One write a record, so that a reader of a live run sees whole records only.
        byte[] record = new byte[payload.Length + 16];
        BinaryPrimitives.WriteUInt64LittleEndian(record, (ulong)payload.Length);
        BinaryPrimitives.WriteUInt32LittleEndian(record.AsSpan(8), Masked(record.AsSpan(0, 8)));
        payload.CopyTo(record.AsSpan(12));
        BinaryPrimitives.WriteUInt32LittleEndian(record.AsSpan(12 + payload.Length), Masked(payload));
        _file.Append(record);
    }

    private static uint Masked(ReadOnlySpan<byte> bytes) => uint.RotateRight(Crc32C.Append(0, bytes), 15) + 0xA282EAD8u;

    private static void Number(Stream to, int field, ulong value)
    {
        to.WriteByte((byte)(field << 3));
        Varint(to, value);
    }

    private static void Text(Stream to, int field, string text) => Bytes(to, field, Encoding.UTF8.GetBytes(text));

    private static void Nested(Stream to, int field, MemoryStream message)
        => Bytes(to, field, message.GetBuffer().AsSpan(0, (int)message.Length));

    private static void Bytes(Stream to, int field, ReadOnlySpan<byte> bytes)
    {
        to.WriteByte((byte)(field << 3 | 2));
        Varint(to, (ulong)bytes.Length);
        to.Write(bytes);
    }

    private static void Varint(Stream to, ulong value)
    {
        for (; value >= 0x80; value >>= 7) to.WriteByte((byte)(value | 0x80));
        to.WriteByte((byte)value);
    }
}
