namespace MimEngine.Kernels;

public sealed partial class TimedBackend
{
    public override void AttentionForward(Tensor y, Tensor lse, Tensor qkv, int heads, Tensor? bias)
    {
        long start = Start();
        inner.AttentionForward(y, lse, qkv, heads, bias);
        Stop(start, OpCost.AttentionForward(y.Shape.D0, y.Shape.D1, y.Shape.D2, heads, Size(qkv)), y.Shape);
    }

    public override void AttentionBackward(Grad dqkv, Grad dbias, Tensor dy, Tensor y, Tensor lse, Tensor qkv, int heads, Tensor? bias)
    {
        long start = Start();
        inner.AttentionBackward(dqkv, dbias, dy, y, lse, qkv, heads, bias);
        Stop(start, OpCost.AttentionBackward(y.Shape.D0, y.Shape.D1, y.Shape.D2, heads, Size(qkv)), y.Shape);
    }

    public override void RelativePositionBiasForward(Tensor bias, Tensor table, int grid)
    {
        long start = Start();
        inner.RelativePositionBiasForward(bias, table, grid);
        Stop(start, Moved(nameof(RelativePositionBiasForward), bias, table), bias.Shape);
    }

    public override void RelativePositionBiasBackward(Grad dtable, Tensor dbias, int grid)
    {
        long start = Start();
        inner.RelativePositionBiasBackward(dtable, dbias, grid);
        Stop(start, Moved(nameof(RelativePositionBiasBackward), Of(dtable), dbias), dbias.Shape);
    }

    public override void AttentionProbabilities(Tensor p, Tensor qkv, int heads, Tensor? bias)
    {
        long start = Start();
        inner.AttentionProbabilities(p, qkv, heads, bias);
        Stop(start, Moved(nameof(AttentionProbabilities), p, qkv, bias), p.Shape);
    }

    public override void ClsAttention(Tensor a, Tensor qkv, int heads, Tensor? bias)
    {
        long start = Start();
        inner.ClsAttention(a, qkv, heads, bias);
        Stop(start, OpCost.ClsAttention(qkv.Shape.D0, qkv.Shape.D1, qkv.Shape.D2 / 3, heads), a.Shape);
    }

    public override void MixAttentionForward(Tensor w, Tensor sums, Tensor attention, Tensor mix, float gain, bool renormalise, float eps)
    {
        long start = Start();
        inner.MixAttentionForward(w, sums, attention, mix, gain, renormalise, eps);
        Stop(start, Moved(nameof(MixAttentionForward), w, attention), attention.Shape);
    }

    public override void MixAttentionBackward(Grad dattention, Tensor dw, Tensor w, Tensor sums, Tensor mix, float gain, bool renormalise)
    {
        long start = Start();
        inner.MixAttentionBackward(dattention, dw, w, sums, mix, gain, renormalise);
        Stop(start, Moved(nameof(MixAttentionBackward), Of(dattention), dw, w), w.Shape);
    }
}
