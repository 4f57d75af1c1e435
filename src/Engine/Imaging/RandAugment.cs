using MimEngine.Kernels;

namespace MimEngine.Engine.Imaging;

/// <summary>
/// RandAugment (Cubuk et al. 2020) with timm's "increasing" strengths; the defaults are "rand-m9-mstd0.5-inc1", with which MAE and SimMIM
/// fine-tune (SPEC B.5, C.4).
/// </summary>
public sealed record RandAugmentConfig
{
    /// <summary>Mean strength, 0 to 10.</summary>
    public float Magnitude { get; init; } = 9f;

    /// <summary>Standard deviation of a strength.</summary>
    public float Deviation { get; init; } = 0.5f;

    /// <summary>Transforms drawn for a picture, with repetition.</summary>
    public int Operations { get; init; } = 2;

    /// <summary>Probability that a drawn transform is applied.</summary>
    public float Probability { get; init; } = 0.5f;

    /// <summary>Refuses what cannot be meant: one sentence, or none.</summary>
    internal string? Complaint(string path) =>
        !(Magnitude is >= 0 and <= 10) ? $"{path}.magnitude is {Magnitude}; strengths go from 0 to 10."
        : !(Deviation >= 0 && float.IsFinite(Deviation)) ? $"{path}.deviation is {Deviation}; it must be 0 or more."
        : Operations < 1 ? $"{path}.operations is {Operations}; it must be at least 1."
        : Probability is >= 0 and <= 1 ? null : $"{path}.probability is {Probability}; it is a probability.";
}

/// <summary>Draws and applies <see cref="RandAugmentConfig"/>. One per thread.</summary>
internal sealed class RandAugment(RandAugmentConfig config)
{
    private const double Strongest = 10;
    private const float Shift = 0.45f;
    private static readonly (byte, byte, byte) s_mean = (124, 116, 104);   // ImageNet's mean in bytes: what timm fills corners with
    private byte[] _copy = [];

    /// <summary>The transforms, in timm's order.</summary>
    internal enum Transform : byte
    {
        AutoContrast, Equalize, Invert, Rotate, Posterize, Solarize, SolarizeAdd, Color, Contrast, Brightness, Sharpness, ShearX, ShearY,
        TranslateX, TranslateY,
    }

    /// <summary>Draws transforms, whether each happens, strengths and signs, and applies them to a (3, S, S) crop.</summary>
    public void Apply(Span<byte> planar, int size, ref RngSequence random)
    {
        for (int i = 0; i < config.Operations; i++)
        {
            Transform transform = (Transform)random.Below(15);
            if (random.Uniform() >= config.Probability) continue;
            double level = Math.Clamp(config.Magnitude + config.Deviation * random.Normal(), 0, Strongest);
            double strength = Strength(transform, level / Strongest);
            bool signed = transform == Transform.Rotate || transform >= Transform.Color;
            Apply(planar, size, transform, signed && random.Below(2) == 1 ? -strength : strength);
        }
    }

    /// <summary>
    /// At a share of the largest: angle to 30°, bits kept 4 to 0, threshold 256 to 0, addition to 110, factor 1 ± 0.9, shear to 0.3, shift to
    /// 0.45 of the side.
    /// </summary>
    internal static double Strength(Transform transform, double share) => transform switch
    {
        Transform.Rotate => 30 * share,
        Transform.Posterize => 4 - (int)(4 * share),
        Transform.Solarize => 256 - (int)(256 * share),
        Transform.SolarizeAdd => (int)(110 * share),
        >= Transform.Color and <= Transform.Sharpness => 0.9 * share,
        Transform.ShearX or Transform.ShearY => 0.3 * share,
        Transform.TranslateX or Transform.TranslateY => Shift * share,
        _ => 0,
    };

    internal void Apply(Span<byte> planar, int size, Transform transform, double strength)
    {
        if (_copy.Length < planar.Length) _copy = new byte[planar.Length];
        Span<byte> copy = _copy.AsSpan(0, planar.Length);
        switch (transform)
        {
            case Transform.AutoContrast: PillowTransforms.AutoContrast(planar); break;
            case Transform.Equalize: PixelTransforms.Equalize(planar); break;
            case Transform.Invert: PillowTransforms.Invert(planar); break;
            case Transform.Posterize: PixelTransforms.Posterize(planar, (int)strength); break;
            case Transform.Solarize: PixelTransforms.Solarize(planar, (float)strength); break;
            case Transform.SolarizeAdd: PillowTransforms.SolarizeAdd(planar, (int)strength); break;
            case Transform.Color: PillowTransforms.Color(planar, (float)(1 + strength)); break;
            case Transform.Contrast: PillowTransforms.Contrast(planar, (float)(1 + strength)); break;
            case Transform.Brightness: PillowTransforms.Brightness(planar, (float)(1 + strength)); break;
            case Transform.Sharpness: PillowTransforms.Sharpness(planar, copy, size, (float)(1 + strength)); break;
            default: PillowTransforms.Affine(planar, copy, size, Map(transform, strength, size), s_mean); break;
        }
    }

    private static PillowTransforms.Matrix Map(Transform transform, double strength, int size)
    {
        if (transform != Transform.Rotate)
            return new(1, transform == Transform.ShearX ? strength : 0, transform == Transform.TranslateX ? strength * size : 0,
                transform == Transform.ShearY ? strength : 0, 1, transform == Transform.TranslateY ? strength * size : 0);
        (double sin, double cos) = Math.SinCos(-strength * Math.PI / 180);
        double middle = size / 2.0;
        return new(cos, sin, middle - (cos + sin) * middle, -sin, cos, middle - (cos - sin) * middle);
    }
}
