namespace MimEngine.Engine.Imaging;

/// <summary>
/// The one seam for picture files. Providers are asked in this order: libjpeg-turbo for JPEG where the system has it, our PNG reader,
/// ImageSharp for the rest where the build found its package. When nobody can read a file, the error says what to install.
/// </summary>
public static partial class ImageFile
{
    /// <summary>Larger pictures are refused before anything is allocated: 300 MB of RGB.</summary>
    public const long MaxPixels = 100_000_000;

    /// <summary>Why JPEG cannot be read here, or none when it can.</summary>
    public static string? WhyNoJpeg => TurboJpeg.WhyAbsent is { } turbo && WithImageSharp is null ? turbo : null;

    /// <summary>Width and height from the file's header.</summary>
    /// <param name="name">What messages call the file.</param>
    /// <exception cref="ImageFormatException">One sentence: the file, what is wrong, what to do.</exception>
    public static (int Width, int Height) Size(ReadOnlySpan<byte> file, string name)
    {
        if (PngReader.Is(file)) return PngReader.Size(file, name);
        if (TurboJpeg.Is(file) && TurboJpeg.WhyAbsent is null) return TurboJpeg.Size(file, name);
        (int Width, int Height)? size = null;
        SizeWithImageSharp(file, name, ref size);
        return size ?? throw Unreadable(file, name);
    }

    /// <summary>Decodes the first picture of a file to RGB.</summary>
    /// <param name="into">Resized to the picture; its buffer is reused.</param>
    /// <param name="name">What messages call the file.</param>
    /// <exception cref="ImageFormatException">One sentence: the file, what is wrong, what to do. The picture is then undefined.</exception>
    public static void Decode(ReadOnlySpan<byte> file, RgbImage into, string name)
    {
        if (TurboJpeg.Is(file) && TurboJpeg.WhyAbsent is null)
        {
            TurboJpeg.Decode(file, into, name);
            return;
        }
        if (PngReader.Is(file))
        {
            PngReader.Read(file, into, name);
            return;
        }
        bool done = false;
        DecodeWithImageSharp(file, into, name, ref done);
        if (!done) throw Unreadable(file, name);
    }

    /// <summary>Refuses empty pictures and those of more than <see cref="MaxPixels"/>.</summary>
    internal static void CheckSize(long width, long height, string name)
    {
        if (width <= 0 || height <= 0 || width > int.MaxValue || height > int.MaxValue)
            throw new ImageFormatException($"{name}: the file says it is {width} × {height} pixels; replace the file or leave it out.");
        if (width * height > MaxPixels)
            throw new ImageFormatException($"{name}: {width} × {height} pixels are more than the {MaxPixels:N0} that are read; shrink the picture.");
    }

    // Erased by the compiler where ImageSharpDecoder.cs is left out.
    static partial void SizeWithImageSharp(ReadOnlySpan<byte> file, string name, ref (int Width, int Height)? size);
    static partial void DecodeWithImageSharp(ReadOnlySpan<byte> file, RgbImage into, string name, ref bool done);
    static partial void NameImageSharp(ref string? version);

    /// <summary>ImageSharp's version, or none when this build has not got it.</summary>
    internal static string? WithImageSharp
    {
        get
        {
            string? version = null;
            NameImageSharp(ref version);
            return version;
        }
    }

    private static ImageFormatException Unreadable(ReadOnlySpan<byte> file, string name)
    {
        if (file.IsEmpty) return new($"{name}: the file is empty; replace it or leave it out.");
        if (TurboJpeg.Is(file)) return new($"{name}: JPEG cannot be read here: {TurboJpeg.WhyAbsent}");
        string kind = file.StartsWith("GIF8"u8) ? "GIF"
            : file.Length > 12 && file.StartsWith("RIFF"u8) && file[8..].StartsWith("WEBP"u8) ? "WebP"
            : file.StartsWith("BM"u8) ? "BMP"
            : file.StartsWith("II*\0"u8) || file.StartsWith("MM\0*"u8) ? "TIFF"
            : file.StartsWith("P6"u8) || file.StartsWith("P5"u8) ? "PNM" : "";
        return kind == ""
            ? new($"{name}: this is no picture of a known format; replace it or leave it out.")
            : new($"{name}: nothing here reads {kind}. Convert it to PNG or JPEG, or build with the package SixLabors.ImageSharp.");
    }
}
