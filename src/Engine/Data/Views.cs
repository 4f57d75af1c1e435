using MimEngine.Engine.Imaging;
using MimEngine.Kernels;

namespace MimEngine.Engine.Data;

/// <summary>
/// How one decoded picture becomes the crops of a sample: how many, how large, and who cuts them. Views 0 … Count − 1 are global crops,
/// Count … Count + LocalCount − 1 local ones, which have a size of their own.
/// </summary>
public interface IViews
{
    /// <summary>Global crops of each picture, V; at least 1.</summary>
    int Count { get; }

    /// <summary>Pixels of a global crop a side, S.</summary>
    int Size { get; }

    /// <summary>Local crops of each picture; often none.</summary>
    int LocalCount => 0;

    /// <summary>Pixels of a local crop a side, s.</summary>
    int LocalSize => 0;

    /// <summary>A marker of crops for one thread, where something needs marks of global crops from the host; else none.</summary>
    CropMarker? NewMarker() => null;

    /// <summary>A cutter for one thread; it owns the scratch memory that cutting needs.</summary>
    IViewCutter NewCutter();
}

/// <summary>Cuts crops on one thread. Allocates nothing once its scratch has grown to the largest picture.</summary>
public interface IViewCutter
{
    /// <summary>Cuts view number <paramref name="view"/>.</summary>
    /// <param name="crop">(3, S, S) or, for a local view, (3, s, s) u8, planar, written.</param>
    /// <param name="random">The view's own numbers; everything random is drawn from here.</param>
    void Cut(Span<byte> crop, RgbImage image, int view, ref RngSequence random);
}
