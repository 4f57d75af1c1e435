namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    public override void Patchify(Tensor patches, Tensor images, int patch, PixelOrder order) => throw new NotImplementedException();
    public override void Unpatchify(Tensor images, Tensor patches, int patch, PixelOrder order) => throw new NotImplementedException();
    public override void AssembleTokensForward(Tensor y, Tensor x, Tensor? cls, Tensor? mask, Tensor? hidden,
        Tensor? pos) => throw new NotImplementedException();
    public override void AssembleTokensBackward(Grad dx, Grad dcls, Grad dmask, Grad dpos, Tensor dy,
        Tensor? hidden) => throw new NotImplementedException();
    public override void SliceTokensForward(Tensor y, Tensor x, int first) => throw new NotImplementedException();
    public override void SliceTokensBackward(Grad dx, Tensor dy, int first) => throw new NotImplementedException();
    public override void MeanTokensForward(Tensor y, Tensor x, int first) => throw new NotImplementedException();
    public override void MeanTokensBackward(Grad dx, Tensor dy, int first) => throw new NotImplementedException();
}
