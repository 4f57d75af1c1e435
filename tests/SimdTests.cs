using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Which vector width a run really used.</summary>
[TestFixture]
public class SimdTests
{
    /// <summary>.ci/run switches instruction sets off and says in MIM_EXPECT_SIMD what must be left; a switch without effect fails here.</summary>
    [Test]
    public void The_level_in_use_is_the_one_the_run_was_started_for()
    {
        string? expected = Environment.GetEnvironmentVariable("MIM_EXPECT_SIMD");
        if (expected is not null) Assert.That($"{Simd.Best}", Is.EqualTo(expected));
        using var cpu = new CpuBackend(1);
        Assert.That(cpu.Level, Is.EqualTo(Simd.Best));
        TestContext.Out.WriteLine($"SIMD level {Simd.Best}: {cpu.Description}");
    }

    [Test]
    public void A_level_the_machine_lacks_is_refused_with_one_sentence()
    {
        if (Simd.Best == SimdLevel.Vector512) Assert.Ignore("This machine has every level.");
        Assert.That(() => new CpuBackend(1, SimdLevel.Vector512), Throws.TypeOf<Kernels.DeviceException>().With.Message.Contains("Vector512"));
    }
}
