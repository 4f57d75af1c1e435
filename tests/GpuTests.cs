using MimEngine.Cli;
using MimEngine.Engine.Experiments;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>The GPU backend on a real device against the CPU. Runs wherever one is found; elsewhere skipped, with the reason.</summary>
[TestFixture("cuda")]
[TestFixture("opencl")]
[Category("gpu")]
public class GpuTests(string device)
{
    private const int Batch = 4;

    private Backend _device = null!, _halves = null!;

    [OneTimeSetUp]
    public void Open_the_device()
    {
        if (BackendLoader.WhyAbsent is { } why) Assert.Ignore(why);
        try { (_device, _halves) = (Backend.Open(device), Backend.Open(device, precision: Precision.BF16)); }
        catch (DeviceException e) { Assert.Ignore(e.Message); }
        TestContext.Progress.WriteLine($"{device}: {_halves.Description}");
    }

    [OneTimeTearDown]
    public void Close_the_device()
    {
        _device?.Dispose();
        _halves?.Dispose();
    }

    private static IEnumerable<object> Halves => [.. OpCases.All.Where(c => c.HasHalves), .. TensorCoreCases.All];

    [Test]
    public void In_bf16_every_operation_agrees_with_the_cpu_within_its_rounding([ValueSource(nameof(Halves))] object line)
    {
        CpuBackend cpu = Cpu.Open(Simd.Best);
        foreach (OpCall call in ((OpCase)line).Calls())
            foreach (GradModes modes in call.Modes())
                Agreement.Check(call with { Tolerance = Math.Max(1e-2, call.Tolerance) }, modes, call.Execute(_halves, modes), call.Execute(cpu, modes), device);
    }

    [Test]
    public void A_whole_step_in_bf16_is_near_the_cpus([Values("kamim", "simmim", "mae")] string recipe)
    {
        PretrainConfig config = Small(recipe);
        List<CheckedTensor> all = DeviceCheck.Compare(Cpu.Open(Simd.Best), _halves, config, Crops(config), run: null, DeviceCheck.Halves);
        foreach (IGrouping<string, CheckedTensor> stage in all.GroupBy(t => t.Stage))
            TestContext.Out.WriteLine($"{recipe}, {stage.Key}: {stage.MaxBy(t => t.Error)}");
        Assert.That(all.Where(t => t.Drifts), Is.Empty);
    }

    [Test]
    public void Every_operation_agrees_with_the_cpu([ValueSource(typeof(OpCases), nameof(OpCases.All))] object line)
    {
        CpuBackend cpu = Cpu.Open(Simd.Best);
        foreach (OpCall call in ((OpCase)line).Calls())
            foreach (GradModes modes in call.Modes())
                Agreement.Check(call, modes, call.Execute(_device, modes), call.Execute(cpu, modes), device);
    }

    [Test]
    public void Two_runs_of_an_operation_give_the_same_bits([ValueSource(typeof(OpCases), nameof(OpCases.All))] object line)
    {
        foreach (OpCall call in ((OpCase)line).Calls())
            foreach (GradModes modes in call.Modes().Take(1))
            {
                Results one = call.Execute(_device, modes), two = call.Execute(_device, modes);
                foreach (Slot slot in call.Slots)
                    Assert.That(two.Bytes(slot.Name).AsSpan().SequenceEqual(one.Bytes(slot.Name)), $"{call.Name}: {slot.Name}");
            }
    }

    [Test]
    public void A_whole_step_agrees_with_the_cpu([Values("kamim", "simmim", "mae")] string recipe)
    {
        PretrainConfig config = Small(recipe);
        List<CheckedTensor> all = DeviceCheck.Compare(Cpu.Open(Simd.Best), _device, config, Crops(config), run: null);
        foreach (IGrouping<string, CheckedTensor> stage in all.GroupBy(t => t.Stage))
            TestContext.Out.WriteLine($"{recipe}, {stage.Key}: {stage.MaxBy(t => t.Error)}");
        Assert.That(all.Where(t => t.Drifts), Is.Empty);
    }

    [Test]
    public void Ten_steps_stay_with_the_cpu([Values("kamim", "simmim", "mae")] string recipe)
    {
        PretrainConfig config = Small(recipe);
        DeviceCheckTests.TenStepsStayWithTheCpu(_device, config, Crops(config));
    }

    [Test]
    public void Memory_that_is_not_there_is_one_sentence_with_the_bytes_asked_and_free()
    {
        DeviceMemoryException e = Assert.Throws<DeviceMemoryException>(() => _device.Allocate(1L << 60))!;
        Assert.That(e.Message, Does.Match(@"1,152,921,504,606,846,976 bytes were asked for and .*[\d,]{7,}"));
        TestContext.Out.WriteLine(e.Message);
        using (_device.Allocate(1000)) Assert.That(_device.AllocatedBytes, Is.GreaterThanOrEqualTo(1000));
    }

    [Test]
    public void A_run_that_needs_more_than_the_device_has_ends_in_one_sentence_and_keeps_its_checkpoint()
    {
        string root = Directory.CreateTempSubdirectory("mim-gpu-").FullName, run = Path.Combine(root, "run");
        try
        {
            string[] experiment = ["pretrain", "--device", device, "--vit", "micro", "--batch", "16", "--steps", "4", "--seed", "5", "--out", run];
            (int code, string output, string error) = Mim(experiment);
            Assert.That((code, error), Is.EqualTo((0, "")), output);
            byte[] before = File.ReadAllBytes(Directory.GetFiles(Path.Combine(run, "checkpoints")).Order().Last());
            (code, output, error) = Mim("pretrain", "--device", device, "--vit", "base", "--pixels", "192", "--batch", "6000", "--steps", "4", "--out", Path.Combine(root, "big"));
            TestContext.Out.WriteLine(error);
            Assert.That(code, Is.Not.Zero);
            Assert.That(error.TrimEnd(), Does.Match(@"bytes were asked for and .*[\d,]{7,} (of [\d,]+ are free|in all)").And.Not.Contain("\n").And.Not.Contain("   at "), output);
            (code, output, error) = Mim("check", "--device", device, "--run", run);
            Assert.That((code, error), Is.EqualTo((0, "")), output);
            Assert.That(File.ReadAllBytes(Directory.GetFiles(Path.Combine(run, "checkpoints")).Order().Last()), Is.EqualTo(before));
        }
        finally { Directory.Delete(root, recursive: true); }
    }

    private static (int Code, string Out, string Error) Mim(params string[] args)
    {
        StringWriter output = new(), error = new();
        using StopSignal stop = new();
        int code = Program.Run(args, new Terminal(output, error, Live: false, stop));
        return (code, output.ToString(), error.ToString());
    }

    private static PretrainConfig Small(string recipe)
    {
        PretrainConfig config = StepTests.Config(recipe);
        return config with { Run = config.Run with { Batch = Batch } };
    }

    private static byte[] Crops(PretrainConfig config)
        => StepTests.Pictures(1)[..(Batch * 3 * config.Encoder.ImagePixels * config.Encoder.ImagePixels)];
}
