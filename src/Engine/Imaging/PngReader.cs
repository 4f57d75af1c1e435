using System.Buffers.Binary;
using System.IO.Compression;

namespace MimEngine.Engine.Imaging;

/// <summary>
/// Reads PNG: grey, RGB, palette, with and without alpha, 1 to 16 bits, interlaced or not. Of 16 bits the upper 8 are kept; alpha and
/// tRNS are dropped and the colour underneath kept, as Pillow's convert("RGB") does. Every chunk's CRC is checked, and nothing larger
/// than the picture itself is ever allocated.
/// </summary>
internal static unsafe class PngReader
{
    // Deflate cannot shrink more than this: fewer compressed bytes cannot hold the picture, so it is not worth a large buffer.
    private const long DeflateLimit = 1032;

    private readonly ref struct Chunk(ReadOnlySpan<byte> type, ReadOnlySpan<byte> data)
    {
        public readonly ReadOnlySpan<byte> Type = type, Data = data;
    }

    private readonly record struct Header(int Width, int Height, int Depth, int Color, bool Interlaced)
    {
        public int Channels => Color switch { 2 => 3, 4 => 2, 6 => 4, _ => 1 };
        public int PixelBits => Depth * Channels;
        public long RowBytes(int width) => ((long)width * PixelBits + 7) / 8;
    }

    /// <summary>First column, first row, column step and row step of Adam7's passes.</summary>
    private static ReadOnlySpan<byte> Adam7
        => [0, 0, 8, 8, 4, 0, 8, 8, 0, 4, 4, 8, 2, 0, 4, 4, 0, 2, 2, 4, 1, 0, 2, 2, 0, 1, 1, 2];

    public static bool Is(ReadOnlySpan<byte> file) => file.StartsWith(Png.Signature);

    /// <summary>Width and height from the header.</summary>
    public static (int Width, int Height) Size(ReadOnlySpan<byte> file, string name)
    {
        Header header = ReadHeader(file, name);
        return (header.Width, header.Height);
    }

    public static void Read(ReadOnlySpan<byte> file, RgbImage into, string name)
    {
        Header header = ReadHeader(file, name);
        ReadOnlySpan<byte> palette = default;
        int firstData = -1;
        long packed = 0;
        for (int at = 8; ;)
        {
            Chunk chunk = Checked(file, at, name);
            ReadOnlySpan<byte> type = chunk.Type, data = chunk.Data;
            if (type.SequenceEqual("IEND"u8)) break;
            if (type.SequenceEqual("IDAT"u8))
            {
                if (firstData < 0) firstData = at;
                packed += data.Length;
            }
            else if (type.SequenceEqual("PLTE"u8))
            {
                if (data.Length is 0 or > 768 || data.Length % 3 != 0) throw Broken(name, $"its palette has {data.Length} bytes");
                palette = data;
            }
            else if ((type[0] & 0x20) == 0 && !type.SequenceEqual("IHDR"u8))
                throw Broken(name, "it needs a chunk that this reader does not know");
            at += data.Length + 12;
        }
        if (firstData < 0) throw Broken(name, "it has no picture data");
        if (header.Color == 3 && palette.IsEmpty) throw Broken(name, "its palette is missing");
        long raw = (header.RowBytes(header.Width) + 1) * header.Height;
        if (raw > packed * DeflateLimit + 4096) throw Broken(name, $"{packed} compressed bytes cannot hold {header.Width} × {header.Height} pixels");

        into.Resize(header.Width, header.Height);
        fixed (byte* start = file)
        {
            using ChunkStream chunks = new(start, file.Length, firstData);
            using ZLibStream zlib = new(chunks, CompressionMode.Decompress);
            try
            {
                if (!header.Interlaced) ReadPass(zlib, header, palette, into, 0, 0, 1, 1, name);
                else
                    for (int pass = 0; pass < 28; pass += 4)
                        ReadPass(zlib, header, palette, into, Adam7[pass], Adam7[pass + 1], Adam7[pass + 2], Adam7[pass + 3], name);
                zlib.ReadByte();   // past the last row: the checksum is compared
            }
            catch (InvalidDataException)
            {
                throw Broken(name, "its compressed data is damaged");
            }
        }
    }

    private static Header ReadHeader(ReadOnlySpan<byte> file, string name)
    {
        if (!Is(file)) throw Broken(name, "it does not begin as a PNG does");
        Chunk first = Checked(file, 8, name);
        ReadOnlySpan<byte> d = first.Data;
        if (!first.Type.SequenceEqual("IHDR"u8) || d.Length != 13) throw Broken(name, "it does not begin with a header");
        (uint width, uint height) = (BinaryPrimitives.ReadUInt32BigEndian(d), BinaryPrimitives.ReadUInt32BigEndian(d[4..]));
        (int depth, int color) = (d[8], d[9]);
        bool valid = color switch
        {
            0 => depth is 1 or 2 or 4 or 8 or 16,
            3 => depth is 1 or 2 or 4 or 8,
            2 or 4 or 6 => depth is 8 or 16,
            _ => false,
        };
        if (!valid || d[10] != 0 || d[11] != 0 || d[12] > 1) throw Broken(name, "its header says what no PNG can be");
        ImageFile.CheckSize(width, height, name);
        return new Header((int)width, (int)height, depth, color, d[12] == 1);
    }

    /// <summary>The chunk at a byte of the file; empty when it does not fit.</summary>
    private static Chunk At(ReadOnlySpan<byte> file, int at)
    {
        if (at > file.Length - 12) return default;
        uint length = BinaryPrimitives.ReadUInt32BigEndian(file[at..]);
        return length > (uint)(file.Length - at - 12) ? default : new(file.Slice(at + 4, 4), file.Slice(at + 8, (int)length));
    }

    private static Chunk Checked(ReadOnlySpan<byte> file, int at, string name)
    {
        Chunk chunk = At(file, at);
        if (chunk.Type.IsEmpty) throw Broken(name, "it ends early");
        uint stored = BinaryPrimitives.ReadUInt32BigEndian(file[(at + 8 + chunk.Data.Length)..]);
        if (Png.Crc(file.Slice(at + 4, chunk.Data.Length + 4)) != stored) throw Broken(name, $"the checksum of the chunk at byte {at} is wrong");
        return chunk;
    }

    private static void ReadPass(ZLibStream zlib, Header header, ReadOnlySpan<byte> palette, RgbImage into,
        int left, int top, int stepX, int stepY, string name)
    {
        int width = (header.Width - left + stepX - 1) / stepX;
        if (width <= 0) return;
        int bytes = (int)header.RowBytes(width), back = Math.Max(1, header.PixelBits / 8);
        byte[] line = new byte[bytes + 1], above = new byte[bytes + 1];
        for (int y = top; y < header.Height; y += stepY)
        {
            if (zlib.ReadAtLeast(line, line.Length, throwOnEndOfStream: false) < line.Length) throw Broken(name, "its picture data ends early");
            Unfilter(line, above, back, name);
            Spread(line.AsSpan(1), header, palette, into.Row(y), left, stepX, width, name);
            (line, above) = (above, line);
        }
    }

    private static void Unfilter(Span<byte> line, ReadOnlySpan<byte> above, int back, string name)
    {
        int filter = line[0];
        if (filter > 4) throw Broken(name, $"a row uses filter {filter}, which does not exist");
        if (filter == 0) return;
        Span<byte> x = line[1..];
        ReadOnlySpan<byte> up = above[1..];
        for (int i = 0; i < x.Length; i++)
        {
            int a = i >= back ? x[i - back] : 0, b = up[i], c = i >= back ? up[i - back] : 0;
            x[i] += (byte)(filter switch { 1 => a, 2 => b, 3 => a + b >> 1, _ => Png.Paeth(a, b, c) });
        }
    }

    /// <summary>One row of samples to RGB, every <paramref name="step"/>-th pixel from <paramref name="left"/>.</summary>
    private static void Spread(ReadOnlySpan<byte> line, Header header, ReadOnlySpan<byte> palette, Span<byte> row, int left, int step,
        int width, string name)
    {
        int wide = header.Depth / 8, channels = header.Channels, scale = header.Depth < 8 && header.Color == 0 ? 255 / ((1 << header.Depth) - 1) : 1;
        for (int x = 0, to = left * 3; x < width; x++, to += step * 3)
        {
            if (header.Color is 2 or 6)
            {
                int from = x * channels * wide;
                (row[to], row[to + 1], row[to + 2]) = (line[from], line[from + wide], line[from + 2 * wide]);
                continue;
            }
            int value = wide > 0 ? line[x * channels * wide]
                : line[x * header.Depth >> 3] >> (8 - header.Depth - (x * header.Depth & 7)) & (1 << header.Depth) - 1;
            if (header.Color != 3)
            {
                row[to] = row[to + 1] = row[to + 2] = (byte)(value * scale);
                continue;
            }
            if (value * 3 >= palette.Length) throw Broken(name, $"a pixel has colour {value} of a palette of {palette.Length / 3}");
            palette.Slice(value * 3, 3).CopyTo(row.Slice(to, 3));
        }
    }

    private static ImageFormatException Broken(string name, string what)
        => new($"{name}: this PNG cannot be read because {what}; replace the file or leave it out.");

    /// <summary>The data of consecutive IDAT chunks as one stream. The chunks were checked before.</summary>
    private sealed class ChunkStream(byte* file, int length, int at) : Stream
    {
        private int _next = at, _from, _left;

        public override int Read(Span<byte> buffer)
        {
            while (_left == 0)
            {
                Chunk chunk = At(new ReadOnlySpan<byte>(file, length), _next);
                if (!chunk.Type.SequenceEqual("IDAT"u8)) return 0;
                (_from, _left) = (_next + 8, chunk.Data.Length);
                _next += chunk.Data.Length + 12;
            }
            int n = Math.Min(_left, buffer.Length);
            new ReadOnlySpan<byte>(file + _from, n).CopyTo(buffer);
            (_from, _left) = (_from + n, _left - n);
            return n;
        }

        public override int Read(byte[] buffer, int offset, int count) => Read(buffer.AsSpan(offset, count));
        public override bool CanRead => true;
        public override bool CanSeek => false;
        public override bool CanWrite => false;
        public override long Length => throw new NotSupportedException();
        public override long Position { get => throw new NotSupportedException(); set => throw new NotSupportedException(); }
        public override void Flush() { }
        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();
        public override void SetLength(long value) => throw new NotSupportedException();
        public override void Write(byte[] buffer, int offset, int count) => throw new NotSupportedException();
    }
}
