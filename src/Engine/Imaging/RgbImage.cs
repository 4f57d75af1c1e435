namespace MimEngine.Engine.Imaging;

/// <summary>A decoded picture: (H, W, 3) bytes, row-major, R, G, B interleaved. Reused picture after picture by one thread.</summary>
public sealed class RgbImage
{
    public RgbImage() { }

    /// <param name="width">Pixels, at least 0.</param>
    /// <param name="height">Pixels, at least 0.</param>
    public RgbImage(int width, int height) => Resize(width, height);

    public int Width { get; private set; }
    public int Height { get; private set; }

    /// <summary>At least Width · Height · 3 bytes; what lies behind them is left over from a larger picture.</summary>
    public byte[] Pixels { get; private set; } = [];

    /// <summary>The picture's own bytes, (H, W, 3).</summary>
    public Span<byte> Bytes => Pixels.AsSpan(0, Width * Height * 3);

    /// <summary>Row <paramref name="y"/>, (W, 3).</summary>
    public Span<byte> Row(int y) => Pixels.AsSpan(y * Width * 3, Width * 3);

    /// <summary>Sets the size. The buffer is kept when it is large enough; its contents are undefined afterwards.</summary>
    /// <exception cref="ArgumentOutOfRangeException">A negative extent, or more bytes than an array can hold.</exception>
    public void Resize(int width, int height)
    {
        long bytes = 3L * width * height;
        if (width < 0 || height < 0 || bytes > Array.MaxLength)
            throw new ArgumentOutOfRangeException(nameof(width), $"RgbImage: {width} × {height} pixels do not fit one array.");
        if (Pixels.Length < bytes) Pixels = new byte[bytes];
        (Width, Height) = (width, height);
    }
}
