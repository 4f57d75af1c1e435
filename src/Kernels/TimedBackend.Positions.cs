namespace MimEngine.Kernels;

public sealed partial class TimedBackend
{
    public override void ResizePositionsForward(Tensor y, Tensor table, in GridResize resize)
    {
        long start = Start();
        inner.ResizePositionsForward(y, table, resize);
        Stop(start, OpCost.ResizePositionsForward(table.Shape.Rows, y.Shape.Rows, y.Shape.Cols), y.Shape);
    }

    public override void ResizePositionsBackward(Grad dtable, Tensor dy, in GridResize resize)
    {
        long start = Start();
        inner.ResizePositionsBackward(dtable, dy, resize);
        Stop(start, OpCost.ResizePositionsBackward(resize.From, dy.Shape.Rows, dy.Shape.Cols), dy.Shape);
    }
}
