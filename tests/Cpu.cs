using System.Collections.Concurrent;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using MimEngine.Kernels.Cpu.Emitted;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>CPU backends for tests: one for every thread count and SIMD level, kept for the whole run.</summary>
internal static class Cpu
{
    private static readonly ConcurrentDictionary<(int, SimdLevel), CpuBackend> s_open = new();

    public static SimdLevel[] Levels { get; } = Enum.GetValues<SimdLevel>();

    private static readonly ConcurrentDictionary<(int, Bf16Unit), CpuBackend> s_halves = new();

    /// <summary>A CPU of precision bf16; skips the test where the machine or a runtime setting lacks the unit.</summary>
    public static CpuBackend Open(Bf16Unit unit, int threads = 1)
    {
        if (unit != Bf16Unit.Float32 && Bf16Routines.Of(unit) is null) Assert.Ignore($"This machine or its settings have no bfloat16 unit {unit}.");
        return s_halves.GetOrAdd((threads, unit), _ => new CpuBackend(threads, precision: Precision.BF16, bf16: unit));
    }

    /// <summary>Skips the test, with the reason, where the machine or a runtime setting lacks the level.</summary>
    public static CpuBackend Open(SimdLevel level, int threads = 1)
    {
        if (level > Simd.Best) Assert.Ignore($"SIMD level {level} is not available: this machine or runtime setting has {Simd.Best}.");
        return s_open.GetOrAdd((threads, level), _ => new CpuBackend(threads, level));
    }
}
