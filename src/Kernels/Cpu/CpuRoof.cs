using System.Diagnostics;
using System.Runtime.CompilerServices;
using MimEngine.Kernels.Cpu.Emitted;

namespace MimEngine.Kernels.Cpu;

/// <summary>
/// What this machine can do at best, measured beside what is compared with it: multiply-adds in registers, and copies of memory far
/// larger than any cache. Both on the engine's own threads.
/// </summary>
public sealed unsafe class CpuRoof : IDisposable
{
    private const int Chains = 12;          // latency 4 × 2 ports = 8 chains suffice; 12 leave slack and fit AVX2's 16 registers with the two factors
    private const int Turns = 4_000;        // of a chunk: about 15 µs
    private readonly Rows _rows;
    private readonly Func<double> _seconds;
    private readonly HostStorage _from, _to;
    private readonly float[] _sink;

    /// <param name="threads">Threads to measure with, the caller's included.</param>
    /// <param name="copyBytes">Bytes copied; far more than the last cache holds, or next to none if only flops are wanted.</param>
    /// <param name="seconds">The clock; none = wall time.</param>
    public CpuRoof(int threads, long copyBytes = 256L << 20, Func<double>? seconds = null)
    {
        _seconds = seconds ?? (() => Stopwatch.GetElapsedTime(0).TotalSeconds);
        _rows = new Rows(threads);
        _sink = new float[64 * 1024];
        _from = new HostStorage(Math.Max(copyBytes, 1 << 20), null, true);
        _to = new HostStorage(Math.Max(copyBytes, 1 << 20), null, true);
    }

    /// <summary>GFLOP/s of float32 multiply-adds (2 flops each) with nothing but registers, once over about a millisecond.</summary>
    public double Fma(int chunks = 128)
    {
        double start = _seconds();
        fixed (float* sink = _sink)
            switch (Simd.Best)
            {
                case SimdLevel.Vector512: _rows.For(chunks, 1, new FmaRows<Lanes16>(sink)); break;
                case SimdLevel.Vector256: _rows.For(chunks, 1, new FmaRows<Lanes8>(sink)); break;
                default: _rows.For(chunks, 1, new FmaRows<Lanes1>(sink)); break;
            }
        int lanes = Simd.Best == SimdLevel.Vector512 ? 16 : Simd.Best == SimdLevel.Vector256 ? 8 : 1;
        return 2.0 * lanes * Chains * Turns * chunks / (_seconds() - start) / 1e9;
    }

    /// <summary>
    /// GFLOP/s of the float32 tile alone, 8 × 48 over 128 steps with both operands in the first cache, or null where it is not emitted: what is left
    /// of <see cref="Fma"/> once 11 loads come with 24 multiply-adds.
    /// </summary>
    public double? Tile()
    {
        if (TileRoutines.Instance is not { } code) return null;
        const int chunks = 64, steps = 128, turns = 300;
        double start = _seconds();
        fixed (float* sink = _sink) _rows.For(chunks, 1, new Tiles(code, (float*)_from.Address, sink, steps, turns));
        return 2.0 * steps * TileCode.Rows * MicroKernels.Vectors * 16 * turns * chunks / (_seconds() - start) / 1e9;
    }

    private readonly struct Tiles(TileRoutines code, float* operands, float* sink, int steps, int turns) : IRowKernel
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            Tile t = default;
            (t.K, t.ARow, t.AStep, t.BRow, t.CRow) = (steps, steps, 1, MicroKernels.Vectors * 16, MicroKernels.Vectors * 16);
            t.A = operands;
            t.B = operands + TileCode.Rows * steps;
            t.Start = t.B;
            t.C = sink + chunk % 32 * 2048;
            t.Ahead = (byte*)t.B;
            for (int i = 0; i < (last - first) * turns; i++) code.Along(&t, MicroKernels.Vectors);
        }
    }

    /// <summary>GFLOP/s of bfloat16 products (2 flops a multiply-add) of operands in the first cache, or null where nothing multiplies them.</summary>
    public double? Bf16()
    {
        if (Bf16Routines.Of(Bf16Routines.Best) is not { } code) return null;
        const int chunks = 64, pairs = 64, turns = 200;
        double start = _seconds();
        fixed (float* sink = _sink) _rows.For(chunks, 1, new Bf16Blocks(code, (uint*)_from.Address, sink, pairs, turns));
        return 4.0 * pairs * code.TileRows * code.Width * turns * chunks / (_seconds() - start) / 1e9;
    }

    /// <summary>GFLOP/s of VDPBF16PS with nothing but registers, or null where this machine has none.</summary>
    public double? Dot(int chunks = 64)
    {
        if (Bf16Routines.Of(Bf16Unit.Dot)?.Dots is not { } code) return null;
        const int turns = 2_000;
        double start = _seconds();
        _rows.For(chunks, 1, new DotChains(code, turns));
        return 64.0 * TileCode.Rows * MicroKernels.Vectors * turns * chunks / (_seconds() - start) / 1e9;   // 16 lanes of two multiply-adds
    }

    private readonly struct DotChains(TileRoutines code, int turns) : IRowKernel
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (int i = first; i < last; i++) code.Chains(turns);
        }
    }

    /// <summary>GB/s of one large copy, bytes read plus bytes written (non-temporal stores where the runtime's copy uses them).</summary>
    public double Copy()
    {
        const int grain = 1 << 20;
        double start = _seconds();
        _rows.For((int)(_from.Bytes / grain), 1, new CopyRows((byte*)_from.Address, (byte*)_to.Address, grain));
        return 2.0 * _from.Bytes / (_seconds() - start) / 1e9;
    }

    public void Dispose()
    {
        _rows.Dispose();
        _from.Dispose();
        _to.Dispose();
    }

    private readonly struct Bf16Blocks(Bf16Routines code, uint* operands, float* sink, int pairs, int turns) : IRowKernel
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            float* c = sink + chunk % 32 * 2048;   // a block is at most 32 × 48
            Tile t = default;
            (t.K, t.ARow, t.AStep, t.BRow, t.CRow) = (pairs, pairs, 1, code.Width, code.Width);
            t.A = (float*)operands;
            t.B = t.A + 4096;
            t.C = c;
            t.Start = t.B;
            t.Ahead = (byte*)t.B;
            code.Enter();
            for (int i = 0; i < (last - first) * turns; i++) code.Run(&t, MicroKernels.Vectors, false);
            code.Leave();
        }
    }

    private readonly struct CopyRows(byte* from, byte* to, int grain) : IRowKernel
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            long at = (long)first * grain, n = (long)(last - first) * grain;
            Buffer.MemoryCopy(from + at, to + at, n, n);
        }
    }

    private readonly struct FmaRows<TV>(float* sink) : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (int i = first; i < last; i++) sink[i % 1024 * 64] = Chunk().Sum();
        }

        [MethodImpl(MethodImplOptions.NoInlining)]
        private static TV Chunk()
        {
            TV m = TV.All(0.999f), a = TV.All(0.001f);
            TV c0 = a, c1 = a, c2 = a, c3 = a, c4 = a, c5 = a, c6 = a, c7 = a, c8 = a, c9 = a, d0 = a, d1 = a;
            for (int i = 0; i < Turns; i++)
            {
                (c0, c1, c2, c3) = (TV.MulAdd(c0, m, a), TV.MulAdd(c1, m, a), TV.MulAdd(c2, m, a), TV.MulAdd(c3, m, a));
                (c4, c5, c6, c7) = (TV.MulAdd(c4, m, a), TV.MulAdd(c5, m, a), TV.MulAdd(c6, m, a), TV.MulAdd(c7, m, a));
                (c8, c9, d0, d1) = (TV.MulAdd(c8, m, a), TV.MulAdd(c9, m, a), TV.MulAdd(d0, m, a), TV.MulAdd(d1, m, a));
            }
            return c0 + c1 + c2 + c3 + c4 + c5 + c6 + c7 + c8 + c9 + d0 + d1;
        }
    }
}
