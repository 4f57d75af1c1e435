using MimEngine.Kernels;

namespace MimEngine.Tests;

internal static partial class OpCases
{
    private static IEnumerable<OpCase> Norm()
    {
        (int M, int C)[] shapes = [(5, 37), (3, 64), (1, 16), (40, 19), (300, 384), (1000, 48)];
        foreach ((int m, int c) in shapes)
        {
            yield return LayerNorm(m, c, 1e-6f, Draws.Normal(0.5, 2));
            yield return LayerNorm(m, c, 1e-6f, Draws.Normal(0.5, 2)).Halves("y", "dy");
            yield return Softmax(m, c, Draws.Normal(0, 3));
        }
        yield return LayerNorm(7, 33, 1e-12f, Draws.Normal(10, 1));
        yield return LayerNorm(6, 35, 0.5f, Draws.Normal(0, 1));
        yield return LayerNorm(9, 130, 1e-5f, Draws.NormalWith(30, -30));
        yield return Softmax(6, 21, Draws.NormalWith(double.NegativeInfinity, 80, -80));
        yield return Softmax(6, 40, Draws.Normal(1000, 30));
        yield return new OpCase("softmax of nothing but -infinity").Input("x", new(3, 19), Draws.Constant(double.NegativeInfinity))
            .Output("y", new(3, 19)).Run((b, o) => b.SoftmaxForward(o["y"], o["x"]));
        foreach ((int m, int c) in new[] { (7, 19), (64, 33), (2, 5), (520, 70) })
            foreach (bool training in s_noYes) yield return BatchNorm(m, c, 1e-3f, training);
        foreach (Activation kind in Enum.GetValues<Activation>())
            foreach (int n in new[] { 1, 37, 20_001 }) yield return Activate(n, kind);
    }

    private static IEnumerable<Edge> NormEdges() =>
    [
        // Few columns have little variance of their own: a large eps keeps dx away from complete cancellation.
        new("layer-norm", n => LayerNorm(3, n, n < 8 ? 0.5f : 1e-6f, Draws.Normal(0.5, 2))),
        new("layer-norm to bf16", n => LayerNorm(3, n, n < 8 ? 0.5f : 1e-6f, Draws.Normal(0.5, 2)).Halves("y", "dy")),
        new("layer-norm, n rows", n => LayerNorm(n, 19, 1e-6f, Draws.Normal(0.5, 2))),
        new("softmax", n => Softmax(3, n, Draws.Normal(0, 3))),
        new("softmax, n rows", n => Softmax(n, 5, Draws.Normal(0, 3))),
        new("tanh", n => Activate(n, Activation.Tanh)),
        new("relu", n => Activate(n, Activation.Relu)),
        new("batch-norm in training", n => BatchNorm(5, n, 1e-3f, true)),
        new("batch-norm in evaluation", n => BatchNorm(5, n, 1e-3f, false)),
        new("batch-norm, n + 1 rows", n => BatchNorm(n + 1, 5, 0.5f, true)),
    ];

    internal static OpCase LayerNorm(int m, int c, float eps, Draw x)
        => new OpCase($"layer-norm ({m}, {c}) eps {eps:g}").Input("x", new(m, c), x)
            .Input("gamma", new(c), Draws.Normal(1, 0.3)).Input("beta", new(c))
            .Output("y", new(m, c)).Output("mean", new(m)).Output("rstd", new(m))
            .Run((b, o) => b.LayerNormForward(o["y"], o["mean"], o["rstd"], o["x"], o["gamma"], o["beta"], eps))
            .Back((b, o) => b.LayerNormBackward(o.Grad("dx"), o.Grad("dgamma"), o.Grad("dbeta"), o["dy"], o["x"], o["mean"], o["rstd"],
            o["gamma"]));

    private static OpCase Softmax(int m, int c, Draw x) => new OpCase($"softmax ({m}, {c}) {Sample(x)}").Input("x", new(m, c), x)
        .Output("y", new(m, c))
        .Run((b, o) => b.SoftmaxForward(o["y"], o["x"]))
        .Back((b, o) => b.SoftmaxBackward(o.Grad("dx"), o["dy"], o["y"]));

    private static OpCase BatchNorm(int m, int c, float eps, bool training)
    {
        OpCase made = new OpCase($"batch-norm ({m}, {c}) in {(training ? "training" : "evaluation")}")
            .Input("x", new(m, c), Draws.Normal(1, 2));
        made = training
            ? made.Update("runningMean", new(c)).Update("runningVariance", new(c), Draws.Uniform(0.5, 2))
            : made.Constant("runningMean", new(c)).Constant("runningVariance", new(c), Draws.Uniform(0.5, 2));
        return made.Output("y", new(m, c)).Output("mean", new(c)).Output("rstd", new(c))
            .Run((b, o) => b.BatchNormForward(o["y"], o["mean"], o["rstd"], o["runningMean"], o["runningVariance"], o["x"], eps, 0.1f,
            training))
            .Back((b, o) => b.BatchNormBackward(o.Grad("dx"), o["dy"], o["x"], o["mean"], o["rstd"], training));
    }

    /// <summary>One value of a rule: tells names of cases with the same shape apart.</summary>
    private static string Sample(Draw draw)
    {
        double[] value = new double[64];
        RngSequence random = new Rng(1, RandomStream.Test, 1).Start();
        draw(value, ref random, new(64));
        return $"up to {value.Max():g3}";
    }

    /// <summary>Inputs keep away from 0, where ReLU has no slope; dy − dy·y² of tanh cancels where y is near 1.</summary>
    private static OpCase Activate(int n, Activation kind)
        => new OpCase($"{kind} {n}").Input("x", new(n), Draws.TwoSided(0.01, 6)).SummandsOf("x", 1).Output("y", new(n))
            .Run((k, o) => k.ActivateForward(o["y"], o["x"], kind))
            .Back((k, o) => k.ActivateBackward(o.Grad("dx"), o["dy"], o["y"], kind));
}
