using MimEngine.Kernels;

namespace MimEngine.Tests;

internal sealed unsafe partial class OracleBackend
{
    public override void NormalizeImages(Tensor y, Tensor x, ReadOnlySpan<float> mean, ReadOnlySpan<float> std)
    {
        long plane = (long)x.Shape.D2 * x.Shape.D3;
        for (long i = 0; i < x.Count; i++)
        {
            int c = (int)(i / plane % 3);
            F(y)[i] = (U(x)[i] / 255.0 - mean[c]) / std[c];
        }
    }

    public override void Luma(Tensor gray, Tensor images, LumaWeights weights)
    {
        int plane = images.Shape.D2 * images.Shape.D3;
        byte* to = U(gray), from = U(images);
        for (int b = 0; b < images.Shape.D0; b++)
            for (int i = 0; i < plane; i++)
            {
                byte* rgb = from + (long)b * 3 * plane + i;
                to[b * plane + i] = (byte)((weights.R * rgb[0] + weights.G * rgb[plane] + weights.B * rgb[2 * plane] + 16384) >> 15);
            }
    }

    public override void FastKeypoints(Tensor keypoints, Tensor gray, int threshold, FastType type, bool suppress)
    {
        (int images, int height, int width) = (gray.Shape.D0, gray.Shape.D1, gray.Shape.D2);
        byte* to = U(keypoints), from = U(gray);
        int[,] values = new int[height, width];
        for (int b = 0; b < images; b++)
        {
            byte* image = from + (long)b * height * width;
            for (int y = 0; y < height; y++)
                for (int x = 0; x < width; x++)
                {
                    bool inside = y >= 3 && y < height - 3 && x >= 3 && x < width - 3;
                    int value = inside ? CornerValue(image, y, x, width, type, threshold) : 0;
                    values[y, x] = value > threshold ? value : 0;
                }
            for (int y = 0; y < height; y++)
                for (int x = 0; x < width; x++)
                    to[((long)b * height + y) * width + x] = (byte)(!suppress || IsPeak(values, y, x) ? values[y, x] : 0);
        }
    }

    /// <summary>The largest t such that some arc has all differences ≥ t or all ≤ −t; 0 for what OpenCV rejects early.</summary>
    private static int CornerValue(byte* image, int y, int x, int width, FastType type, int threshold)
    {
        // Radius 1, 2 and 3 of the rasterised circle, from directly below the centre.
        (int Dy, int Dx)[] circle = type switch
        {
            FastType.Type5_8 => [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)],
            FastType.Type7_12 => [(2, 0), (2, 1), (1, 2), (0, 2), (-1, 2), (-2, 1), (-2, 0), (-2, -1), (-1, -2), (0, -2), (1, -2), (2, -1)],
            _ => [(3, 0), (3, 1), (2, 2), (1, 3), (0, 3), (-1, 3), (-2, 2), (-3, 1),
                (-3, 0), (-3, -1), (-2, -2), (-1, -3), (0, -3), (1, -3), (2, -2), (3, -1)],
        };
        int[] darker = Array.ConvertAll(circle, c => image[y * width + x] - image[(y + c.Dy) * width + x + c.Dx]);
        return Math.Max(Side(darker), Side(Array.ConvertAll(darker, d => -d)));

        int Side(int[] d)
        {
            int arc = d.Length / 2 + 1, count = d.Length;
            int best = Enumerable.Range(0, count).Max(start => Enumerable.Range(start, arc).Min(k => d[k % count]));
            bool passes = type switch
            {
                FastType.Type5_8 => d.All(v => v > threshold),
                FastType.Type7_12 => Enumerable.Range(0, 8).All(k => d[k] > threshold || d[(k + 8) % 12] > threshold),
                _ => true,
            };
            return passes ? Math.Max(0, best) : 0;
        }
    }

    private static bool IsPeak(int[,] values, int y, int x)
    {
        for (int dy = -1; dy <= 1; dy++)
            for (int dx = -1; dx <= 1; dx++)
            {
                (int ny, int nx) = (y + dy, x + dx);
                if ((dy, dx) == (0, 0) || ny < 0 || nx < 0 || ny >= values.GetLength(0) || nx >= values.GetLength(1)) continue;
                if (values[ny, nx] >= values[y, x]) return false;
            }
        return true;
    }

    public override void MarkKeypoints(Tensor marks, Tensor keypoints, Mark mark)
    {
        // SPEC A.4.1: the offsets that an anti-aliased OpenCV circle of radius 3 touches, row dy = −4 … +4, bit 8 = dx −4.
        int[] ring = [0x038, 0x07C, 0x0FE, 0x1C7, 0x1C7, 0x1C7, 0x0FE, 0x07C, 0x038];
        (int images, int height, int width) = (marks.Shape.D0, marks.Shape.D1, marks.Shape.D2);
        byte* to = U(marks), from = U(keypoints);
        marks.Host<byte>().Clear();
        for (int b = 0; b < images; b++)
            for (int y = 0; y < height; y++)
                for (int x = 0; x < width; x++)
                {
                    if (from[((long)b * height + y) * width + x] == 0) continue;
                    for (int dy = -4; dy <= 4; dy++)
                        for (int dx = -4; dx <= 4; dx++)
                        {
                            bool painted = mark == Mark.Ring ? (ring[dy + 4] >> (4 - dx) & 1) == 1 : (dy, dx) == (0, 0);
                            (int ny, int nx) = (y + dy, x + dx);
                            if (painted && ny >= 0 && nx >= 0 && ny < height && nx < width) to[((long)b * height + ny) * width + nx] = 1;
                        }
                }
    }

    public override void BoxDensity(Tensor density, Tensor marks, int cell)
    {
        (int images, int height, int width) = (marks.Shape.D0, marks.Shape.D1, marks.Shape.D2);
        double* to = F(density);
        byte* from = U(marks);
        for (int b = 0; b < images; b++)
            for (int r = 0; r < height / cell; r++)
                for (int c = 0; c < width / cell; c++)
                {
                    int sum = 0;
                    for (int y = r * cell; y < (r + 1) * cell; y++)
                        for (int x = c * cell; x < (c + 1) * cell; x++) sum += from[((long)b * height + y) * width + x];
                    to[((long)b * (height / cell) + r) * (width / cell) + c] = (double)sum / (cell * cell);
                }
    }

    public override void KeypointWeights(Tensor weights, Tensor density, float temperature)
    {
        int images = density.Shape.D0, cells = (int)(density.Count / images);
        double* to = F(weights), from = F(density);
        for (int b = 0; b < images; b++)
        {
            double smallest = double.PositiveInfinity;
            for (int i = 0; i < cells; i++)
            {
                to[b * cells + i] = Math.Exp(Math.Clamp(from[b * cells + i] / temperature, -20, 20));
                smallest = Math.Min(smallest, to[b * cells + i]);
            }
            for (int i = 0; i < cells; i++) to[b * cells + i] /= smallest;
        }
    }

    public override void NormalizePatches(Tensor y, Tensor x, int patch, float eps)
    {
        int size = 3 * patch * patch;
        double[] sums = new double[x.Count / size], squares = new double[x.Count / size];
        ForPixels(x.Shape, patch, PixelOrder.ChannelSlowest, (pixel, at) => sums[at / size] += F(x)[pixel] / size);
        ForPixels(x.Shape, patch, PixelOrder.ChannelSlowest, (pixel, at)
            => squares[at / size] += Math.Pow(F(x)[pixel] - sums[at / size], 2) / (size - 1));
        ForPixels(x.Shape, patch, PixelOrder.ChannelSlowest, (pixel, at)
            => F(y)[pixel] = (F(x)[pixel] - sums[at / size]) / Math.Sqrt(squares[at / size] + eps));
    }
}
