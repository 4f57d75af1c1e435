using System.Buffers.Binary;
using System.IO.Compression;
using MimEngine.Engine.Imaging;
using MimEngine.Kernels;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Reading and writing picture files: every kind of PNG, JPEG where the system can, and damaged files of both.</summary>
[TestFixture]
public class ImagingTests
{
    private static (int Color, int Depth)[] Kinds =>
        [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)];

    [Test]
    public void A_written_picture_reads_back_and_the_same_pixels_give_the_same_file()
    {
        RngSequence random = new Rng(2, RandomStream.Test, 0).Start();
        RgbImage back = new();
        foreach ((int width, int height) in new[] { (1, 1), (3, 2), (65, 33), (200, 150) })
        {
            RgbImage image = new(width, height);
            for (int i = 0; i < image.Bytes.Length; i++) image.Bytes[i] = (byte)(i / 7 + (random.Below(4) == 0 ? random.Below(256) : i % 3 * 50));
            byte[] file = Png.Encode(image);
            ImageFile.Decode(file, back, "written.png");
            Assert.That((back.Width, back.Height), Is.EqualTo((width, height)));
            Assert.That(back.Bytes.SequenceEqual(image.Bytes));
            Assert.That(ImageFile.Size(file, "written.png"), Is.EqualTo((width, height)));
            Assert.That(Png.Encode(image), Is.EqualTo(file));
        }
    }

    [Test]
    public void Smooth_pictures_are_written_much_smaller_than_their_pixels()
    {
        RgbImage image = new(256, 256);
        for (int i = 0; i < image.Bytes.Length; i++) image.Bytes[i] = (byte)(i / 3 % 256 + i / 768 + i % 3);
        Assert.That(Png.Encode(image), Has.Length.LessThan(image.Bytes.Length / 50));
    }

    [Test]
    public void Every_colour_type_and_depth_is_read_interlaced_or_not([ValueSource(nameof(Kinds))] (int Color, int Depth) kind, [Values] bool interlaced)
    {
        RngSequence random = new Rng(3, RandomStream.Test, (ulong)(kind.Color * 100 + kind.Depth)).Start();
        RgbImage read = new();
        foreach ((int width, int height) in new[] { (1, 1), (2, 3), (5, 4), (8, 8), (13, 9), (33, 17) })
        {
            (byte[] file, byte[] pixels) = MadePng(width, height, kind.Color, kind.Depth, interlaced, ref random);
            ImageFile.Decode(file, read, "made.png");
            Assert.That(read.Bytes.ToArray(), Is.EqualTo(pixels), $"{width} × {height}");
        }
    }

    [TestCase(Rgba16Interlaced, Rgba16InterlacedPixels, 7, 5)]
    [TestCase(Palette4, Palette4Pixels, 9, 6)]
    [TestCase(GrayAlphaInterlaced, GrayAlphaInterlacedPixels, 11, 4)]
    public void Files_of_other_programs_give_the_pixels_that_libpng_gives(string file, string pixels, int width, int height)
    {
        RgbImage read = new();
        ImageFile.Decode(Convert.FromBase64String(file), read, "other.png");
        Assert.That((read.Width, read.Height), Is.EqualTo((width, height)));
        Assert.That(read.Bytes.ToArray(), Is.EqualTo(Convert.FromBase64String(pixels)));
    }

    [Test]
    public void A_broken_png_is_refused_in_one_sentence_that_names_it()
    {
        RngSequence random = new Rng(3, RandomStream.Test, 1).Start();
        (byte[] good, _) = MadePng(20, 10, 2, 8, false, ref random);
        (byte[] palette, _) = MadePng(20, 10, 3, 4, false, ref random, paletteColors: 3);
        (byte[] File, string Says)[] cases =
        [
            ([], "empty"),
            ("P6 1 1 255 abc"u8.ToArray(), "PNM"),
            ("nothing of the kind"u8.ToArray(), "no picture"),
            ("RIFF....WEBPVP8 "u8.ToArray(), "WebP"),
            (good[..^12], "ends early"),
            (good[..50], "ends early"),
            (With(good, 60, (byte)(good[60] ^ 1)), "checksum"),
            (Header(good, 0, 0x7FFFFFFF), "more than the 100,000,000"),
            (Header(good, 0, 0), "0 × 10"),
            (Header(good, 0, unchecked((int)0xFFFFFFFF)), "4294967295"),
            (Header(good, 4, 9_000_00), "cannot hold"),
            (Header(good, 4, 11), "ends early"),
            (HeaderByte(good, 8, 3), "no PNG can be"),
            (HeaderByte(good, 9, 3), "palette is missing"),
            (palette, "of a palette of 3"),
        ];
        foreach ((byte[] file, string says) in cases)
        {
            ImageFormatException? e = Assert.Throws<ImageFormatException>(() => ImageFile.Decode(file, new RgbImage(), "photo.png"), says);
            Assert.That(e!.Message, Does.StartWith("photo.png: ").And.Contains(says).And.EndsWith("."));
            Assert.That(e.Message, Does.Not.Contain("\n"));
        }
    }

    [Test]
    public void Twenty_thousand_damaged_pngs_raise_nothing_else_and_take_no_memory()
    {
        RngSequence random = new Rng(6, RandomStream.Test, 0).Start();
        byte[][] good = [.. Kinds.Select(k => MadePng(23, 11, k.Color, k.Depth, k.Depth % 3 == 1, ref random).File)];
        RgbImage read = new();
        int refused = 0;
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 20_000; i++)
        {
            byte[] file = Damaged(good[random.Below(good.Length)], ref random);
            // Half of them with checksums made right again, so that the damage reaches the decoder behind them.
            if (random.Below(2) == 0) Recheck(file);
            try
            {
                ImageFile.Decode(file, read, "damaged.png");
            }
            catch (ImageFormatException)
            {
                refused++;
            }
        }
        Assert.That(refused, Is.InRange(10_000, 19_900));
        // Some 60 kB a file, most of it zlib's window; a believed header would ask for up to 300 MB.
        Assert.That((GC.GetAllocatedBytesForCurrentThread() - before) / 20_000, Is.LessThan(200_000));
        Assert.That(read.Pixels, Has.Length.LessThan(30_000_000));
    }

    [TestCase(Jpeg, JpegPixels, 16, 12)]
    [TestCase(JpegProgressive420, JpegProgressive420Pixels, 16, 12)]
    [TestCase(JpegInks, JpegInksPixels, 8, 8)]
    public void A_jpeg_gives_pillows_pixels_within_one(string file, string pixels, int width, int height)
    {
        NeedJpeg();
        RgbImage read = new();
        byte[] bytes = Convert.FromBase64String(file), expected = Convert.FromBase64String(pixels);
        ImageFile.Decode(bytes, read, "photo.jpg");
        Assert.That((read.Width, read.Height), Is.EqualTo((width, height)));
        Assert.That(ImageFile.Size(bytes, "photo.jpg"), Is.EqualTo((width, height)));
        // Decoders may differ by a grey level: the standard leaves the inverse transform's rounding open.
        for (int i = 0; i < expected.Length; i++) Assert.That(read.Bytes[i], Is.EqualTo(expected[i]).Within(1), $"byte {i}");
    }

    [Test]
    public void Damaged_jpegs_raise_nothing_else_and_leave_the_decoder_usable()
    {
        NeedJpeg();
        RngSequence random = new Rng(7, RandomStream.Test, 0).Start();
        byte[][] good = [Convert.FromBase64String(Jpeg), Convert.FromBase64String(JpegProgressive420), Convert.FromBase64String(JpegInks)];
        RgbImage read = new();
        int refused = 0;
        for (int i = 0; i < 20_000; i++)
        {
            byte[] file = Damaged(good[random.Below(3)], ref random);
            try
            {
                ImageFile.Decode(file, read, "damaged.jpg");
            }
            catch (ImageFormatException e)
            {
                Assert.That(e.Message, Does.StartWith("damaged.jpg: "));
                refused++;
            }
            if (i % 1000 == 0) Assert.That(() => ImageFile.Decode(good[0], read, "good.jpg"), Throws.Nothing);
        }
        Assert.That(refused, Is.GreaterThan(2_000));
    }

    [Test]
    public void Where_no_decoder_is_installed_the_message_says_what_to_install()
    {
        if (ImageFile.WhyNoJpeg is null) Assert.Ignore("This machine reads JPEG.");
        ImageFormatException? e = Assert.Throws<ImageFormatException>(
            () => ImageFile.Decode(Convert.FromBase64String(Jpeg), new RgbImage(), "photo.jpg"));
        Assert.That(e!.Message, Does.StartWith("photo.jpg: ").And.Contains("libjpeg-turbo"));
    }

    [Test]
    public void A_format_of_imagesharp_is_read_where_the_build_has_it_and_named_where_not()
    {
        byte[] bmp = new byte[54 + 8];   // 2 × 1, 24 bits: blue, red
        "BM"u8.CopyTo(bmp);
        BinaryPrimitives.WriteInt32LittleEndian(bmp.AsSpan(2), bmp.Length);
        bmp[10] = 54;
        bmp[14] = 40;
        bmp[18] = 2;
        bmp[22] = 1;
        bmp[26] = 1;
        bmp[28] = 24;
        bmp[54] = 255;
        bmp[59] = 255;
        if (ImageFile.WithImageSharp is null)
        {
            ImageFormatException? e = Assert.Throws<ImageFormatException>(() => ImageFile.Decode(bmp, new RgbImage(), "old.bmp"));
            Assert.That(e!.Message, Does.Contain("BMP").And.Contain("SixLabors.ImageSharp"));
            return;
        }
        RgbImage read = new();
        ImageFile.Decode(bmp, read, "old.bmp");
        Assert.That(read.Bytes.ToArray(), Is.EqualTo(new byte[] { 0, 0, 255, 255, 0, 0 }));
        Assert.That(ImageFile.Size(bmp, "old.bmp"), Is.EqualTo((2, 1)));
        Assert.Throws<ImageFormatException>(() => ImageFile.Decode(bmp.AsSpan(0, 40), read, "old.bmp"));
    }

    private static void NeedJpeg()
    {
        if (ImageFile.WhyNoJpeg is { } reason) Assert.Ignore($"No JPEG here: {reason}");
    }

    private static byte[] Damaged(byte[] good, ref RngSequence random)
    {
        byte[] file = random.Below(4) == 0 ? good[..random.Below(good.Length)] : [.. good];
        for (int n = file.Length == 0 ? 0 : 1 + random.Below(4); n > 0; n--)
        {
            int at = random.Below(file.Length);
            file[at] = random.Below(3) switch { 0 => (byte)(file[at] ^ 1 << random.Below(8)), 1 => (byte)random.Word(), _ => (byte)(random.Below(2) * 255) };
        }
        return file;
    }

    /// <summary>Makes the checksum of every chunk that lies in the file right.</summary>
    private static void Recheck(Span<byte> file)
    {
        for (int at = 8; at <= file.Length - 12;)
        {
            uint length = BinaryPrimitives.ReadUInt32BigEndian(file[at..]);
            if (length > file.Length - at - 12) return;
            BinaryPrimitives.WriteUInt32BigEndian(file[(at + 8 + (int)length)..], Png.Crc(file.Slice(at + 4, (int)length + 4)));
            at += 12 + (int)length;
        }
    }

    private static byte[] With(byte[] file, int at, byte value)
    {
        byte[] copy = [.. file];
        copy[at] = value;
        return copy;
    }

    private static byte[] HeaderByte(byte[] file, int at, byte value)
    {
        byte[] copy = With(file, 16 + at, value);
        Recheck(copy);
        return copy;
    }

    private static byte[] Header(byte[] file, int at, int value)
    {
        byte[] copy = [.. file];
        BinaryPrimitives.WriteInt32BigEndian(copy.AsSpan(16 + at), value);
        Recheck(copy);
        return copy;
    }

    /// <summary>A random picture as a file, with random filters, split data chunks and an unknown ancillary chunk; and its RGB.</summary>
    private static (byte[] File, byte[] Rgb) MadePng(int width, int height, int color, int depth, bool interlaced, ref RngSequence random,
        int paletteColors = 0)
    {
        int channels = color switch { 2 => 3, 4 => 2, 6 => 4, _ => 1 }, colors = Math.Min(1 << depth, 200);
        int[] samples = new int[width * height * channels];
        for (int i = 0; i < samples.Length; i++) samples[i] = color == 3 ? random.Below(colors) : random.Below(1 << depth);
        byte[] palette = new byte[3 * colors], rgb = new byte[3 * width * height];
        foreach (ref byte b in palette.AsSpan()) b = (byte)random.Word();
        for (int i = 0; i < rgb.Length; i++)
        {
            int s = samples[i / 3 * channels + (channels >= 3 ? i % 3 : 0)];
            rgb[i] = color == 3 ? palette[s * 3 + i % 3] : (byte)(depth == 16 ? s >> 8 : s * 255 / ((1 << depth) - 1));
        }
        using MemoryStream packed = new(), file = new();
        using (ZLibStream zlib = new(packed, CompressionLevel.Fastest, leaveOpen: true))
        {
            (int X, int Y, int Dx, int Dy)[] passes = interlaced
                ? [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)] : [(0, 0, 1, 1)];
            foreach ((int x0, int y0, int dx, int dy) in passes)
            {
                int columns = (width - x0 + dx - 1) / dx, bytes = (columns * channels * depth + 7) / 8, back = Math.Max(1, channels * depth / 8);
                byte[] above = new byte[bytes];
                for (int y = y0; y < height && columns > 0; y += dy)
                {
                    byte[] row = new byte[bytes], line = new byte[bytes + 1];
                    for (int i = 0; i < columns * channels; i++)
                    {
                        int s = samples[(y * width + x0 + i / channels * dx) * channels + i % channels];
                        if (depth == 16) BinaryPrimitives.WriteUInt16BigEndian(row.AsSpan(2 * i), (ushort)s);
                        else row[i * depth / 8] |= (byte)(s << (8 - depth - i * depth % 8));
                    }
                    line[0] = (byte)random.Below(5);
                    for (int i = 0; i < bytes; i++)
                    {
                        int a = i >= back ? row[i - back] : 0, b = above[i], c = i >= back ? above[i - back] : 0;
                        int near = Math.Abs(b - c) <= Math.Abs(a - c) && Math.Abs(b - c) <= Math.Abs(a + b - 2 * c) ? a
                            : Math.Abs(a - c) <= Math.Abs(a + b - 2 * c) ? b : c;
                        line[i + 1] = (byte)(row[i] - line[0] switch { 0 => 0, 1 => a, 2 => b, 3 => (a + b) / 2, _ => near });
                    }
                    zlib.Write(line);
                    above = row;
                }
            }
        }
        file.Write([0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A]);
        byte[] header = new byte[13];
        BinaryPrimitives.WriteInt32BigEndian(header, width);
        BinaryPrimitives.WriteInt32BigEndian(header.AsSpan(4), height);
        (header[8], header[9], header[12]) = ((byte)depth, (byte)color, (byte)(interlaced ? 1 : 0));
        Write("IHDR", header);
        Write("tEXt", "Title\0a test"u8);
        if (color == 3)
        {
            Write("PLTE", palette.AsSpan(0, 3 * (paletteColors > 0 ? paletteColors : colors)));
            Write("tRNS", [0, 128]);
        }
        byte[] data = packed.ToArray();
        int cut = data.Length / 2;
        Write("IDAT", data.AsSpan(0, cut));
        Write("IDAT", default);
        Write("IDAT", data.AsSpan(cut));
        Write("IEND", default);
        byte[] whole = file.ToArray();
        Recheck(whole);
        return (whole, rgb);

        void Write(string type, ReadOnlySpan<byte> bytes)
        {
            byte[] chunk = new byte[bytes.Length + 12];
            BinaryPrimitives.WriteInt32BigEndian(chunk, bytes.Length);
            for (int i = 0; i < 4; i++) chunk[4 + i] = (byte)type[i];
            bytes.CopyTo(chunk.AsSpan(8));
            file.Write(chunk);
        }
    }

    // Small files of other programs, and the pixels that libpng and libjpeg-turbo (through Pillow 9.4) read from them.
    private const string Rgba16Interlaced =
        "iVBORw0KGgoAAAANSUhEUgAAAAcAAAAFEAYAAAGuDRoNAAAAA3RFWHRhAGLcSaI7AAAAFElEQVR4nAEjAdz+ABdqBpgs+eaDAPR3/U2mkwEAAAEaSURB"
        + "VKbp4PaUAPNaxujCrLiwGR3coAawZAkAK/1Kk3bKq2tN+A4a8VGF2gBB5G5b4fExFfLYbTeRCwzUABWVgX/Wzv30IsD76SESRXTvx+ilpv0+rrB1s3d3"
        + "yj7rALu4Y8iZAGMVW/nGqd6Km5X3rPpdBacZjgDWHB93VjZEADe/PqWIuHe4giEIcSwBH1UAdzvTyiC2BfBScUc4nmghJ1whJe/59wm8AAqWY0LJAh+/"
        + "rTwygQ+zA1peRRtoEm52YRmdpmp8mLn7kz4qB3v4LKseIVl7tU9QsNclHBQ7XuoxAJ98S+TuYwrb75BZ//NQzqCrkJPyqRKfS4i3o2Ac31CNxaVFno4w"
        + "N73NIXk0qfFx/ELyiAKUnFgkXN+Lt0HNa7wAAAAASUVORK5CYII=";
    private const string Rgba16InterlacedPixels =
        "FwYsu2OZK0p2W8be9P3p9/oFTQ7xCmPJrTIPXhsSGaZ8kyp7Hlm11xw7FYHW1h9WIvshNz6I7+imgggssLN3n0vu71nzq5OpiKMcxUWOzXmpQoiU88bC"
        + "d9MgQW7hUkeeGdwGXCX58m2R";
    private const string Palette4 =
        "iVBORw0KGgoAAAANSUhEUgAAAAkAAAAGBAMAAADj6an2AAAAMFBMVEUgtVYnPF8g11ihfFUzWs9cC/bp/BGzRw1fxP/ePykNzWAAAAAAAAAAAAAAAAAA"
        + "AAD43wL4AAAAA3RSTlMAgP/s97MYAAAALElEQVR4nGNYwGLQVMCgaOSoVMBgIlYpwMAQ4dHsuYBB1X2WJANDyYoVjg4Amw0JMEzQQngAAAAASUVORK5C"
        + "YII=";
    private const string Palette4Pixels =
        "Dc1gILVWILVWM1rPoXxVILVWX8T/INdYs0cNINdYJzxfoXxVINdYM1rPJzxfINdYINdYs0cNoXxVM1rPJzxf6fwRs0cN3j8pJzxfILVWILVWXAv2X8T/"
        + "M1rPX8T/X8T/oXxVM1rP3j8pDc1gINdYXAv2M1rPs0cN3j8pDc1gJzxf3j8pILVWs0cNM1rPDc1gX8T/Dc1gX8T/M1rPJzxfM1rP";
    private const string GrayAlphaInterlaced =
        "iVBORw0KGgoAAAANSUhEUgAAAAsAAAAECAQAAAGF9D3uAAAAA3RFWHRhAGLcSaI7AAAAFElEQVR4nAFgAJ//ANg8iyMAxlcAt+qcbyLeyEMAAABXSURB"
        + "VDFIAKoHTMs5sWysKcePFgCvpLjV3AxuitXcAN6e9qf15xVe3CIA2SILWfjZu4RV3QC4Xq3HYeKVovruHQAtJKhaNAmT6EW2jBqjmLTiK3eXshJAnq8u"
        + "n6DHXAcAAAAASUVORK5CYII=";
    private const string GrayAlphaInterlacedPixels =
        "2NjYr6+vt7e3uLi4xsbG3NzcnJycbm5ui4uL1dXVMTEx2dnZCwsL+Pj4u7u7VVVVAAAAXl5ex8fH4uLioqKi7u7uqqqq3t7eTExM9vb2OTk59fX1bGxs"
        + "FRUVKSkp3Nzcj4+PLS0tqKioNDQ0k5OTRUVFjIyMo6OjtLS0Kysrl5eXEhIS";
    private const string Jpeg =
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgICAgMCAgIDAwMDBAYEBAQEBAgGBgUGCQgKCgkICQkKDA8MCgsOCwkJDRENDg8QEBEQCgwSExIQEw8Q"
        + "EBD/2wBDAQMDAwQDBAgEBAgQCwkLEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBD/wAARCAAMABADAREAAhEB"
        + "AxEB/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS"
        + "0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKz"
        + "tLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6/8QAHwEAAwEBAQEBAQEBAQAAAAAAAAECAwQFBgcICQoL/8QAtREAAgEC"
        + "BAQDBAcFBAQAAQJ3AAECAxEEBSExBhJBUQdhcRMiMoEIFEKRobHBCSMzUvAVYnLRChYkNOEl8RcYGRomJygpKjU2Nzg5OkNERUZHSElKU1RVVldYWVpj"
        + "ZGVmZ2hpanN0dXZ3eHl6goOEhYaHiImKkpOUlZaXmJmaoqOkpaanqKmqsrO0tba3uLm6wsPExcbHyMnK0tPU1dbX2Nna4uPk5ebn6Onq8vP09fb3+Pn6"
        + "/9oADAMBAAIRAxEAPwD5r8KfB9Y1RDaf+O1+yYrxIhg4Og5HzPCXFzk4vmPWvDXwNNwUYWn/AI7X5fneZTzeTqwZ/UnCHG/s+Vcx7X4c8KaL5qf6N39a"
        + "/GOIsdX+tv3up/mdwdmuJ5Y+8e5+CvCmi7E/0X0r3MrzLELD7n9J8L5pibx94//Z";
    private const string JpegPixels =
        "AQCEDQCOHwCjLQCzOwC+SgC8WgCyaQCqeACWhQGKmAF0pgFfswFPwgBH0wBF4QBGAxKFDxOQIBOhLxSxPBO5TBO4XhKyaxKqehOYhxSNmhN5qBNktBNW"
        + "xRNP1RJK4hNLACmDDCiLHiiZLiqlOimtSimsWyinaCiieSeThiiJmCh6pihosyldwShU0yhS4ShRADyEDDyIHj2QLD2XOT2eSDyeWzyaaTyXeTyMhTyF"
        + "ljx6pDxvsTxmwDxh0j1d3zxbAFCFDk+FH1CILlGLPFCNS1GPXlCNalCNe1CGhlCCmFB+p1B6slB2w1Fz1FFw4VBtAGOCDmOAIGR7LWR4O2R4SmN5XWN7"
        + "aWR7emR7hmR9lmR/pWSCsWSGwmSG02SF4GWEAHh9DHh4HXluLHlnOnlkSXhkW3hmZ3hoeHl0hHh4lniCpHmMsXmUwHmZ0nmZ4HmXAop8D4p1H4tpL4xg"
        + "PItbS4pbXYtdaotgeYt1h4t8louHpouUsougwouo1Iuo4YuoAaCADaFtH6FbMKBUPaBNS6FGXaFMa6BYeKFph6J5l6CLpJ+ctaGtwqG005+14KC4ALJ+"
        + "C7JqHrNZLrFRO7JKSLJEW7JKabJYd7NphrN4lrKKpLGdtLOuwbOz0rK14LO4AMp+DMtrHstYL8pSO8pKSctFW8tLaMtXd8tphst4lsqKpMmdtMyswcuy"
        + "0sq14Mu4ANuBDNptHttbL9tVPNtNStpHW9pLatpaeNtnhtt2ltmJpdmbtduswdqw09mz4Nq2";
    private const string JpegProgressive420 =
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAYEBQYFBAYGBQYHBwYIChAKCgkJChQODwwQFxQYGBcUFhYaHSUfGhsjHBYWICwgIyYnKSopGR8tMC0oMCUo"
        + "KSj/2wBDAQcHBwoIChMKChMoGhYaKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCj/wgARCAAMABADASIAAhEB"
        + "AxEB/8QAFQABAQAAAAAAAAAAAAAAAAAABQb/xAAVAQEBAAAAAAAAAAAAAAAAAAABA//aAAwDAQACEAMQAAABmlm3SP8A/8QAFxABAQEBAAAAAAAAAAAA"
        + "AAAAAwACBP/aAAgBAQABBQIuaPkjPMJ5v//EABgRAAIDAAAAAAAAAAAAAAAAAAAFAQIR/9oACAEDAQE/AVjG0Yf/xAAZEQABBQAAAAAAAAAAAAAAAAAC"
        + "AAEDBBL/2gAIAQIBAT8BO8Uz4Jf/xAAWEAEBAQAAAAAAAAAAAAAAAAAxABD/2gAIAQEABj8CI3//xAAYEAEBAAMAAAAAAAAAAAAAAAAAEQEhMf/aAAgB"
        + "AQABPyGJco4kxp//2gAMAwEAAgADAAAAEGv/xAAVEQEBAAAAAAAAAAAAAAAAAAABAP/aAAgBAwEBPxAJF//EABYRAQEBAAAAAAAAAAAAAAAAAAEAMf/a"
        + "AAgBAgEBPxB7gX//xAAZEAEAAgMAAAAAAAAAAAAAAAABABEQobH/2gAIAQEAAT8QIBxLImkr8ef/2Q==";
    private const string JpegProgressive420Pixels =
        "AASFAAaLEAeYIgihNgaqRwSrVgSnYwSecAWPewV9iQVqmARYqQRJuwVAyQc80wk7ABOMCBaTGReeLRemQBWtUBWvXxStaxSjeRaVhBaGkxZ0ohVksxRW"
        + "whVN0hZJ3BhKBSaNDSiTHymcMSmjRCaoVCaqYyaobyWefiiViSiJlyd5pidstSVgxiVZ1iZX3ihYBjmKEDqOIDuUMDqZQzieUzifYjicbziWfTyQiTuG"
        + "lzt8pzpztzhrxjhm1Thl3TpnCE+DEVCFH1CKMFCNQ06OUk2PYk2ObU6KfVKIiVCDllF+p1B6uE93x0911U523VF4B2N6DmR7HGR8LGR9PmF9TWF8XWF8"
        + "aWF5eWV+hWV8k2Z9pGZ/tGR/xGOC02SF22WHBXhxC3hyG3hwKndvOnZsSnVrWnZqZXVrdXpzgnp3kXt9onqDs3qJw3qO0HqV2XuWBI5tDI5sGo5pKoxj"
        + "OotgSoxeWIxeZYtidpBtgZBzkZB+oZCJso+TwpCb0JCh2JCmBqNsDqNpGqJkKaBcOZ9VSaBSWaFXZaFbdaJngaNxkaWCoqWQsqSbwaOl0aOt2aWyB7Vt"
        + "DrRoHLRhKrNZO7FQTLJOXLNSaLNYdbRlgrVzlLWGo7aWs7SiwrOs0bS22ba8Dcd0FMhvIshmMMZbQsVTU8ZRZMZVcMZbfMdsicd6m8iPqsmfusetyMa3"
        + "1si/3snEE9R7GtN1J9RrNtNgR9FXWdJTadNZddJggtJvj9OAoNSWsNSmv9K0ztG+29PG49XM";
    private const string JpegInks =
        "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwACAQEBAQECAQEBAgICAgIEAwICAgIFBAQDBAYFBgYGBQYGBgcJCAYHCQcGBggLCAkKCgoKCgYICwwLCgwJCgoK"
        + "/8AAFAgACAAIBEMRAE0RAFkRAEsRAP/EAB8AAAEFAQEBAQEBAAAAAAAAAAABAgMEBQYHCAkKC//EALUQAAIBAwMCBAMFBQQEAAABfQECAwAEEQUSITFB"
        + "BhNRYQcicRQygZGhCCNCscEVUtHwJDNicoIJChYXGBkaJSYnKCkqNDU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVmZ2hpanN0dXZ3eHl6g4SFhoeIiYqS"
        + "k5SVlpeYmZqio6Slpqeoqaqys7S1tre4ubrCw8TFxsfIycrS09TV1tfY2drh4uPk5ebn6Onq8fLz9PX29/j5+v/aAA4EQwBNAFkASwAAPwD1j/g4j/5j"
        + "v/bT+tesf8REf/U8/wDkz/8AXr9/K/Vyv//Z";
    private const string JpegInksPixels =
        "19fXvtfXpNfXitfXc9fXWdfXP9fXJtfX177Xvr7XpL7Xir7Xc77XWb7XP77XJr7X16XXvqXXpKXXiqXXc6XXWaXXP6XXJqXX14vXvovXpIvXiovXc4vX"
        + "WYvXP4vXJovX13LXvnLXpHLXinLXc3LXWXLXP3LXJnLX11nXvlnXpFnXilnXc1nXWVnXP1nXJlnX1z/Xvj/XpD/Xij/Xcz/XWT/XPz/XJj/X1ybXvibX"
        + "pCbXiibXcybXWSbXPybXJibX";
}
