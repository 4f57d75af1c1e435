using ILGPU;

namespace MimEngine.Kernels.Ilgpu;

internal sealed partial class IlgpuBackend
{
    public override void NormalizeImages(Tensor y, Tensor x, ReadOnlySpan<float> mean, ReadOnlySpan<float> std)
        => LaunchEach(y.Count, new NormalizeEach(F(y), U(x), x.Shape.D2 * x.Shape.D3, mean[0], mean[1], mean[2], std[0], std[1], std[2]));

    public override void Luma(Tensor gray, Tensor images, LumaWeights weights)
        => LaunchEach(gray.Count, new LumaEach(U(gray), U(images), images.Shape.D2 * images.Shape.D3, weights.R, weights.G, weights.B));

    public override void FastKeypoints(Tensor keypoints, Tensor gray, int threshold, FastType type, bool suppress)
    {
        int height = gray.Shape.D1, width = gray.Shape.D2;
        ArrayView<byte> values = suppress ? Scratch<byte>(PartialSlot, gray.Count) : U(keypoints);
        switch (type)
        {
            case FastType.Type5_8: LaunchEach(gray.Count, new CornerValues<Circle8>(values, U(gray), height, width, threshold)); break;
            case FastType.Type7_12: LaunchEach(gray.Count, new CornerValues<Circle12>(values, U(gray), height, width, threshold)); break;
            default: LaunchEach(gray.Count, new CornerValues<Circle16>(values, U(gray), height, width, threshold)); break;
        }
        if (suppress) LaunchEach(gray.Count, new PeaksOnly(U(keypoints), values, height, width));
    }

    public override void MarkKeypoints(Tensor marks, Tensor keypoints, Mark mark)
        => LaunchEach(marks.Count, new MarkEach(U(marks), U(keypoints), marks.Shape.D1, marks.Shape.D2, mark == Mark.Ring ? 1 : 0));

    public override void BoxDensity(Tensor density, Tensor marks, int cell)
        => LaunchEach(density.Count, new BoxEach(F(density), U(marks), marks.Shape.D1, marks.Shape.D2, cell));

    public override void KeypointWeights(Tensor weights, Tensor density, float temperature)
        => Launch(density.Shape.D0, new WeightImages(F(weights), F(density), (int)(density.Count / density.Shape.D0), temperature));
}

internal readonly struct NormalizeEach(ArrayView<float> y, ArrayView<byte> x, int plane, float mean0, float mean1, float mean2, float std0,
    float std1, float std2) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= y.Length) return;
        int c = i / plane % 3;
        float mean = c == 0 ? mean0 : c == 1 ? mean1 : mean2, std = c == 0 ? std0 : c == 1 ? std1 : std2;
        y[i] = (x[i] / 255f - mean) / std;
    }
}

internal readonly struct LumaEach(ArrayView<byte> gray, ArrayView<byte> images, int plane, int red, int green, int blue) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= gray.Length) return;
        int at = i / plane * 3 * plane + i % plane;
        gray[i] = (byte)((red * images[at] + green * images[at + plane] + blue * images[at + 2 * plane] + 16384) >> 15);
    }
}

/// <summary>A rasterised circle, its pixels numbered from directly below the centre. Offsets are packed, 4 bits each, plus 3.</summary>
internal interface ICircle
{
    static abstract int Count { get; }
    static abstract ulong Down { get; }
    static abstract ulong Right { get; }

    /// <summary>How many of the pixels that OpenCV's early rejection asks for in pairs, and the distance of a pair; 0 = none.</summary>
    static abstract int Pairs { get; }
}

/// <summary>Distance 1.</summary>
internal readonly struct Circle8 : ICircle
{
    public static int Count => 8;
    public static ulong Down => 0x43222344UL;
    public static ulong Right => 0x22234443UL;
    public static int Pairs => 8;
}

/// <summary>Distance 2.</summary>
internal readonly struct Circle12 : ICircle
{
    public static int Count => 12;
    public static ulong Down => 0x543211123455UL;
    public static ulong Right => 0x211123455543UL;
    public static int Pairs => 8;
}

/// <summary>Distance 3.</summary>
internal readonly struct Circle16 : ICircle
{
    public static int Count => 16;
    public static ulong Down => 0x6543210001234566UL;
    public static ulong Right => 0x2100012345666543UL;
    public static int Pairs => 0;
}

/// <summary>The value of every pixel that is a corner, else 0.</summary>
internal readonly struct CornerValues<TC>(ArrayView<byte> values, ArrayView<byte> gray, int height, int width, int threshold) : IKernel
    where TC : struct, ICircle
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= gray.Length) return;
        int x = i % width, y = i / width % height, value = 0;
        if (x >= 3 && x < width - 3 && y >= 3 && y < height - 3)
        {
            int darker = Side(i, 1), brighter = Side(i, -1);
            value = darker > brighter ? darker : brighter;
        }
        values[i] = value > threshold ? (byte)value : (byte)0;
    }

    /// <summary>I(centre) − I(circle pixel k), times the sign.</summary>
    private int Difference(int i, int k, int sign)
    {
        int down = (int)(TC.Down >> (4 * k) & 15UL) - 3, right = (int)(TC.Right >> (4 * k) & 15UL) - 3;
        return sign * (gray[i] - gray[i + down * width + right]);
    }

    /// <summary>The largest t with an arc of Count/2 + 1 differences ≥ t; 0 where no arc can pass the threshold.</summary>
    private int Side(int i, int sign)
    {
        // Every arc holds one of any two opposite pixels.
        for (int k = 0; k < TC.Count / 2; k++)
            if (Difference(i, k, sign) <= threshold && Difference(i, k + TC.Count / 2, sign) <= threshold) return 0;
        for (int k = 0; k < TC.Pairs; k++)
            if (Difference(i, k, sign) <= threshold && Difference(i, (k + 8) % TC.Count, sign) <= threshold) return 0;
        int best = 0;
        for (int start = 0; start < TC.Count; start++)
        {
            int least = 255;
            for (int k = 0; k <= TC.Count / 2; k++)
            {
                int d = Difference(i, (start + k) % TC.Count, sign);
                least = d < least ? d : least;
            }
            best = least > best ? least : best;
        }
        return best;
    }
}

/// <summary>Keeps values strictly above all eight neighbours'.</summary>
internal readonly struct PeaksOnly(ArrayView<byte> y, ArrayView<byte> values, int height, int width) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= y.Length) return;
        int x = i % width, row = i / width % height;
        byte kept = values[i];
        for (int n = 0; n < 9; n++)
        {
            int nx = x + n % 3 - 1, ny = row + n / 3 - 1;
            if (n == 4 || nx < 0 || ny < 0 || nx >= width || ny >= height) continue;
            if (values[i + (n / 3 - 1) * width + n % 3 - 1] >= values[i]) kept = 0;
        }
        y[i] = kept;
    }
}

/// <summary>1 where a keypoint's mark falls: each pixel asks the keypoints that could paint it.</summary>
internal readonly struct MarkEach(ArrayView<byte> marks, ArrayView<byte> keypoints, int height, int width, int ring) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= marks.Length) return;
        int x = i % width, y = i / width % height;
        byte mark = keypoints[i] != 0 && ring == 0 ? (byte)1 : (byte)0;
        if (ring != 0)
            for (int dy = -4; dy <= 4; dy++)
                for (int dx = -4; dx <= 4; dx++)
                {
                    if (y + dy < 0 || y + dy >= height || x + dx < 0 || x + dx >= width || !Painted(dy, dx)) continue;
                    if (keypoints[i + dy * width + dx] != 0) mark = 1;
                }
        marks[i] = mark;
    }

    /// <summary>The 48 pixels that an anti-aliased OpenCV circle of radius 3 touches (SPEC A.4.1); the same mirrored.</summary>
    private static bool Painted(int dy, int dx)
    {
        int far = dy < 0 ? -dy : dy;
        int bits = far == 4 ? 0x038 : far == 3 ? 0x07C : far == 2 ? 0x0FE : 0x1C7;
        return (bits >> (4 + dx) & 1) != 0;
    }
}

internal readonly struct BoxEach(ArrayView<float> density, ArrayView<byte> marks, int height, int width, int cell) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>(), rows = height / cell, cols = width / cell;
        if (i >= density.Length) return;
        int first = (i / cols / rows * height + i / cols % rows * cell) * width + i % cols * cell, sum = 0;
        for (int y = 0; y < cell; y++)
            for (int x = 0; x < cell; x++) sum += marks[first + y * width + x];
        density[i] = sum / (float)(cell * cell);
    }
}

/// <summary>One group is one image: e = exp(clip(density/T, −20, 20)) over its least.</summary>
internal readonly struct WeightImages(ArrayView<float> weights, ArrayView<float> density, int cells, float temperature) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>());
        int first = Grid.IdxX * cells;
        float most = float.NegativeInfinity;
        for (int i = Group.IdxX; i < cells; i += TT.Side * TT.Side) most = Scalar.Larger(most, -Exponential(first + i));
        float least = -Team.Max<TT>(room, most);
        for (int i = Group.IdxX; i < cells; i += TT.Side * TT.Side) weights[first + i] = Exponential(first + i) / least;
    }

    private float Exponential(int i)
    {
        float x = density[i] / temperature;
        return Scalar.Exp(x > 20f ? 20f : x < -20f ? -20f : x);
    }
}
