using System.Reflection;
using System.Runtime.InteropServices;

namespace MimEngine.Engine.Imaging;

/// <summary>
/// JPEG through libjpeg-turbo's TurboJPEG C API (2.0 or later), where the system has the library. A handle lives for one picture: after
/// some refused headers a TurboJPEG 2.1 handle refuses every later picture. Warnings count as errors, since files are not trusted.
/// </summary>
internal static unsafe class TurboJpeg
{
    private const int FormatRgb = 0, FormatCmyk = 11, ColorCmyk = 3, ColorYcck = 4;
    private const int StopOnWarning = 8192, LimitScans = 32768;   // the latter: at most 500 scans, so that no file takes minutes
    private static readonly string[] Names = OperatingSystem.IsWindows() ? ["turbojpeg.dll", "libturbojpeg.dll"]
        : OperatingSystem.IsMacOS() ? ["libturbojpeg.0.dylib", "libturbojpeg.dylib"] : ["libturbojpeg.so.0", "libturbojpeg.so"];

    private static readonly delegate* unmanaged[Cdecl]<nint> Init;
    private static readonly delegate* unmanaged[Cdecl]<nint, int> Destroy;
    private static readonly delegate* unmanaged[Cdecl]<nint, byte*, CULong, int*, int*, int*, int*, int> ReadHeader;
    private static readonly delegate* unmanaged[Cdecl]<nint, byte*, CULong, byte*, int, int, int, int, int, int> Decompress;
    private static readonly delegate* unmanaged[Cdecl]<nint, byte*> ErrorText;

    // CMYK pictures (a few dozen of ImageNet) go through four channels.
    [ThreadStatic] private static byte[]? t_inks;

    static TurboJpeg()
    {
        nint library = 0;
        foreach (string name in Names)
            if (NativeLibrary.TryLoad(name, Assembly.GetExecutingAssembly(), DllImportSearchPath.AssemblyDirectory, out library)
                || NativeLibrary.TryLoad(name, out library))
                break;
        if (library == 0)
        {
            WhyAbsent = $"libjpeg-turbo is not installed ({Names[0]}; Debian and Ubuntu: apt install libturbojpeg0).";
            return;
        }
        if (!NativeLibrary.TryGetExport(library, "tjInitDecompress", out nint init)
            || !NativeLibrary.TryGetExport(library, "tjDestroy", out nint destroy)
            || !NativeLibrary.TryGetExport(library, "tjDecompressHeader3", out nint header)
            || !NativeLibrary.TryGetExport(library, "tjDecompress2", out nint decompress)
            || !NativeLibrary.TryGetExport(library, "tjGetErrorStr2", out nint error))
        {
            WhyAbsent = $"the libjpeg-turbo found here ({Names[0]}) is too old; version 2.0 or later is needed.";
            return;
        }
        Init = (delegate* unmanaged[Cdecl]<nint>)init;
        Destroy = (delegate* unmanaged[Cdecl]<nint, int>)destroy;
        ReadHeader = (delegate* unmanaged[Cdecl]<nint, byte*, CULong, int*, int*, int*, int*, int>)header;
        Decompress = (delegate* unmanaged[Cdecl]<nint, byte*, CULong, byte*, int, int, int, int, int, int>)decompress;
        ErrorText = (delegate* unmanaged[Cdecl]<nint, byte*>)error;
    }

    /// <summary>Why the library cannot be used, a sentence, or none when it can.</summary>
    public static string? WhyAbsent { get; }

    public static bool Is(ReadOnlySpan<byte> file) => file.Length > 3 && file[0] == 0xFF && file[1] == 0xD8 && file[2] == 0xFF;

    public static (int Width, int Height) Size(ReadOnlySpan<byte> file, string name)
    {
        nint handle = Open(name);
        try
        {
            (int width, int height, _) = Header(handle, file, name);
            return (width, height);
        }
        finally
        {
            Destroy(handle);
        }
    }

    public static void Decode(ReadOnlySpan<byte> file, RgbImage into, string name)
    {
        nint handle = Open(name);
        try
        {
            (int width, int height, int color) = Header(handle, file, name);
            into.Resize(width, height);
            bool inks = color is ColorCmyk or ColorYcck;
            if (inks && (t_inks is null || t_inks.Length < width * height * 4)) t_inks = new byte[width * height * 4];
            byte[] target = inks ? t_inks! : into.Pixels;
            int failed;
            fixed (byte* source = file, pixels = target)
                failed = Decompress(handle, source, new CULong((nuint)file.Length), pixels, width, 0, height,
                    inks ? FormatCmyk : FormatRgb, StopOnWarning | LimitScans);
            if (failed != 0) throw Broken(handle, name);
            if (inks) FromInks(t_inks, into.Bytes);
        }
        finally
        {
            Destroy(handle);
        }
    }

    private static nint Open(string name)
    {
        nint handle = Init();
        return handle != 0 ? handle : throw new ImageFormatException($"{name}: libjpeg-turbo refused to start; there may be no memory left.");
    }

    private static (int Width, int Height, int Color) Header(nint handle, ReadOnlySpan<byte> file, string name)
    {
        int width = 0, height = 0, sampling = 0, color = 0, failed;
        fixed (byte* source = file)
            failed = ReadHeader(handle, source, new CULong((nuint)file.Length), &width, &height, &sampling, &color);
        if (failed != 0) throw Broken(handle, name);
        ImageFile.CheckSize(width, height, name);
        return (width, height, color);
    }

    /// <summary>Adobe stores inks inverted, 255 = none; then R = C·K/255 in Pillow's rounding.</summary>
    private static void FromInks(ReadOnlySpan<byte> inks, Span<byte> rgb)
    {
        for (int i = 0, j = 0; i < rgb.Length; i += 3, j += 4)
            for (int c = 0; c < 3; c++)
            {
                int product = (255 - inks[j + c]) * inks[j + 3] + 128;
                rgb[i + c] = (byte)Math.Max(0, inks[j + 3] - (product + (product >> 8) >> 8));
            }
    }

    private static ImageFormatException Broken(nint handle, string name)
    {
        string what = Marshal.PtrToStringUTF8((nint)ErrorText(handle)) ?? "no reason given";
        return new($"{name}: this JPEG cannot be read ({what.Trim().TrimEnd('.')}); replace the file or leave it out.");
    }
}
