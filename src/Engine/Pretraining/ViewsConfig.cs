using MimEngine.Engine.Imaging;

namespace MimEngine.Engine.Pretraining;

/// <summary>
/// How many crops a run makes of each picture, and how those beside the first are made: multi-crop (Caron et al. 2020, SwAV, section 3.2;
/// SPEC E.2). The first global crop is made as "augment" says.
/// </summary>
public sealed record ViewsConfig
{
    /// <summary>Crops of encoder.imagePixels of each picture.</summary>
    public int Global { get; init; } = 1;

    /// <summary>How global crops after the first are made; null = like the first.</summary>
    public AugmentConfig? OtherAugment { get; init; }

    /// <summary>Small crops of each picture. They are never masked and no teacher sees them.</summary>
    public int Local { get; init; }

    /// <summary>Side of a small crop; a multiple of encoder.patchPixels.</summary>
    public int LocalPixels { get; init; } = 96;

    /// <summary>How small crops are made.</summary>
    public AugmentConfig LocalAugment { get; init; } = new() { CropScaleMin = 0.05f, CropScaleMax = 0.25f, Interpolation = Interpolation.Bicubic };

    /// <summary>Small crops that keep their share of a picture of another size, in whole patches, at least two a side.</summary>
    public ViewsConfig Scaled(int fromPixels, int toPixels, int patchPixels)
    {
        if (Local == 0) return this;
        double patches = (double)LocalPixels * toPixels / fromPixels / patchPixels;
        int most = Math.Max(1, toPixels / patchPixels - 1);
        return this with { LocalPixels = patchPixels * Math.Clamp((int)Math.Round(patches, MidpointRounding.AwayFromZero), Math.Min(2, most), most) };
    }

    /// <summary>Refuses what makes no sense for an encoder.</summary>
    /// <exception cref="ConfigException">One sentence.</exception>
    public void Validate(int patchPixels)
    {
        if (Global < 1) throw new ConfigException($"views.global is {Global}; a run needs at least one crop of every picture.");
        if (Local < 0) throw new ConfigException($"views.local is {Local}; it must be 0 or more.");
        if (Local > 0 && (LocalPixels <= 0 || LocalPixels % patchPixels != 0))
            throw new ConfigException($"views.localPixels is {LocalPixels}; it must be a positive multiple of encoder.patchPixels ({patchPixels}).");
        if ((OtherAugment?.Complaint("views.otherAugment") ?? LocalAugment.Complaint("views.localAugment")) is { } complaint)
            throw new ConfigException(complaint);
    }
}
