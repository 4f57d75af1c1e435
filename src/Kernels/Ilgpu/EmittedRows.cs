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
        Queue(_emitted!.Kernel(new EmittedKey(EmittedPart.NormForward, cols, y.DType == DType.BF16), static key => TensorKernels.NormForward(key.Width, key.Option)),
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
        Queue(_emitted!.Kernel(new EmittedKey(EmittedPart.NormBackward, cols, dy.DType == DType.BF16), static key => TensorKernels.NormBackward(key.Width, key.Option)),
            groups, 1, [Address(dx.Into), Address(ofGamma), Address(ofBeta), Address(dy), Address(x), Address(mean), Address(rstd), Address(gamma), (ulong)rows,
                dx.Accumulate ? 1u : 0u]);
        LaunchEach(cols, new CombineChunks(F(dgamma), ofGamma, groups, cols, Flag(dgamma.Accumulate)));
        LaunchEach(cols, new CombineChunks(F(dbeta), ofBeta, groups, cols, Flag(dbeta.Accumulate)));
        return true;
    }

    /// <summary>The gradient of a bias: columns of a matrix, summed over groups of rows and then group after group.</summary>
    private bool TrySumColumns(Grad into, Tensor x, int rows, int cols)
    {
        if (_emitted is null || cols % 8 != 0 || !Aligned(x)) return false;
        int groups = Blocks(rows, RowKernels.RowsOfGroup);
        ArrayView<float> partial = Scratch<float>(PartialSlot, (long)groups * cols);
        Queue(_emitted.Kernel(new EmittedKey(EmittedPart.ColumnSums, 0, x.DType == DType.BF16), static key => TensorKernels.ColumnSums(key.Option)),
            Blocks(cols, RowKernels.ColumnsOfGroup), groups, [Address(partial), Address(x), (ulong)rows, (ulong)cols]);
        LaunchEach(cols, new CombineChunks(F(into), partial, groups, cols, Flag(into.Accumulate)));
        return true;
    }

    private bool TryGeluBackward(Grad dx, Tensor dy, Tensor x)
    {
        bool fits = _emitted is not null && dx.Into.DType == DType.BF16 && !dx.Accumulate && x.Count % 8 == 0 && Aligned(dx) && Aligned(dy) && Aligned(x);
        if (!fits) return false;
        long eighths = x.Count / 8;
        Queue(_emitted!.Kernel(new EmittedKey(EmittedPart.GeluBackward, 0, true), static _ => TensorKernels.GeluBackward()),
            (eighths + RowKernels.Threads - 1) / RowKernels.Threads, 1, [Address(dx.Into), Address(dy), Address(x), (ulong)eighths]);
        return true;
    }

    private static ulong Address(ArrayView<float> view) => (ulong)view.LoadEffectiveAddressAsPtr();
}
