using MimEngine.Kernels;

namespace MimEngine.Bench;

internal static partial class OpTable
{
    private const double MaeShare = 0.75;

    /// <summary>What MAE and probes add: visible tokens there and back, patches normalised one by one, attention as a weight of tokens.</summary>
    private static IEnumerable<OpBenchCase> Visible(BenchModel v)
    {
        int c = v.Width, t = v.Tokens, l = v.Patches, b = v.Batch, h = v.Heads, seen = 1 + l / 4, pixels = v.Pixels * v.Pixels;
        Shape all = new(b, t, c), few = new(b, seen, c), picture = new(b, 3, v.Pixels, v.Pixels), maps = new(b, h, t, t);
        OpBenchCase Case(OpCost cost, Func<Backend, Operands, Action> setup) => new(v, "", cost, setup);

        yield return Case(OpCost.GatherVisibleForward(b, t, c, MaeShare), (x, o) =>
        {
            (Tensor y, Tensor tokens, Tensor hidden) = (o.New(few, 1), o.New(all, 1), Quarter(o, b, l));
            return () => x.GatherVisibleForward(y, tokens, hidden);
        });
        yield return Case(OpCost.GatherVisibleBackward(b, t, c, MaeShare), (x, o) =>
        {
            (Tensor dx, Tensor dy, Tensor hidden) = (o.New(all, 1), o.New(few, 1), Quarter(o, b, l));
            return () => x.GatherVisibleBackward(Grad.Write(dx), dy, hidden);
        });
        yield return Case(OpCost.ScatterVisibleForward(b, t, c, MaeShare), (x, o) =>
        {
            (Tensor y, Tensor tokens, Tensor mask, Tensor hidden) = (o.New(all, 1), o.New(few, 1), o.New(new Shape(c), 1), Quarter(o, b, l));
            return () => x.ScatterVisibleForward(y, tokens, mask, hidden);
        });
        yield return Case(OpCost.ScatterVisibleBackward(b, t, c, MaeShare), (x, o) =>
        {
            (Tensor dx, Tensor dmask, Tensor dy, Tensor hidden) = (o.New(few, 1), o.New(new Shape(c), 1), o.New(all, 1), Quarter(o, b, l));
            return () => x.ScatterVisibleBackward(Grad.Write(dx), Grad.Write(dmask), dy, hidden);
        });
        yield return Case(OpCost.NormalizePatches(b, pixels), (x, o) =>
        {
            (Tensor y, Tensor images) = (o.New(picture, 1), o.New(picture, 1));
            return () => x.NormalizePatches(y, images, v.Patch, 1e-6f);
        });
        yield return Case(OpCost.PoolTokensForward(b, t, c), (x, o) =>
        {
            (Tensor y, Tensor tokens, Tensor w) = (o.New(b, c), o.New(all, 1), o.New(b, l));
            return () => x.PoolTokensForward(y, tokens, w);
        });
        yield return Case(OpCost.PoolTokensBackward(b, t, c), (x, o) =>
        {
            (Tensor dx, Tensor dw, Tensor dy, Tensor tokens, Tensor w) = (o.New(all, 1), o.New(b, l), o.New(b, c), o.New(all, 1), o.New(b, l));
            return () => x.PoolTokensBackward(Grad.Write(dx), Grad.Write(dw), dy, tokens, w);
        });
        yield return Case(OpCost.ActivateForward(b * l * 128), (x, o) =>   // AbMILP's hidden layer
        {
            (Tensor y, Tensor u) = (o.New(b * l, 128), o.New(b * l, 128));
            return () => x.ActivateForward(y, u, Activation.Tanh);
        });
        yield return Case(OpCost.ActivateBackward(b * l * 128), (x, o) =>
        {
            (Tensor du, Tensor dy, Tensor y) = (o.New(b * l, 128), o.New(b * l, 128), o.New(b * l, 128));
            return () => x.ActivateBackward(Grad.Write(du), dy, y, Activation.Tanh);
        });
        yield return Case(OpCost.AttentionProbabilities(b, t, c, h), (x, o) =>
        {
            (Tensor p, Tensor qkv) = (o.New(maps, 1), o.New(new Shape(b, t, 3 * c), 1));
            return () => x.AttentionProbabilities(p, qkv, h, null);
        });
        yield return Case(OpCost.MixAttentionForward(b, t, h), (x, o) =>
        {
            (Tensor w, Tensor sums, Tensor p, Tensor mix) = (o.New(b, l), o.New(new Shape(b), 1), o.Filled(maps, 1f / t), o.Filled(new Shape(b, h, t), 1f));
            return () => x.MixAttentionForward(w, sums, p, mix, 1f, true, 1e-6f);
        });
        yield return Case(OpCost.MixAttentionBackward(b, t, h), (x, o) =>
        {
            (Tensor dp, Tensor dw, Tensor w, Tensor sums, Tensor mix) = (o.New(maps, 1), o.New(b, l), o.New(b, l), o.Filled(new Shape(b), 1f),
                o.Filled(new Shape(b, h, t), 1f));
            return () => x.MixAttentionBackward(Grad.Write(dp), dw, w, sums, mix, 1f, true);
        });
    }

    /// <summary>(B, L): every fourth patch visible.</summary>
    private static Tensor Quarter(Operands o, int images, int patches)
    {
        Tensor hidden = o.Bytes(new Shape(images, patches));
        Span<byte> bytes = hidden.Host<byte>();
        for (int i = 0; i < bytes.Length; i++) bytes[i] = i % 4 == 0 ? (byte)0 : (byte)1;
        return hidden;
    }
}
