using MimEngine.Kernels;

namespace MimEngine.Bench;

/// <summary>A Vision Transformer's shapes: what an operation sees in a training step.</summary>
internal sealed record BenchModel(string Name, int Batch, int Width, int Heads, int Patch = 16, int Pixels = 192)
{
    public int Grid => Pixels / Patch;
    public int Patches => Grid * Grid;
    public int Tokens => Patches + 1;
    public int Rows => Batch * Tokens;

    public static IReadOnlyList<BenchModel> All { get; } = [new("ViT-S", 16, 384, 6), new("ViT-B", 8, 768, 12)];
}

/// <summary>One line of the table: an operation at one model's shapes. Setup allocates; what it returns is measured.</summary>
internal sealed record OpBenchCase(BenchModel Model, string Label, OpCost Cost, Func<Backend, Operands, Action> Setup)
{
    public override string ToString() => $"{Model.Name} {Cost.Name}{(Label.Length == 0 ? "" : " " + Label)}";
}

/// <summary>Every operation of the contract at the shapes of ViT-S and ViT-B training on 192-pixel pictures.</summary>
internal static partial class OpTable
{
    private const double HiddenShare = 0.6;

    public static IEnumerable<OpBenchCase> All => BenchModel.All.SelectMany(v => Of(v).Concat(Visible(v)).Concat(Looks(v)).Concat(Distillation(v)));

    private static IEnumerable<OpBenchCase> Of(BenchModel v)
    {
        int m = v.Rows, c = v.Width, t = v.Tokens, l = v.Patches, b = v.Batch, h = v.Heads, pixels = v.Pixels * v.Pixels,
            outputs = 3 * v.Patch * v.Patch;
        Shape rows = new(m, c), wide = new(m, 4 * c), perChannel = new(c);
        OpBenchCase Case(OpCost cost, Func<Backend, Operands, Action> setup, string label = "") => new(v, label, cost, setup);

        foreach ((string name, int n, int k) in new[] { ("qkv", 3 * c, c), ("proj", c, c), ("fc1", 4 * c, c), ("fc2", c, 4 * c) })
        {
            yield return Case(OpCost.LinearForward(m, n, k), (x, o) =>
            {
                (Tensor y, Tensor a, Tensor w, Tensor bias) = (o.New(m, n), o.New(m, k), o.New(n, k), o.New(new Shape(n), 1));
                return () => x.LinearForward(y, a, w, bias);
            }, name);
            yield return Case(OpCost.LinearBackward(m, n, k, weight: false, bias: false), (x, o) =>
            {
                (Tensor dy, Tensor a, Tensor w, Tensor dx) = (o.New(m, n), o.New(m, k), o.New(n, k), o.New(m, k));
                return () => x.LinearBackward(Grad.Write(dx), Grad.None, Grad.None, dy, a, w);
            }, name + " input");
            yield return Case(OpCost.LinearBackward(m, n, k, input: false), (x, o) =>
            {
                (Tensor dy, Tensor a, Tensor w, Tensor dw, Tensor db) = (o.New(m, n), o.New(m, k), o.New(n, k), o.New(n, k),
                    o.New(new Shape(n), 1));
                return () => x.LinearBackward(Grad.None, Grad.Write(dw), Grad.Write(db), dy, a, w);
            }, name + " weight");
        }
        yield return Case(OpCost.LinearGeluForward(m, 4 * c, c), (x, o) =>
        {
            (Tensor y, Tensor pre, Tensor a, Tensor w, Tensor bias) = (o.New(wide, 1), o.New(wide, 1), o.New(rows, 1), o.New(4 * c, c),
                o.New(new Shape(4 * c), 1));
            return () => x.LinearGeluForward(y, pre, a, w, bias);
        });
        yield return Case(OpCost.LinearGeluBackward(m, c, 4 * c), (x, o) =>
        {
            (Tensor dh, Tensor pre, Tensor dy, Tensor w) = (o.New(wide, 1), o.New(wide, 1), o.New(rows, 1), o.New(c, 4 * c));
            return () => x.LinearGeluBackward(dh, dy, w, pre);
        });
        yield return Case(OpCost.LinearResidualForward(m, c, 4 * c), (x, o) =>
        {
            (Tensor y, Tensor a, Tensor w, Tensor bias, Tensor r) = (o.New(rows, 1), o.New(wide, 1), o.New(c, 4 * c),
                o.New(perChannel, 1), o.New(rows, 1));
            return () => x.LinearResidualForward(y, a, w, bias, r, bias, null);
        });
        yield return Case(OpCost.GeluForward(4.0 * m * c), (x, o) =>
        {
            Tensor y = o.New(wide, 1), a = o.New(wide, 4);
            return () => x.GeluForward(y, a);
        });
        yield return Case(OpCost.GeluBackward(4.0 * m * c), (x, o) =>
        {
            Tensor dx = o.New(wide, 1), dy = o.New(wide, 1), a = o.New(wide, 4);
            return () => x.GeluBackward(Grad.Write(dx), dy, a);
        });
        yield return Case(OpCost.ScaleAddForward(m, c), (x, o) =>
        {
            Tensor y = o.New(rows, 1), r = o.New(rows, 0), gamma = o.New(perChannel, 1);
            return () => x.ScaleAddForward(y, r, gamma, null);
        });
        yield return Case(OpCost.ScaleAddBackward(m, c), (x, o) =>
        {
            Tensor branch = o.New(rows, 1), scaled = o.New(rows, 1), dy = o.New(rows, 1), gamma = o.New(perChannel, 1);
            return () => x.ScaleAddBackward(branch, scaled, dy, gamma, null);
        });
        yield return Case(OpCost.LayerScaleBackward(c, 4 * c), (x, o) =>
        {
            Tensor raw = o.New(c, 4 * c), w = o.New(c, 4 * c), dw = o.New(c, 4 * c), s = o.New(perChannel, 1),
                dgamma = o.New(perChannel, 1), db = o.New(perChannel, 1);
            return () => x.LayerScaleBackward(Grad.Write(dgamma), Grad.Write(dw), Grad.Write(db), raw, s, w, s, s);
        });

        yield return Case(OpCost.LayerNormForward(m, c), (x, o) =>
        {
            (Tensor y, Tensor a, Tensor mean, Tensor rstd, Tensor g) = (o.New(rows, 1), o.New(rows, 1), o.New(new Shape(m), 1),
                o.New(new Shape(m), 1), o.New(perChannel, 1));
            return () => x.LayerNormForward(y, mean, rstd, a, g, g, 1e-6f);
        });
        yield return Case(OpCost.LayerNormBackward(m, c), (x, o) =>
        {
            (Tensor dx, Tensor a, Tensor dy, Tensor mean, Tensor g) = (o.New(rows, 1), o.New(rows, 1), o.New(rows, 1),
                o.New(new Shape(m), 1), o.New(perChannel, 1));
            Tensor dg = o.New(perChannel, 1), db = o.New(perChannel, 1);
            return () => x.LayerNormBackward(Grad.Write(dx), Grad.Write(dg), Grad.Write(db), dy, a, mean, mean, g);
        });
        yield return Case(OpCost.SoftmaxForward(m, c), (x, o) =>
        {
            Tensor y = o.New(rows, 1), a = o.New(rows, 4);
            return () => x.SoftmaxForward(y, a);
        });
        yield return Case(OpCost.SoftmaxBackward(m, c), (x, o) =>
        {
            Tensor dx = o.New(rows, 1), dy = o.New(rows, 1), y = o.New(rows, 1);
            return () => x.SoftmaxBackward(Grad.Write(dx), dy, y);
        });
        yield return Case(OpCost.BatchNormForward(1024, c), (x, o) =>
        {
            (Tensor y, Tensor a, Tensor mean, Tensor var) = (o.New(1024, c), o.New(1024, c), o.New(perChannel, 1), o.New(perChannel, 1));
            Tensor rstd = o.New(perChannel, 1), used = o.New(perChannel, 1);
            return () => x.BatchNormForward(y, used, rstd, mean, var, a, 1e-6f, 0.1f, training: true);
        });
        yield return Case(OpCost.BatchNormBackward(1024, c), (x, o) =>
        {
            (Tensor dx, Tensor dy, Tensor a, Tensor mean) = (o.New(1024, c), o.New(1024, c), o.New(1024, c), o.New(perChannel, 1));
            return () => x.BatchNormBackward(Grad.Write(dx), dy, a, mean, mean, training: true);
        });

        Shape qkvShape = new(b, t, 3 * c), tokens = new(b, t, c), lseShape = new(b, h, t);
        yield return Case(OpCost.AttentionForward(b, t, c, h), (x, o) =>
        {
            Tensor y = o.New(tokens, 1), lse = o.New(lseShape, 1), qkv = o.New(qkvShape, 1);
            return () => x.AttentionForward(y, lse, qkv, h, null);
        });
        yield return Case(OpCost.AttentionBackward(b, t, c, h), (x, o) =>
        {
            Tensor dqkv = o.New(qkvShape, 1), dy = o.New(tokens, 1), y = o.New(tokens, 1), lse = o.New(lseShape, 1),
                qkv = o.New(qkvShape, 1);
            x.AttentionForward(y, lse, qkv, h, null);
            return () => x.AttentionBackward(Grad.Write(dqkv), Grad.None, dy, y, lse, qkv, h, null);
        });
        Shape table = new((2 * v.Grid - 1) * (2 * v.Grid - 1) + 3, h), biasShape = new(h, t, t);
        yield return Case(OpCost.RelativePositionBiasForward(t, h), (x, o) =>
        {
            Tensor bias = o.New(biasShape, 1), r = o.New(table, 1);
            return () => x.RelativePositionBiasForward(bias, r, v.Grid);
        });
        yield return Case(OpCost.RelativePositionBiasBackward(t, h), (x, o) =>
        {
            Tensor bias = o.New(biasShape, 1), r = o.New(table, 1);
            return () => x.RelativePositionBiasBackward(Grad.Write(r), bias, v.Grid);
        });

        Shape picture = new(b, 3, v.Pixels, v.Pixels), patches = new(b, l, outputs), embedded = new(b, l, c), positions = new(t, c),
            hiddenShape = new(b, l);
        yield return Case(OpCost.Patchify(b, pixels), (x, o) =>
        {
            Tensor y = o.New(patches, 1), a = o.New(picture, 1);
            return () => x.Patchify(y, a, v.Patch, PixelOrder.ChannelSlowest);
        });
        yield return Case(OpCost.Unpatchify(b, pixels), (x, o) =>
        {
            Tensor y = o.New(patches, 1), a = o.New(picture, 1);
            return () => x.Unpatchify(a, y, v.Patch, PixelOrder.ChannelSlowest);
        });
        yield return Case(OpCost.AssembleTokensForward(b, t, c, HiddenShare), (x, o) =>
        {
            (Tensor y, Tensor a, Tensor cls, Tensor hidden, Tensor pos) = (o.New(tokens, 1), o.New(embedded, 1), o.New(perChannel, 1),
                o.Hidden(hiddenShape), o.New(positions, 1));
            return () => x.AssembleTokensForward(y, a, cls, cls, hidden, pos);
        });
        yield return Case(OpCost.AssembleTokensBackward(b, t, c), (x, o) =>
        {
            (Tensor dy, Tensor dx, Tensor dcls, Tensor dmask, Tensor dpos) = (o.New(tokens, 1), o.New(embedded, 1), o.New(perChannel, 1),
                o.New(perChannel, 1), o.New(positions, 1));
            Tensor hidden = o.Hidden(hiddenShape);
            return () => x.AssembleTokensBackward(Grad.Write(dx), Grad.Write(dcls), Grad.Write(dmask), Grad.Write(dpos), dy, hidden);
        });
        yield return Case(OpCost.SliceTokensForward(b, l, c), (x, o) =>
        {
            Tensor y = o.New(embedded, 1), a = o.New(tokens, 1);
            return () => x.SliceTokensForward(y, a, 1);
        });
        yield return Case(OpCost.SliceTokensBackward(b, t, l, c), (x, o) =>
        {
            Tensor dy = o.New(embedded, 1), dx = o.New(tokens, 1);
            return () => x.SliceTokensBackward(Grad.Write(dx), dy, 1);
        });
        yield return Case(OpCost.MeanTokensForward(b, t, c), (x, o) =>
        {
            Tensor y = o.New(b, c), a = o.New(tokens, 1);
            return () => x.MeanTokensForward(y, a, 1);
        });
        yield return Case(OpCost.MeanTokensBackward(b, t, c), (x, o) =>
        {
            Tensor dy = o.New(b, c), dx = o.New(tokens, 1);
            return () => x.MeanTokensBackward(Grad.Write(dx), dy, 1);
        });

        yield return Case(OpCost.MaskedPixelLoss(b, pixels, HiddenShare), (x, o) =>
        {
            (Tensor loss, Tensor d, Tensor p, Tensor a, Tensor hidden) = (o.New(new Shape(1), 1), o.New(patches, 1), o.New(patches, 1),
                o.New(picture, 1), o.Hidden(hiddenShape));
            Tensor weights = o.New(new Shape(b, v.Pixels / 8, v.Pixels / 8), 1);
            return () => x.MaskedPixelLoss(loss, d, p, a, hidden, weights, v.Patch, PixelOrder.ChannelSlowest, PixelDistance.L1, false,
                1e-5f, 1f);
        });
        foreach ((int examples, int classes) in new[] { (1024, 1000), (2048, 10) })   // many classes; ten, of 256 pictures by eight probes
            yield return Case(OpCost.CrossEntropyLoss(examples, classes), (x, o) =>
            {
                (Tensor loss, Tensor d, Tensor p, Tensor target) = (o.New(new Shape(1), 1), o.New(examples, classes), o.New(examples, classes),
                    o.Filled(new Shape(examples, classes), 0f));
                for (int i = 0; i < examples; i++) target.Host<float>()[i * classes + i % classes] = 1f;
                return () => x.CrossEntropyLoss(loss, d, p, target, 1f);
            });

        int parameters = 12 * c * c;   // one block's
        UpdateSegment[] segments = [.. Enumerable.Range(0, 12).Select(i => new UpdateSegment((long)i * c * c, c * c, 1e-3f, 0.05f, 3))];
        Shape slab = new(parameters), perSegment = new(12);
        yield return Case(OpCost.SquaredNorms(parameters), (x, o) =>
        {
            Tensor norms = o.New(perSegment, 1), g = o.New(slab, 1);
            return () => x.SquaredNorms(norms, g, segments);
        });
        yield return Case(OpCost.ClipScales(12), (x, o) =>
        {
            Tensor scales = o.New(perSegment, 1), total = o.New(new Shape(1), 1), norms = o.Filled(perSegment, 1f);
            return () => x.ClipScales(scales, total, norms, 1f, false);
        });
        yield return Case(OpCost.AdamWStep(parameters), (x, o) =>
        {
            Tensor p = o.New(slab, 1), first = o.New(slab, 1), second = o.Filled(slab, 1f), g = o.New(slab, 1);
            return () => x.AdamWStep(p, first, second, null, g, null, segments, 0.9f, 0.999f, 1e-8f);
        });
        yield return Case(OpCost.LarsStep(parameters), (x, o) =>
        {
            Tensor p = o.New(slab, 1), mu = o.New(slab, 0), g = o.New(slab, 1);
            return () => x.LarsStep(p, mu, null, g, null, segments, 0.9f, 0.001f);
        });
        yield return Case(OpCost.SgdStep(parameters), (x, o) =>
        {
            Tensor p = o.New(slab, 1), mu = o.New(slab, 0), g = o.New(slab, 1);
            return () => x.SgdStep(p, mu, null, g, null, segments, 0.9f);
        });

        Shape plane = new(b, v.Pixels, v.Pixels), cells = new(b, v.Pixels / 8, v.Pixels / 8);
        float[] mean = [0.485f, 0.456f, 0.406f], std = [0.229f, 0.224f, 0.225f];
        yield return Case(OpCost.NormalizeImages(b, pixels), (x, o) =>
        {
            Tensor y = o.New(picture, 1), a = o.Bytes(picture);
            return () => x.NormalizeImages(y, a, mean, std);
        });
        yield return Case(OpCost.Luma(b, pixels), (x, o) =>
        {
            Tensor y = o.Bytes(plane), a = o.Bytes(picture);
            return () => x.Luma(y, a, LumaWeights.Rgb);
        });
        yield return Case(OpCost.FastKeypoints(b, pixels), (x, o) =>
        {
            Tensor y = o.Bytes(plane), a = o.Blocks(plane);
            return () => x.FastKeypoints(y, a, 10, FastType.Type9_16, suppress: true);
        });
        yield return Case(OpCost.MarkKeypoints(b, pixels), (x, o) =>
        {
            Tensor y = o.Bytes(plane), keys = o.Bytes(plane);
            x.FastKeypoints(keys, o.Blocks(plane), 10, FastType.Type9_16, suppress: true);
            return () => x.MarkKeypoints(y, keys, Mark.Ring);
        });
        yield return Case(OpCost.BoxDensity(b, pixels, 8), (x, o) =>
        {
            Tensor y = o.New(cells, 1), a = o.Hidden(plane);
            return () => x.BoxDensity(y, a, 8);
        });
        yield return Case(OpCost.KeypointWeights(b, cells.Count / b), (x, o) =>
        {
            Tensor y = o.New(cells, 1), a = o.New(cells, 1);
            return () => x.KeypointWeights(y, a, 0.25f);
        });

        yield return Case(OpCost.Fill(rows.Count), (x, o) => { Tensor y = o.New(rows, 1); return () => x.Fill(y, 0f); });
        yield return Case(OpCost.Copy(rows.Count), (x, o) => { Tensor y = o.New(rows, 1), a = o.New(rows, 1); return () => x.Copy(y, a); });
        yield return Case(OpCost.AddScaled(rows.Count), (x, o) =>
        {
            Tensor y = o.New(rows, 0), a = o.New(rows, 1);
            return () => x.AddScaled(y, a, 1f, 1f);
        });
    }
}
