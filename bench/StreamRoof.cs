using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;

namespace MimEngine.Bench;

/// <summary>How many streams of floats an operation only reads, reads and writes back, and only writes.</summary>
internal readonly record struct StreamMix(double Reads, double Updates, double Writes)
{
    /// <summary>
    /// Bytes that cross the memory bus a float of a stream. A line that is only written is read first all the same (the core asks to own it), unless
    /// the store goes past the caches.
    /// </summary>
    public double Bytes(bool past) => sizeof(float) * (Reads + 2 * Updates + (past ? 1 : 2) * Writes);
}

/// <summary>
/// What memory gives at best for a mixture of reads and writes of the very operands of an operation, chunked and threaded as operations are, 64 bytes
/// at a time, and nothing computed but one addition a vector. Other memory of that size may be a quarter faster or slower: where pages lie in the
/// banks of memory decides.
/// </summary>
internal sealed unsafe class StreamRoof(int threads) : IDisposable
{
    /// <summary>Floats of one chunk.</summary>
    public const int Granule = 32_768;

    private readonly Rows _rows = new(threads);

    /// <summary>Seconds of one walk along streams of that many floats; of shares of streams (a loss reads hidden patches only) as far as they go.</summary>
    /// <param name="past">Write-only streams with non-temporal stores.</param>
    public double Seconds(Tensor[] streams, long floats, StreamMix mix, bool past)
    {
        long start = Stopwatch.GetTimestamp();
        double reads = mix.Reads / Math.Ceiling(mix.Reads);   // how much of each
        if (reads == 1) Walk(streams, floats, mix, past);
        else
        {
            Walk(streams, (long)(reads * floats), mix with { Reads = Math.Ceiling(mix.Reads) }, past);
            Walk([streams[^1]], (long)((1 - reads) * floats), new StreamMix(0, 0, 1), past);
        }
        return Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    private void Walk(Tensor[] streams, long floats, StreamMix mix, bool past)
    {
        float*[] p = new float*[4];
        for (int i = 0; i < streams.Length; i++) p[i] = (float*)streams[i].HostAddress;
        (int reads, int updates, int writes, int chunks) = ((int)mix.Reads, (int)mix.Updates, (int)mix.Writes, (int)(floats / Granule));
        if (Simd.Best == SimdLevel.Vector512)
            _rows.For(chunks, 1, new Streams<Lanes16>(p[0], p[1], p[2], p[3], reads, updates, writes, past));
        else if (Simd.Best == SimdLevel.Vector256)
            _rows.For(chunks, 1, new Streams<Lanes8>(p[0], p[1], p[2], p[3], reads, updates, writes, false));
        else _rows.For(chunks, 1, new Streams<Lanes1>(p[0], p[1], p[2], p[3], reads, updates, writes, false));
    }

    public void Dispose() => _rows.Dispose();

    private readonly struct Streams<TV>(float* a, float* b, float* c, float* d, int reads, int updates, int writes, bool past) : IRowKernel
        where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (long at = (long)first * Granule; at < (long)last * Granule; at += Granule)
                switch (reads, updates, writes)
                {
                    case (0, 0, 1): Write(a + at); break;
                    case (1, 0, 1): Copy(b + at, a + at); break;
                    case (2, 0, 1): Add(c + at, a + at, b + at); break;
                    case (1, 3, 0): Update(b + at, c + at, d + at, a + at); break;
                    default: throw new NotSupportedException($"No stream of {reads} reads, {updates} updates and {writes} writes.");
                }
        }

        private void Write(float* y)
        {
            for (int i = 0; i < Granule; i += TV.Count) Put(TV.Zero, y + i);
        }

        private void Copy(float* y, float* x)
        {
            for (int i = 0; i < Granule; i += TV.Count) Put(TV.Load(x + i), y + i);
        }

        private void Add(float* y, float* x, float* z)
        {
            for (int i = 0; i < Granule; i += TV.Count) Put(TV.Load(x + i) + TV.Load(z + i), y + i);
        }

        private static void Update(float* p, float* m, float* v, float* g)
        {
            for (int i = 0; i < Granule; i += TV.Count)
            {
                TV x = TV.Load(g + i) * TV.Zero;   // what is there stays
                (TV.Load(p + i) + x).Store(p + i);
                (TV.Load(m + i) + x).Store(m + i);
                (TV.Load(v + i) + x).Store(v + i);
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private void Put(TV v, float* p)
        {
            if (past && typeof(TV) == typeof(Lanes16)) Avx512F.StoreAlignedNonTemporal(p, Unsafe.BitCast<TV, Lanes16>(v).V);
            else v.Store(p);
        }
    }
}
