using System.Buffers.Binary;
using System.Numerics;
using System.Runtime.InteropServices;

namespace MimEngine.Engine.Data;

/// <summary>
/// The layout of a .mimpack file, little-endian: a 64-byte header; the pictures' bytes, (H, W, 3) each; then the index (one 24-byte
/// entry a picture, training pictures first) and the names (dataset, then classes; 16-bit length and UTF-8).
/// </summary>
/// <remarks>
/// Header: magic (8), CRC-32C of the rest of the header, the index and the names (4), pictures (4), training pictures (4), classes (4),
/// where the index starts (8), file length (8), zeros. Entry: offset (8), width (4), height (4), label or −1 (4), CRC-32C of the bytes (4).
/// </remarks>
internal static class PackFormat
{
    public const int HeaderBytes = 64, EntryBytes = 24;
    private const int Crc = 8;

    public static ReadOnlySpan<byte> Magic => "MIMPACK1"u8;

    public readonly record struct Header(int Count, int TrainCount, int Classes, long IndexStart, long Length)
    {
        /// <param name="index">The index and the names.</param>
        public void Write(Span<byte> to, ReadOnlySpan<byte> index)
        {
            to[..HeaderBytes].Clear();
            Magic.CopyTo(to);
            BinaryPrimitives.WriteInt32LittleEndian(to[12..], Count);
            BinaryPrimitives.WriteInt32LittleEndian(to[16..], TrainCount);
            BinaryPrimitives.WriteInt32LittleEndian(to[20..], Classes);
            BinaryPrimitives.WriteInt64LittleEndian(to[24..], IndexStart);
            BinaryPrimitives.WriteInt64LittleEndian(to[32..], Length);
            BinaryPrimitives.WriteUInt32LittleEndian(to[Crc..], Checksum(Checksum(0, to[(Crc + 4)..HeaderBytes]), index));
        }

        public static Header Read(ReadOnlySpan<byte> from) => new(
            BinaryPrimitives.ReadInt32LittleEndian(from[12..]), BinaryPrimitives.ReadInt32LittleEndian(from[16..]),
            BinaryPrimitives.ReadInt32LittleEndian(from[20..]), BinaryPrimitives.ReadInt64LittleEndian(from[24..]),
            BinaryPrimitives.ReadInt64LittleEndian(from[32..]));

        public static bool Verify(ReadOnlySpan<byte> header, ReadOnlySpan<byte> index) =>
            BinaryPrimitives.ReadUInt32LittleEndian(header[Crc..]) == Checksum(Checksum(0, header[(Crc + 4)..HeaderBytes]), index);
    }

    public readonly record struct Entry(long Offset, int Width, int Height, int Label, uint Crc)
    {
        public long Bytes => 3L * Width * Height;

        public void Write(Span<byte> to)
        {
            BinaryPrimitives.WriteInt64LittleEndian(to, Offset);
            BinaryPrimitives.WriteInt32LittleEndian(to[8..], Width);
            BinaryPrimitives.WriteInt32LittleEndian(to[12..], Height);
            BinaryPrimitives.WriteInt32LittleEndian(to[16..], Label);
            BinaryPrimitives.WriteUInt32LittleEndian(to[20..], Crc);
        }

        public static Entry Read(ReadOnlySpan<byte> from) => new(
            BinaryPrimitives.ReadInt64LittleEndian(from), BinaryPrimitives.ReadInt32LittleEndian(from[8..]),
            BinaryPrimitives.ReadInt32LittleEndian(from[12..]), BinaryPrimitives.ReadInt32LittleEndian(from[16..]),
            BinaryPrimitives.ReadUInt32LittleEndian(from[20..]));
    }

    /// <summary>CRC-32C (Castagnoli) of <paramref name="bytes"/> after <paramref name="before"/>, the checksum of what comes before them.</summary>
    public static uint Checksum(uint before, ReadOnlySpan<byte> bytes)
    {
        uint crc = ~before;
        ReadOnlySpan<ulong> words = MemoryMarshal.Cast<byte, ulong>(bytes);
        foreach (ulong word in words) crc = BitOperations.Crc32C(crc, BitConverter.IsLittleEndian ? word : BinaryPrimitives.ReverseEndianness(word));
        foreach (byte b in bytes[(words.Length * 8)..]) crc = BitOperations.Crc32C(crc, b);
        return ~crc;
    }
}
