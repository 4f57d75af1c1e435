using System.Diagnostics;
using MimEngine.Kernels;

namespace MimEngine.Engine.Experiments;

/// <summary>What a device does at best, by its own operations: its fastest square product and a large copy.</summary>
internal static class DeviceRoof
{
    private const int LargestSide = 8192, LargestCopy = 1 << 29;
    private const double Enough = 0.02;

    /// <summary>Sizes grow until one call takes 20 ms, so that a slow device is not kept busy for long.</summary>
    public static Roofs Measure(Backend backend, bool halves)
        => new(Product(backend, DType.F32), halves ? Product(backend, DType.BF16) : null, Copy(backend));

    private static double Product(Backend backend, DType dtype)
    {
        double best = 0;
        for (int side = 64; side <= LargestSide; side *= 2)
        {
            long bytes = (long)side * side * dtype.Size();
            using Storage x = backend.Allocate(bytes), w = backend.Allocate(bytes), y = backend.Allocate(bytes);
            var shape = new Shape(side, side);
            Tensor a = new(x, 0, shape, dtype), b = new(w, 0, shape, dtype), c = new(y, 0, shape, dtype);
            backend.Upload(a, Numbers(bytes, dtype, 1));
            backend.Upload(b, Numbers(bytes, dtype, 2));
            double seconds = Best(backend, () => backend.LinearForward(c, a, b, null));
            best = Math.Max(best, 2.0 * side * side * side / seconds / 1e9);
            if (seconds > Enough) break;
        }
        return best;
    }

    private static double Copy(Backend backend)
    {
        double best = 0;
        for (int bytes = 1 << 16; bytes <= LargestCopy; bytes *= 2)
        {
            using Storage from = backend.Allocate(bytes), to = backend.Allocate(bytes);
            var shape = new Shape(bytes / 4);
            double seconds = Best(backend, () => backend.Copy(new Tensor(to, 0, shape, DType.F32), new Tensor(from, 0, shape, DType.F32)));
            best = Math.Max(best, 2.0 * bytes / seconds / 1e9);
            if (seconds > Enough) break;
        }
        return best;
    }

    /// <summary>Fastest of three rounds, calls in a row so that their start is hidden; the first call compiles.</summary>
    private static double Best(Backend backend, Action call)
    {
        call();
        backend.Synchronize();
        double best = double.MaxValue;
        for (int round = 0; round < 3; round++)
        {
            int calls = best < Enough / 10 ? 10 : 1;
            long start = Stopwatch.GetTimestamp();
            for (int i = 0; i < calls; i++) call();
            backend.Synchronize();
            best = Math.Min(best, Stopwatch.GetElapsedTime(start).TotalSeconds / calls);
        }
        return best;
    }

    /// <summary>Numbers of ordinary size: zeros would be multiplied faster than data is.</summary>
    private static byte[] Numbers(long bytes, DType dtype, uint seed)
    {
        byte[] all = new byte[bytes];
        Span<ushort> halves = System.Runtime.InteropServices.MemoryMarshal.Cast<byte, ushort>(all.AsSpan());
        int step = dtype == DType.BF16 ? 1 : 2;
        for (int i = step - 1; i < halves.Length; i += step)
        {
            seed = seed * 1664525 + 1013904223;
            halves[i] = (ushort)(seed >> 16 & 0x807F | 0x3F00);
        }
        return all;
    }
}
