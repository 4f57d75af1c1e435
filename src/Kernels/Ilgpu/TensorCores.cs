using ILGPU;
using ILGPU.Runtime;
using ILGPU.Runtime.Cuda;
using MimEngine.Kernels.Ptx;

namespace MimEngine.Kernels.Ilgpu;

internal sealed partial class IlgpuBackend
{
    private const int LeftSlot = 6, RightSlot = 7;

    /// <summary>Groups that a weight gradient is cut into at least, where its rows allow it: a fixed number, so that bits depend on no device.</summary>
    private const int WantedGroups = 256;

    private readonly IEmittedDriver? _emitted;
    private readonly bool _halves;

    /// <summary>
    /// The rule. A product runs on tensor cores when the device has them for bfloat16, both extents that lie along memory are multiples of 8,
    /// every operand starts at a multiple of 16 bytes, and both operands are bfloat16 or, under precision bf16, at least one is: the other is
    /// rounded first.
    /// </summary>
    private bool OnTensorCores(Tensor x, Tensor w, int n, int k)
        => _emitted is not null && n % 8 == 0 && k % 8 == 0 && (x.DType == DType.BF16 && w.DType == DType.BF16
            || _halves && (x.DType == DType.BF16 || w.DType == DType.BF16)) && Aligned(x) && Aligned(w);

    private static bool Aligned(Tensor? t) => t is not { } given || given.ByteOffset % 16 == 0;

    private static bool Aligned(Grad g) => !g.Wanted || Aligned(g.Into);

    private static ulong Address(Tensor t) => (ulong)Bytes(t).LoadEffectiveAddressAsPtr();

    private static ulong Address(Tensor? t) => t is { } given ? Address(given) : 0;

    /// <summary>The operand as bfloat16, rounded into scratch where it is not.</summary>
    private ulong Half(Tensor t, int slot)
    {
        if (t.DType == DType.BF16) return Address(t);
        ArrayView<ushort> rounded = Scratch<ushort>(slot, t.Count);
        LaunchEach(t.Count, new Narrow(rounded, F(t)));
        return (ulong)rounded.LoadEffectiveAddressAsPtr();
    }

    /// <summary>y = x·wᵀ and what follows it: y float32 or bfloat16, or h and y.</summary>
    private bool TryForward(Tensor y, Tensor? h, Tensor x, Tensor w, Tensor? b, Tensor? residual, Tensor? gamma, Tensor? rowScale)
    {
        int m = x.Shape.Rows, k = w.Shape.Cols, n = w.Shape.D0;
        if (!OnTensorCores(x, w, n, k) || !Aligned(y) || !Aligned(h) || !Aligned(b) || !Aligned(residual) || !Aligned(gamma)) return false;
        if (h is { DType: not DType.BF16 } || h is not null && y.DType != DType.BF16) return false;
        ulong left = Half(x, LeftSlot), right = Half(w, RightSlot);
        if (h is not null) Product(Ending.Gelu, true, true, 1, left, right, m, n, k, k, Address(y), Address(h), Address(b));
        else if (y.DType == DType.BF16) Product(Ending.Half, true, true, 1, left, right, m, n, k, k, Address(y), Address(b), 0);
        else
            Product(Ending.Float, true, true, 1, left, right, m, n, k, k, Address(y), Address(b), Address(residual), Address(gamma), Address(rowScale),
                rowScale is { } s ? (ulong)(m / s.Count) : 0);
        return true;
    }

    /// <summary>dh = (dy·w) ∘ GELU′(h), dh and h bfloat16.</summary>
    private bool TrySlope(Tensor dh, Tensor dy, Tensor w, Tensor h)
    {
        int m = dy.Shape.Rows, k = w.Shape.Cols, n = w.Shape.D0;
        if (!OnTensorCores(dy, w, n, k) || dh.DType != DType.BF16 || h.DType != DType.BF16 || !Aligned(dh) || !Aligned(h)) return false;
        Product(Ending.Slope, true, false, 1, Half(dy, LeftSlot), Half(w, RightSlot), m, k, n, n, Address(dh), Address(h));
        return true;
    }

    /// <summary>dx = dy·w and dw = dyᵀ·x.</summary>
    private bool TryBackward(Grad dx, Grad dw, Tensor dy, Tensor x, Tensor w)
    {
        int m = x.Shape.Rows, k = w.Shape.Cols, n = w.Shape.D0;
        bool first = !dx.Wanted || OnTensorCores(dy, w, n, k) && Aligned(dx), second = !dw.Wanted || OnTensorCores(dy, x, n, k) && Aligned(dw);
        if (!first || !second) return false;
        ulong left = Half(dy, LeftSlot);
        if (dx.Wanted)
        {
            ulong right = Half(w, RightSlot), to = Address(dx.Into);
            if (dx.Into.DType == DType.BF16) Product(Ending.Half, true, false, 1, left, right, m, k, n, n, to, 0, dx.Accumulate ? 1u : 0u);
            else Product(Ending.Float, true, false, 1, left, right, m, k, n, n, to, 0, dx.Accumulate ? to : 0, 0, 0, 0);
        }
        if (!dw.Wanted) return true;
        ulong gradient = Address(dw.Into), inputs = Half(x, RightSlot);
        int groups = Blocks(n, TensorKernels.Tiling.BlockRows) * Blocks(k, TensorKernels.Tiling.BlockCols);
        int slices = Math.Clamp(Math.Min(Blocks(WantedGroups, groups), m / (4 * TensorKernels.Tiling.Depth)), 1, 64);
        int part = Blocks(Blocks(m, slices), TensorKernels.Tiling.Depth) * TensorKernels.Tiling.Depth;
        slices = Blocks(m, part);
        if (slices == 1)
        {
            Product(Ending.Float, false, false, 1, left, inputs, n, k, m, m, gradient, 0, dw.Accumulate ? gradient : 0, 0, 0, 0);
            return true;
        }
        ArrayView<float> partial = Scratch<float>(PartialSlot, (long)slices * n * k);
        Product(Ending.Float, false, false, slices, left, inputs, n, k, m, part, (ulong)partial.LoadEffectiveAddressAsPtr(), 0, 0, 0, 0, 0);
        Combine(dw, partial, slices, n * k);
        return true;
    }

    /// <summary>Launches a product with the parameters of its ending.</summary>
    private void Product(Ending ending, bool aAlongDepth, bool bAlongDepth, int slices, ulong a, ulong b, int rows, int cols, int depth, int part,
        params ReadOnlySpan<ulong> more)
    {
        LoadedKernel kernel = Emitted(new EmittedKey(ending, aAlongDepth, bAlongDepth),
            static key => TensorKernels.Product(key.Ending, key.A, key.B));
        Span<ulong> all = stackalloc ulong[6 + more.Length];
        (all[0], all[1], all[2], all[3], all[4], all[5]) = (a, b, (ulong)rows, (ulong)cols, (ulong)depth, (ulong)part);
        more.CopyTo(all[6..]);
        Queue(kernel, (long)Blocks(rows, TensorKernels.Tiling.BlockRows) * Blocks(cols, TensorKernels.Tiling.BlockCols), slices, all);
    }

    private LoadedKernel Emitted(EmittedKey key, Func<EmittedKey, PtxKernel> write)
    {
        try { return _emitted!.Kernel(key, write); }
        catch (AcceleratorException e) { throw Lost(e); }
    }

    private void Queue(LoadedKernel kernel, long groups, int slices, ReadOnlySpan<ulong> parameters)
    {
        try
        {
            Call();
            _emitted!.Launch(kernel, groups, slices, parameters);
        }
        catch (AcceleratorException e) { throw Lost(e); }
    }

    /// <summary>Attention runs on tensor cores when q, k and v are bfloat16 and a head is 32, 64 or 128 numbers wide.</summary>
    private FlashTiling? Flash(Tensor qkv, int heads)
    {
        int width = qkv.Shape.Cols / 3 / heads;
        return _emitted is not null && qkv.DType == DType.BF16 && Aligned(qkv) && TensorKernels.Widths.Contains(width) ? TensorKernels.Flash(width) : null;
    }

    private bool TryAttentionForward(Tensor y, Tensor lse, Tensor qkv, int heads, Tensor? bias)
    {
        if (Flash(qkv, heads) is not { } tiling || !Aligned(y)) return false;
        int tokens = qkv.Shape.D1;
        bool hasBias = bias is not null;
        LoadedKernel kernel = Emitted(new EmittedKey(EmittedPart.Forward, tiling.Width, hasBias),
            static key => TensorKernels.AttentionForward(key.Width, key.Option));
        Span<ulong> all = [Address(y), Address(lse), Address(qkv), (ulong)tokens, (ulong)heads, Scale(tiling), Address(bias)];
        Queue(kernel, (long)qkv.Shape.D0 * heads * Blocks(tokens, tiling.Own), 1, hasBias ? all : all[..6]);
        return true;
    }

    private bool TryAttentionBackward(Tensor dqkv, Tensor dy, Tensor lse, ArrayView<float> delta, Tensor qkv, int heads, Tensor? bias)
    {
        if (Flash(qkv, heads) is not { } tiling || !Aligned(dqkv) || !Aligned(dy)) return false;
        int tokens = qkv.Shape.D1;
        bool hasBias = bias is not null;
        Span<ulong> all = [Address(dqkv), Address(qkv), Address(dy), Address(lse), (ulong)delta.LoadEffectiveAddressAsPtr(), (ulong)tokens, (ulong)heads,
            Scale(tiling), Address(bias)];
        foreach (EmittedPart part in s_backward)
        {
            LoadedKernel kernel = Emitted(new EmittedKey(part, tiling.Width, hasBias),
                static key => TensorKernels.AttentionBackward(key.Width, key.Option, key.Part == EmittedPart.Queries));
            Queue(kernel, (long)qkv.Shape.D0 * heads * Blocks(tokens, tiling.Own), 1, hasBias ? all : all[..8]);
        }
        return true;
    }

    /// <summary>Images are cut into slices, each with a matrix of its own, until there are enough groups; then slice after slice is added.</summary>
    private bool TryAttentionBias(Grad dbias, Tensor dy, Tensor lse, ArrayView<float> delta, Tensor qkv, int heads, Tensor? bias)
    {
        if (Flash(qkv, heads) is not { } tiling || !Aligned(dy) || bias is null) return false;
        int images = qkv.Shape.D0, tokens = qkv.Shape.D1, groups = heads * Blocks(tokens, tiling.Own) * Blocks(tokens, tiling.Block);
        int part = Blocks(images, Math.Clamp(Blocks(2 * WantedGroups, groups), 1, images)), slices = Blocks(images, part), numbers = heads * tokens * tokens;
        // The first scratch slot holds delta.
        ArrayView<float> partial = Scratch<float>(SecondPartialSlot, (long)slices * numbers);
        LoadedKernel kernel = Emitted(new EmittedKey(EmittedPart.Bias, tiling.Width, true),
            static key => TensorKernels.AttentionBias(key.Width));
        Queue(kernel, groups, slices, [(ulong)partial.LoadEffectiveAddressAsPtr(), Address(qkv), Address(dy), Address(lse),
            (ulong)delta.LoadEffectiveAddressAsPtr(), Address(bias), (ulong)tokens, (ulong)heads, (ulong)images, (ulong)part, Scale(tiling)]);
        Combine(dbias, partial, slices, numbers);
        return true;
    }

    private static readonly EmittedPart[] s_backward = [EmittedPart.Queries, EmittedPart.KeysAndValues];

    private static ulong Scale(FlashTiling tiling) => BitConverter.SingleToUInt32Bits(1f / MathF.Sqrt(tiling.Width));
}

/// <summary>Which emitted kernel: a product, one of attention's, or one that walks through rows.</summary>
internal enum EmittedPart : byte { Product, Forward, Queries, KeysAndValues, Bias, NormForward, NormBackward, ColumnSums, GeluBackward, AdamW, Combine, HeadDots, BranchGradient }

/// <summary>Names a loaded kernel without making a string at every launch.</summary>
/// <param name="Width">Of a head or a row.</param>
/// <param name="Option">With a bias; or of bfloat16.</param>
internal readonly record struct EmittedKey(Ending Ending, bool A, bool B, EmittedPart Part, int Width, bool Option)
{
    public EmittedKey(Ending ending, bool a, bool b) : this(ending, a, b, EmittedPart.Product, 0, false) { }
    public EmittedKey(EmittedPart part, int width, bool option) : this(default, false, false, part, width, option) { }
}
