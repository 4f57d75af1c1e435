namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    public override void LayerNormForward(Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor gamma, Tensor beta,
        float eps) => throw new NotImplementedException();
    public override void LayerNormBackward(Grad dx, Grad dgamma, Grad dbeta, Tensor dy, Tensor x, Tensor mean, Tensor rstd,
        Tensor gamma) => throw new NotImplementedException();
    public override void SoftmaxForward(Tensor y, Tensor x) => throw new NotImplementedException();
    public override void SoftmaxBackward(Grad dx, Tensor dy, Tensor y) => throw new NotImplementedException();
    public override void BatchNormForward(Tensor y, Tensor mean, Tensor rstd, Tensor runningMean, Tensor runningVariance,
        Tensor x, float eps, float momentum, bool training) => throw new NotImplementedException();
    public override void BatchNormBackward(Grad dx, Tensor dy, Tensor x, Tensor mean, Tensor rstd,
        bool training) => throw new NotImplementedException();
}
