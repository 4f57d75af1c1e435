using System.Text.Json.Serialization;
using MimEngine.Engine.Autograd;
using MimEngine.Engine.Imaging;
using MimEngine.Kernels;

namespace MimEngine.Engine.Pretraining;

/// <summary>How much each pixel counts in a term.</summary>
[JsonPolymorphic(TypeDiscriminatorPropertyName = "kind")]
[JsonDerivedType(typeof(UniformWeighting), "uniform")]
[JsonDerivedType(typeof(KeypointDensity), "keypoint-density")]
public abstract record Weighting
{
    /// <summary>(B, S/w, S/w) weights of (B, 3, S, S) U8 crops, or none for 1 everywhere. Lives until the step's end.</summary>
    /// <param name="marks">(B, S, S) U8 from <see cref="NewMarker"/>, where there is one.</param>
    public abstract Tensor? Weights(Tape t, Tensor crops, Tensor? marks);

    /// <summary>What marks crops on the host, one for each thread, for weightings that no device kernel serves; else none.</summary>
    public virtual CropMarker? NewMarker() => null;

    /// <summary>(B, S, S) marks of crops in host memory, uploaded, where this weighting needs them. Allocates: for pictures, not for steps.</summary>
    /// <param name="crops">(B, 3, S, S) planar.</param>
    public Tensor? UploadMarks(Tape t, ReadOnlySpan<byte> crops, int side)
    {
        if (NewMarker() is not { } marker) return null;
        int plane = side * side, count = crops.Length / (3 * plane);
        byte[] host = new byte[count * plane];
        for (int i = 0; i < count; i++) marker.Paint(host.AsSpan(i * plane, plane), crops.Slice(3 * i * plane, 3 * plane), side);
        Tensor marks = t.Keep(new Shape(count, side, side), DType.U8);
        t.Backend.Upload(marks, host);
        return marks;
    }

    /// <exception cref="ConfigException">One sentence.</exception>
    public virtual void Validate(int imagePixels) { }
}

/// <summary>Every pixel counts the same.</summary>
public sealed record UniformWeighting : Weighting
{
    /// <inheritdoc/>
    public override Tensor? Weights(Tape t, Tensor crops, Tensor? marks) => null;
}

/// <summary>Whose luma weights turn a crop grey before detection.</summary>
public enum LumaRule : byte
{
    /// <summary>Red and blue exchanged, as KAMIM's released code has it (SPEC A.3.1).</summary>
    KamimCompat,

    /// <summary>ITU-R BT.601.</summary>
    Rgb,
}

/// <summary>What finds the keypoints.</summary>
public enum KeypointKind : byte
{
    /// <summary>FAST, on the device: the published setting.</summary>
    Fast,

    /// <summary>ORB's corners on a pyramid, on the host beside decoding (SPEC A.3.3).</summary>
    Orb,

    /// <summary>SIFT's extrema in scale space, on the host beside decoding (SPEC A.3.3).</summary>
    Sift,
}

/// <summary>
/// KAMIM (Krishna and Subramanyam 2024): exp(density/T) over its minimum in the picture, density of keypoint marks in square cells
/// (SPEC A.3–A.5). ORB and SIFT are the paper's ablation, with settings of their own. The cell is not the patch: the loss reads weights by pixel.
/// </summary>
public sealed record KeypointDensity : Weighting
{
    /// <summary>Side of a weight cell; the paper's w_ps: 8, 16 or 32.</summary>
    public int CellPixels { get; init; } = 8;

    /// <summary>T: 0.1 to 2.5 in the paper.</summary>
    public float Temperature { get; init; } = 0.25f;

    /// <summary>Ring = the released code; Point = the paper's words.</summary>
    public Mark Mark { get; init; } = Mark.Ring;

    public KeypointKind Detector { get; init; } = KeypointKind.Fast;

    /// <summary>FAST's circle.</summary>
    public FastType Type { get; init; } = FastType.Type9_16;

    /// <summary>FAST: grey levels that a circle pixel must differ by.</summary>
    public int Threshold { get; init; } = 10;

    /// <summary>FAST: keep local maxima only.</summary>
    public bool Suppress { get; init; } = true;

    public LumaRule Luma { get; init; } = LumaRule.KamimCompat;

    /// <inheritdoc/>
    public override Tensor? Weights(Tape t, Tensor crops, Tensor? marks)
    {
        (int b, int h, int w) = (crops.Shape.D0, crops.Shape.D2, crops.Shape.D3);
        Tensor weights = t.Keep(new Shape(b, h / CellPixels, w / CellPixels)), density = t.Scratch(weights.Shape);
        if (Detector != KeypointKind.Fast)
            Weigh(t, weights, density, marks ?? throw new InvalidOperationException($"KeypointDensity: {Detector} marks crops on the host; none came."));
        else
        {
            var map = new Shape(b, h, w);
            Tensor gray = t.Scratch(map, DType.U8), keypoints = t.Scratch(map, DType.U8), rings = t.Scratch(map, DType.U8);
            t.Backend.Luma(gray, crops, Coefficients);
            t.Backend.FastKeypoints(keypoints, gray, Threshold, Type, Suppress);
            t.Backend.MarkKeypoints(rings, keypoints, Mark);
            Weigh(t, weights, density, rings);
            t.Done(gray);
            t.Done(keypoints);
            t.Done(rings);
        }
        t.Done(density);
        return weights;
    }

    /// <inheritdoc/>
    public override CropMarker? NewMarker() => Detector switch
    {
        KeypointKind.Orb => new CropMarker(new OrbDetector(), Coefficients, Mark),
        KeypointKind.Sift => new CropMarker(new SiftDetector(), Coefficients, Mark),
        _ => null,
    };

    private LumaWeights Coefficients => Luma == LumaRule.KamimCompat ? LumaWeights.KamimCompat : LumaWeights.Rgb;

    private void Weigh(Tape t, Tensor weights, Tensor density, Tensor marks)
    {
        t.Backend.BoxDensity(density, marks, CellPixels);
        t.Backend.KeypointWeights(weights, density, Temperature);
    }

    /// <inheritdoc/>
    public override void Validate(int imagePixels)
    {
        if (CellPixels < 1 || imagePixels % CellPixels != 0)
            throw new ConfigException($"weighting.cellPixels is {CellPixels}; it must divide the picture ({imagePixels} pixels).");
        if (!(Temperature > 0f)) throw new ConfigException($"weighting.temperature is {Temperature}; it must be positive (the paper uses 0.1 to 2.5).");
        if (Threshold is < 0 or > 254) throw new ConfigException($"weighting.threshold is {Threshold}; grey levels differ by 0 to 254.");
        if (Detector == KeypointKind.Fast) return;
        KeypointDensity usual = new();
        string? knob = Type != usual.Type ? $"type is {Type}" : Threshold != usual.Threshold ? $"threshold is {Threshold}"
            : Suppress != usual.Suppress ? $"suppress is {(Suppress ? "true" : "false")}" : null;
        if (knob != null)
            throw new ConfigException($"weighting.{knob}, but that is a setting of FAST and weighting.detector is {Detector.ToString().ToLowerInvariant()}, "
                + "which has settings of its own; leave it out, or set the detector to fast.");
    }
}
