using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace MimEngine.Kernels.Cpu;

/// <summary>
/// How the elements of a tensor are stored: loads widen to float32, stores round. A type, so that one kernel body is compiled for each.
/// Places are counted in elements from p.
/// </summary>
internal unsafe interface IElement
{
    static abstract void* At(void* p, nint i);
    static abstract TV Load<TV>(void* p, nint i) where TV : struct, ILanes<TV>;
    static abstract TV LoadFirst<TV>(void* p, nint i, int n) where TV : struct, ILanes<TV>;
    static abstract void Store<TV>(TV v, void* p, nint i) where TV : struct, ILanes<TV>;
    static abstract void StoreFirst<TV>(TV v, void* p, nint i, int n) where TV : struct, ILanes<TV>;

    /// <summary>Four of them.</summary>
    static abstract Vector128<float> Load4(void* p, nint i);
    static abstract float Get(void* p, nint i);
}

/// <summary>float32.</summary>
internal readonly unsafe struct F32Element : IElement
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void* At(void* p, nint i) => (float*)p + i;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TV Load<TV>(void* p, nint i) where TV : struct, ILanes<TV> => TV.Load((float*)p + i);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TV LoadFirst<TV>(void* p, nint i, int n) where TV : struct, ILanes<TV> => TV.LoadFirst((float*)p + i, n);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store<TV>(TV v, void* p, nint i) where TV : struct, ILanes<TV> => v.Store((float*)p + i);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreFirst<TV>(TV v, void* p, nint i, int n) where TV : struct, ILanes<TV> => v.StoreFirst((float*)p + i, n);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Load4(void* p, nint i) => Vector128.Load((float*)p + i);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Get(void* p, nint i) => ((float*)p)[i];
}

/// <summary>bfloat16.</summary>
internal readonly unsafe struct Bf16Element : IElement
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void* At(void* p, nint i) => (ushort*)p + i;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TV Load<TV>(void* p, nint i) where TV : struct, ILanes<TV> => TV.Load((ushort*)p + i);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TV LoadFirst<TV>(void* p, nint i, int n) where TV : struct, ILanes<TV> => TV.LoadFirst((ushort*)p + i, n);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store<TV>(TV v, void* p, nint i) where TV : struct, ILanes<TV> => v.Store((ushort*)p + i);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreFirst<TV>(TV v, void* p, nint i, int n) where TV : struct, ILanes<TV> => v.StoreFirst((ushort*)p + i, n);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Load4(void* p, nint i) => (Vector128.WidenLower(Vector64.Load((ushort*)p + i).ToVector128()) << 16).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Get(void* p, nint i) => BitConverter.UInt32BitsToSingle((uint)((ushort*)p)[i] << 16);
}

/// <summary>An operation whose kernel is compiled for a width of vector and a type of element.</summary>
internal interface IElementOp
{
    void Run<TV, TE>(Rows rows) where TV : struct, ILanes<TV> where TE : struct, IElement;
}

public sealed unsafe partial class CpuBackend
{
    /// <summary>Runs the operation at this backend's width for elements of this type.</summary>
    private void Run<TOp>(DType dtype, TOp op) where TOp : struct, IElementOp
    {
        switch (Level, dtype)
        {
            case (SimdLevel.Vector512, DType.F32): op.Run<Lanes16, F32Element>(_rows); break;
            case (SimdLevel.Vector512, DType.BF16): op.Run<Lanes16, Bf16Element>(_rows); break;
            case (SimdLevel.Vector256, DType.F32): op.Run<Lanes8, F32Element>(_rows); break;
            case (SimdLevel.Vector256, DType.BF16): op.Run<Lanes8, Bf16Element>(_rows); break;
            case (_, DType.F32): op.Run<Lanes1, F32Element>(_rows); break;
            case (_, DType.BF16): op.Run<Lanes1, Bf16Element>(_rows); break;
            default: throw new ArgumentException($"This operation takes F32 or BF16, not {dtype}.");
        }
    }

    /// <summary>The one type of operands that must share it.</summary>
    private static DType OneType(string op, params ReadOnlySpan<Tensor> operands)
    {
        foreach (ref readonly Tensor t in operands)
            if (t.DType != operands[0].DType)
                throw new ArgumentException($"{op}: operands of one type are needed, but {t.DType} is beside {operands[0].DType}.");
        return operands[0].DType;
    }
}
