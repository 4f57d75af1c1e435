using System.Runtime.CompilerServices;

namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    /// <summary>Rows of <paramref name="cols"/> floats that make a chunk of about <see cref="ElementGrain"/> floats.</summary>
    private static int RowGrain(int cols) => Math.Max(1, ElementGrain / Math.Max(1, cols));

    public override void Patchify(Tensor patches, Tensor images, int patch, PixelOrder order)
        => MovePatches(patches, images, patch, order, toPatches: true);

    public override void Unpatchify(Tensor images, Tensor patches, int patch, PixelOrder order)
        => MovePatches(patches, images, patch, order, toPatches: false);

    private void MovePatches(Tensor patches, Tensor images, int patch, PixelOrder order, bool toPatches)
    {
        int height = images.Shape.D2, width = images.Shape.D3, grain = RowGrain(3 * patch * patch);
        int rows = images.Shape.D0 * (height / patch) * (width / patch);
        float* p = patches.F32, i = images.F32;
        switch (Level)
        {
            case SimdLevel.Vector512: _rows.For(rows, grain, new PatchRows<Lanes16>(p, i, patch, height, width, order, toPatches)); break;
            case SimdLevel.Vector256: _rows.For(rows, grain, new PatchRows<Lanes8>(p, i, patch, height, width, order, toPatches)); break;
            default: _rows.For(rows, grain, new PatchRows<Lanes1>(p, i, patch, height, width, order, toPatches)); break;
        }
    }

    /// <summary>One row is one patch.</summary>
    private readonly struct PatchRows<TV>(float* patches, float* images, int patch, int height, int width, PixelOrder order, bool toPatches)
        : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int across = width / patch, length = height / patch * across, size = patch * patch;
            for (int row = first; row < last; row++)
            {
                int b = row / length, l = row % length;
                float* at = patches + (long)row * 3 * size;
                for (int c = 0; c < 3; c++)
                {
                    float* plane = images + ((long)b * 3 + c) * height * width + (long)(l / across) * patch * width + l % across * patch;
                    for (int dy = 0; dy < patch; dy++)
                    {
                        float* pixels = plane + (long)dy * width;
                        if (order == PixelOrder.ChannelSlowest)
                        {
                            float* run = at + c * size + dy * patch;
                            if (toPatches) Lines<TV>.Copy(run, pixels, patch);
                            else Lines<TV>.Copy(pixels, run, patch);
                            continue;
                        }
                        float* third = at + 3 * dy * patch + c;
                        if (toPatches) for (int dx = 0; dx < patch; dx++) third[3 * dx] = pixels[dx];
                        else for (int dx = 0; dx < patch; dx++) pixels[dx] = third[3 * dx];
                    }
                }
            }
        }
    }

    public override void AssembleTokensForward(Tensor y, Tensor x, Tensor? cls, Tensor? mask, Tensor? hidden, Tensor? pos)
    {
        int tokens = y.Shape.D1, cols = y.Shape.Cols, rows = y.Shape.D0 * tokens, prefix = tokens - x.Shape.D1, grain = RowGrain(cols);
        float* to = y.F32, from = x.F32, c = cls is { } k ? k.F32 : null, m = mask is { } n ? n.F32 : null, p = pos is { } q ? q.F32 : null;
        byte* h = hidden is { } g ? g.U8 : null;
        switch (Level)
        {
            case SimdLevel.Vector512: _rows.For(rows, grain, new AssembleRows<Lanes16>(to, from, c, m, h, p, tokens, prefix, cols)); break;
            case SimdLevel.Vector256: _rows.For(rows, grain, new AssembleRows<Lanes8>(to, from, c, m, h, p, tokens, prefix, cols)); break;
            default: _rows.For(rows, grain, new AssembleRows<Lanes1>(to, from, c, m, h, p, tokens, prefix, cols)); break;
        }
    }

    /// <summary>One row is one token of y.</summary>
    private readonly struct AssembleRows<TV>(float* y, float* x, float* cls, float* mask, byte* hidden, float* pos, int tokens, int prefix,
        int cols) : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int length = tokens - prefix;
            for (int row = first; row < last; row++)
            {
                int b = row / tokens, n = row % tokens;
                long patch = (long)b * length + n - prefix;
                float* from = n < prefix ? cls : hidden != null && hidden[patch] != 0 ? mask : x + patch * cols;
                if (pos == null) Lines<TV>.Copy(y + (long)row * cols, from, cols);
                else Lines<TV>.Add(y + (long)row * cols, from, pos + (long)n * cols, cols);
            }
        }
    }

    public override void AssembleTokensBackward(Grad dx, Grad dcls, Grad dmask, Grad dpos, Tensor dy, Tensor? hidden)
    {
        switch (Level)
        {
            case SimdLevel.Vector512: AssembleBackward<Lanes16>(dx, dcls, dmask, dpos, dy, hidden); break;
            case SimdLevel.Vector256: AssembleBackward<Lanes8>(dx, dcls, dmask, dpos, dy, hidden); break;
            default: AssembleBackward<Lanes1>(dx, dcls, dmask, dpos, dy, hidden); break;
        }
    }

    private void AssembleBackward<TV>(Grad dx, Grad dcls, Grad dmask, Grad dpos, Tensor dy, Tensor? hidden) where TV : struct, ILanes<TV>
    {
        int images = dy.Shape.D0, tokens = dy.Shape.D1, cols = dy.Shape.Cols;
        int prefix = dx.Wanted ? tokens - dx.Into.Shape.D1 : hidden is { } q ? tokens - q.Shape.D1 : dcls.Wanted ? 1 : 0;
        byte* h = hidden is { } g ? g.U8 : null;
        if (dx.Wanted)
        {
            _rows.For(images * (tokens - prefix), RowGrain(cols),
                new AssembleBackwardRows<TV>(dx.Into.F32, dx.Accumulate, dy.F32, h, tokens, prefix, cols));
        }
        if (dpos.Wanted)
        {
            _rows.For(tokens, Math.Max(1, RowGrain(cols) / images),
                new BatchSumRows<TV>(dpos.Into.F32, dpos.Accumulate, dy.F32, images, tokens, cols));
        }
        if (dcls.Wanted)
            _rows.For(1, 1, new BatchSumRows<TV>(dcls.Into.F32, dcls.Accumulate, dy.F32, images, tokens, cols));
        if (dmask.Wanted)
        {
            _rows.For(cols, HiddenSumCols<TV>.Grain,
                new HiddenSumCols<TV>(dmask.Into.F32, dmask.Accumulate, dy.F32, h, images, tokens, prefix, cols));
        }
    }

    /// <summary>One row is one patch: dy where it is visible, 0 where it is hidden.</summary>
    private readonly struct AssembleBackwardRows<TV>(float* dx, bool accumulate, float* dy, byte* hidden, int tokens, int prefix, int cols)
        : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int length = tokens - prefix;
            for (int row = first; row < last; row++)
            {
                float* to = dx + (long)row * cols, from = dy + ((long)(row / length) * tokens + prefix + row % length) * cols;
                if (hidden == null || hidden[row] == 0) Lines<TV>.Put(to, from, accumulate, cols);
                else if (!accumulate) Lines<TV>.Set(to, 0f, cols);
            }
        }
    }

    /// <summary>One row is one token position: the sum over the images, in batch order.</summary>
    private readonly struct BatchSumRows<TV>(float* y, bool accumulate, float* x, int images, int tokens, int cols)
        : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (int n = first; n < last; n++)
            {
                float* to = y + (long)n * cols;
                for (int b = 0; b < images; b++) Lines<TV>.Put(to, x + ((long)b * tokens + n) * cols, accumulate || b > 0, cols);
            }
        }
    }

    /// <summary>A run of columns: the sum over hidden patches, first within an image, then over images in batch order.</summary>
    private readonly struct HiddenSumCols<TV>(float* y, bool accumulate, float* x, byte* hidden, int images, int tokens, int prefix,
        int cols) : IRowKernel where TV : struct, ILanes<TV>
    {
        public const int Grain = 64;   // 256 bytes of a row: whole cache lines, enough chunks at C = 192

        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int length = tokens - prefix;
            for (int c = first; c < last; c += TV.Count)
            {
                int n = last - c;
                TV sum = TV.Zero;
                for (int b = 0; b < images && hidden != null; b++)
                {
                    TV image = TV.Zero;
                    byte* h = hidden + (long)b * length;
                    float* from = x + ((long)b * tokens + prefix) * cols + c;
                    for (int l = 0; l < length; l++)
                        if (h[l] != 0) image += Lines<TV>.Load(from + (long)l * cols, n);
                    sum += image;
                }
                if (accumulate) sum += Lines<TV>.Load(y + c, n);
                Lines<TV>.Store(sum, y + c, n);
            }
        }
    }

    public override void SliceTokensForward(Tensor y, Tensor x, int first)
    {
        int count = y.Shape.D1, tokens = x.Shape.D1, cols = x.Shape.Cols;
        float* from = x.F32 + (long)first * cols;
        int rows = y.Shape.D0 * count, grain = RowGrain(cols);
        switch (Level)
        {
            case SimdLevel.Vector512: _rows.For(rows, grain, new SliceRows<Lanes16>(y.F32, from, count, tokens, cols)); break;
            case SimdLevel.Vector256: _rows.For(rows, grain, new SliceRows<Lanes8>(y.F32, from, count, tokens, cols)); break;
            default: _rows.For(rows, grain, new SliceRows<Lanes1>(y.F32, from, count, tokens, cols)); break;
        }
    }

    /// <summary>One row is one token of y; x starts at the run's first token.</summary>
    private readonly struct SliceRows<TV>(float* y, float* x, int count, int tokens, int cols) : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (int row = first; row < last; row++)
                Lines<TV>.Copy(y + (long)row * cols, x + ((long)(row / count) * tokens + row % count) * cols, cols);
        }
    }

    public override void SliceTokensBackward(Grad dx, Tensor dy, int first)
        => SpreadTokens(dx, dy, first, dy.Shape.D1, 1f, oneRow: false);

    public override void MeanTokensBackward(Grad dx, Tensor dy, int first)
    {
        if (!dx.Wanted) return;
        int count = dx.Into.Shape.D1 - first;
        SpreadTokens(dx, dy, first, count, 1f / count, oneRow: true);
    }

    private void SpreadTokens(Grad dx, Tensor dy, int first, int count, float scale, bool oneRow)
    {
        if (!dx.Wanted) return;
        int tokens = dx.Into.Shape.D1, cols = dx.Into.Shape.Cols, rows = dx.Into.Shape.D0 * tokens, grain = RowGrain(cols);
        float* to = dx.Into.F32, from = dy.F32;
        bool a = dx.Accumulate;
        switch (Level)
        {
            case SimdLevel.Vector512:
                _rows.For(rows, grain, new SpreadRows<Lanes16>(to, a, from, first, count, tokens, cols, scale, oneRow));
                break;
            case SimdLevel.Vector256:
                _rows.For(rows, grain, new SpreadRows<Lanes8>(to, a, from, first, count, tokens, cols, scale, oneRow));
                break;
            default:
                _rows.For(rows, grain, new SpreadRows<Lanes1>(to, a, from, first, count, tokens, cols, scale, oneRow));
                break;
        }
    }

    /// <summary>One row is one token of dx: scale·dy inside the run, 0 outside. With oneRow, all of the run share a row of dy.</summary>
    private readonly struct SpreadRows<TV>(float* dx, bool accumulate, float* dy, int start, int count, int tokens, int cols, float scale,
        bool oneRow) : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (int row = first; row < last; row++)
            {
                int b = row / tokens, i = row % tokens - start;
                float* to = dx + (long)row * cols;
                if (i >= 0 && i < count) Lines<TV>.Scale(to, dy + (oneRow ? b : (long)b * count + i) * cols, scale, accumulate, cols);
                else if (!accumulate) Lines<TV>.Set(to, 0f, cols);
            }
        }
    }

    public override void MeanTokensForward(Tensor y, Tensor x, int first)
    {
        int images = x.Shape.D0, tokens = x.Shape.D1, cols = x.Shape.Cols;
        switch (Level)
        {
            case SimdLevel.Vector512: _rows.For(images, 1, new MeanRows<Lanes16>(y.F32, x.F32, first, tokens, cols)); break;
            case SimdLevel.Vector256: _rows.For(images, 1, new MeanRows<Lanes8>(y.F32, x.F32, first, tokens, cols)); break;
            default: _rows.For(images, 1, new MeanRows<Lanes1>(y.F32, x.F32, first, tokens, cols)); break;
        }
    }

    /// <summary>One row is one image.</summary>
    private readonly struct MeanRows<TV>(float* y, float* x, int start, int tokens, int cols) : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (int b = first; b < last; b++)
            {
                float* to = y + (long)b * cols;
                for (int i = start; i < tokens; i++) Lines<TV>.Put(to, x + ((long)b * tokens + i) * cols, i > start, cols);
                Lines<TV>.Scale(to, to, 1f / (tokens - start), accumulate: false, cols);
            }
        }
    }
}
