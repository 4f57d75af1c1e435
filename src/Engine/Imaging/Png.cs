using System.Buffers.Binary;
using System.IO.Compression;

namespace MimEngine.Engine.Imaging;

/// <summary>PNG (ISO/IEC 15948): a writer of 8-bit RGB here, a reader of everything in <see cref="PngReader"/>.</summary>
public static class Png
{
    internal static ReadOnlySpan<byte> Signature => [0x89, (byte)'P', (byte)'N', (byte)'G', 0x0D, 0x0A, 0x1A, 0x0A];

    private static readonly uint[] CrcTable = MakeCrcTable();

    /// <summary>An 8-bit RGB file. The same pixels give the same bytes.</summary>
    public static byte[] Encode(RgbImage image)
    {
        int row = image.Width * 3;
        byte[] line = new byte[row + 1], trial = new byte[row + 1];
        using MemoryStream packed = new();
        using (ZLibStream zlib = new(packed, CompressionLevel.Optimal, leaveOpen: true))
            for (int y = 0; y < image.Height; y++)
            {
                ReadOnlySpan<byte> current = image.Row(y), above = y > 0 ? image.Row(y - 1) : default;
                // The usual heuristic: of the five filters, the one whose bytes, as signed numbers, are smallest.
                long best = long.MaxValue;
                for (int filter = 0; filter <= 4; filter++)
                {
                    long size = Filter(filter, current, above, trial);
                    if (size >= best) continue;
                    best = size;
                    (line, trial) = (trial, line);
                }
                zlib.Write(line);
            }

        using MemoryStream file = new();
        file.Write(Signature);
        Span<byte> header = stackalloc byte[13];
        BinaryPrimitives.WriteInt32BigEndian(header, image.Width);
        BinaryPrimitives.WriteInt32BigEndian(header[4..], image.Height);
        header[8] = 8;   // bits a channel
        header[9] = 2;   // RGB; compression, filter and interlace stay 0
        WriteChunk(file, "IHDR"u8, header);
        WriteChunk(file, "IDAT"u8, packed.GetBuffer().AsSpan(0, (int)packed.Length));
        WriteChunk(file, "IEND"u8, default);
        return file.ToArray();
    }

    /// <summary>Reads a picture of any colour type, depth and interlacing; see <see cref="PngReader"/>.</summary>
    /// <exception cref="ImageFormatException">One sentence; the contents of <paramref name="into"/> are then undefined.</exception>
    public static void Decode(ReadOnlySpan<byte> file, RgbImage into, string name) => PngReader.Read(file, into, name);

    /// <summary>CRC-32 of ISO 3309 over the chunk's type and data.</summary>
    internal static uint Crc(ReadOnlySpan<byte> bytes, uint start = 0)
    {
        uint crc = ~start;
        foreach (byte b in bytes) crc = CrcTable[(byte)(crc ^ b)] ^ crc >> 8;
        return ~crc;
    }

    /// <summary>The predictor that is nearest to left + above − corner; left before above before corner.</summary>
    internal static int Paeth(int left, int above, int corner)
    {
        int a = Math.Abs(above - corner), b = Math.Abs(left - corner), c = Math.Abs(left + above - 2 * corner);
        return a <= b && a <= c ? left : b <= c ? above : corner;
    }

    private static long Filter(int filter, ReadOnlySpan<byte> current, ReadOnlySpan<byte> above, Span<byte> line)
    {
        line[0] = (byte)filter;
        long size = 0;
        for (int i = 0; i < current.Length; i++)
        {
            int left = i >= 3 ? current[i - 3] : 0, up = above.IsEmpty ? 0 : above[i], corner = i >= 3 && !above.IsEmpty ? above[i - 3] : 0;
            int predicted = filter switch { 0 => 0, 1 => left, 2 => up, 3 => left + up >> 1, _ => Paeth(left, up, corner) };
            byte rest = (byte)(current[i] - predicted);
            line[i + 1] = rest;
            size += Math.Abs((int)(sbyte)rest);
        }
        return size;
    }

    private static void WriteChunk(Stream file, ReadOnlySpan<byte> type, ReadOnlySpan<byte> data)
    {
        Span<byte> word = stackalloc byte[4];
        BinaryPrimitives.WriteInt32BigEndian(word, data.Length);
        file.Write(word);
        file.Write(type);
        file.Write(data);
        BinaryPrimitives.WriteUInt32BigEndian(word, Crc(data, Crc(type)));
        file.Write(word);
    }

    private static uint[] MakeCrcTable()
    {
        uint[] table = new uint[256];
        for (uint n = 0; n < 256; n++)
        {
            uint c = n;
            for (int k = 0; k < 8; k++) c = (c & 1) != 0 ? 0xEDB88320u ^ c >> 1 : c >> 1;
            table[n] = c;
        }
        return table;
    }
}
