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
        try
        {
            Call();
            Bytes(x).CopyTo(_accelerator.DefaultStream, Bytes(y));
        }
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
