namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    public override void LinearForward(Tensor y, Tensor x, Tensor w, Tensor? b) => throw new NotImplementedException();
    public override void LinearBackward(Grad dx, Grad dw, Grad db, Tensor dy, Tensor x, Tensor w) => throw new NotImplementedException();
    public override void GeluForward(Tensor y, Tensor x) => throw new NotImplementedException();
    public override void GeluBackward(Grad dx, Tensor dy, Tensor x) => throw new NotImplementedException();
    public override void ScaleAddForward(Tensor y, Tensor residual, Tensor? gamma,
        Tensor? rowScale) => throw new NotImplementedException();
    public override void ScaleAddBackward(Tensor branch, Tensor? scaled, Tensor dy, Tensor? gamma,
        Tensor? rowScale) => throw new NotImplementedException();
    public override void LayerScaleBackward(Grad dgamma, Grad dw, Grad db, Tensor raw, Tensor rawBias, Tensor w, Tensor? b,
        Tensor gamma) => throw new NotImplementedException();
}
