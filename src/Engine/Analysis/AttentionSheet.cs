using MimEngine.Engine.Imaging;

namespace MimEngine.Engine.Analysis;

/// <summary>
/// Attention as one picture, a row a block: the picture itself (first row) or bars, one a head, as high as its attention distance (the full
/// height is the picture's side) and as bright as its NMI; then what [cls] attends to, one head after the other, brightest = most.
/// </summary>
public static class AttentionSheet
{
    /// <param name="crop">(3, S, S) U8, planar.</param>
    /// <param name="maps">By block, then head: (G²).</param>
    public static RgbImage Draw(ReadOnlySpan<byte> crop, int side, int grid, IReadOnlyList<BlockStatistics> blocks, IReadOnlyList<float[][]> maps)
    {
        byte[] pixels = crop.ToArray();
        int heads = maps.Max(m => m.Length), plane = side * side;
        var sheet = new PictureSheet(blocks.Count + 1, heads + 1, side);
        sheet.Draw(0, 0, (y, x) => (pixels[y * side + x], pixels[plane + y * side + x], pixels[2 * plane + y * side + x]));
        for (int b = 0; b < blocks.Count; b++)
        {
            HeadStatistics[] own = blocks[b].Heads;
            sheet.Draw(b + 1, 0, (y, x) =>
            {
                HeadStatistics head = own[x * own.Length / side];
                return side - y <= head.Distance ? HeatMap.Color((float)(0.2 + 0.8 * head.Nmi)) : ((byte)255, (byte)255, (byte)255);
            });
            for (int h = 0; h < maps[b].Length; h++)
            {
                float[] map = maps[b][h];
                float largest = map.Max();
                sheet.Draw(b + 1, h + 1, (y, x) => HeatMap.Color(map[y * grid / side * grid + x * grid / side] / largest));
            }
        }
        return sheet.Image;
    }
}
