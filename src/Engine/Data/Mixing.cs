using MimEngine.Kernels;

namespace MimEngine.Engine.Data;

/// <summary>Whom a picture is mixed with.</summary>
public enum MixPartner : byte
{
    /// <summary>Picture i with picture i − 1, the first with the last: torchvision v2, which KAMIM uses.</summary>
    Rolled,

    /// <summary>Picture i with picture B − 1 − i: timm in batch mode.</summary>
    Flipped,
}

/// <summary>
/// One batch's Mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019): x ← λ·x + (1 − λ)·partner everywhere, or x ← partner inside a box
/// of share 1 − λ; targets are mixed by the same λ.
/// </summary>
/// <param name="Lambda">Share of a picture's own label; for CutMix that of the clipped box: 1 − box/(H·W).</param>
/// <param name="Box">The rows and columns taken from the partner; null = Mixup.</param>
public readonly record struct Mixing(float Lambda, MixBox? Box, MixPartner Partner)
{
    /// <summary>Draws λ ~ Beta(α, α).</summary>
    public static Mixing Mixup(ref RngSequence random, double alpha, MixPartner partner) => new((float)Beta(ref random, alpha), null, partner);

    /// <summary>
    /// Draws λ ~ Beta(α, α) and a box around a uniform centre whose half sides are ⌊½·H·√(1 − λ)⌋ and ⌊½·W·√(1 − λ)⌋, clipped to the
    /// picture (torchvision v2 and timm agree on this rule).
    /// </summary>
    public static Mixing CutMix(ref RngSequence random, double alpha, int height, int width, MixPartner partner)
    {
        double half = 0.5 * Math.Sqrt(1 - Beta(ref random, alpha));
        int x = random.Below(width), y = random.Below(height), halfWidth = (int)(half * width), halfHeight = (int)(half * height);
        var box = new MixBox(Math.Max(y - halfHeight, 0), Math.Min(y + halfHeight, height), Math.Max(x - halfWidth, 0), Math.Min(x + halfWidth, width));
        return Cut(box, height, width, partner);
    }

    /// <summary>CutMix with a given box; λ follows from its area.</summary>
    public static Mixing Cut(MixBox box, int height, int width, MixPartner partner) =>
        new((float)(1.0 - (double)(box.Bottom - box.Top) * (box.Right - box.Left) / ((double)height * width)), box, partner);

    /// <summary>KAMIM's probe: Mixup(1) or CutMix(1) with equal probability, partner rolled by one (SPEC A.9).</summary>
    public static Mixing Kamim(ref RngSequence random, int height, int width) => random.Below(2) == 0
        ? Mixup(ref random, 1, MixPartner.Rolled)
        : CutMix(ref random, 1, height, width, MixPartner.Rolled);

    /// <summary>Mixes a batch in place.</summary>
    /// <param name="images">(B, C, H, W) float32; normalised or not, the mix is the same.</param>
    public void Apply(Span<float> images, int batch, int channels, int height, int width)
    {
        int picture = channels * height * width;
        if (Box is null)
        {
            Mix(images, batch, picture, 0, picture);
            return;
        }
        MixBox box = Box.Value;
        if (box.Right <= box.Left) return;
        for (int c = 0; c < channels; c++)
            for (int y = box.Top; y < box.Bottom; y++)
                Mix(images, batch, picture, (c * height + y) * width + box.Left, box.Right - box.Left);
    }

    /// <summary>Soft targets: λ·on(own) + (1 − λ)·on(partner), where on(k) is 1 − s + s/K at class k and s/K elsewhere.</summary>
    /// <param name="targets">(B, K) float32, written.</param>
    /// <param name="labels">(B), 0 to K − 1.</param>
    /// <param name="smoothing">s, 0 to 1.</param>
    public void Targets(Span<float> targets, ReadOnlySpan<int> labels, int classes, float smoothing = 0)
    {
        float off = smoothing / classes, on = 1 - smoothing;
        targets[..(labels.Length * classes)].Fill(off);
        for (int i = 0; i < labels.Length; i++)
        {
            int other = Partner == MixPartner.Rolled ? (i + labels.Length - 1) % labels.Length : labels.Length - 1 - i;
            targets[i * classes + labels[i]] += on * Lambda;
            targets[i * classes + labels[other]] += on * (1 - Lambda);
        }
    }

    // One run of elements of every picture, a piece at a time, so that the picture that is needed last fits the stack.
    private void Mix(Span<float> images, int batch, int picture, int from, int length)
    {
        float own = Box is null ? Lambda : 0, others = 1 - own;
        Span<float> last = stackalloc float[256];
        for (int piece; length > 0; from += piece, length -= piece)
        {
            piece = Math.Min(length, last.Length);
            if (Partner == MixPartner.Flipped)
            {
                for (int i = 0; i < batch / 2; i++)
                {
                    Span<float> a = images.Slice(i * picture + from, piece), b = images.Slice((batch - 1 - i) * picture + from, piece);
                    for (int k = 0; k < piece; k++) (a[k], b[k]) = (own * a[k] + others * b[k], own * b[k] + others * a[k]);
                }
                continue;
            }
            images.Slice((batch - 1) * picture + from, piece).CopyTo(last);
            for (int i = batch - 1; i >= 0; i--)
            {
                Span<float> a = images.Slice(i * picture + from, piece);
                ReadOnlySpan<float> b = i > 0 ? images.Slice((i - 1) * picture + from, piece) : last[..piece];
                for (int k = 0; k < piece; k++) a[k] = own * a[k] + others * b[k];
            }
        }
    }

    private static double Beta(ref RngSequence random, double alpha)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(alpha);
        if (alpha == 1) return random.UniformDouble();
        double x = Gamma(ref random, alpha), y = Gamma(ref random, alpha);
        return x + y > 0 ? x / (x + y) : 0.5;
    }

    // Marsaglia and Tsang 2000; below shape 1 by Gamma(a) = Gamma(a + 1)·U^(1/a).
    private static double Gamma(ref RngSequence random, double shape)
    {
        if (shape < 1) return Gamma(ref random, shape + 1) * Math.Pow(1 - random.UniformDouble(), 1 / shape);
        double d = shape - 1.0 / 3, c = 1 / Math.Sqrt(9 * d);
        while (true)
        {
            double n = random.Normal(), v = 1 + c * n;
            if (v <= 0) continue;
            v = v * v * v;
            if (Math.Log(1 - random.UniformDouble()) < 0.5 * n * n + d - d * v + d * Math.Log(v)) return d * v;
        }
    }
}

/// <summary>Rows Top … Bottom − 1, columns Left … Right − 1.</summary>
public readonly record struct MixBox(int Top, int Bottom, int Left, int Right);
