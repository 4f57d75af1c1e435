using MimEngine.Kernels;

namespace MimEngine.Tests;

internal static partial class OpCases
{
    private static IEnumerable<OpCase> Distillation()
    {
        foreach (bool gain in s_noYes)
            foreach ((int m, int c) in new[] { (1, 1), (5, 37), (40, 16), (600, 70) })
            {
                yield return L2Normalize(m, c, gain, 1e-12f, Draws.Normal());
                // Rows of length below eps are divided by eps, and their gradient has no second term.
                yield return L2Normalize(m, c, gain, 1e3f, Draws.Normal());
            }
        foreach ((int m, int c) in new[] { (1, 3), (7, 37), (130, 300), (600, 48) }) yield return ScaleShift(m, c);
        foreach (bool weights in s_noYes)
            foreach ((int m, int k) in new[] { (1, 2), (5, 37), (64, 16), (30, 1000) })
                yield return TeacherTargets(m, k, weights, 0.5f, Draws.Normal());
        yield return TeacherTargets(4, 40, true, 0.04f, Draws.Normal(0, 0.3));   // sharp: most of the mass on a few
        foreach (ViewPairing pairing in Enum.GetValues<ViewPairing>())
            foreach (bool weights in s_noYes)
                foreach ((int v, int q, int first, int m, int k) in
                    new[] { (2, 2, 0, 3, 7), (2, 2, 0, 5, 37), (3, 2, 0, 4, 16), (2, 3, 1, 2, 19), (1, 1, 0, 2, 5), (2, 2, 0, 40, 300) })
                    yield return Distill(v, q, first, m, k, pairing, weights);
        yield return Distill(6, 2, 2, 5, 33, ViewPairing.Cross, false);   // local crops: every teacher view is another one
        yield return Distill(2, 2, 0, 3, 33, ViewPairing.Same, true, Draws.Normal(200, 30));
        yield return new OpCase("distill without its gradient").Input("student", new(6, 21)).Input("targets", new(6, 21), Draws.Distributions())
            .Output("loss", new(1))
            .Run((b, o) => b.DistillLoss(o["loss"], null, o["student"], o["targets"], null, 3, 0, ViewPairing.Cross, 0.1f, 1f));
        foreach (float momentum in new[] { 0.9f, 0f })
            foreach ((int m, int k) in new[] { (1, 1), (6, 37), (129, 300), (1000, 40) }) yield return Center(m, k, momentum);
        yield return new OpCase("center over NaN").Output("center", new(37)).Input("x", new(6, 37))
            .Run((b, o) => b.UpdateCenter(o["center"], o["x"], 0f));
    }

    private static IEnumerable<Edge> DistillEdges() =>
    [
        new("l2-normalize", n => L2Normalize(3, n, n % 2 == 0, n % 3 == 0 ? 1e3f : 1e-12f, Draws.Normal(0.5, 1))),
        new("l2-normalize, n rows", n => L2Normalize(n, 5, true, 1e-12f, Draws.Normal())),
        new("scale-shift", n => ScaleShift(3, n)),
        new("scale-shift, n rows", n => ScaleShift(n, 5)),
        new("teacher targets", n => TeacherTargets(3, n, n % 2 == 0, 0.5f, Draws.Normal(0, 2))),
        new("distill", n => Distill(2, 2, 0, 2, n, ViewPairing.Cross, false)),
        new("distill the same view", n => Distill(2, 2, 0, 2, n, ViewPairing.Same, true)),
        new("distill without its gradient", n => new OpCase($"distill {n} without its gradient").Input("student", new(4, n))
            .Input("targets", new(4, n), Draws.Distributions()).Output("loss", new(1))
            .Run((b, o) => b.DistillLoss(o["loss"], null, o["student"], o["targets"], null, 2, 0, ViewPairing.Same, 0.5f, 1f))),
        new("center", n => Center(5, n, 0.9f)),
        new("center, n rows", n => Center(n, 5, 0.9f)),
    ];

    private static OpCase L2Normalize(int m, int c, bool gain, float eps, Draw x)
        => new OpCase($"l2-normalize ({m}, {c}) eps {eps:g}{With((gain, "gains"))}").Input("x", new(m, c), x)
            .When(gain, o => o.Input("gain", new(m), Draws.Normal(1, 0.5)))
            .Output("y", new(m, c)).Output("norms", new(m))
            // A row of one number has no direction to lose: its gradient is the difference of equal numbers.
            .SummandsOf("x", eps < 1 && c == 1 ? 1 : 0)
            .Run((b, o) => b.L2NormalizeForward(o["y"], o["norms"], o["x"], o.Maybe("gain"), eps))
            .Back((b, o) => b.L2NormalizeBackward(o.Grad("dx"), o.Grad("dgain"), o["dy"], o["x"], o["norms"], o.Maybe("gain"), eps));

    private static OpCase ScaleShift(int m, int c) => new OpCase($"scale-shift ({m}, {c})").Input("x", new(m, c))
        .Input("gamma", new(c), Draws.Normal(1, 0.3)).Input("beta", new(c)).Output("y", new(m, c))
        .Run((b, o) => b.ScaleShiftForward(o["y"], o["x"], o["gamma"], o["beta"]))
        .Back((b, o) => b.ScaleShiftBackward(o.Grad("dx"), o.Grad("dgamma"), o.Grad("dbeta"), o["dy"], o["x"], o["gamma"]));

    private static OpCase TeacherTargets(int m, int k, bool weights, float temperature, Draw logits)
        => new OpCase($"teacher targets ({m}, {k}) at {temperature:g}{With((weights, "weights"))}")
            .Constant("logits", new(m, k), logits).Constant("center", new(k), Draws.Normal(0, 0.5))
            .When(weights, o => o.Constant("weights", new(m), Draws.Integers(0, 2)))
            .Output("targets", new(m, k)).Output("entropy", new(1))
            .Run((b, o) => b.TeacherTargets(o["targets"], o["entropy"], o["logits"], o["center"], o.Maybe("weights"), temperature));

    private static OpCase Distill(int v, int q, int first, int m, int k, ViewPairing pairing, bool weights, Draw? student = null)
        => new OpCase($"distill {v} views from {first} on {q} of {m} rows, {k} prototypes, {pairing}"
                + With((weights, "weights"), (student is not null, "large logits")))
            .Input("student", new(v * m, k), student ?? Draws.Normal()).Constant("targets", new(q * m, k), Draws.Distributions())
            .When(weights, o => o.Constant("weights", new(v * m), Draws.Integers(0, 2)))
            .Output("loss", new(1)).Output("dstudent", new(v * m, k))
            .Run((b, o) => b.DistillLoss(o["loss"], o["dstudent"], o["student"], o["targets"], o.Maybe("weights"), m, first, pairing, 0.5f, 0.7f))
            .Loss("loss", "dstudent", "student");

    private static OpCase Center(int m, int k, float momentum) => new OpCase($"center of ({m}, {k}) at momentum {momentum:g}")
        .Update("center", new(k)).Input("x", new(m, k)).Run((b, o) => b.UpdateCenter(o["center"], o["x"], momentum));
}
