using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;

namespace MimEngine.Bench;

/// <summary>The three products of a linear layer, each with operands of its own.</summary>
internal static class LinearProducts
{
    public static readonly string[] Kinds = ["forward", "input gradient", "weight gradient"];

    /// <summary>In the order of <see cref="Kinds"/>; the weight gradient comes with the bias gradient.</summary>
    /// <param name="m">Tokens.</param>
    /// <param name="n">Outputs.</param>
    /// <param name="k">Inputs.</param>
    public static Action[] Of(CpuBackend cpu, Operands memory, int m, int n, int k)
    {
        Tensor bias = memory.New(1, n).Reshape(new Shape(n)), dw = memory.New(n, k);
        Tensor x = memory.Stored(cpu, m, k), w = memory.Stored(cpu, n, k), y = memory.Stored(cpu, m, n), dx = memory.Stored(cpu, m, k);
        return
        [
            () => cpu.LinearForward(y, x, w, bias),
            () => cpu.LinearBackward(Grad.Write(dx), Grad.None, Grad.None, y, x, w),
            () => cpu.LinearBackward(Grad.None, Grad.Write(dw), Grad.Write(bias), y, x, w),
        ];
    }
}
