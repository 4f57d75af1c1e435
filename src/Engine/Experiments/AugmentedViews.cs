using MimEngine.Engine.Data;
using MimEngine.Engine.Imaging;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;

namespace MimEngine.Engine.Experiments;

/// <summary>Crops of each picture: the first as an <see cref="AugmentConfig"/> says, others as a <see cref="ViewsConfig"/> says.</summary>
public sealed class AugmentedViews : IViews
{
    private readonly AugmentConfig _first, _other, _local;
    private readonly PretrainConfig? _run;

    /// <summary>One crop of each picture.</summary>
    public AugmentedViews(AugmentConfig config, int pixels) : this(config, pixels, new ViewsConfig()) { }

    /// <summary>The crops of a pretraining run.</summary>
    public AugmentedViews(PretrainConfig config) : this(config.Augment, config.Encoder.ImagePixels, config.Views) => _run = config;

    private AugmentedViews(AugmentConfig first, int pixels, ViewsConfig views)
    {
        (_first, _other, _local) = (first, views.OtherAugment ?? first, views.LocalAugment);
        (Count, Size) = (views.Global, pixels);
        (LocalCount, LocalSize) = (views.Local, views.Local > 0 ? views.LocalPixels : 0);
    }

    public int Count { get; }
    public int Size { get; }
    public int LocalCount { get; }
    public int LocalSize { get; }
    public CropMarker? NewMarker() => _run?.NewMarker();
    public IViewCutter NewCutter() => new Cutter(new Augmenter(_first), new Augmenter(_other), new Augmenter(_local), this);

    private sealed class Cutter(Augmenter first, Augmenter other, Augmenter local, AugmentedViews views) : IViewCutter
    {
        public void Cut(Span<byte> crop, RgbImage image, int view, ref RngSequence random)
        {
            if (view < views.Count) (view == 0 ? first : other).Apply(image, ref random, views.Size, crop);
            else local.Apply(image, ref random, views.LocalSize, crop);
        }
    }
}
