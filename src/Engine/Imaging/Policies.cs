using MimEngine.Kernels;

namespace MimEngine.Engine.Imaging;

/// <summary>
/// TrivialAugmentWide (Müller and Hutter 2021) as torchvision has it: one of 14 transforms, one of 31 strengths, uniformly; nearest
/// neighbour, black outside. One per thread.
/// </summary>
internal sealed class TrivialAugment
{
    private const int Strengths = 31;
    private byte[] _copy = [];

    /// <summary>The transforms, in torchvision's order.</summary>
    internal enum Transform : byte
    {
        Identity, ShearX, ShearY, TranslateX, TranslateY, Rotate, Brightness, Color, Contrast, Sharpness, Posterize, Solarize,
        AutoContrast, Equalize,
    }

    /// <summary>Draws transform, strength (where it has one) and sign (where it has two), and applies them to a (3, S, S) crop.</summary>
    public void Apply(Span<byte> planar, int size, ref RngSequence random)
    {
        Transform transform = (Transform)random.Below(14);
        float strength = transform is Transform.Identity or Transform.AutoContrast or Transform.Equalize ? 0f
            : Strength(transform, random.Below(Strengths));
        bool signed = transform is >= Transform.ShearX and <= Transform.Sharpness;
        if (signed && random.Below(2) == 1) strength = -strength;
        Apply(planar, size, transform, strength);
    }

    /// <summary>Strength number i of 0…30: shear 0…0.99, shift 0…32 px, angle 0…135°, colours 0…0.99, bits 8…2, threshold 255…0.</summary>
    internal static float Strength(Transform transform, int i) => transform switch
    {
        Transform.TranslateX or Transform.TranslateY => 32f * i / (Strengths - 1),
        Transform.Rotate => 135f * i / (Strengths - 1),
        Transform.Posterize => 8 - (int)MathF.Round(i / ((Strengths - 1) / 6f)),
        Transform.Solarize => 255f - 255f * i / (Strengths - 1),
        _ => 0.99f * i / (Strengths - 1),
    };

    internal void Apply(Span<byte> planar, int size, Transform transform, float strength)
    {
        if (_copy.Length < planar.Length) _copy = new byte[planar.Length];
        Span<byte> copy = _copy.AsSpan(0, planar.Length);
        switch (transform)
        {
            case Transform.ShearX: PixelTransforms.Affine(planar, copy, size, 0f, 1, strength, 0, 0, 1, 0); break;
            case Transform.ShearY: PixelTransforms.Affine(planar, copy, size, 0f, 1, 0, 0, strength, 1, 0); break;
            case Transform.TranslateX: PixelTransforms.Affine(planar, copy, size, 0.5f, 1, 0, -(int)strength, 0, 1, 0); break;
            case Transform.TranslateY: PixelTransforms.Affine(planar, copy, size, 0.5f, 1, 0, 0, 0, 1, -(int)strength); break;
            case Transform.Rotate:
                (float sin, float cos) = MathF.SinCos(strength * (MathF.PI / 180f));
                PixelTransforms.Affine(planar, copy, size, 0.5f, cos, -sin, 0, sin, cos, 0);
                break;
            case Transform.Brightness: PixelTransforms.Brightness(planar, 1f + strength); break;
            case Transform.Color: PixelTransforms.Saturation(planar, 1f + strength); break;
            case Transform.Contrast: PixelTransforms.Contrast(planar, 1f + strength); break;
            case Transform.Sharpness: PixelTransforms.Sharpness(planar, copy, size, 1f + strength); break;
            case Transform.Posterize: PixelTransforms.Posterize(planar, (int)strength); break;
            case Transform.Solarize: PixelTransforms.Solarize(planar, strength); break;
            case Transform.AutoContrast: PixelTransforms.AutoContrast(planar); break;
            case Transform.Equalize: PixelTransforms.Equalize(planar); break;
        }
    }
}

/// <summary>Random erasing (Zhong et al. 2020) as torchvision has it: a black rectangle of 2 to 33 % of the crop, aspect 0.3 to 3.3.</summary>
internal static class RandomErasing
{
    private const int Tries = 10;

    /// <summary>Draws (area, aspect) until the rectangle is smaller than the crop both ways, ten times at most, then its corner.</summary>
    public static void Apply(Span<byte> planar, int size, ref RngSequence random)
    {
        if (Box(size, ref random) is { Width: > 0 } box) PixelTransforms.Erase(planar, size, box);
    }

    /// <summary>The rectangle, empty when ten tries did not fit.</summary>
    internal static CropBox Box(int size, ref RngSequence random)
    {
        double low = Math.Log(0.3), high = Math.Log(3.3);
        for (int i = 0; i < Tries; i++)
        {
            double area = 0.02 + (0.33 - 0.02) * random.Uniform();
            // Here the ratio is height to width, the other way round than for crops.
            (int height, int width) = Augmenter.BoxSize(size, size, area, low + (high - low) * random.Uniform());
            if (height >= size || width >= size) continue;
            int top = random.Below(size - height + 1), left = random.Below(size - width + 1);
            return new CropBox(left, top, width, height);
        }
        return default;
    }
}
