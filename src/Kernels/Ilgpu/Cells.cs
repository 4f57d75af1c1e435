using ILGPU;

namespace MimEngine.Kernels.Ilgpu;

/// <summary>
/// The numbers of a tensor, stored as float32 or as bfloat16 and float32 in registers either way. The view of the other type is not read.
/// </summary>
/// <param name="half">A long, so that nothing pads the end: ILGPU forgets the padding of a struct within a struct when it lowers views.</param>
internal readonly struct Cells(ArrayView<float> floats, ArrayView<ushort> halves, long half)
{
    public long Length => half != 0 ? halves.Length : floats.Length;

    public float Get(int i)
    {
        float v;
        if (half != 0) v = Interop.IntAsFloat((uint)halves[i] << 16);
        else v = floats[i];
        return v;
    }

    public void Put(int i, float v)
    {
        if (half != 0) halves[i] = Scalar.Half(v);
        else floats[i] = v;
    }

    /// <summary>Writes, or adds to what is there before the one rounding.</summary>
    public void Put(int i, float v, int accumulate)
    {
        if (accumulate != 0) v += Get(i);
        Put(i, v);
    }
}

/// <summary>float32 to bfloat16.</summary>
internal readonly struct Narrow(ArrayView<ushort> y, ArrayView<float> x) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i < y.Length) y[i] = Scalar.Half(x[i]);
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
