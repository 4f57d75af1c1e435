using MimEngine.Kernels;

namespace MimEngine.Tests;

internal sealed unsafe partial class OracleBackend
{
    public override void Patchify(Tensor patches, Tensor images, int patch, PixelOrder order)
    {
        double* to = F(patches), from = F(images);
        ForPixels(images.Shape, patch, order, (pixel, inPatches) => to[inPatches] = from[pixel]);
    }

    public override void Unpatchify(Tensor images, Tensor patches, int patch, PixelOrder order)
    {
        double* to = F(images), from = F(patches);
        ForPixels(images.Shape, patch, order, (pixel, inPatches) => to[pixel] = from[inPatches]);
    }

    public override void AssembleTokensForward(Tensor y, Tensor x, Tensor? cls, Tensor? mask, Tensor? hidden, Tensor? pos)
    {
        (int images, int patches, int width) = (x.Shape.D0, x.Shape.D1, x.Shape.D2);
        int prefix = cls is null ? 0 : 1;
        Require(y.Shape.D1 == prefix + patches, $"AssembleTokens: y has {y.Shape.D1} tokens, not {prefix} + {patches}.");
        double* py = F(y), px = F(x), pcls = F(cls), pmask = F(mask), ppos = F(pos);
        byte* phidden = U(hidden);
        for (int b = 0; b < images; b++)
            for (int t = 0; t < prefix + patches; t++)
                for (int c = 0; c < width; c++)
                {
                    int l = t - prefix;
                    double value = l < 0 ? pcls[c]
                        : phidden != null && phidden[b * patches + l] != 0 ? pmask[c]
                        : px[((long)b * patches + l) * width + c];
                    py[((long)b * (prefix + patches) + t) * width + c] = value + (ppos == null ? 0 : ppos[t * width + c]);
                }
    }

    public override void AssembleTokensBackward(Grad dx, Grad dcls, Grad dmask, Grad dpos, Tensor dy, Tensor? hidden)
    {
        (int images, int tokens, int width) = (dy.Shape.D0, dy.Shape.D1, dy.Shape.D2);
        int prefix = PrefixOf(dx, dcls, hidden, tokens), patches = tokens - prefix;
        double* pdy = F(dy);
        byte* phidden = U(hidden);
        double[] gx = new double[(long)images * patches * width], gcls = new double[width], gmask = new double[width];
        double[] gpos = new double[tokens * width];
        for (int b = 0; b < images; b++)
            for (int t = 0; t < tokens; t++)
                for (int c = 0; c < width; c++)
                {
                    int l = t - prefix;
                    double g = pdy[((long)b * tokens + t) * width + c];
                    gpos[t * width + c] += g;
                    if (l < 0) gcls[c] += g;
                    else if (phidden != null && phidden[b * patches + l] != 0) gmask[c] += g;
                    else gx[(b * patches + l) * width + c] = g;
                }
        Emit(dx, gx);
        Emit(dcls, gcls);
        Emit(dmask, gmask);
        Emit(dpos, gpos);
    }

    /// <summary>Whether there is a [cls] row: from dx's or hidden's token count, or from the wish for its gradient.</summary>
    private static int PrefixOf(Grad dx, Grad dcls, Tensor? hidden, int tokens)
        => dx.Wanted ? tokens - dx.Into.Shape.D1 : hidden is { } h ? tokens - h.Shape.D1 : dcls.Wanted ? 1 : 0;

    public override void SliceTokensForward(Tensor y, Tensor x, int first)
    {
        (int images, int tokens, int width) = (x.Shape.D0, x.Shape.D1, x.Shape.D2);
        int count = y.Shape.D1;
        Require(first + count <= tokens, $"SliceTokens: [{first}, {first + count}) of {tokens}.");
        double* py = F(y), px = F(x);
        for (int b = 0; b < images; b++)
            for (int i = 0; i < count * width; i++) py[b * count * width + i] = px[(b * tokens + first) * width + i];
    }

    public override void SliceTokensBackward(Grad dx, Tensor dy, int first)
    {
        (int images, int count, int width) = (dy.Shape.D0, dy.Shape.D1, dy.Shape.D2);
        int tokens = dx.Into.Shape.D1;
        double* pdy = F(dy);
        double[] gx = new double[dx.Into.Count];
        for (int b = 0; b < images; b++)
            for (int i = 0; i < count * width; i++) gx[(b * tokens + first) * width + i] = pdy[b * count * width + i];
        Emit(dx, gx);
    }

    public override void MeanTokensForward(Tensor y, Tensor x, int first)
    {
        (int images, int tokens, int width) = (x.Shape.D0, x.Shape.D1, x.Shape.D2);
        double* py = F(y), px = F(x);
        for (int b = 0; b < images; b++)
            for (int c = 0; c < width; c++)
            {
                double sum = 0;
                for (int t = first; t < tokens; t++) sum += px[(b * tokens + t) * width + c];
                py[b * width + c] = sum / (tokens - first);
            }
    }

    public override void MeanTokensBackward(Grad dx, Tensor dy, int first)
    {
        (int images, int tokens, int width) = (dx.Into.Shape.D0, dx.Into.Shape.D1, dx.Into.Shape.D2);
        double* pdy = F(dy);
        double[] gx = new double[dx.Into.Count];
        for (int b = 0; b < images; b++)
            for (int t = first; t < tokens; t++)
                for (int c = 0; c < width; c++) gx[(b * tokens + t) * width + c] = pdy[b * width + c] / (tokens - first);
        Emit(dx, gx);
    }

    /// <summary>Calls with (offset in (B, 3, H, W), offset in (B, L, 3·P²)) of every pixel.</summary>
    private static void ForPixels(Shape images, int patch, PixelOrder order, Action<long, long> visit)
    {
        (int count, int height, int width) = (images.D0, images.D2, images.D3);
        for (int b = 0; b < count; b++)
            for (int c = 0; c < 3; c++)
                for (int y = 0; y < height; y++)
                    for (int x = 0; x < width; x++)
                    {
                        int l = y / patch * (width / patch) + x / patch, inside = y % patch * patch + x % patch;
                        int k = order == PixelOrder.ChannelSlowest ? c * patch * patch + inside : inside * 3 + c;
                        long patches = (long)(height / patch) * (width / patch);
                        visit((((long)b * 3 + c) * height + y) * width + x, (b * patches + l) * 3 * patch * patch + k);
                    }
    }

    public override void GatherVisibleForward(Tensor y, Tensor x, Tensor hidden)
    {
        double[] few = new double[y.Count];
        ForVisible(hidden, x.Shape.D1, y.Shape, (all, at) => few[at] = F(x)[all]);
        Emit(Grad.Write(y), few);
    }

    public override void GatherVisibleBackward(Grad dx, Tensor dy, Tensor hidden)
    {
        if (!dx.Wanted) return;
        double[] g = new double[dx.Into.Count];
        ForVisible(hidden, dx.Into.Shape.D1, dy.Shape, (all, at) => g[all] = F(dy)[at]);
        Emit(dx, g);
    }

    public override void ScatterVisibleForward(Tensor y, Tensor x, Tensor mask, Tensor hidden)
    {
        for (long i = 0; i < y.Count; i++) F(y)[i] = F(mask)[i % y.Shape.Cols];
        ForVisible(hidden, y.Shape.D1, x.Shape, (all, at) => F(y)[all] = F(x)[at]);
    }

    public override void ScatterVisibleBackward(Grad dx, Grad dmask, Tensor dy, Tensor hidden)
    {
        (int images, int tokens, int width) = (dy.Shape.D0, dy.Shape.D1, dy.Shape.D2);
        int patches = hidden.Shape.D1;
        if (dx.Wanted)
        {
            double[] g = new double[dx.Into.Count];
            ForVisible(hidden, tokens, dx.Into.Shape, (all, at) => g[at] = F(dy)[all]);
            Emit(dx, g);
        }
        double[] gmask = new double[width];
        for (int b = 0; b < images; b++)
            for (int l = 0; l < patches; l++)
                for (int c = 0; c < width && U(hidden)[b * patches + l] != 0; c++)
                    gmask[c] += F(dy)[((long)b * tokens + tokens - patches + l) * width + c];
        Emit(dmask, gmask);
    }

    /// <summary>Calls with (offset in (B, N, C), offset in (B, prefix + V, C)) of every element that stays.</summary>
    private static void ForVisible(Tensor hidden, int tokens, Shape few, Action<long, long> visit)
    {
        (int images, int kept, int width) = (few.D0, few.D1, few.D2);
        int patches = hidden.Shape.D1, prefix = tokens - patches;
        for (int b = 0; b < images; b++)
        {
            int at = 0;
            for (int t = 0; t < tokens; t++)
            {
                if (t >= prefix && U(hidden)[b * patches + t - prefix] != 0) continue;
                for (int c = 0; c < width; c++) visit(((long)b * tokens + t) * width + c, ((long)b * kept + at) * width + c);
                at++;
            }
            Require(at == kept, $"Image {b} keeps {at} tokens, not {kept}.");
        }
    }

    public override void PoolTokensForward(Tensor y, Tensor x, Tensor w)
    {
        (int images, int tokens, int width, int count) = (x.Shape.D0, x.Shape.D1, x.Shape.D2, w.Shape.D1);
        for (int b = 0; b < images; b++)
            for (int c = 0; c < width; c++)
            {
                double sum = 0;
                for (int n = 0; n < count; n++)
                    sum += F(w)[b * count + n] * F(x)[((long)b * tokens + tokens - count + n) * width + c];
                F(y)[b * width + c] = sum;
            }
    }

    public override void PoolTokensBackward(Grad dx, Grad dw, Tensor dy, Tensor x, Tensor w)
    {
        (int images, int tokens, int width, int count) = (x.Shape.D0, x.Shape.D1, x.Shape.D2, w.Shape.D1);
        double[] gx = new double[x.Count], gw = new double[w.Count];
        for (int b = 0; b < images; b++)
            for (int n = 0; n < count; n++)
                for (int c = 0; c < width; c++)
                {
                    long at = ((long)b * tokens + tokens - count + n) * width + c;
                    gx[at] = F(w)[b * count + n] * F(dy)[b * width + c];
                    gw[b * count + n] += F(x)[at] * F(dy)[b * width + c];
                }
        Emit(dx, gx);
        Emit(dw, gw);
    }
}
