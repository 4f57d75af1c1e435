using MimEngine.Kernels;

namespace MimEngine.Tests;

internal static partial class OpCases
{
    private static IEnumerable<OpCase> Images()
    {
        foreach ((int b, int h, int w) in new[] { (1, 1, 1), (2, 5, 9), (3, 96, 101) })
        {
            yield return Normalize(b, h, w);
            yield return Grey(b, h, w, LumaWeights.Rgb);
            yield return Grey(b, h, w, LumaWeights.KamimCompat);
        }
        foreach ((int b, int p, int rows, int cols) in new[] { (1, 1, 2, 3), (2, 4, 2, 2), (1, 7, 3, 2), (3, 16, 4, 4) })
            yield return PatchNorm(b, p, rows, cols);
        Draw[] pictures = [Draws.Integers(0, 255), Draws.Integers(100, 130), Draws.Blocks(3, 256), Draws.Blocks(5, 40), Draws.Integers(0,
            1)];
        foreach ((int b, int h, int w) in new[] { (1, 1, 1), (1, 6, 20), (1, 7, 7), (2, 40, 31), (2, 64, 130) })
            foreach (FastType type in Enum.GetValues<FastType>())
                foreach (bool suppress in s_noYes)
                    for (int picture = 0; picture < pictures.Length; picture++)
                        yield return Fast(b, h, w, picture % 3 == 0 ? 10 : 3 * picture, type, suppress, pictures[picture], picture);
        foreach (int threshold in new[] { 0, 1, 60, 200, 254 })
            yield return Fast(1, 33, 45, threshold, FastType.Type9_16, true, Draws.Integers(0, 255), 0);
        foreach (Mark mark in Enum.GetValues<Mark>())
            foreach ((int b, int h, int w) in new[] { (1, 1, 1), (1, 3, 2), (2, 9, 9), (2, 40, 77) })
                foreach (double share in new[] { 0, 0.02, 0.5, 1 }) yield return Marks(b, h, w, mark, share);
        foreach ((int h, int w, int cell) in new[] { (3, 3, 1), (10, 13, 3), (64, 72, 8), (50, 70, 16), (96, 64, 32), (20, 300, 7) })
            yield return Density(2, h, w, cell);
        foreach (float temperature in new[] { 0.02f, 0.1f, 0.25f, 2.5f })
            foreach ((int h, int w) in new[] { (1, 1), (6, 6), (24, 25) }) yield return Weights(3, h, w, temperature);
    }

    private static IEnumerable<Edge> ImageEdges() =>
    [
        new("normalize", n => Normalize(2, 1, n)),
        new("normalised patches, n a row", n => PatchNorm(1, 2, 2, n)),
        new("normalised patches of n pixels", n => PatchNorm(1, n, 2, 1), 40),
        new("luma", n => Grey(2, 1, n, LumaWeights.KamimCompat)),
        new("FAST 9 of 16, n columns", n => Fast(1, 9, n, 10, FastType.Type9_16, true, Draws.Integers(0, 255), 0)),
        new("FAST 9 of 16, n rows", n => Fast(1, n, 9, 10, FastType.Type9_16, false, Draws.Integers(0, 255), 0)),
        new("FAST 7 of 12, n columns", n => Fast(1, 8, n, 10, FastType.Type7_12, true, Draws.Integers(0, 255), 0)),
        new("FAST 5 of 8, n columns", n => Fast(1, 8, n, 10, FastType.Type5_8, true, Draws.Integers(0, 255), 0)),
        new("ring marks, n columns", n => Marks(1, 7, n, Mark.Ring, 0.1)),
        new("ring marks, n rows", n => Marks(1, n, 7, Mark.Ring, 0.1)),
        new("point marks", n => Marks(1, 2, n, Mark.Point, 0.1)),
        new("box density, n columns", n => Density(1, 9, n + 3, 4)),
        new("box density, cells of n", n => Density(1, n, 2 * n + 1, n), 70),
        new("keypoint weights", n => Weights(2, 1, n, 0.25f)),
    ];

    private static OpCase Normalize(int b, int h, int w) => new OpCase($"normalize ({b}, 3, {h}, {w})")
        .Bytes("x", new(b, 3, h, w), Draws.Integers(0, 255))
        .Output("y", new(b, 3, h, w))
        .Run((k, o) => k.NormalizeImages(o["y"], o["x"], [0.485f, 0.456f, 0.406f], [0.229f, 0.224f, 0.225f]));

    private static OpCase Grey(int b, int h, int w, LumaWeights weights)
        => new OpCase($"luma ({b}, 3, {h}, {w}), red {weights.R}").Bytes("images", new(b, 3, h, w), Draws.Integers(0, 255))
            .OutputBytes("gray", new(b, h, w))
            .Run((k, o) => k.Luma(o["gray"], o["images"], weights));

    private static OpCase Fast(int b, int h, int w, int threshold, FastType type, bool suppress, Draw picture, int number)
        => new OpCase($"FAST ({b}, {h}, {w}) picture {number}, above {threshold}, {type}{(suppress ? ", suppressed" : "")}")
            .Bytes("gray", new(b, h, w), picture).OutputBytes("keypoints", new(b, h, w))
            .Run((k, o) => k.FastKeypoints(o["keypoints"], o["gray"], threshold, type, suppress));

    private static OpCase Marks(int b, int h, int w, Mark mark, double share)
        => new OpCase($"marks ({b}, {h}, {w}), {mark}, {share:p0} keypoints").Bytes("keypoints", new(b, h, w), Keypoints(share))
            .OutputBytes("marks", new(b, h, w)).Run((k, o) => k.MarkKeypoints(o["marks"], o["keypoints"], mark));

    /// <summary>Corner values 1 … 255 at this share of pixels.</summary>
    private static Draw Keypoints(double share) => (Span<double> values, ref RngSequence random, Shape _) =>
    {
        foreach (ref double v in values) v = random.UniformDouble() < share ? 1 + random.Below(255) : 0;
    };

    private static OpCase Density(int b, int h, int w, int cell) => new OpCase($"box density ({b}, {h}, {w}), cells of {cell}")
        .Bytes("marks", new(b, h, w), Draws.Bits(0.4)).Output("density", new(b, h / cell, w / cell))
        .Run((k, o) => k.BoxDensity(o["density"], o["marks"], cell));

    private static OpCase Weights(int b, int h, int w, float temperature)
        => new OpCase($"keypoint weights ({b}, {h}, {w}) at {temperature:g}")
        .Input("density", new(b, h, w), Draws.Uniform(0, 1)).Output("weights", new(b, h, w))
        .Run((k, o) => k.KeypointWeights(o["weights"], o["density"], temperature));

    private static OpCase PatchNorm(int b, int p, int rows, int cols)
        => new OpCase($"normalised patches {b}·{rows}×{cols} of {p} px").Constant("x", new(b, 3, rows * p, cols * p), Draws.Normal(1, 2))
            .Output("y", new(b, 3, rows * p, cols * p)).Run((k, o) => k.NormalizePatches(o["y"], o["x"], p, 1e-6f));
}
