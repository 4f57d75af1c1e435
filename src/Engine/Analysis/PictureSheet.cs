using MimEngine.Engine.Imaging;

namespace MimEngine.Engine.Analysis;

/// <summary>Small square pictures in rows and columns on a light ground, enlarged by whole factors so that pixels stay pixels.</summary>
public sealed class PictureSheet
{
    private const int Gap = 6;
    private const byte Ground = 235;
    private readonly int _side, _zoom;

    /// <param name="side">Pixels of one picture, a side.</param>
    public PictureSheet(int rows, int columns, int side)
    {
        _side = side;
        _zoom = Math.Max(1, 128 / side);
        int cell = side * _zoom + Gap;
        Image = new RgbImage(columns * cell + Gap, rows * cell + Gap);
        Image.Bytes.Fill(Ground);
    }

    public RgbImage Image { get; }

    /// <summary>Draws one picture.</summary>
    /// <param name="color">Red, green and blue at (y, x).</param>
    public void Draw(int row, int column, Func<int, int, (byte R, byte G, byte B)> color)
    {
        int top = Gap + row * (_side * _zoom + Gap), left = Gap + column * (_side * _zoom + Gap);
        for (int y = 0; y < _side; y++)
            for (int x = 0; x < _side; x++)
            {
                (byte r, byte g, byte b) = color(y, x);
                for (int dy = 0; dy < _zoom; dy++)
                {
                    Span<byte> line = Image.Row(top + y * _zoom + dy)[((left + x * _zoom) * 3)..];
                    for (int dx = 0; dx < _zoom; dx++) (line[3 * dx], line[3 * dx + 1], line[3 * dx + 2]) = (r, g, b);
                }
            }
    }
}
