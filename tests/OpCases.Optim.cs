using MimEngine.Kernels;

namespace MimEngine.Tests;

internal static partial class OpCases
{
    private static IEnumerable<OpCase> Optim()
    {
        // Gaps before, between and after: what no segment covers must keep its bits.
        UpdateSegment[] several =
        [
            new(3, 130, 1e-2f, 0.05f, 1), new(140, 1, 2e-2f, 0, 10, Trust: false), new(141, 257, 5e-3f, 0.1f, 1000),
            new(500, 64, 1e-1f, 0.3f, 2), new(564, 33, 1e-3f, 0, 1, Trust: false),
        ];
        UpdateSegment[] large = [new(0, 70_001, 1e-3f, 0.05f, 7), new(70_016, 9, 1e-3f, 0, 7, Trust: false), new(70_025, 29_975, 2e-3f,
            0.05f, 3)];
        // Gradients in another order than parameters and behind their slab, as they lie in an arena.
        UpdateSegment[] elsewhere =
            [several[0] with { GradientOffset = 900 }, several[1], several[2] with { GradientOffset = 0 }, several[3] with { GradientOffset = 1_100 }, several[4] with { GradientOffset = 651 }];
        foreach ((string name, int slab, UpdateSegment[] segments) in new[]
        {
            ("5 segments", 640, several), ("5 segments, gradients elsewhere", 640, elsewhere), ("large", 100_000, large),
        })
        {
            yield return Norms(name, slab, segments);
            foreach (bool scales in s_noYes)
            {
                yield return AdamW(name, slab, segments, scales);
                yield return Lars(name, slab, segments, scales);
                yield return Sgd(name, slab, segments, scales);
            }
            // What no segment covers keeps its bits in the copy too.
            yield return AdamW(name, slab, segments, true).Update("copy", new(slab)).Halves("copy");
            yield return Lars(name, slab, segments, true).Update("copy", new(slab)).Halves("copy");
            yield return Sgd(name, slab, segments, true).Update("copy", new(slab)).Halves("copy");
        }
        yield return new OpCase("LARS of zero parameters").Update("p", new(40), Draws.Constant(0)).Update("mu", new(40))
            .Input("gradient", new(40))
            .Run((b, o) => b.LarsStep(o["p"], o["mu"], o.Maybe("copy"), o["gradient"], null, [new(0, 40, 0.1f, 0.01f, 1)], 0.9f, 1e-3f));
        yield return new OpCase("LARS of a zero gradient").Update("p", new(40)).Update("mu", new(40))
            .Input("gradient", new(40), Draws.Constant(0))
            .Run((b, o) => b.LarsStep(o["p"], o["mu"], o.Maybe("copy"), o["gradient"], null, [new(0, 40, 0.1f, 0, 1)], 0.9f, 1e-3f));
        foreach (bool perSegment in s_noYes)
            foreach (float max in new[] { 0f, -1f, 0.5f, 1e6f }) yield return Clip(9, max, perSegment);
        yield return Clip(1, 1, false);
        yield return Clip(200, 3, true);
        // Norms so small that the 1e-6 beside them counts.
        yield return new OpCase("clip tiny norms").Input("norms", new(5), Draws.Uniform(0, 1e-11)).Output("scales", new(5)).Output("total",
            new(1))
            .Run((b, o) => b.ClipScales(o["scales"], o["total"], o["norms"], 1e-6f, true));
    }

    private static IEnumerable<Edge> OptimEdges() =>
    [
        new("squared norms", n => Norms("edge", n, Whole(n))),
        new("AdamW", n => AdamW("edge", n, Whole(n), n % 2 == 0)),
        new("LARS", n => Lars("edge", n, Whole(n), n % 2 == 0)),
        new("SGD", n => Sgd("edge", n, Whole(n), n % 2 == 0)),
        new("AdamW with a copy", n => AdamW("edge", n, Whole(n), n % 2 == 0).Update("copy", new(n)).Halves("copy")),
        new("SGD with a copy", n => Sgd("edge", n, Whole(n), n % 2 == 0).Update("copy", new(n)).Halves("copy")),
        new("clip scales", n => Clip(n, 1, n % 2 == 0)),
    ];

    private static UpdateSegment[] Whole(int n)
        => n < 3 ? [new(0, n, 1e-2f, 0.05f, 3)] : [new(0, n / 2, 1e-2f, 0.05f, 3), new(n / 2, n - n / 2, 1e-3f, 0, 1)];

    private static Shape Gradients(int slab, UpdateSegment[] segments)
        => new(Math.Max(slab, (int)segments.Max(s => s.GradientOffset + s.Length)));

    private static OpCase Norms(string name, int slab, UpdateSegment[] segments)
        => new OpCase($"squared norms of {slab}, {name}").Input("gradient", Gradients(slab, segments)).Output("norms", new(segments.Length))
            .Run((b, o) => b.SquaredNorms(o["norms"], o["gradient"], segments));

    private static OpCase Clip(int segments, float max, bool perSegment)
        => new OpCase($"clip {segments} at {max}{(perSegment ? ", each its own" : "")}").Input("norms", new(segments), Draws.Uniform(0, 4))
            .Output("scales", new(segments)).Output("total", new(1))
            .Run((b, o) => b.ClipScales(o["scales"], o["total"], o["norms"], max, perSegment));

    /// <summary>Small parameters and moments, and a large eps: no part of one step is lost beside another.</summary>
    private static OpCase Slabs(string name, int slab, UpdateSegment[] segments, bool scales)
        => new OpCase($"{name}{(scales ? ", scaled" : "")}").Update("p", new(slab), Draws.Normal(0, 1e-3)).Input("gradient", Gradients(slab, segments))
            .When(scales, c => c.Input("scales", new(segments.Length), Draws.Uniform(0.1, 1)));

    internal static OpCase AdamW(string name, int slab, UpdateSegment[] segments, bool scales)
        => Slabs($"AdamW of {slab}, {name}", slab, segments, scales).Update("m", new(slab), Draws.Normal(0, 1e-2))
            .Update("v", new(slab), Draws.Uniform(0, 1e-2))
            .Run((b, o) => b.AdamWStep(o["p"], o["m"], o["v"], o.Maybe("copy"), o["gradient"], o.Maybe("scales"), segments, 0.9f, 0.999f, 1e-2f));

    private static OpCase Lars(string name, int slab, UpdateSegment[] segments, bool scales)
        => Slabs($"LARS of {slab}, {name}", slab, segments, scales).Update("mu", new(slab))
            .Run((b, o) => b.LarsStep(o["p"], o["mu"], o.Maybe("copy"), o["gradient"], o.Maybe("scales"), segments, 0.9f, 1e-3f));

    private static OpCase Sgd(string name, int slab, UpdateSegment[] segments, bool scales)
        => Slabs($"SGD of {slab}, {name}", slab, segments, scales).Update("mu", new(slab))
            .Run((b, o) => b.SgdStep(o["p"], o["mu"], o.Maybe("copy"), o["gradient"], o.Maybe("scales"), segments, 0.9f));
}
