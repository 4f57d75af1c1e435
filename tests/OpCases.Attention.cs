using MimEngine.Kernels;

namespace MimEngine.Tests;

internal static partial class OpCases
{
    private static IEnumerable<OpCase> Attention()
    {
        (int B, int N, int H, int D)[] shapes = [(1, 2, 1, 4), (2, 5, 2, 3), (2, 7, 3, 8), (1, 37, 2, 16), (1, 65, 1, 64), (3, 145, 3,
            64), (2, 17, 4, 33), (1, 66, 2, 80), (1, 257, 1, 64)];
        foreach ((int b, int n, int h, int d) in shapes)
            foreach (bool bias in s_noYes) yield return Attend(b, n, h, d, bias, 1);
        yield return Attend(2, 33, 2, 16, true, 3);
        foreach ((int b, int n, int h, int d) in shapes)
        {
            yield return Attend(b, n, h, d, n % 2 == 0, 1).Halves("qkv", "y", "dqkv", "dy");
            yield return Probabilities(b, n, h, d, n % 2 == 0).Halves("qkv");
        }
        yield return Attend(2, 33, 2, 16, true, 3).Halves("qkv", "y", "dqkv", "dy");
        foreach ((int b, int n, int h, int d) in shapes)
            foreach (bool bias in s_noYes) yield return Probabilities(b, n, h, d, bias);
        foreach ((int b, int n, int h, int d) in shapes)
            foreach (bool bias in s_noYes) yield return ClsAttend(b, n, h, d, bias);
        yield return ClsAttend(2, 17, 4, 33, true).Halves("qkv");
        foreach ((int b, int n, int h) in new[] { (1, 2, 1), (2, 5, 3), (3, 17, 2), (2, 145, 3) })
            foreach (bool renormalise in s_noYes) yield return MixAttention(b, n, h, renormalise);
        foreach (int grid in new[] { 1, 2, 3, 7 })
            foreach (int heads in new[] { 1, 3 }) yield return RelativeBias(grid, heads);
    }

    private static IEnumerable<Edge> AttentionEdges() =>
    [
        new("attention, n tokens", n => Attend(1, n, 2, 5, n % 2 == 0, 1), 130),
        new("attention, n wide heads", n => Attend(1, 3, 2, n, true, 1), 130),
        new("attention in bf16, n tokens", n => Attend(1, n, 2, 5, n % 2 == 0, 1).Halves("qkv", "y", "dqkv", "dy"), 130),
        new("attention in bf16, n wide heads", n => Attend(1, 3, 2, n, true, 1).Halves("qkv", "y", "dqkv", "dy"), 130),
        new("attention probabilities, n tokens", n => Probabilities(1, n, 2, 5, n % 2 == 0), 130),
        new("attention probabilities, n wide heads", n => Probabilities(1, 3, 2, n, true), 130),
        new("cls attention, n tokens", n => ClsAttend(1, n + 1, 2, 5, n % 2 == 0), 130),
        new("cls attention, n wide heads", n => ClsAttend(1, 3, 2, n, true), 130),
        new("mix attention, n tokens", n => MixAttention(1, n + 1, 2, n % 2 == 0), 130),
        new("relative position bias, n heads", n => RelativeBias(2, n), 20),
        new("relative position bias, n patches a side", n => RelativeBias(n, 2), 9),
    ];

    internal static OpCase Attend(int b, int n, int h, int d, bool bias, double size)
        => new OpCase($"attention ({b}, {n}, {h}·{d})" + With((bias, "bias"), (size > 1, "sharp")))
            .Input("qkv", new(b, n, 3 * h * d), Draws.Normal(0, size)).When(bias, c => c.Input("bias", new(h, n, n)).SummandsOf("bias", 1))
            .Output("y", new(b, n, h * d)).Output("lse", new(b, h, n))
            .Run((k, o) => k.AttentionForward(o["y"], o["lse"], o["qkv"], h, o.Maybe("bias")))
            .Back((k, o) => k.AttentionBackward(o.Grad("dqkv"), o.Grad("dbias"), o["dy"], o["y"], o["lse"], o["qkv"], h, o.Maybe("bias")));

    private static OpCase RelativeBias(int grid, int heads)
    {
        int tokens = 1 + grid * grid, entries = (2 * grid - 1) * (2 * grid - 1) + 3;
        return new OpCase($"relative position bias {grid}×{grid}, {heads} heads")
            .Input("table", new(entries, heads)).Output("bias", new(heads, tokens, tokens))
            .Run((b, o) => b.RelativePositionBiasForward(o["bias"], o["table"], grid))
            .Back((b, o) => b.RelativePositionBiasBackward(o.Grad("dtable"), o["dbias"], grid));
    }

    private static OpCase Probabilities(int b, int n, int h, int d, bool bias)
        => new OpCase($"attention probabilities ({b}, {n}, {h}·{d})" + With((bias, "bias")))
            .Input("qkv", new(b, n, 3 * h * d)).When(bias, c => c.Input("bias", new(h, n, n))).Output("p", new(b, h, n, n))
            .Run((k, o) => k.AttentionProbabilities(o["p"], o["qkv"], h, o.Maybe("bias")));

    private static OpCase ClsAttend(int b, int n, int h, int d, bool bias)
        => new OpCase($"cls attention ({b}, {n}, {h}·{d})" + With((bias, "bias")))
            .Input("qkv", new(b, n, 3 * h * d)).When(bias, c => c.Input("bias", new(h, n, n))).Output("a", new(b, n - 1))
            .Run((k, o) => k.ClsAttention(o["a"], o["qkv"], h, o.Maybe("bias")));

    private static OpCase MixAttention(int b, int n, int h, bool renormalise)
        => new OpCase($"mix attention ({b}, {h}, {n}, {n})" + With((renormalise, "renormalised")))
            .Input("attention", new(b, h, n, n), Draws.Uniform(0.1, 1)).Constant("mix", new(b, h, n), Draws.Uniform(0, 1))
            .Output("w", new(b, n - 1)).Output("sums", new(b))
            .Run((k, o) => k.MixAttentionForward(o["w"], o["sums"], o["attention"], o["mix"], 0.5f, renormalise, 0.25f))
            .Back((k, o) => k.MixAttentionBackward(o.Grad("dattention"), o["dw"], o["w"], o["sums"], o["mix"], 0.5f, renormalise));
}
