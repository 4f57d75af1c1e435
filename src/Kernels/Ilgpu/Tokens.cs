using ILGPU;

namespace MimEngine.Kernels.Ilgpu;

internal sealed partial class IlgpuBackend
{
    public override void Patchify(Tensor patches, Tensor images, int patch, PixelOrder order)
        => LaunchEach(images.Count, new PatchifyEach(F(patches), F(images), new PatchLayout(images.Shape, patch, order), 1));

    public override void Unpatchify(Tensor images, Tensor patches, int patch, PixelOrder order)
        => LaunchEach(images.Count, new PatchifyEach(F(patches), F(images), new PatchLayout(images.Shape, patch, order), 0));

    public override void AssembleTokensForward(Tensor y, Tensor x, Tensor? cls, Tensor? mask, Tensor? hidden, Tensor? pos)
        => LaunchEach(y.Count, new AssembleEach(F(y), F(x), F(cls), F(mask), U(hidden), Flag(hidden), F(pos), Flag(pos), y.Shape.D1,
            y.Shape.D1 - x.Shape.D1, y.Shape.Cols));

    public override void AssembleTokensBackward(Grad dx, Grad dcls, Grad dmask, Grad dpos, Tensor dy, Tensor? hidden)
    {
        int images = dy.Shape.D0, tokens = dy.Shape.D1, cols = dy.Shape.Cols;
        int prefix = dx.Wanted ? tokens - dx.Into.Shape.D1 : hidden is { } h ? tokens - h.Shape.D1 : dcls.Wanted ? 1 : 0;
        if (dx.Wanted)
            LaunchEach(dx.Into.Count, new AssembleBackwardEach(F(dx), F(dy), U(hidden), Flag(hidden), tokens, prefix, cols, Flag(dx.Accumulate)));
        if (dpos.Wanted) LaunchEach((long)tokens * cols, new BatchSums(F(dpos), F(dy), images, tokens * cols, Flag(dpos.Accumulate)));
        if (dcls.Wanted) LaunchEach(cols, new BatchSums(F(dcls), F(dy), images, tokens * cols, Flag(dcls.Accumulate)));
        if (dmask.Wanted)
            SumColumns(dmask, PartialSlot, images * (tokens - prefix), cols, new Hidden(F(dy), U(hidden), Flag(hidden), tokens, prefix, cols));
    }

    public override void SliceTokensForward(Tensor y, Tensor x, int first)
        => LaunchEach(y.Count, new SliceEach(F(y), F(x), y.Shape.D1, x.Shape.D1, first, y.Shape.Cols));

    public override void SliceTokensBackward(Grad dx, Tensor dy, int first)
    {
        if (dx.Wanted)
            LaunchEach(dx.Into.Count, new SliceBackwardEach(F(dx), F(dy), dy.Shape.D1, dx.Into.Shape.D1, first, dy.Shape.Cols,
                Flag(dx.Accumulate)));
    }

    public override void MeanTokensForward(Tensor y, Tensor x, int first)
        => LaunchEach(y.Count, new MeanEach(F(y), F(x), x.Shape.D1, first, y.Shape.Cols));

    public override void MeanTokensBackward(Grad dx, Tensor dy, int first)
    {
        if (dx.Wanted) LaunchEach(dx.Into.Count, new MeanBackwardEach(F(dx), F(dy), dx.Into.Shape.D1, first, dy.Shape.Cols, Flag(dx.Accumulate)));
    }
}

/// <summary>Where a pixel of (B, 3, H, W) lies in (B, L, 3·P²).</summary>
internal readonly struct PatchLayout(int height, int width, int patch, int channelFastest)
{
    public readonly int Height = height, Width = width, Patch = patch, ChannelFastest = channelFastest;

    public PatchLayout(Shape images, int patch, PixelOrder order)
        : this(images.D2, images.D3, patch, order == PixelOrder.ChannelFastest ? 1 : 0) { }

    public int PatchesAnImage => Height / Patch * (Width / Patch);

    /// <summary>Number of the patch, over the whole batch, that holds pixel (b, y, x).</summary>
    public int PatchOf(int b, int y, int x) => b * PatchesAnImage + y / Patch * (Width / Patch) + x / Patch;

    /// <summary>Place in the image tensor of number i of a patch, channels slowest.</summary>
    public int Pixel(int patch, int i)
    {
        int inImage = patch % PatchesAnImage, across = Width / Patch, c = i / (Patch * Patch), inside = i % (Patch * Patch);
        int y = inImage / across * Patch + inside / Patch, x = inImage % across * Patch + inside % Patch;
        return ((patch / PatchesAnImage * 3 + c) * Height + y) * Width + x;
    }

    /// <summary>Place in the patch tensor of pixel i of the image tensor.</summary>
    public int Place(int i)
    {
        int x = i % Width, y = i / Width % Height, c = i / Width / Height % 3, b = i / Width / Height / 3;
        int inside = y % Patch * Patch + x % Patch;
        return PatchOf(b, y, x) * (3 * Patch * Patch) + (ChannelFastest != 0 ? inside * 3 + c : c * Patch * Patch + inside);
    }
}

internal readonly struct PatchifyEach(ArrayView<float> patches, ArrayView<float> images, PatchLayout at, int forward) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= images.Length) return;
        if (forward != 0) patches[at.Place(i)] = images[i];
        else images[i] = patches[at.Place(i)];
    }
}

internal readonly struct AssembleEach(ArrayView<float> y, ArrayView<float> x, ArrayView<float> cls, ArrayView<float> mask,
    ArrayView<byte> hidden, int hasHidden, ArrayView<float> pos, int hasPos, int tokens, int prefix, int cols) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= y.Length) return;
        int c = i % cols, n = i / cols % tokens, patch = i / cols / tokens * (tokens - prefix) + n - prefix;
        float v;
        if (n < prefix) v = cls[c];
        else if (hasHidden != 0 && hidden[patch] != 0) v = mask[c];
        else v = x[patch * cols + c];
        y[i] = hasPos != 0 ? v + pos[n * cols + c] : v;
    }
}

internal readonly struct AssembleBackwardEach(ArrayView<float> dx, ArrayView<float> dy, ArrayView<byte> hidden, int hasHidden, int tokens,
    int prefix, int cols, int accumulate) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= dx.Length) return;
        int patch = i / cols, length = tokens - prefix;
        float d = 0f;
        if (hasHidden == 0 || hidden[patch] == 0) d = dy[(patch / length * tokens + prefix + patch % length) * cols + i % cols];
        dx[i] = accumulate != 0 ? dx[i] + d : d;
    }
}

/// <summary>One thread is one number of the first image; it adds the same one of every image in order.</summary>
internal readonly struct BatchSums(ArrayView<float> y, ArrayView<float> dy, int images, int stride, int accumulate) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= y.Length) return;
        float sum = 0f;
        for (int b = 0; b < images; b++) sum += dy[b * stride + i];
        y[i] = accumulate != 0 ? y[i] + sum : sum;
    }
}

/// <summary>dy where the patch is hidden: what dmask sums.</summary>
internal readonly struct Hidden(ArrayView<float> dy, ArrayView<byte> hidden, int hasHidden, int tokens, int prefix, int cols) : IElement
{
    public float At(int row, int col)
    {
        int length = tokens - prefix;
        if (hasHidden == 0 || hidden[row] == 0) return 0f;
        return dy[(row / length * tokens + prefix + row % length) * cols + col];
    }
}

internal readonly struct SliceEach(ArrayView<float> y, ArrayView<float> x, int taken, int tokens, int first, int cols) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i < y.Length) y[i] = x[(i / cols / taken * tokens + first + i / cols % taken) * cols + i % cols];
    }
}

internal readonly struct SliceBackwardEach(ArrayView<float> dx, ArrayView<float> dy, int taken, int tokens, int first, int cols,
    int accumulate) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= dx.Length) return;
        int n = i / cols % tokens - first;
        float d = 0f;
        if (n >= 0 && n < taken) d = dy[(i / cols / tokens * taken + n) * cols + i % cols];
        dx[i] = accumulate != 0 ? dx[i] + d : d;
    }
}

internal readonly struct MeanEach(ArrayView<float> y, ArrayView<float> x, int tokens, int first, int cols) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= y.Length) return;
        float sum = 0f;
        for (int n = first; n < tokens; n++) sum += x[(i / cols * tokens + n) * cols + i % cols];
        y[i] = sum / (tokens - first);
    }
}

internal readonly struct MeanBackwardEach(ArrayView<float> dx, ArrayView<float> dy, int tokens, int first, int cols, int accumulate) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= dx.Length) return;
        float d = 0f;
        if (i / cols % tokens >= first) d = dy[i / cols / tokens * cols + i % cols] / (tokens - first);
        dx[i] = accumulate != 0 ? dx[i] + d : d;
    }
}
