using MimEngine.Kernels;

namespace MimEngine.Tests;

internal static partial class OpCases
{
    // The originals use 1e-5, whose place in the formula no relative error would show.
    private const float LargeEps = 0.25f;

    private static IEnumerable<OpCase> Losses()
    {
        foreach (PixelDistance distance in Enum.GetValues<PixelDistance>())
            foreach (PixelOrder order in Enum.GetValues<PixelOrder>())
                foreach (int cell in new[] { 0, 2, 3, 12 })
                    foreach (bool divide in s_noYes)
                        yield return PixelLoss(2, 4, 3, 3, cell, order, distance, divide, Draws.Bits(0.6));
        yield return PixelLoss(5, 8, 6, 6, 16, PixelOrder.ChannelSlowest, PixelDistance.L1, false, Draws.Bits(0.6));
        yield return PixelLoss(5, 16, 6, 6, 8, PixelOrder.ChannelSlowest, PixelDistance.L1, true, Draws.Bits(0.6));
        yield return PixelLoss(5, 8, 6, 6, 0, PixelOrder.ChannelFastest, PixelDistance.L2, false, Draws.Bits(0.6));
        yield return PixelLoss(2, 4, 2, 2, 0, PixelOrder.ChannelSlowest, PixelDistance.L1, false, Draws.Constant(0), "nothing hidden");
        yield return PixelLoss(2, 4, 2, 2, 4, PixelOrder.ChannelSlowest, PixelDistance.L2, false, Draws.Constant(1), "all hidden");
        yield return new OpCase("pixel loss, equal pixels have no slope")
            .Input("prediction", new(2, 4, 48), Draws.Integers(-1, 1)).Input("images", new(2, 3, 8, 8), Draws.Integers(-1, 1))
            .Bytes("hidden", new(2, 4), Draws.Constant(1)).Output("loss", new(1)).Output("dprediction", new(2, 4, 48))
            .Run((b, o) => b.MaskedPixelLoss(o["loss"], o["dprediction"], o["prediction"], o["images"], o["hidden"], null, 4,
                PixelOrder.ChannelSlowest, PixelDistance.L1, false, 1e-5f, 1));
        yield return new OpCase("pixel loss without its gradient")
            .Input("prediction", new(2, 4, 48)).Input("images", new(2, 3, 8, 8)).Bytes("hidden", new(2, 4), Draws.Bits(0.5))
            .Output("loss", new(1))
            .Run((b, o) => b.MaskedPixelLoss(o["loss"], null, o["prediction"], o["images"], o["hidden"], null, 4, PixelOrder.ChannelFastest,
                PixelDistance.L1, false, 1e-5f, 1));
        yield return new OpCase("pixel loss of 16 px patches without its gradient")
            .Input("prediction", new(2, 9, 768)).Input("images", new(2, 3, 48, 48)).Bytes("hidden", new(2, 9), Draws.Bits(0.5))
            .Output("loss", new(1))
            .Run((b, o) => b.MaskedPixelLoss(o["loss"], null, o["prediction"], o["images"], o["hidden"], null, 16, PixelOrder.ChannelSlowest,
                PixelDistance.L1, false, 1e-5f, 1));
        foreach ((int m, int c) in new[] { (1, 2), (5, 37), (64, 10), (300, 100) })
        {
            yield return CrossEntropy(m, c, Draws.OneHot(), "one-hot");
            yield return CrossEntropy(m, c, Draws.Distributions(), "mixed");
        }
        yield return CrossEntropy(3, 7, Draws.Uniform(0, 1), "of any mass");
        yield return new OpCase("cross-entropy without its gradient").Input("logits", new(5, 9)).Input("targets", new(5, 9), Draws.OneHot())
            .Output("loss", new(1)).Run((b, o) => b.CrossEntropyLoss(o["loss"], null, o["logits"], o["targets"], 1));
    }

    private static IEnumerable<Edge> LossEdges() =>
    [
        new("pixel loss, n patches a row", n
            => PixelLoss(1, 2, 2, n, 2, PixelOrder.ChannelSlowest, PixelDistance.L1, false, Draws.Bits(0.6))),
        new("pixel loss, patches of n pixels", n
            => PixelLoss(1, n, 1, 2, n, PixelOrder.ChannelFastest, PixelDistance.L2, false, Draws.Bits(0.6)), 40),
        new("pixel loss of n pixel patches, fine cells",
            n => PixelLoss(1, n, 1, 2, 1, PixelOrder.ChannelSlowest, PixelDistance.L1, true, Draws.Constant(1)), 40),
        new("cross-entropy", n => CrossEntropy(2, n, Draws.Distributions(), "mixed")),
        new("cross-entropy, n rows", n => CrossEntropy(n, 3, Draws.OneHot(), "one-hot")),
    ];

    /// <summary>Predictions stay away from pixels by 1 or more, so that L1 has a slope everywhere.</summary>
    private static OpCase PixelLoss(int b, int p, int rows, int cols, int cell, PixelOrder order, PixelDistance distance, bool divide,
        Draw hidden,
        string remark = "")
    {
        (int height, int width) = (rows * p, cols * p);
        return new OpCase($"pixel loss {b}·{rows}×{cols} of {p} px, {order}, {distance}"
                + With((cell > 0, $"weights a cell of {cell}"), (divide, "divided by weights"), (remark != "", remark)))
            .Input("prediction", new(b, rows * cols, 3 * p * p), Draws.TwoSided(2, 4))
            .Constant("images", new(b, 3, height, width), Draws.Uniform(-1, 1))
            .Bytes("hidden", new(b, rows * cols), hidden)
            .When(cell > 0, c => c.Constant("weights", new(b, height / cell, width / cell), Draws.Uniform(1, 20)))
            .Output("loss", new(1)).Output("dprediction", new(b, rows * cols, 3 * p * p))
            .Run((k, o) => k.MaskedPixelLoss(o["loss"], o["dprediction"], o["prediction"], o["images"], o["hidden"], o.Maybe("weights"),
            p, order,
                distance, divide, LargeEps, 0.5f))
            .Loss("loss", "dprediction", "prediction");
    }

    private static OpCase CrossEntropy(int m, int c, Draw targets, string remark)
        => new OpCase($"cross-entropy ({m}, {c}), targets {remark}").Input("logits", new(m, c), Draws.Normal(0, 4))
            .Constant("targets", new(m, c), targets)
            .Output("loss", new(1)).Output("dlogits", new(m, c))
            .Run((b, o) => b.CrossEntropyLoss(o["loss"], o["dlogits"], o["logits"], o["targets"], 0.5f))
            .Loss("loss", "dlogits", "logits");
}
