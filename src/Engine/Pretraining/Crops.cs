using MimEngine.Kernels;

namespace MimEngine.Engine.Pretraining;

/// <summary>Crops of one size: bytes, and normalised.</summary>
internal readonly record struct Crops(Tensor Bytes, Tensor Images)
{
    public int Count => Images.Shape.D0;
}
