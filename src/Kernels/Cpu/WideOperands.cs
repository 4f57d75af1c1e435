namespace MimEngine.Kernels.Cpu;

/// <summary>float32 copies of bfloat16 operands, for products that read and write float32.</summary>
public sealed unsafe partial class CpuBackend
{
    private const int WideXSlot = 4, WideWSlot = 5, WideYSlot = 6, WideHSlot = 7;

    private static bool Stored(params ReadOnlySpan<Tensor> operands)
    {
        foreach (ref readonly Tensor t in operands)
            if (t.DType == DType.BF16) return true;
        return false;
    }

    /// <summary>The tensor if it is float32, else a float32 copy in scratch.</summary>
    private Tensor Wide(Tensor t, int slot)
    {
        Tensor wide = Room(t, slot);
        if (t.DType == DType.BF16) Cast(wide, t);
        return wide;
    }

    /// <summary>The tensor if it is float32, else float32 scratch of its shape.</summary>
    private Tensor Room(Tensor t, int slot) => t.DType == DType.F32 ? t
        : new Tensor(ScratchStorage(slot, t.Count * sizeof(float)), 0, t.Shape, DType.F32);
}
