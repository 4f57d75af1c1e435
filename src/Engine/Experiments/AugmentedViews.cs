using MimEngine.Engine.Data;
using MimEngine.Engine.Imaging;
using MimEngine.Kernels;

namespace MimEngine.Engine.Experiments;

/// <summary>One crop a picture, cut and flipped as an <see cref="AugmentConfig"/> says.</summary>
public sealed class AugmentedViews(AugmentConfig config, int pixels) : IViews
{
    public int Count => 1;
    public int Size => pixels;
    public IViewCutter NewCutter() => new Cutter(new Augmenter(config), pixels);

    private sealed class Cutter(Augmenter augmenter, int pixels) : IViewCutter
    {
        public void Cut(Span<byte> crop, RgbImage image, int view, ref RngSequence random) => augmenter.Apply(image, ref random, pixels, crop);
    }
}
