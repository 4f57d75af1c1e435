namespace MimEngine.Kernels;

/// <summary>FAST's circle and arc: of how many circle pixels how many in a row must differ (OpenCV's names).</summary>
public enum FastType : byte
{
    /// <summary>5 of the 8 pixels at distance 1.</summary>
    Type5_8,

    /// <summary>7 of the 12 pixels at distance 2.</summary>
    Type7_12,

    /// <summary>9 of the 16 pixels at distance 3: the published setting.</summary>
    Type9_16,
}

/// <summary>What one keypoint paints on the map whose density becomes weights.</summary>
public enum Mark : byte
{
    /// <summary>The 48-pixel ring that OpenCV's drawKeypoints paints: what KAMIM's released code does (SPEC A.4.1).</summary>
    Ring,

    /// <summary>The keypoint's own pixel: what KAMIM's paper describes.</summary>
    Point,
}

/// <summary>Integer luma weights, 15-bit fixed point: gray = (r·R + g·G + b·B + 16384) &gt;&gt; 15.</summary>
public readonly record struct LumaWeights(int R, int G, int B)
{
    /// <summary>ITU-R BT.601 as OpenCV rounds it.</summary>
    public static LumaWeights Rgb => new(9798, 19235, 3735);

    /// <summary>KAMIM's released code: RGB handed to a BGR conversion, red and blue exchanged (SPEC A.3.1).</summary>
    public static LumaWeights KamimCompat => new(3735, 19235, 9798);
}

public abstract partial class Backend
{
    /// <summary>y = (x/255 − mean_c)/std_c.</summary>
    /// <param name="y">(B, 3, H, W) float32, written.</param>
    /// <param name="x">(B, 3, H, W) U8.</param>
    /// <param name="mean">Three channel means, in units of 1.</param>
    /// <param name="std">Three channel deviations.</param>
    public abstract void NormalizeImages(Tensor y, Tensor x, ReadOnlySpan<float> mean, ReadOnlySpan<float> std);

    /// <summary>Grey values of planar RGB images.</summary>
    /// <param name="gray">(B, H, W) U8, written.</param>
    /// <param name="images">(B, 3, H, W) U8.</param>
    public abstract void Luma(Tensor gray, Tensor images, LumaWeights weights);

    /// <summary>
    /// FAST corners (Rosten and Drummond 2006), as OpenCV computes them: with d_k = I(p) − I(circle pixel k), the value of a pixel is
    /// the largest t such that some arc of consecutive circle pixels has all d ≥ t or all d ≤ −t; a corner has value &gt; threshold.
    /// With suppression, only corners whose value is strictly larger than all eight neighbours' stay. Pixels closer to the border than
    /// the circle's radius are never corners (the radius is 3, whatever the type).
    /// </summary>
    /// <remarks>
    /// OpenCV's early rejection is written for 16 pixels and, on the smaller circles, asks for more than an arc; its corners are the
    /// reference, so these conditions are part of the definition. A corner whose arc is brighter (darker) by more than the threshold
    /// also needs, with pixels numbered along the circle from directly below the center:
    /// Type5_8: all eight pixels brighter (darker) by more than the threshold;
    /// Type7_12: in each pair (k, k + 8 mod 12), k = 0 … 7, at least one pixel brighter (darker) by more than the threshold.
    /// </remarks>
    /// <param name="keypoints">(B, H, W) U8, written: 0 = no keypoint, else the corner's value; OpenCV's response is value − 1.</param>
    /// <param name="gray">(B, H, W) U8; any size, also smaller than the circle.</param>
    /// <param name="threshold">0 to 254.</param>
    public abstract void FastKeypoints(Tensor keypoints, Tensor gray, int threshold, FastType type, bool suppress);

    /// <summary>marks = 1 where a keypoint's mark falls, else 0; marks are clipped at the image's border.</summary>
    /// <param name="marks">(B, H, W) U8, written.</param>
    /// <param name="keypoints">(B, H, W) U8, non-zero = keypoint.</param>
    public abstract void MarkKeypoints(Tensor marks, Tensor keypoints, Mark mark);

    /// <summary>Mean of the marks in each cell × cell square (a box filter with stride = size).</summary>
    /// <param name="density">(B, H/cell, W/cell) float32, written; 0 to 1.</param>
    /// <param name="marks">(B, H, W) U8 of 0 and 1; a rest narrower than a cell is ignored.</param>
    public abstract void BoxDensity(Tensor density, Tensor marks, int cell);

    /// <summary>e = exp(clip(density/temperature, −20, 20)); weights = e / min over the image's cells of e (SPEC A.5).</summary>
    /// <param name="weights">(B, rows, cols) float32, written; ≥ 1, and exactly 1 at the least dense cell.</param>
    public abstract void KeypointWeights(Tensor weights, Tensor density, float temperature);

    /// <summary>
    /// y = (x − mean)/√(variance + eps) with mean and unbiased variance (divisor n − 1) of the n = 3·P² numbers of each patch: MAE's
    /// normalised target (He et al. 2022, section 4; SPEC C.1).
    /// </summary>
    /// <param name="y">(B, 3, S, S) float32, written; not x's memory.</param>
    /// <param name="x">(B, 3, S, S) float32; both extents are multiples of the patch.</param>
    public abstract void NormalizePatches(Tensor y, Tensor x, int patch, float eps);
}
