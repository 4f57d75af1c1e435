using System.Buffers.Binary;
using System.Numerics;

namespace MimEngine.Engine.Runs;

/// <summary>CRC-32C (Castagnoli), reflected, polynomial 1EDC6F41: the checksum of checkpoints and of TensorBoard records.</summary>
public static class Crc32C
{
    /// <summary>Continues a checksum; start with 0. The value of "123456789" is E3069283.</summary>
    public static uint Append(uint crc, ReadOnlySpan<byte> bytes)
    {
        crc = ~crc;
        for (; bytes.Length >= 8; bytes = bytes[8..]) crc = BitOperations.Crc32C(crc, BinaryPrimitives.ReadUInt64LittleEndian(bytes));
        foreach (byte b in bytes) crc = BitOperations.Crc32C(crc, b);
        return ~crc;
    }
}
