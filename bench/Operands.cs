using MimEngine.Kernels;

namespace MimEngine.Bench;

/// <summary>Tensors of one measurement, the same every time, freed together.</summary>
internal sealed class Operands(Backend backend) : IDisposable
{
    private readonly List<Storage> _owned = [];

    public Tensor New(int rows, int cols) => New(new Shape(rows, cols), 0.5f);

    /// <summary>Float32 numbers in [−scale, scale].</summary>
    public Tensor New(Shape shape, float scale)
    {
        Tensor t = Raw(shape, DType.F32);
        uint h = 12345;
        foreach (ref float v in t.Host<float>())
        {
            h = h * 1664525 + 1013904223;
            v = ((int)(h >> 12) - (1 << 19)) * (scale / (1 << 19));
        }
        return t;
    }

    /// <summary>The same numbers in the type in which this backend keeps what lies between products.</summary>
    public Tensor Stored(Backend on, int rows, int cols)
    {
        Tensor wide = New(rows, cols);
        if (on.Branch == DType.F32) return wide;
        Tensor t = Raw(wide.Shape, on.Branch);
        on.Cast(t, wide);
        return t;
    }

    public Tensor Filled(Shape shape, float value)
    {
        Tensor t = Raw(shape, DType.F32);
        t.Host<float>().Fill(value);
        return t;
    }

    /// <summary>Noise.</summary>
    public Tensor Bytes(Shape shape) => Bytes(shape, h => (byte)(h >> 24));

    /// <summary>1 with probability 0.6.</summary>
    public Tensor Hidden(Shape shape) => Bytes(shape, h => h >> 24 < 154 ? (byte)1 : (byte)0);

    /// <summary>Noise constant on 8 × 8 squares: about as many corners as a photograph has.</summary>
    public Tensor Blocks(Shape planes)
    {
        Tensor t = Raw(planes, DType.U8);
        Span<byte> v = t.Host<byte>();
        int width = planes.Cols;
        for (int i = 0; i < v.Length; i++) v[i] = (byte)(((uint)(i / width / 8 * 7919 + i % width / 8) * 2654435761u) >> 24);
        return t;
    }

    private Tensor Bytes(Shape shape, Func<uint, byte> value)
    {
        Tensor t = Raw(shape, DType.U8);
        uint h = 12345;
        foreach (ref byte v in t.Host<byte>()) v = value(h = h * 1664525 + 1013904223);
        return t;
    }

    private Tensor Raw(Shape shape, DType dtype)
    {
        Storage storage = backend.Allocate(shape.Count * dtype.Size());
        _owned.Add(storage);
        return new Tensor(storage, 0, shape, dtype);
    }

    public void Dispose() => _owned.ForEach(s => s.Dispose());
}
