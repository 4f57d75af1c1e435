using System.Buffers.Binary;

namespace MimEngine.Engine.Runs;

/// <summary>CRC-32 of ISO 3309, reflected, polynomial 04C11DB7: the checksum of zip records, eight bytes a step.</summary>
public static class Crc32
{
    private const int Tables = 8;
    private static readonly uint[] s_table = MakeTable();

    /// <summary>Continues a checksum; start with 0. The value of "123456789" is CBF43926.</summary>
    public static uint Append(uint crc, ReadOnlySpan<byte> bytes)
    {
        ReadOnlySpan<uint> t = s_table;
        crc = ~crc;
        for (; bytes.Length >= 8; bytes = bytes[8..])
        {
            uint a = crc ^ BinaryPrimitives.ReadUInt32LittleEndian(bytes), b = BinaryPrimitives.ReadUInt32LittleEndian(bytes[4..]);
            crc = t[0x700 + (int)(a & 0xFF)] ^ t[0x600 + (int)(a >> 8 & 0xFF)] ^ t[0x500 + (int)(a >> 16 & 0xFF)] ^ t[0x400 + (int)(a >> 24)]
                ^ t[0x300 + (int)(b & 0xFF)] ^ t[0x200 + (int)(b >> 8 & 0xFF)] ^ t[0x100 + (int)(b >> 16 & 0xFF)] ^ t[(int)(b >> 24)];
        }
        foreach (byte b in bytes) crc = t[(byte)(crc ^ b)] ^ crc >> 8;
        return ~crc;
    }

    /// <summary>Entry (k, b): the checksum of byte b followed by k zeros.</summary>
    private static uint[] MakeTable()
    {
        uint[] table = new uint[Tables * 256];
        for (uint b = 0; b < 256; b++)
        {
            uint c = b;
            for (int bit = 0; bit < 8; bit++) c = (c & 1) != 0 ? 0xEDB88320u ^ c >> 1 : c >> 1;
            table[b] = c;
        }
        for (int i = 256; i < table.Length; i++) table[i] = table[(byte)table[i - 256]] ^ table[i - 256] >> 8;
        return table;
    }
}
