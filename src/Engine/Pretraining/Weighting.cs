using System.Text.Json.Serialization;
using MimEngine.Engine.Autograd;
using MimEngine.Kernels;

namespace MimEngine.Engine.Pretraining;

/// <summary>How much each pixel counts in a term.</summary>
[JsonPolymorphic(TypeDiscriminatorPropertyName = "kind")]
[JsonDerivedType(typeof(UniformWeighting), "uniform")]
[JsonDerivedType(typeof(KeypointDensity), "keypoint-density")]
public abstract record Weighting
{
    /// <summary>(B, S/w, S/w) weights of (B, 3, S, S) U8 crops, or none for 1 everywhere. Lives until the step's end.</summary>
    public abstract Tensor? Weights(Tape t, Tensor crops);

    /// <exception cref="ConfigException">One sentence.</exception>
    public virtual void Validate(int imagePixels) { }
}

/// <summary>Every pixel counts the same.</summary>
public sealed record UniformWeighting : Weighting
{
    /// <inheritdoc/>
    public override Tensor? Weights(Tape t, Tensor crops) => null;
}

/// <summary>Whose luma weights turn a crop grey before detection.</summary>
public enum LumaRule : byte
{
    /// <summary>Red and blue exchanged, as KAMIM's released code has it (SPEC A.3.1).</summary>
    KamimCompat,

    /// <summary>ITU-R BT.601.</summary>
    Rgb,
}

/// <summary>
/// KAMIM (Krishna and Subramanyam 2024): exp(density/T) over its minimum in the picture, density of FAST keypoint marks in square cells
/// (SPEC A.3–A.5). The cell is not the patch: the loss reads weights by pixel.
/// </summary>
public sealed record KeypointDensity : Weighting
{
    /// <summary>Side of a weight cell; the paper's w_ps: 8, 16 or 32.</summary>
    public int CellPixels { get; init; } = 8;

    /// <summary>T: 0.1 to 2.5 in the paper.</summary>
    public float Temperature { get; init; } = 0.25f;

    /// <summary>Ring = the released code; Point = the paper's words.</summary>
    public Mark Mark { get; init; } = Mark.Ring;

    public FastType Type { get; init; } = FastType.Type9_16;

    /// <summary>Grey levels that a circle pixel must differ by.</summary>
    public int Threshold { get; init; } = 10;

    /// <summary>Keep local maxima only.</summary>
    public bool Suppress { get; init; } = true;

    public LumaRule Luma { get; init; } = LumaRule.KamimCompat;

    /// <inheritdoc/>
    public override Tensor? Weights(Tape t, Tensor crops)
    {
        (int b, int h, int w) = (crops.Shape.D0, crops.Shape.D2, crops.Shape.D3);
        var map = new Shape(b, h, w);
        Backend backend = t.Backend;
        Tensor weights = t.Keep(new Shape(b, h / CellPixels, w / CellPixels));
        Tensor gray = t.Scratch(map, DType.U8), keypoints = t.Scratch(map, DType.U8), marks = t.Scratch(map, DType.U8);
        Tensor density = t.Scratch(weights.Shape);
        backend.Luma(gray, crops, Luma == LumaRule.KamimCompat ? LumaWeights.KamimCompat : LumaWeights.Rgb);
        backend.FastKeypoints(keypoints, gray, Threshold, Type, Suppress);
        backend.MarkKeypoints(marks, keypoints, Mark);
        backend.BoxDensity(density, marks, CellPixels);
        backend.KeypointWeights(weights, density, Temperature);
        t.Done(gray);
        t.Done(keypoints);
        t.Done(marks);
        t.Done(density);
        return weights;
    }

    /// <inheritdoc/>
    public override void Validate(int imagePixels)
    {
        if (CellPixels < 1 || imagePixels % CellPixels != 0)
            throw new ConfigException($"weighting.cellPixels is {CellPixels}; it must divide the picture ({imagePixels} pixels).");
        if (!(Temperature > 0f)) throw new ConfigException($"weighting.temperature is {Temperature}; it must be positive (the paper uses 0.1 to 2.5).");
        if (Threshold is < 0 or > 254) throw new ConfigException($"weighting.threshold is {Threshold}; grey levels differ by 0 to 254.");
    }
}
