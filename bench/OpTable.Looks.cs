using MimEngine.Kernels;

namespace MimEngine.Bench;

internal static partial class OpTable
{
    /// <summary>What teachers and small crops add: [cls]'s attention, positions of a grid of another size.</summary>
    private static IEnumerable<OpBenchCase> Looks(BenchModel v)
    {
        int c = v.Width, t = v.Tokens, b = v.Batch, h = v.Heads, small = Math.Max(1, v.Grid * 3 / 7);
        GridResize resize = GridResize.ByScale(1, v.Grid, small, small);
        yield return new(v, "", OpCost.ClsAttention(b, t, c, h), (x, o) =>
        {
            (Tensor a, Tensor qkv) = (o.New(b, t - 1), o.New(new Shape(b, t, 3 * c), 1));
            return () => x.ClsAttention(a, qkv, h, null);
        });
        yield return new(v, "", OpCost.ResizePositionsForward(resize.From, resize.To, c), (x, o) =>
        {
            (Tensor y, Tensor table) = (o.New(resize.To, c), o.New(resize.From, c));
            return () => x.ResizePositionsForward(y, table, resize);
        });
        yield return new(v, "", OpCost.ResizePositionsBackward(resize.From, resize.To, c), (x, o) =>
        {
            (Tensor dtable, Tensor dy) = (o.New(resize.From, c), o.New(resize.To, c));
            return () => x.ResizePositionsBackward(Grad.Write(dtable), dy, resize);
        });
    }
}
