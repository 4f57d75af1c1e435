using MimEngine.Engine.Autograd;
using MimEngine.Kernels;

namespace MimEngine.Engine.Probing;

/// <summary>How the tokens of a picture become one feature vector: "Beyond [cls]" (SPEC D.2; its names in brackets).</summary>
public enum Pooling : byte
{
    /// <summary>The [cls] token.</summary>
    Cls,

    /// <summary>The mean of the patch tokens, without [cls] ("pos").</summary>
    MeanPatches,

    /// <summary>The mean of the k × k patches in the middle ("cp1" … "cp4").</summary>
    Center1, Center2, Center3, Center4,

    /// <summary>Patches weighted by what those k × k patches attend to, renormalised over patches, then averaged ("ca1" … "ca4").</summary>
    CenterAttention1, CenterAttention2, CenterAttention3, CenterAttention4,

    /// <summary>Patches weighted by [cls]'s attention in the head where it is most selective, of least entropy ("attn-lcte").</summary>
    SelectiveHead,

    /// <summary>Patches weighted by [cls]'s attention, mean over heads ("attn-mn").</summary>
    MeanHead,

    /// <summary>Patches weighted by the [cls] attention of another encoder, mean over its heads, not renormalised ("dino").</summary>
    Oracle,

    /// <summary>A weight for each token, learned with the classifier ("abmilp").</summary>
    AbMilp,

    /// <summary>[cls] of the last four blocks, each after the final LayerNorm, side by side: DINO's and iBOT's linear probe (SPEC E.6).</summary>
    ClsOfLastBlocks,
}

/// <summary>What <see cref="Pooling"/> computes, differentiable in tokens and attention.</summary>
public static class Aggregation
{
    /// <summary>Blocks that <see cref="Pooling.ClsOfLastBlocks"/> reads.</summary>
    public const int LastBlocks = 4;

    private const float SumEps = 1e-6f;

    /// <summary>Whether it reads the attention of the block.</summary>
    public static bool ReadsAttention(this Pooling p) => p is >= Pooling.CenterAttention1 and <= Pooling.Oracle;

    /// <summary>Patches a side of the square in the middle that it reads; 0 = none.</summary>
    public static int Window(this Pooling p) => p switch
    {
        >= Pooling.Center1 and <= Pooling.Center4 => p - Pooling.Center1 + 1,
        >= Pooling.CenterAttention1 and <= Pooling.CenterAttention4 => p - Pooling.CenterAttention1 + 1,
        _ => 0,
    };

    /// <summary>(B, C) features; for <see cref="Pooling.AbMilp"/> see <see cref="AbMilp"/>.</summary>
    /// <param name="tokens">(B, prefix + G², C).</param>
    /// <param name="attention">(B, H, N, N) of the same block, or of the oracle; needed where <see cref="ReadsAttention"/>.</param>
    public static Value Pool(Tape t, Pooling kind, Value tokens, Value? attention, int prefix, int grid)
    {
        int patches = grid * grid;
        if (kind == Pooling.Cls) return t.Reshape(t.SliceTokens(tokens, 0, 1), new Shape(tokens.Shape.D0, tokens.Shape.D2));
        if (kind == Pooling.MeanPatches) return t.MeanTokens(tokens, prefix);
        if (kind is >= Pooling.Center1 and <= Pooling.Center4)
        {
            float[] even = new float[tokens.Shape.D0 * patches];
            foreach (int patch in Middle(kind.Window(), grid))
                for (int b = 0; b < tokens.Shape.D0; b++) even[b * patches + patch] = 1f / (kind.Window() * kind.Window());
            return t.PoolTokens(tokens, t.Input(Uploaded(t, even, new Shape(tokens.Shape.D0, patches))));
        }
        if (attention is null) throw new ArgumentException($"{kind} needs attention.");
        bool mean = kind.Window() > 0, own = kind != Pooling.Oracle;
        float gain = mean || !own ? 1f / patches : 1f;
        Tensor mix = Uploaded(t, Mix(t, kind, attention, prefix, grid), new Shape(attention.Shape.D0, attention.Shape.D1, attention.Shape.D2));
        return t.PoolTokens(tokens, t.MixAttention(attention, mix, patches, gain, renormalise: own, mean ? SumEps : 0f));
    }

    /// <summary>Patches of the k × k square: rows and columns from c − ⌈k/2⌉ to c + ⌊k/2⌋, c = ⌊G/2⌋, the end excluded.</summary>
    public static IEnumerable<int> Middle(int k, int grid)
    {
        int from = grid / 2 - (k + 1) / 2;
        for (int row = from; row < from + k; row++)
            for (int col = from; col < from + k; col++) yield return row * grid + col;
    }

    /// <summary>−Σ p·ln(p + 1e-6) of a row of attention over patches, p renormalised over (their sum + 1e-6) (SPEC D.4).</summary>
    public static double Entropy(ReadOnlySpan<float> toPatches)
    {
        double sum = SumEps, entropy = 0;
        foreach (float a in toPatches) sum += a;
        foreach (float a in toPatches) entropy -= a / sum * Math.Log(a / sum + SumEps);
        return entropy;
    }

    /// <summary>(B, H, N): the heads and queries whose attention is averaged.</summary>
    private static float[] Mix(Tape t, Pooling kind, Value attention, int prefix, int grid)
    {
        (int images, int heads, int tokens) = (attention.Shape.D0, attention.Shape.D1, attention.Shape.D2);
        float[] mix = new float[images * heads * tokens];
        int[] queries = kind.Window() == 0 ? [0] : [.. Middle(kind.Window(), grid).Select(patch => prefix + patch)];
        int[]? selective = kind == Pooling.SelectiveHead ? SelectiveHeads(t, attention, prefix) : null;
        for (int b = 0; b < images; b++)
            for (int h = 0; h < heads; h++)
                foreach (int q in queries)
                    mix[(b * heads + h) * tokens + q] = selective is null ? 1f / (heads * queries.Length) : selective[b] == h ? 1f : 0f;
        return mix;
    }

    private static int[] SelectiveHeads(Tape t, Value attention, int prefix)
    {
        (int images, int heads, int tokens) = (attention.Shape.D0, attention.Shape.D1, attention.Shape.D2);
        Tensor first = t.Keep(new Shape(images * heads, 1, tokens));
        t.Backend.SliceTokensForward(first, attention.Data.Reshape(new Shape(images * heads, tokens, tokens)), 0);
        float[] rows = Transfer.Floats(t.Backend, first);
        double[] entropies = [.. Enumerable.Range(0, images * heads).Select(i => Entropy(rows.AsSpan(i * tokens + prefix, tokens - prefix)))];
        return [.. Enumerable.Range(0, images).Select(b => Enumerable.Range(0, heads).MinBy(h => entropies[b * heads + h]))];
    }

    private static Tensor Uploaded(Tape t, float[] values, Shape shape)
    {
        Tensor tensor = t.Keep(shape);
        Transfer.Upload(t.Backend, tensor, values);
        return tensor;
    }
}
