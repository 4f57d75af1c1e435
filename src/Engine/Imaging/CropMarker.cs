using MimEngine.Kernels;

namespace MimEngine.Engine.Imaging;

/// <summary>
/// Marks of a crop's keypoints on the host, where a detector runs that has no device kernel: grey, keypoints, a circle or a point for each.
/// One object a thread; allocates nothing once it has seen the crop's size.
/// </summary>
public sealed class CropMarker(KeypointDetector detector, LumaWeights luma, Mark mark)
{
    private byte[] _gray = [];

    /// <param name="marks">(S, S), written: 1 = marked, else 0.</param>
    /// <param name="crop">(3, S, S) planar.</param>
    public void Paint(Span<byte> marks, ReadOnlySpan<byte> crop, int side)
    {
        int plane = side * side;
        if (_gray.Length != plane) _gray = new byte[plane];
        for (int i = 0; i < plane; i++)
            _gray[i] = (byte)((luma.R * crop[i] + luma.G * crop[plane + i] + luma.B * crop[2 * plane + i] + 16384) >> 15);
        detector.Detect(_gray, side, side);
        marks = marks[..plane];
        marks.Clear();
        ReadOnlySpan<float> points = detector.Points;
        for (int i = 0; i < points.Length; i += 2)
        {
            if (mark == Mark.Ring)
            {
                CircleStamp.Draw(marks, side, side, points[i], points[i + 1]);
                continue;
            }
            int x = (int)MathF.Round(points[i]), y = (int)MathF.Round(points[i + 1]);
            if (x >= 0 && y >= 0 && x < side && y < side) marks[y * side + x] = 1;
        }
        for (int i = 0; i < plane; i++) marks[i] = Math.Min(marks[i], (byte)1);
    }
}
