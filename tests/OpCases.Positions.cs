using MimEngine.Kernels;

namespace MimEngine.Tests;

internal static partial class OpCases
{
    private static IEnumerable<OpCase> Positions()
    {
        foreach (int prefix in new[] { 0, 1 })
            foreach ((int from, int rows, int columns, int c) in new[] { (4, 2, 2, 5), (3, 4, 5, 3), (14, 6, 6, 192), (1, 3, 2, 7) })
                yield return ResizePositions(GridResize.ByScale(prefix, from, rows, columns), c);
        yield return ResizePositions(new GridResize(1, 3, 5, 4, 2, 0.75f, 2.5f), 11);
    }

    private static IEnumerable<Edge> PositionEdges() =>
    [
        new("resize positions, n channels", n => ResizePositions(GridResize.ByScale(1, 3, 2, 4), n)),
        new("resize positions, n cells a side", n => ResizePositions(GridResize.ByScale(1, 4, n, n), 3), 12),
    ];

    private static OpCase ResizePositions(GridResize resize, int c)
        => new OpCase($"resize positions {resize.Prefix} + {resize.FromRows}×{resize.FromColumns} to {resize.Rows}×{resize.Columns}, {c} wide")
            .Input("table", new(resize.From, c)).Output("y", new(resize.To, c))
            .Run((k, o) => k.ResizePositionsForward(o["y"], o["table"], resize))
            .Back((k, o) => { if (o.Grad("dtable") is { Wanted: true } dtable) k.ResizePositionsBackward(dtable, o["dy"], resize); });
}
