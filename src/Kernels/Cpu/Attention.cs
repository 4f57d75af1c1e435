namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    public override void AttentionForward(Tensor y, Tensor lse, Tensor qkv, int heads,
        Tensor? bias) => throw new NotImplementedException();
    public override void AttentionBackward(Grad dqkv, Grad dbias, Tensor dy, Tensor y, Tensor lse, Tensor qkv, int heads,
        Tensor? bias) => throw new NotImplementedException();
    public override void RelativePositionBiasForward(Tensor bias, Tensor table, int grid) => throw new NotImplementedException();
    public override void RelativePositionBiasBackward(Grad dtable, Tensor dbias, int grid) => throw new NotImplementedException();
}
