using System.Buffers.Binary;

namespace MimEngine.Engine.Runs;

/// <summary>The bytes of a pickle, taken in order out of a part of a file through a small buffer.</summary>
internal sealed class PickleSource
{
    private const int BufferBytes = 1 << 16;
    private readonly ByteFile _file;
    private readonly long _start;
    private byte[] _buffer;
    private long _bufferStart;
    private int _filled, _at;

    public PickleSource(ByteFile file, long start, long length)
    {
        (_file, _start, _bufferStart, Length) = (file, start, start, length);
        _buffer = new byte[(int)Math.Min(length, BufferBytes)];
    }

    /// <summary>Bytes of the part.</summary>
    public long Length { get; }

    /// <summary>Bytes taken so far.</summary>
    public long Position => _bufferStart - _start + _at;

    public long Left => Length - Position;

    public byte Byte() => Take(1)[0];

    public uint U32() => BinaryPrimitives.ReadUInt32LittleEndian(Take(4));

    public ulong U64() => BinaryPrimitives.ReadUInt64LittleEndian(Take(8));

    /// <summary>The next bytes; valid until the next call.</summary>
    /// <exception cref="PickleException">There are not so many left.</exception>
    public ReadOnlySpan<byte> Take(int count)
    {
        Require(count);
        _at += count;
        return _buffer.AsSpan(_at - count, count);
    }

    /// <summary>Bytes before the next line feed.</summary>
    /// <exception cref="PickleException">None comes within <paramref name="longest"/> bytes.</exception>
    public int LineLength(int longest)
    {
        int visible = (int)Math.Min(longest + 1, Left);
        Require(visible);
        int end = _buffer.AsSpan(_at, visible).IndexOf((byte)'\n');
        return end >= 0 ? end : throw new PickleException("a name has no end");
    }

    private void Require(int count)
    {
        if (count > Left) throw new PickleException($"at byte {Position}: it is cut off");
        if (_filled - _at >= count) return;
        _bufferStart += _at;
        if (count > _buffer.Length) _buffer = new byte[count];
        _filled = (int)Math.Min(_buffer.Length, _start + Length - _bufferStart);
        _at = 0;
        _file.ReadAt(_bufferStart, _buffer.AsSpan(0, _filled));
    }
}
