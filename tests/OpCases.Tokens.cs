using MimEngine.Kernels;

namespace MimEngine.Tests;

internal static partial class OpCases
{
    private static IEnumerable<OpCase> Tokens()
    {
        foreach (PixelOrder order in Enum.GetValues<PixelOrder>())
        {
            (int B, int P, int Rows, int Cols)[] shapes = [(1, 1, 3, 2), (2, 4, 2, 2), (1, 3, 2, 3), (2, 7, 3, 2), (3, 16, 4, 4), (2, 32,
                6, 6)];
            foreach ((int b, int p, int rows, int cols) in shapes)
            {
                yield return Patchify(b, p, rows, cols, order);
                yield return Unpatchify(b, p, rows, cols, order);
            }
        }
        foreach (bool cls in s_noYes)
            foreach (bool hidden in s_noYes)
                foreach (bool pos in s_noYes)
                {
                    yield return Assemble(2, 6, 21, cls, hidden, pos);
                    yield return Assemble(9, 36, 192, cls, hidden, pos);
                }
        foreach (int prefix in new[] { 0, 1, 2 })
            foreach ((int b, int l, int v, int c) in new[] { (2, 6, 2, 5), (1, 4, 4, 16), (3, 9, 1, 33), (9, 36, 9, 192) })
            {
                yield return Gather(b, prefix, l, v, c);
                yield return Scatter(b, prefix, l, v, c);
                yield return Pool(b, prefix + l, l, c);
            }
        (int B, int N, int C, int First, int Count)[] slices = [(2, 5, 7, 0, 1), (2, 5, 7, 1, 4), (1, 4, 16, 0, 4), (3, 6, 33, 2, 3),
            (16, 37, 96, 1, 36)];
        foreach ((int b, int n, int c, int first, int count) in slices)
        {
            yield return Slice(b, n, c, first, count);
            yield return Mean(b, n, c, first);
        }
    }

    private static IEnumerable<Edge> TokenEdges() =>
    [
        new("patchify, n patches a row", n => Patchify(1, 2, 2, n, PixelOrder.ChannelSlowest)),
        new("patchify, patches of n pixels", n => Patchify(1, n, 2, 1, PixelOrder.ChannelFastest), 40),
        new("gather visible", n => Gather(2, 1, 4, 2, n)),
        new("gather visible, n patches", n => Gather(1, 1, n, (n + 3) / 4, 5)),
        new("scatter visible", n => Scatter(2, 1, 4, 2, n)),
        new("scatter visible, n patches", n => Scatter(1, 0, n, (n + 3) / 4, 5)),
        new("pool", n => Pool(2, 4, 3, n)),
        new("pool, n tokens", n => Pool(2, n + 1, n, 5)),
        new("unpatchify, n patches a row", n => Unpatchify(1, 2, 2, n, PixelOrder.ChannelFastest)),
        new("unpatchify, patches of n pixels", n => Unpatchify(1, n, 2, 1, PixelOrder.ChannelSlowest), 40),
        new("assemble", n => Assemble(2, 3, n, true, true, true)),
        new("assemble without options", n => Assemble(2, 3, n, false, false, false)),
        new("assemble, n patches", n => Assemble(2, n, 3, true, true, true)),
        new("slice", n => Slice(2, 4, n, 1, 2)),
        new("slice, n tokens", n => Slice(2, n + 1, 3, 1, n)),
        new("mean", n => Mean(2, 4, n, 1)),
        new("mean, n tokens", n => Mean(2, n + 1, 3, 1)),
    ];

    private static OpCase Patchify(int b, int p, int rows, int cols, PixelOrder order)
        => new OpCase($"patchify {b}·{rows}×{cols} of {p} px, {order}").Input("images", new(b, 3, rows * p, cols * p))
            .Output("patches", new(b, rows * cols, 3 * p * p)).Run((k, o) => k.Patchify(o["patches"], o["images"], p, order));

    private static OpCase Unpatchify(int b, int p, int rows, int cols, PixelOrder order)
        => new OpCase($"unpatchify {b}·{rows}×{cols} of {p} px, {order}").Input("patches", new(b, rows * cols, 3 * p * p))
            .Output("images", new(b, 3, rows * p, cols * p)).Run((k, o) => k.Unpatchify(o["images"], o["patches"], p, order));

    private static OpCase Assemble(int b, int patches, int c, bool cls, bool hidden, bool pos)
    {
        int tokens = patches + (cls ? 1 : 0);
        return new OpCase($"assemble ({b}, {patches}, {c})" + With((cls, "cls"), (hidden, "hidden"), (pos, "positions")))
            .Input("x", new(b, patches, c)).When(cls, k => k.Input("cls", new(c)))
            .When(hidden, k => k.Input("mask", new(c)).Bytes("hidden", new(b, patches), Draws.Bits(0.6)))
            .When(pos, k => k.Input("pos", new(tokens, c))).Output("y", new(b, tokens, c))
            .Run((k, o) => k.AssembleTokensForward(o["y"], o["x"], o.Maybe("cls"), o.Maybe("mask"), o.Maybe("hidden"), o.Maybe("pos")))
            .Back((k, o) => k.AssembleTokensBackward(o.Grad("dx"), o.Grad("dcls"), o.Grad("dmask"), o.Grad("dpos"), o["dy"],
            o.Maybe("hidden")));
    }

    private static OpCase Slice(int b, int n, int c, int first, int count)
        => new OpCase($"slice ({b}, {n}, {c}) from {first}, {count} tokens").Input("x", new(b, n, c)).Output("y", new(b, count, c))
            .Run((k, o) => k.SliceTokensForward(o["y"], o["x"], first))
            .Back((k, o) => { if (o.Grad("dx") is { Wanted: true } dx) k.SliceTokensBackward(dx, o["dy"], first); });

    private static OpCase Mean(int b, int n, int c, int first)
        => new OpCase($"mean ({b}, {n}, {c}) from {first}").Input("x", new(b, n, c)).Output("y", new(b, c))
            .Run((k, o) => k.MeanTokensForward(o["y"], o["x"], first))
            .Back((k, o) => { if (o.Grad("dx") is { Wanted: true } dx) k.MeanTokensBackward(dx, o["dy"], first); });

    private static OpCase Gather(int b, int prefix, int l, int v, int c)
        => new OpCase($"gather visible ({b}, {prefix} + {v} of {l}, {c})").Input("x", new(b, prefix + l, c))
            .Bytes("hidden", new(b, l), Draws.RowBits(l - v)).Output("y", new(b, prefix + v, c))
            .Run((k, o) => k.GatherVisibleForward(o["y"], o["x"], o["hidden"]))
            .Back((k, o) => k.GatherVisibleBackward(o.Grad("dx"), o["dy"], o["hidden"]));

    private static OpCase Scatter(int b, int prefix, int l, int v, int c)
        => new OpCase($"scatter visible ({b}, {prefix} + {v} of {l}, {c})").Input("x", new(b, prefix + v, c)).Input("mask", new(c))
            .Bytes("hidden", new(b, l), Draws.RowBits(l - v)).Output("y", new(b, prefix + l, c))
            .Run((k, o) => k.ScatterVisibleForward(o["y"], o["x"], o["mask"], o["hidden"]))
            .Back((k, o) => k.ScatterVisibleBackward(o.Grad("dx"), o.Grad("dmask"), o["dy"], o["hidden"]));

    private static OpCase Pool(int b, int n, int count, int c)
        => new OpCase($"pool ({b}, {n}, {c}), last {count}").Input("x", new(b, n, c)).Input("w", new(b, count)).Output("y", new(b, c))
            .Run((k, o) => k.PoolTokensForward(o["y"], o["x"], o["w"]))
            .Back((k, o) => k.PoolTokensBackward(o.Grad("dx"), o.Grad("dw"), o["dy"], o["x"], o["w"]));
}
