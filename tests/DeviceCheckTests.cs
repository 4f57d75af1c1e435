using MimEngine.Engine.Experiments;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>A whole training step on two devices: what <c>mim check</c> measures, and that it sees a difference.</summary>
[TestFixture]
public class DeviceCheckTests
{
    private const int Batch = 1;

    private static PretrainConfig Small(string recipe)
    {
        PretrainConfig config = StepTests.Config(recipe);
        return config with { Run = config.Run with { Batch = Batch } };
    }

    private static byte[] Crops(PretrainConfig config)
        => StepTests.Pictures(1)[..(Batch * 3 * config.Encoder.ImagePixels * config.Encoder.ImagePixels)];

    [Test]
    public void Two_cpus_of_another_vector_width_agree_and_every_stage_is_looked_at([Values("kamim", "mae")] string recipe)
    {
        PretrainConfig config = Small(recipe);
        List<CheckedTensor> all = DeviceCheck.Compare(Cpu.Open(Simd.Best), Cpu.Open(SimdLevel.Scalar), config, Crops(config), run: null);
        Assert.That(all.Select(t => t.Stage).Distinct(), Is.EqualTo(new[] { "forward", "loss", "backward", "update" }));
        Assert.That(all.Where(t => t.Drifts), Is.Empty);
        Assert.That(all.Count(t => t.Stage == "backward"), Is.GreaterThan(20).And.EqualTo(all.Count(t => t.Stage == "update")));
    }

    [Test]
    public void A_device_that_computes_otherwise_is_found_at_its_first_tensor()
    {
        PretrainConfig config = Small("kamim");
        using var rounded = new CpuBackend(1, precision: Precision.BF16);
        List<CheckedTensor> all = DeviceCheck.Compare(Cpu.Open(Simd.Best), rounded, config, Crops(config), run: null);
        CheckedTensor? first = new DeviceCheckResult("", "", Batch, all).FirstDrift;
        Assert.That((first?.Stage, first?.Name), Is.EqualTo(("forward", "tokens after block 1")));
        Assert.That(all.Where(t => t.Stage == "update" && t.Drifts), Is.Empty);
    }

    [Test]
    public void The_simulator_makes_a_step_of_the_cpu([Values("kamim", "simmim", "mae")] string recipe)
    {
        using Backend device = Simulator();
        PretrainConfig config = Small(recipe);
        List<CheckedTensor> all = DeviceCheck.Compare(Cpu.Open(Simd.Best), device, config, Crops(config), run: null);
        foreach (IGrouping<string, CheckedTensor> stage in all.GroupBy(t => t.Stage))
            TestContext.Out.WriteLine($"{recipe}, {stage.Key}: {stage.MaxBy(t => t.Error)}");
        Assert.That(all.Where(t => t.Drifts), Is.Empty);
    }

    [Test]
    public void The_simulator_in_bf16_makes_a_step_that_is_near_the_cpus([Values("kamim", "simmim", "mae")] string recipe)
    {
        using Backend device = Simulator(Precision.BF16);
        Assert.That(device.Branch, Is.EqualTo(DType.BF16));
        PretrainConfig config = Small(recipe);
        List<CheckedTensor> all = DeviceCheck.Compare(Cpu.Open(Simd.Best), device, config, Crops(config), run: null, DeviceCheck.Halves);
        foreach (IGrouping<string, CheckedTensor> stage in all.GroupBy(t => t.Stage))
            TestContext.Out.WriteLine($"{recipe}, {stage.Key}: {stage.MaxBy(t => t.Error)}");
        Assert.That(all.Where(t => t.Drifts), Is.Empty);
        Assert.That(all.First().Error, Is.GreaterThan(1e-4), "bfloat16 was not used");
    }

    [Test]
    public void Ten_steps_on_the_simulator_stay_with_the_cpu()
    {
        using Backend device = Simulator();
        PretrainConfig config = Small("kamim");
        TenStepsStayWithTheCpu(device, config, Crops(config));
    }

    /// <summary>The losses of ten steps on one batch, within a thousandth of the CPU's.</summary>
    internal static void TenStepsStayWithTheCpu(Backend device, PretrainConfig config, byte[] pixels)
    {
        long arena = MemoryPlan.Of(config).ArenaBytes;
        using Pretrainer right = new(Cpu.Open(Simd.Best), config, arena), tested = new(device, config, arena);
        for (int step = 0; step < 10; step++)
        {
            float[] losses = [.. new[] { right, tested }.Select(p =>
            {
                p.Pass(pixels, step, firstPass: true);
                p.Update(1e-3);
                return p.ReadOut(step + 1).Losses[0];
            })];
            TestContext.Out.WriteLine($"step {step + 1}: {losses[0]:g9} and {losses[1]:g9}");
            Assert.That(losses[1], Is.EqualTo(losses[0]).Within(0.1).Percent, $"loss of step {step + 1}");
        }
    }

    private static Backend Simulator(Precision precision = Precision.F32)
    {
        if (BackendLoader.WhyAbsent is { } why) Assert.Ignore(why);
        return Backend.Open("sim", precision: precision);
    }
}
