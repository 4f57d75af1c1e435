using System.Runtime.InteropServices;
using MimEngine.Kernels;

namespace MimEngine.Engine.Autograd;

/// <summary>float32 on the host to and from a backend's own real type.</summary>
public static class Transfer
{
    /// <summary>Uploads float32 numbers, widened where the backend computes in float64.</summary>
    public static void Upload(Backend backend, Tensor destination, ReadOnlySpan<float> values)
    {
        if (destination.DType == DType.F32)
        {
            backend.Upload(destination, MemoryMarshal.AsBytes(values));
            return;
        }
        if (destination.DType == DType.BF16) throw new ArgumentException("Transfer: float32 goes to a float32 tensor; Cast it there.");
        double[] wide = new double[values.Length];
        for (int i = 0; i < wide.Length; i++) wide[i] = values[i];
        backend.Upload(destination, MemoryMarshal.AsBytes(wide.AsSpan()));
    }

    /// <summary>Downloads numbers as float32.</summary>
    public static void Download(Backend backend, Span<float> values, Tensor source)
    {
        if (source.DType == DType.F32)
        {
            backend.Download(MemoryMarshal.AsBytes(values), source);
            return;
        }
        if (source.DType == DType.BF16)
        {
            ushort[] halves = new ushort[values.Length];
            backend.Download(MemoryMarshal.AsBytes(halves.AsSpan()), source);
            for (int i = 0; i < halves.Length; i++) values[i] = BitConverter.UInt32BitsToSingle((uint)halves[i] << 16);
            return;
        }
        double[] wide = new double[values.Length];
        backend.Download(MemoryMarshal.AsBytes(wide.AsSpan()), source);
        for (int i = 0; i < wide.Length; i++) values[i] = (float)wide[i];
    }

    /// <summary>Downloads numbers into a new array.</summary>
    public static float[] Floats(Backend backend, Tensor source)
    {
        float[] values = new float[source.Count];
        Download(backend, values, source);
        return values;
    }

    /// <summary>A tensor's numbers in float64, whatever it stores.</summary>
    public static double[] Doubles(Backend backend, Tensor source)
    {
        if (source.DType != DType.F64) return Array.ConvertAll(Floats(backend, source), v => (double)v);
        double[] values = new double[source.Count];
        backend.Download(MemoryMarshal.AsBytes(values.AsSpan()), source);
        return values;
    }
}
