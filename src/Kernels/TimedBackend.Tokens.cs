namespace MimEngine.Kernels;

public sealed partial class TimedBackend
{
    public override void Patchify(Tensor patches, Tensor images, int patch, PixelOrder order)
    {
        long start = Start();
        inner.Patchify(patches, images, patch, order);
        Stop(start, Moved(nameof(Patchify), patches, images), patches.Shape);
    }

    public override void Unpatchify(Tensor images, Tensor patches, int patch, PixelOrder order)
    {
        long start = Start();
        inner.Unpatchify(images, patches, patch, order);
        Stop(start, Moved(nameof(Unpatchify), patches, images), patches.Shape);
    }

    public override void AssembleTokensForward(Tensor y, Tensor x, Tensor? cls, Tensor? mask, Tensor? hidden, Tensor? pos)
    {
        long start = Start();
        inner.AssembleTokensForward(y, x, cls, mask, hidden, pos);
        Stop(start, Moved(nameof(AssembleTokensForward), y, x, hidden, pos), y.Shape);
    }

    public override void AssembleTokensBackward(Grad dx, Grad dcls, Grad dmask, Grad dpos, Tensor dy, Tensor? hidden)
    {
        long start = Start();
        inner.AssembleTokensBackward(dx, dcls, dmask, dpos, dy, hidden);
        Stop(start, Moved(nameof(AssembleTokensBackward), Of(dx), Of(dpos), dy, hidden), dy.Shape);
    }

    public override void SliceTokensForward(Tensor y, Tensor x, int first)
    {
        long start = Start();
        inner.SliceTokensForward(y, x, first);
        Stop(start, Moved(nameof(SliceTokensForward), y, y), y.Shape);
    }

    public override void SliceTokensBackward(Grad dx, Tensor dy, int first)
    {
        long start = Start();
        inner.SliceTokensBackward(dx, dy, first);
        Stop(start, Moved(nameof(SliceTokensBackward), Of(dx), dy), dy.Shape);
    }

    public override void MeanTokensForward(Tensor y, Tensor x, int first)
    {
        long start = Start();
        inner.MeanTokensForward(y, x, first);
        Stop(start, Moved(nameof(MeanTokensForward), y, x), x.Shape);
    }

    public override void MeanTokensBackward(Grad dx, Tensor dy, int first)
    {
        long start = Start();
        inner.MeanTokensBackward(dx, dy, first);
        Stop(start, Moved(nameof(MeanTokensBackward), Of(dx), dy), dy.Shape);
    }

    public override void GatherVisibleForward(Tensor y, Tensor x, Tensor hidden)
    {
        long start = Start();
        inner.GatherVisibleForward(y, x, hidden);
        Stop(start, Moved(nameof(GatherVisibleForward), y, y, hidden), y.Shape);
    }

    public override void GatherVisibleBackward(Grad dx, Tensor dy, Tensor hidden)
    {
        long start = Start();
        inner.GatherVisibleBackward(dx, dy, hidden);
        Stop(start, Moved(nameof(GatherVisibleBackward), Of(dx), dy, hidden), dy.Shape);
    }

    public override void ScatterVisibleForward(Tensor y, Tensor x, Tensor mask, Tensor hidden)
    {
        long start = Start();
        inner.ScatterVisibleForward(y, x, mask, hidden);
        Stop(start, Moved(nameof(ScatterVisibleForward), y, x, hidden), y.Shape);
    }

    public override void ScatterVisibleBackward(Grad dx, Grad dmask, Tensor dy, Tensor hidden)
    {
        long start = Start();
        inner.ScatterVisibleBackward(dx, dmask, dy, hidden);
        Stop(start, Moved(nameof(ScatterVisibleBackward), Of(dx), dy, hidden), dy.Shape);
    }

    public override void PoolTokensForward(Tensor y, Tensor x, Tensor w)
    {
        long start = Start();
        inner.PoolTokensForward(y, x, w);
        Stop(start, Moved(nameof(PoolTokensForward), y, x, w), x.Shape);
    }

    public override void PoolTokensBackward(Grad dx, Grad dw, Tensor dy, Tensor x, Tensor w)
    {
        long start = Start();
        inner.PoolTokensBackward(dx, dw, dy, x, w);
        Stop(start, Moved(nameof(PoolTokensBackward), Of(dx), Of(dw), dy, x, w), x.Shape);
    }
}
