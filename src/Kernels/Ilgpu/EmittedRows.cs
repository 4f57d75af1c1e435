using ILGPU;
using ILGPU.Runtime;
using MimEngine.Kernels.Ptx;

namespace MimEngine.Kernels.Ilgpu;

internal sealed partial class IlgpuBackend
{
    /// <summary>Rows go through emitted kernels where the device takes them, lines are multiples of 128 up to 1024 and begin at 16 bytes.</summary>
    private bool WalksRows(int cols) => _emitted is not null && cols % 128 == 0 && cols <= RowKernels.Longest;

    private bool TryNormForward(Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor gamma, Tensor beta, float eps)
    {
        int rows = x.Shape.Rows, cols = x.Shape.Cols;
        if (!WalksRows(cols) || !Aligned(y) || !Aligned(x) || !Aligned(gamma) || !Aligned(beta)) return false;
        Queue(Emitted(new EmittedKey(EmittedPart.NormForward, cols, y.DType == DType.BF16), static key => TensorKernels.NormForward(key.Width, key.Option)),
            Blocks(rows, RowKernels.Warps), 1, [Address(y), Address(mean), Address(rstd), Address(x), Address(gamma), Address(beta), (ulong)rows,
                BitConverter.SingleToUInt32Bits(eps)]);
        return true;
    }

    /// <summary>dx, dγ and dβ in one walk, when all are wanted.</summary>
    private bool TryNormBackward(Grad dx, Grad dgamma, Grad dbeta, Tensor dy, Tensor x, Tensor mean, Tensor rstd, Tensor gamma)
    {
        int rows = x.Shape.Rows, cols = x.Shape.Cols, groups = Blocks(rows, RowKernels.RowsOfGroup);
        if (!WalksRows(cols) || !dx.Wanted || !dgamma.Wanted || !dbeta.Wanted || !Aligned(dx) || !Aligned(dy) || !Aligned(x) || !Aligned(gamma)) return false;
        ArrayView<float> ofGamma = Scratch<float>(PartialSlot, (long)groups * cols), ofBeta = Scratch<float>(SecondPartialSlot, (long)groups * cols);
        Queue(Emitted(new EmittedKey(EmittedPart.NormBackward, cols, dy.DType == DType.BF16), static key => TensorKernels.NormBackward(key.Width, key.Option)),
            groups, 1, [Address(dx.Into), Address(ofGamma), Address(ofBeta), Address(dy), Address(x), Address(mean), Address(rstd), Address(gamma), (ulong)rows,
                dx.Accumulate ? 1u : 0u]);
        Combine(dgamma, ofGamma, groups, cols);
        Combine(dbeta, ofBeta, groups, cols);
        return true;
    }

    /// <summary>The gradient of a bias: columns of a matrix, summed over groups of rows and then over the groups.</summary>
    private bool TrySumColumns(Grad into, Tensor x, int rows, int cols)
    {
        int groups = Blocks(rows, RowKernels.RowsOfGroup);
        if (_emitted is null || cols % 8 != 0 || groups > CudaDriver.MostSlices || !Aligned(x)) return false;
        ArrayView<float> partial = Scratch<float>(PartialSlot, (long)groups * cols);
        Queue(Emitted(new EmittedKey(EmittedPart.ColumnSums, 0, x.DType == DType.BF16), static key => TensorKernels.ColumnSums(key.Option)),
            Blocks(cols, RowKernels.ColumnsOfGroup), groups, [Address(partial), Address(x), (ulong)rows, (ulong)cols]);
        Combine(into, partial, groups, cols);
        return true;
    }

    /// <summary>Adds chunk after chunk to a row of sums. With few chunks there are many columns: then a thread a column is best.</summary>
    private void Combine(Grad into, ArrayView<float> partial, int chunks, int cols)
    {
        if (_emitted is null || chunks < 32)
        {
            LaunchEach(cols, new CombineChunks(F(into), partial, chunks, cols, Flag(into.Accumulate)));
            return;
        }
        Queue(Emitted(new EmittedKey(EmittedPart.Combine, 0, false), static _ => TensorKernels.Combine()), Blocks(cols, ElementKernels.CombinedColumns), 1,
            [Address(into.Into), Address(partial), (ulong)chunks, (ulong)cols, into.Accumulate ? 1u : 0u]);
    }

    private bool TryGeluBackward(Grad dx, Tensor dy, Tensor x)
    {
        bool fits = _emitted is not null && dx.Into.DType == DType.BF16 && !dx.Accumulate && x.Count % 8 == 0 && Aligned(dx) && Aligned(dy) && Aligned(x);
        if (!fits) return false;
        long eighths = x.Count / 8;
        Queue(Emitted(new EmittedKey(EmittedPart.GeluBackward, 0, true), static _ => TensorKernels.GeluBackward()),
            (eighths + RowKernels.Threads - 1) / RowKernels.Threads, 1, [Address(dx.Into), Address(dy), Address(x), (ulong)eighths]);
        return true;
    }

    /// <summary>Slabs begin at 16 bytes, and every segment and its gradient at a multiple of four elements.</summary>
    private bool TryAdamW(Tensor p, Tensor m, Tensor v, Tensor? copy, Tensor gradient, Tensor? scales, SegmentTable table, int chunks, bool fours,
        double beta1, double beta2, float eps)
    {
        bool fits = _emitted is not null && fours && copy is not { DType: not DType.BF16 }
            && Aligned(p) && Aligned(m) && Aligned(v) && Aligned(copy) && Aligned(gradient);
        if (!fits) return false;
        Queue(Emitted(new EmittedKey(EmittedPart.AdamW, 0, false), static _ => TensorKernels.AdamW()), chunks, 1,
            [Address(p), Address(m), Address(v), Address(copy), Address(Wide(gradient)), Address(scales), (ulong)table.Rows.LoadEffectiveAddressAsPtr(),
                (ulong)table.Count, Bits((float)beta1), Bits((float)(1 - beta1)), Bits((float)beta2), Bits((float)(1 - beta2)), Bits(eps)]);
        return true;
    }

    /// <summary>delta of attention's backward: dy·y of every head.</summary>
    private bool TryHeadDots(ArrayView<float> delta, Tensor dy, Tensor y, Tensor qkv, int heads)
    {
        if (Flash(qkv, heads) is not { } tiling || dy.DType != DType.BF16 || y.DType != DType.BF16 || !Aligned(dy) || !Aligned(y)) return false;
        long eighths = dy.Count / 8;
        Queue(Emitted(new EmittedKey(EmittedPart.HeadDots, tiling.Width, false), static key => TensorKernels.HeadDots(key.Width)),
            (eighths + ElementKernels.Threads - 1) / ElementKernels.Threads, 1,
            [Address(delta), Address(dy), Address(y), (ulong)eighths, (ulong)qkv.Shape.D1, (ulong)heads]);
        return true;
    }

    private bool TryBranchGradient(Tensor branch, Tensor? scaled, Tensor dy, Tensor? gamma, Tensor? rowScale)
    {
        int cols = dy.Shape.Cols;
        bool fits = _emitted is not null && cols % 8 == 0 && branch.DType == DType.BF16 && scaled is not { DType: not DType.BF16 }
            && Aligned(branch) && Aligned(scaled) && Aligned(dy) && Aligned(gamma);
        if (!fits) return false;
        long eighths = dy.Count / 8;
        Queue(Emitted(new EmittedKey(EmittedPart.BranchGradient, 0, false), static _ => TensorKernels.BranchGradient()),
            (eighths + ElementKernels.Threads - 1) / ElementKernels.Threads, 1, [Address(branch), Address(scaled), Address(dy), Address(gamma),
                Address(rowScale), (ulong)eighths, (ulong)(cols / 8), (ulong)RowsPerScale(dy, rowScale)]);
        return true;
    }

    private static ulong Bits(float value) => BitConverter.SingleToUInt32Bits(value);

    private static ulong Address(ArrayView<float> view) => (ulong)view.LoadEffectiveAddressAsPtr();
}
