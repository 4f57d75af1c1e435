using MimEngine.Kernels;

namespace MimEngine.Engine.Autograd;

public static partial class Ops
{
    /// <summary>(prefix + from, C) positions at another grid, bicubic; gradients flow back to the table.</summary>
    public static Value ResizePositions(this Tape t, Value table, in GridResize resize)
    {
        int cols = table.Shape.Cols;
        if (table.Shape.Count != (long)resize.From * cols)
            throw new ArgumentException($"ResizePositions: the table is {table.Shape}; it must have {resize.Prefix} + {resize.FromRows}·{resize.FromColumns} rows.");
        int mark = t.Mark;
        Value y = t.New(new Shape(resize.To, cols), table.NeedsGrad);
        t.Backend.ResizePositionsForward(y.Data, table.Data, resize);
        t.Record<ResizePositionsNode>(y, mark)?.Set(table, resize);
        return y;
    }

    private sealed class ResizePositionsNode : Node
    {
        private Value _table = null!;
        private GridResize _resize;

        public void Set(Value table, GridResize resize) => (_table, _resize) = (table, resize);

        public override void Backward(Tape t) => t.Backend.ResizePositionsBackward(t.GradFor(_table), t.GradOf(Output), _resize);
    }
}
