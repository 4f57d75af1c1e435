using MimEngine.Kernels;

namespace MimEngine.Tests;

internal static partial class OpCases
{
    private static IEnumerable<OpCase> Dense()
    {
        (int M, int K, int N)[] small = [(1, 1, 1), (5, 37, 19), (33, 17, 65), (7, 64, 48), (2, 3, 130)];
        (int M, int K, int N)[] large = [(150, 192, 576), (131, 97, 193), (400, 33, 50), (16, 1030, 20)];
        foreach ((int m, int k, int n) in small.Concat(large))
            foreach (bool bias in s_noYes)
            {
                yield return Linear(new(m, k), n, bias);
                yield return LinearGelu(m, k, n, bias);
            }
        yield return Linear(new(2, 5, 16), 24, true);
        foreach ((int m, int k, int n) in small.Concat(large).Append((97, 200, 1030)).Append((40, 1100, 70)))
        {
            yield return LinearGeluBackward(m, k, n);
            yield return LinearGeluBackward(m, k, n).Halves("dh", "dy", "w", "h").Within(1e-2);
            yield return LinearGeluBackward(m, k, n).Halves("dh", "w", "h").Within(1e-2);
        }
        foreach ((int m, int k, int n) in small.Concat(large))
        {
            // Inside a block; its last product; the patches' and the pixels', which are outside of one.
            yield return Linear(new(m, k), n, true).Halves("x", "w", "y", "dx", "dy");
            yield return Linear(new(m, k), n, false).Halves("x", "w", "dx").SummandsOf("x", 1);
            yield return Linear(new(m, k), n, true).Halves("w");
            yield return Linear(new(m, k), n, true).Halves("y", "dx");
            yield return LinearGelu(m, k, n, true).Halves("x", "w", "y", "h", "dx", "dy", "dh").Within(1e-2);
        }
        foreach (bool bias in s_noYes)
            foreach (bool gamma in s_noYes)
                foreach (bool rows in s_noYes)
                {
                    yield return LinearResidual(3, 2, 17, 21, bias, gamma, rows);
                    yield return LinearResidualInPlace(3, 2, 17, 21, bias, gamma, rows);
                }
        yield return LinearResidual(4, 37, 96, 130, true, true, true);
        yield return LinearResidualInPlace(4, 37, 96, 130, true, true, true);
        yield return LinearResidual(4, 37, 96, 130, true, true, true).Halves("x", "dx", "branch", "scaled").Within(1e-2);
        yield return LinearResidual(4, 37, 96, 130, true, false, true).Halves("x", "w", "dx", "branch").Within(1e-2);
        yield return LinearResidualInPlace(4, 37, 96, 130, true, false, true).Halves("x", "w");
        foreach (int n in new[] { 1, 37, 900, 30_000 })
        {
            yield return Gelu(n, Draws.Normal(0, 1.5));
            yield return GeluBackwardInPlace(n);
            yield return Gelu(n, Draws.Normal(0, 1.5)).Halves("x", "y", "dx", "dy");
            yield return GeluBackwardInPlace(n).Halves("x", "g");
        }
        yield return new OpCase("gelu of special values")
            .Input("x", new(7, 19), Draws.NormalWith(0, -0.0, 1e-30, -1e-30, 8, -8, 30, -30, 1e4, -1e4))
            .Output("y", new(7, 19)).Run((b, o) => b.GeluForward(o["y"], o["x"]))
            .Back((b, o) => b.GeluBackward(o.Grad("dx"), o["dy"], o["x"]));
        foreach (bool gamma in s_noYes)
            foreach (bool rows in s_noYes)
            {
                yield return ScaleAdd(3, 2, 37, gamma, rows);
                yield return ScaleAdd(8, 40, 128, gamma, rows);
                foreach (bool scaled in s_noYes) yield return ScaleAddBackward(3, 5, 37, gamma, rows, scaled);
            }
        yield return ScaleAddBackward(8, 40, 128, true, true, true);
        foreach (bool scaled in s_noYes) yield return ScaleAddBackward(3, 5, 37, true, true, scaled).Halves("branch", "scaled");
        foreach (bool bias in s_noYes)
        {
            yield return LayerScaleBackward(1, 1, bias);
            yield return LayerScaleBackward(19, 37, bias);
            yield return LayerScaleBackward(200, 300, bias);
        }
    }

    private static IEnumerable<Edge> DenseEdges() =>
    [
        new("linear, n inputs", n => Linear(new(3, n), 5, n % 2 == 0)),
        new("linear, n outputs", n => Linear(new(3, 7), n, n % 2 == 0)),
        new("linear, n rows", n => Linear(new(n, 5), 4, n % 2 == 0)),
        new("linear, n by n to n", n => Linear(new(n, n), n, true), 66),
        new("linear-gelu, n outputs", n => LinearGelu(3, 5, n, n % 2 == 0)),
        new("linear-gelu, n rows", n => LinearGelu(n, 3, 5, true)),
        new("linear-gelu-backward, n outputs", n => LinearGeluBackward(3, n, 5)),
        new("linear-gelu-backward, n rows", n => LinearGeluBackward(n, 3, 5)),
        new("linear-gelu-backward in bf16, n outputs", n => LinearGeluBackward(3, n, 6).Halves("dh", "dy", "w", "h").Within(1e-2)),
        new("linear-residual, n outputs", n => LinearResidual(2, 2, 5, n, true, true, true)),
        new("linear-residual in place, n outputs", n => LinearResidualInPlace(2, 2, 5, n, true, true, true)),
        new("linear-residual, n rows", n => LinearResidual(n, 1, 3, 6, false, true, true)),
        new("gelu", n => Gelu(n, Draws.Normal(0, 3))),
        new("gelu-backward in place", GeluBackwardInPlace),
        new("linear in bf16, n inputs", n => Linear(new(3, n), 5, n % 2 == 0).Halves("x", "w", "y", "dx", "dy")),
        new("linear in bf16, n outputs", n => Linear(new(3, 7), n, n % 2 == 0).Halves("x", "w", "y", "dx", "dy")),
        // db adds three of dh, about a half each and rounded to bfloat16 first; they may cancel.
        new("linear-gelu in bf16, n outputs",
            n => LinearGelu(3, 5, n, n % 2 == 0).SummandsOf("b", 0.5).Halves("x", "w", "y", "h", "dx", "dy", "dh").Within(1e-2)),
        new("linear-residual in bf16, n outputs", n => LinearResidual(2, 2, 5, n, true, false, true).Halves("x", "w", "dx", "branch").Within(1e-2)),
        new("gelu in bf16", n => Gelu(n, Draws.Normal(0, 3)).Halves("x", "y", "dx", "dy")),
        new("scale-add-backward in bf16", n => ScaleAddBackward(2, 2, n, true, true, true).Halves("branch", "scaled")),
        new("scale-add", n => ScaleAdd(2, 1, n, true, true)),
        new("scale-add-backward", n => ScaleAddBackward(2, 2, n, true, true, true)),
        new("layer-scale-backward", n => LayerScaleBackward(3, n, true)),
        new("layer-scale-backward, n rows", n => LayerScaleBackward(n, 3, true)),
    ];

    internal static OpCase Linear(Shape x, int n, bool bias)
    {
        Shape y = x.Rank == 3 ? new(x.D0, x.D1, n) : new(x.D0, n);
        return new OpCase($"linear {x} to {n}" + With((bias, "bias")))
            .Input("x", x).Input("w", new(n, x.Cols)).When(bias, c => c.Input("b", new(n))).Output("y", y)
            .Run((b, o) => b.LinearForward(o["y"], o["x"], o["w"], o.Maybe("b")))
            .Back((b, o) => b.LinearBackward(o.Grad("dx"), o.Grad("dw"), o.Grad("db"), o["dy"], o["x"], o["w"]));
    }

    internal static OpCase LinearGelu(int m, int k, int n, bool bias)
        => new OpCase($"linear-gelu ({m}, {k}) to {n}" + With((bias, "bias")))
            .Input("x", new(m, k)).Input("w", new(n, k), Draws.Normal(0, 1 / Math.Sqrt(k))).When(bias, c => c.Input("b", new(n)))
            .Output("y", new(m, n)).Output("h", new(m, n)).BackwardOutput("dh", new(m, n))
            .Run((b, o) => b.LinearGeluForward(o["y"], o["h"], o["x"], o["w"], o.Maybe("b")))
            .Back((b, o) =>
            {
                b.GeluBackward(Grad.Write(o["dh"]), o["dy"], o["h"]);
                b.LinearBackward(o.Grad("dx"), o.Grad("dw"), o.Grad("db"), o["dh"], o["x"], o["w"]);
            });

    internal static OpCase LinearGeluBackward(int m, int k, int n)
        => new OpCase($"linear-gelu-backward ({m}, {n}) to {k}").Input("dy", new(m, n)).Input("w", new(n, k), Draws.Normal(0, 1 / Math.Sqrt(n)))
            .Input("h", new(m, k), Draws.Normal(0, 1.5)).Output("dh", new(m, k)).Run((b, o) => b.LinearGeluBackward(o["dh"], o["dy"], o["w"], o["h"]));

    /// <summary>images groups of rows with one row scale each; the backward as the tape wires it.</summary>
    internal static OpCase LinearResidual(int images, int tokens, int k, int n, bool bias, bool gamma, bool rowScale)
    {
        int m = images * tokens;
        OpCase c = new OpCase($"linear-residual ({images}·{tokens}, {k}) to {n}" + With((bias, "bias"), (gamma, "gamma"), (rowScale,
            "row scale")))
            .Input("x", new(m, k)).Input("w", new(n, k)).When(bias, c => c.Input("b", new(n)))
            .When(gamma, c => c.Input("gamma", new(n))).When(rowScale, c => c.Constant("rows", new(images), Draws.DropPath(0.7)))
            .Input("r", new(m, n)).Output("y", new(m, n))
            .Run((b, o) => b.LinearResidualForward(o["y"], o["x"], o["w"], o.Maybe("b"), o["r"], o.Maybe("gamma"), o.Maybe("rows")))
            .BackwardOutput("branch", new(m, n));
        if (!gamma)
            return c.Back((b, o) =>
            {
                AddTo(b, o.Grad("dr"), o["dy"]);
                b.ScaleAddBackward(o["branch"], null, o["dy"], null, o.Maybe("rows"));
                b.LinearBackward(o.Grad("dx"), o.Grad("dw"), o.Grad("db"), o["branch"], o["x"], o["w"]);
            });
        return c.BackwardOutput("scaled", new(m, n)).BackwardOutput("raw", new(n, k)).BackwardOutput("rawBias", new(n)).Back((b, o) =>
        {
            AddTo(b, o.Grad("dr"), o["dy"]);
            b.ScaleAddBackward(o["branch"], o["scaled"], o["dy"], o["gamma"], o.Maybe("rows"));
            b.LinearBackward(o.Grad("dx"), Grad.None, Grad.None, o["branch"], o["x"], o["w"]);
            b.LinearBackward(Grad.None, Grad.Write(o["raw"]), Grad.Write(o["rawBias"]), o["scaled"], o["x"], o["w"]);
            b.LayerScaleBackward(o.Grad("dgamma"), o.Grad("dw"), o.Grad("db"), o["raw"], o["rawBias"], o["w"], o.Maybe("b"), o["gamma"]);
        });
    }

    private static OpCase LinearResidualInPlace(int images, int tokens, int k, int n, bool bias, bool gamma, bool rowScale)
        => new OpCase($"linear-residual in place ({images}·{tokens}, {k}) to {n}" + With((bias, "bias"), (gamma, "gamma"), (rowScale,
            "row scale")))
            .Input("x", new(images * tokens, k)).Input("w", new(n, k)).When(bias, c => c.Input("b", new(n)))
            .When(gamma, c => c.Input("gamma", new(n))).When(rowScale, c => c.Input("rows", new(images), Draws.DropPath(0.7)))
            .Update("y", new(images * tokens, n))
            .Run((b, o) => b.LinearResidualForward(o["y"], o["x"], o["w"], o.Maybe("b"), o["y"], o.Maybe("gamma"), o.Maybe("rows")));

    private static void AddTo(Backend b, Grad g, Tensor x)
    {
        if (g.Wanted) b.AddScaled(g.Into, x, 1, g.Accumulate ? 1 : 0);
    }

    private static OpCase Gelu(int n, Draw draw) => new OpCase($"gelu {n}").Input("x", new(n), draw).Output("y", new(n))
        .Run((b, o) => b.GeluForward(o["y"], o["x"])).Back((b, o) => b.GeluBackward(o.Grad("dx"), o["dy"], o["x"]));

    internal static OpCase GeluBackwardInPlace(int n) => new OpCase($"gelu-backward in place {n}").Update("g", new(n)).Input("x", new(n))
        .Run((b, o) => b.GeluBackward(Grad.Write(o["g"]), o["g"], o["x"]));

    private static OpCase ScaleAdd(int images, int tokens, int n, bool gamma, bool rowScale)
        => new OpCase($"scale-add ({images}·{tokens}, {n})" + With((gamma, "gamma"), (rowScale, "row scale")))
            .Update("y", new(images * tokens, n)).Input("r", new(images * tokens, n))
            .When(gamma, c => c.Input("gamma", new(n))).When(rowScale, c => c.Input("rows", new(images), Draws.DropPath(0.7)))
            .Run((b, o) => b.ScaleAddForward(o["y"], o["r"], o.Maybe("gamma"), o.Maybe("rows")));

    internal static OpCase ScaleAddBackward(int images, int tokens, int n, bool gamma, bool rowScale, bool scaled)
        => new OpCase($"scale-add-backward ({images}·{tokens}, {n})" + With((gamma, "gamma"), (rowScale, "row scale"), (scaled, "scaled")))
            .Input("dy", new(images * tokens, n)).Output("branch", new(images * tokens, n))
            .When(scaled, c => c.Output("scaled", new(images * tokens, n)))
            .When(gamma, c => c.Input("gamma", new(n))).When(rowScale, c => c.Input("rows", new(images), Draws.DropPath(0.7)))
            .Run((b, o) => b.ScaleAddBackward(o["branch"], o.Maybe("scaled"), o["dy"], o.Maybe("gamma"), o.Maybe("rows")));

    private static OpCase LayerScaleBackward(int n, int k, bool bias)
        => new OpCase($"layer-scale-backward ({n}, {k})" + With((bias, "bias")))
        .Input("raw", new(n, k)).Input("rawBias", new(n)).Input("w", new(n, k)).When(bias, c => c.Input("b", new(n))).Input("gamma", new(n))
        .Gradient("dgamma", new(n)).Gradient("dw", new(n, k)).Gradient("db", new(n))
        .Run((b, o) => b.LayerScaleBackward(o.Grad("dgamma"), o.Grad("dw"), o.Grad("db"), o["raw"], o["rawBias"], o["w"], o.Maybe("b"),
        o["gamma"]));
}
