using MimEngine.Kernels;

namespace MimEngine.Engine.Imaging;

/// <summary>Which part of a picture becomes the crop.</summary>
public enum Framing : byte
{
    /// <summary>A random box of random size and aspect (torchvision's RandomResizedCrop): training.</summary>
    RandomCrop,

    /// <summary>A random box of one draw, its sides cut where they leave the picture: MAE's linear probe (SPEC C.3).</summary>
    RandomCropOnce,

    /// <summary>The whole picture, squashed to a square: KAMIM's probes.</summary>
    Squash,

    /// <summary>The shorter side resized to crop/<see cref="AugmentConfig.CenterFraction"/>, then the middle: evaluation.</summary>
    CenterCrop,
}

/// <summary>How a picture becomes a crop.</summary>
public sealed record AugmentConfig
{
    /// <summary>For evaluation, as most of the papers: shorter side to S/0.875, bicubic, centre crop, nothing random.</summary>
    public static AugmentConfig Evaluation => new() { Framing = Framing.CenterCrop, Interpolation = Interpolation.Bicubic };

    /// <summary>The whole picture squashed to a square, nothing random: for pictures of a run.</summary>
    public static AugmentConfig Resize => new() { Framing = Framing.Squash };

    public Framing Framing { get; init; } = Framing.RandomCrop;

    /// <summary>Smallest share of the picture's area that a random crop covers.</summary>
    public float CropScaleMin { get; init; } = 0.67f;

    /// <summary>Largest share of the picture's area that a random crop covers.</summary>
    public float CropScaleMax { get; init; } = 1f;

    /// <summary>Smallest width/height of a random crop.</summary>
    public float RatioMin { get; init; } = 3f / 4f;

    /// <summary>Largest width/height of a random crop.</summary>
    public float RatioMax { get; init; } = 4f / 3f;

    /// <summary>Share of the resized shorter side that a centre crop keeps.</summary>
    public float CenterFraction { get; init; } = 0.875f;

    public Interpolation Interpolation { get; init; } = Interpolation.Bilinear;

    /// <summary>Widen the filter when shrinking, as Pillow does; KAMIM's uint8 pipeline does not.</summary>
    public bool Antialias { get; init; } = true;

    /// <summary>Probability of exchanging left and right.</summary>
    public float HorizontalFlip { get; init; }

    /// <summary>Probability of exchanging top and bottom.</summary>
    public float VerticalFlip { get; init; }

    /// <summary>Probability of changing brightness, contrast, saturation and hue, in a random order.</summary>
    public float ColorJitter { get; init; }

    /// <summary>Jitter: brightness times 1 ± this.</summary>
    public float Brightness { get; init; } = 0.4f;

    /// <summary>Jitter: contrast times 1 ± this.</summary>
    public float Contrast { get; init; } = 0.4f;

    /// <summary>Jitter: saturation times 1 ± this.</summary>
    public float Saturation { get; init; } = 0.2f;

    /// <summary>Jitter: hue turned by up to this share of the circle.</summary>
    public float Hue { get; init; } = 0.1f;

    /// <summary>Probability of a grey crop.</summary>
    public float Grayscale { get; init; }

    /// <summary>Probability of a Gaussian blur.</summary>
    public float Blur { get; init; }

    /// <summary>Smallest standard deviation of a blur, in pixels.</summary>
    public float BlurRadiusMin { get; init; } = 0.1f;

    /// <summary>Largest standard deviation of a blur, in pixels.</summary>
    public float BlurRadiusMax { get; init; } = 2f;

    /// <summary>Probability of inverting bytes from 128 on.</summary>
    public float Solarize { get; init; }

    /// <summary>One transform of TrivialAugmentWide after the flips.</summary>
    public bool TrivialAugment { get; init; }

    /// <summary>timm's RandAugment after the flips, or none.</summary>
    public RandAugmentConfig? RandAugment { get; init; }

    /// <summary>Probability of blacking out a rectangle, last of all.</summary>
    public float RandomErasing { get; init; }

    /// <summary>Refuses what cannot be meant.</summary>
    /// <param name="path">What a user calls this record.</param>
    /// <returns>One sentence, or none when all is well.</returns>
    public string? Complaint(string path = "augment")
    {
        if (!(CropScaleMin > 0 && CropScaleMin <= CropScaleMax && CropScaleMax <= 1))
            return $"{path}.cropScaleMin and cropScaleMax are {CropScaleMin} and {CropScaleMax}; they must rise within (0, 1].";
        if (!(RatioMin > 0 && RatioMin <= RatioMax && float.IsFinite(RatioMax)))
            return $"{path}.ratioMin and ratioMax are {RatioMin} and {RatioMax}; they must be positive and rise.";
        if (!(CenterFraction is > 0 and <= 1)) return $"{path}.centerFraction is {CenterFraction}; it must lie in (0, 1].";
        if (!(Hue is >= 0 and <= 0.5f)) return $"{path}.hue is {Hue}; it is a share of the circle and must lie in [0, 0.5].";
        if (!(BlurRadiusMin > 0 && BlurRadiusMin <= BlurRadiusMax && float.IsFinite(BlurRadiusMax)))
            return $"{path}.blurRadiusMin and blurRadiusMax are {BlurRadiusMin} and {BlurRadiusMax}; they must be positive and rise.";
        foreach ((string name, float strength) in (ReadOnlySpan<(string, float)>)
            [("brightness", Brightness), ("contrast", Contrast), ("saturation", Saturation)])
            if (!(strength >= 0 && float.IsFinite(strength))) return $"{path}.{name} is {strength}; it must be 0 or more.";
        foreach ((string name, float p) in (ReadOnlySpan<(string, float)>)
            [("horizontalFlip", HorizontalFlip), ("verticalFlip", VerticalFlip), ("colorJitter", ColorJitter), ("grayscale", Grayscale),
            ("blur", Blur), ("solarize", Solarize), ("randomErasing", RandomErasing)])
            if (!(p is >= 0 and <= 1)) return $"{path}.{name} is {p}; it is a probability.";
        return RandAugment?.Complaint($"{path}.randAugment");
    }
}

/// <summary>Cuts crops as an <see cref="AugmentConfig"/> says. One per thread; allocates nothing once its rows fit the largest picture.</summary>
public sealed class Augmenter(AugmentConfig config)
{
    private const int Tries = 10;
    private readonly Resampler _resampler = new();
    private const float SolarizeFrom = 128;
    private readonly TrivialAugment _trivial = new();
    private readonly GaussianBlur _blur = new();
    private readonly RandAugment? _policy = config.RandAugment is { } policy ? new RandAugment(policy) : null;

    /// <summary>
    /// One crop. Draws in the order of SPEC A.1 and E.2: (area, ratio, top, left) a try, vertical flip, horizontal flip, jitter, grey, blur,
    /// solarising, policies.
    /// </summary>
    /// <param name="random">Everything random is drawn from here; what a configuration does not need is not drawn.</param>
    /// <param name="cropPixels">Pixels a side, S.</param>
    /// <param name="planar">(3, S, S), written.</param>
    public void Apply(RgbImage image, ref RngSequence random, int cropPixels, Span<byte> planar)
    {
        planar = planar[..(3 * cropPixels * cropPixels)];
        Frame(image, ref random, cropPixels, planar);
        if (Happens(config.ColorJitter, ref random)) ColorJitter.Draw(config, ref random).Apply(planar);
        if (Happens(config.Grayscale, ref random)) ColorJitter.Grayscale(planar);
        if (Happens(config.Blur, ref random)) _blur.Apply(planar, cropPixels, random.Uniform(config.BlurRadiusMin, config.BlurRadiusMax));
        if (Happens(config.Solarize, ref random)) PixelTransforms.Solarize(planar, SolarizeFrom);
        _policy?.Apply(planar, cropPixels, ref random);
        if (config.TrivialAugment) _trivial.Apply(planar, cropPixels, ref random);
        if (Happens(config.RandomErasing, ref random)) RandomErasing.Apply(planar, cropPixels, ref random);
    }

    // What never happens is not drawn.
    private static bool Happens(float probability, ref RngSequence random) => probability > 0 && random.Uniform() < probability;

    private void Frame(RgbImage image, ref RngSequence random, int cropPixels, Span<byte> planar)
    {
        CropBox box = config.Framing switch
        {
            Framing.RandomCrop => RandomBox(image.Width, image.Height, ref random),
            Framing.RandomCropOnce => OneBox(image.Width, image.Height, ref random),
            _ => CropBox.Of(image),
        };
        bool flip = Happens(config.VerticalFlip, ref random), mirror = Happens(config.HorizontalFlip, ref random);
        if (config.Framing != Framing.CenterCrop)
        {
            _resampler.Crop(image, box, cropPixels, config.Interpolation, config.Antialias, planar, mirror, flip);
            return;
        }
        int shorter = Math.Max(cropPixels, (int)Math.Floor(cropPixels / (double)config.CenterFraction));
        (int width, int height) = image.Width <= image.Height
            ? (shorter, (int)((long)shorter * image.Height / image.Width))
            : ((int)((long)shorter * image.Width / image.Height), shorter);
        CropBox middle = new(Middle(width, cropPixels), Middle(height, cropPixels), cropPixels, cropPixels);
        _resampler.Crop(image, box, width, height, middle, config.Interpolation, config.Antialias, planar, mirror, flip);
    }

    /// <summary>torchvision's RandomResizedCrop: ten tries, then the middle with its aspect brought into range.</summary>
    internal CropBox RandomBox(int width, int height, ref RngSequence random)
    {
        double low = Math.Log(config.RatioMin), high = Math.Log(config.RatioMax);
        for (int i = 0; i < Tries; i++)
        {
            double area = config.CropScaleMin + ((double)config.CropScaleMax - config.CropScaleMin) * random.Uniform();
            (int w, int h) = BoxSize(width, height, area, low + (high - low) * random.Uniform());
            if (w <= 0 || w > width || h <= 0 || h > height) continue;
            int top = random.Below(height - h + 1), left = random.Below(width - w + 1);
            return new CropBox(left, top, w, h);
        }
        double aspect = width / (double)height;
        (int Width, int Height) most = aspect < config.RatioMin ? (width, Math.Min(height, (int)Math.Round(width / (double)config.RatioMin)))
            : aspect > config.RatioMax ? (Math.Min(width, (int)Math.Round(height * (double)config.RatioMax)), height) : (width, height);
        return new CropBox((width - most.Width) / 2, (height - most.Height) / 2, Math.Max(1, most.Width), Math.Max(1, most.Height));
    }

    /// <summary>BYOL's rule: a box of random area and aspect, cut to the picture instead of drawn again.</summary>
    internal CropBox OneBox(int width, int height, ref RngSequence random)
    {
        double low = Math.Log(config.RatioMin), high = Math.Log(config.RatioMax);
        double area = config.CropScaleMin + ((double)config.CropScaleMax - config.CropScaleMin) * random.Uniform();
        (int w, int h) = BoxSize(width, height, area, low + (high - low) * random.Uniform());
        (w, h) = (Math.Clamp(w, 1, width), Math.Clamp(h, 1, height));
        int top = random.Below(height - h + 1), left = random.Below(width - w + 1);
        return new CropBox(left, top, w, h);
    }

    /// <summary>Width √(A·r) and height √(A/r) of a box with the share <paramref name="area"/> of a picture, rounded half to even.</summary>
    internal static (int Width, int Height) BoxSize(int width, int height, double area, double logRatio)
    {
        double pixels = (double)width * height * area, ratio = Math.Exp(logRatio);
        return ((int)Math.Round(Math.Sqrt(pixels * ratio)), (int)Math.Round(Math.Sqrt(pixels / ratio)));
    }

    private static int Middle(int length, int crop) => (int)Math.Round((length - crop) / 2.0);
}
