using System.Collections.Concurrent;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>CPU backends for tests: one for every thread count and SIMD level, kept for the whole run.</summary>
internal static class Cpu
{
    private static readonly ConcurrentDictionary<(int, SimdLevel), CpuBackend> s_open = new();

    public static SimdLevel[] Levels { get; } = Enum.GetValues<SimdLevel>();

    /// <summary>Skips the test, with the reason, where the machine or a runtime setting lacks the level.</summary>
    public static CpuBackend Open(SimdLevel level, int threads = 1)
    {
        if (level > Simd.Best) Assert.Ignore($"SIMD level {level} is not available: this machine or runtime setting has {Simd.Best}.");
        return s_open.GetOrAdd((threads, level), _ => new CpuBackend(threads, level));
    }
}
