using ILGPU;
using ILGPU.Runtime;

namespace MimEngine.Kernels.Ilgpu;

internal sealed partial class IlgpuBackend
{
    public override void Fill(Tensor y, float value)
    {
        if (y.DType == DType.U8) LaunchEach(y.Count, new FillBytes(U(y), (byte)value));
        else LaunchEach(y.Count, new FillFloats(F(y), value));
    }

    public override void Copy(Tensor y, Tensor x)
    {
        if (y.Bytes == 0) return;
        try { Bytes(x).CopyTo(_accelerator.DefaultStream, Bytes(y)); }
        catch (AcceleratorException e) { throw Lost(e); }
    }

    public override void Cast(Tensor y, Tensor x)
    {
        if (y.DType == x.DType) Copy(y, x);
        else if (y.DType == DType.BF16) LaunchEach(y.Count, new Narrow(Bytes(y).Cast<ushort>(), F(x)));
        else LaunchEach(y.Count, new Widen(F(y), Bytes(x).Cast<ushort>()));
    }

    public override void AddScaled(Tensor y, Tensor x, float a, float b) => LaunchEach(y.Count, new AddScaledFloats(F(y), F(x), a, b));
}

internal readonly struct FillFloats(ArrayView<float> y, float value) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i < y.Length) y[i] = value;
    }
}

/// <summary>float32 to bfloat16: nearest, ties to even; NaN stays NaN.</summary>
internal readonly struct Narrow(ArrayView<ushort> y, ArrayView<float> x) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= y.Length) return;
        uint u = Interop.FloatAsInt(x[i]), rounded = u + 0x7FFF + ((u >> 16) & 1);
        if ((u & 0x7FFF_FFFF) > 0x7F80_0000) rounded = u | 0x0040_0000;
        y[i] = (ushort)(rounded >> 16);
    }
}

/// <summary>bfloat16 to float32.</summary>
internal readonly struct Widen(ArrayView<float> y, ArrayView<ushort> x) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i < y.Length) y[i] = Interop.IntAsFloat((uint)x[i] << 16);
    }
}

internal readonly struct FillBytes(ArrayView<byte> y, byte value) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i < y.Length) y[i] = value;
    }
}

/// <summary>y = a·x + b·y; y is not read when b is 0.</summary>
internal readonly struct AddScaledFloats(ArrayView<float> y, ArrayView<float> x, float a, float b) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i < y.Length) y[i] = b == 0f ? a * x[i] : a * x[i] + b * y[i];
    }
}
