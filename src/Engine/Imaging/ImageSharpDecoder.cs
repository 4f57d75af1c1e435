using SixLabors.ImageSharp;
using SixLabors.ImageSharp.Formats;
using SixLabors.ImageSharp.PixelFormats;

namespace MimEngine.Engine.Imaging;

// Compiled only where the build found the package (eng/OptionalPackage.targets).
public static partial class ImageFile
{
    // One frame of an animation, and no metadata: a crop needs neither.
    private static readonly DecoderOptions Options = new() { MaxFrames = 1, SkipMetadata = true };

    static partial void NameImageSharp(ref string? version) => version = typeof(Image).Assembly.GetName().Version?.ToString(3);

    static partial void SizeWithImageSharp(ReadOnlySpan<byte> file, string name, ref (int Width, int Height)? size)
    {
        if (file.IsEmpty) return;
        try
        {
            ImageInfo info = Image.Identify(Options, file);
            CheckSize(info.Width, info.Height, name);
            size = (info.Width, info.Height);
        }
        catch (UnknownImageFormatException)
        {
            // Not one of its formats: the caller says so.
        }
        catch (Exception e) when (IsAboutTheFile(e))
        {
            throw Damaged(name, e);
        }
    }

    static partial void DecodeWithImageSharp(ReadOnlySpan<byte> file, RgbImage into, string name, ref bool done)
    {
        (int Width, int Height)? size = null;
        SizeWithImageSharp(file, name, ref size);   // limits before memory
        if (size is null) return;
        try
        {
            using Image<Rgb24> image = Image.Load<Rgb24>(Options, file);
            CheckSize(image.Width, image.Height, name);
            into.Resize(image.Width, image.Height);
            image.CopyPixelDataTo(into.Bytes);
            done = true;
        }
        catch (Exception e) when (IsAboutTheFile(e))
        {
            throw Damaged(name, e);
        }
    }

    /// <summary>What a decoder throws at a damaged file: its own exceptions, and those of code that trusted the file too far.</summary>
    private static bool IsAboutTheFile(Exception e) => e is SixLabors.ImageSharp.ImageFormatException
        or IndexOutOfRangeException or ArgumentException or NotSupportedException or InvalidOperationException or IOException
        or OverflowException or NullReferenceException or DivideByZeroException;

    private static ImageFormatException Damaged(string name, Exception e)
        => new($"{name}: this picture cannot be read ({e.Message.Split('\n')[0].Trim().TrimEnd('.')}); replace the file or leave it out.");
}
