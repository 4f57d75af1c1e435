using MimEngine.Engine.Experiments;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>
/// Operations as a CUDA device does them, emitted kernels and what the host gives them, with the model of the machine in the driver's place and the
/// simulator for all else: against the CPU.
/// </summary>
[TestFixture]
public class EmittedHostTests
{
    private readonly PtxMachine _machine = new() { OnHost = true };
    private Backend _device = null!;

    [OneTimeSetUp]
    public void Open_the_simulator()
    {
        if (BackendLoader.WhyAbsent is { } why) Assert.Ignore(why);
        ((ITestedDriver)BackendLoader.Provider!).RunEmittedOfNext(_machine);
        _device = Backend.Open("sim", precision: Precision.BF16);
    }

    [OneTimeTearDown]
    public void Close_it() => _device?.Dispose();

    private static IEnumerable<TestCaseData> Cases()
    {
        UpdateSegment[] segments = [new(0, 4100, 1e-2f, 0.05f, 3), new(4112, 70, 1e-3f, 0, 1)];
        (OpCase Case, string[] Kernels)[] all =
        [
            (OpCases.Linear(new(40, 72), 136, true).Halves("x", "w", "y", "dx", "dy"), ["gemm_half_kk", "gemm_half_kn", "gemm_float_mn", "column_sums_bf16"]),
            (OpCases.Linear(new(40, 72), 136, true).Halves("x", "w", "dy"), ["gemm_float_kk", "gemm_float_kn", "gemm_float_mn"]),
            (OpCases.Linear(new(1100, 8), 16, false).Halves("x", "w", "y", "dx", "dy"), ["gemm_half_kk", "gemm_float_mn"]),
            (OpCases.Linear(new(2200, 8), 8, true).Halves("x", "w", "y", "dx", "dy"), ["column_sums_bf16", "combine"]),
            (OpCases.LinearGelu(40, 72, 136, true).Halves("x", "w", "y", "h", "dx", "dy", "dh"), ["gemm_gelu_kk", "gelu_backward"]),
            (OpCases.LinearGeluBackward(40, 72, 136).Halves("dh", "dy", "w", "h"), ["gemm_slope_kn"]),
            (OpCases.LinearResidual(3, 13, 72, 136, true, true, true).Halves("x", "dx", "branch", "scaled"), ["gemm_float_kk", "branch_gradient"]),
            (OpCases.LinearResidual(3, 13, 72, 136, true, false, true).Halves("x", "w", "dx", "branch"), ["gemm_float_kk", "branch_gradient"]),
            (OpCases.Attend(2, 70, 2, 32, true, 1).Halves("qkv", "y", "dqkv", "dy"),
                ["attention_32_bias", "attention_dq_32_bias", "attention_dkv_32_bias", "attention_dbias_32", "head_dots_32"]),
            (OpCases.Attend(2, 20, 3, 64, false, 1).Halves("qkv", "y", "dqkv", "dy"), ["attention_64", "attention_dq_64", "attention_dkv_64", "head_dots_64"]),
            (OpCases.LayerNorm(70, 128, 1e-6f, Draws.Normal(0, 1)).Halves("y", "dy"), ["layer_norm_128_bf16", "layer_norm_backward_128_bf16"]),
            (OpCases.LayerNorm(70, 256, 1e-6f, Draws.Normal(0, 1)), ["layer_norm_256_f32", "layer_norm_backward_256_f32"]),
            (OpCases.GeluBackwardInPlace(1000).Halves("g", "x"), ["gelu_backward"]),
            (OpCases.AdamW("two segments", 4200, segments, true), ["adamw"]),
            (OpCases.AdamW("two segments", 4200, segments, false).Update("copy", new(4200)).Halves("copy"), ["adamw"]),
        ];
        return all.Select(c => new TestCaseData(c.Case, c.Kernels).SetArgDisplayNames(c.Case.Name, string.Join("+", c.Kernels)));
    }

    /// <summary>A whole step: what is loaded, gathered and updated between the operations, too.</summary>
    [Test]
    public void A_whole_step_is_near_the_cpus()
    {
        PretrainConfig config = StepTests.Config("kamim");
        config = config with { Run = config.Run with { Batch = 1 }, Encoder = config.Encoder with { Width = 128, Heads = 4, Depth = 1 } };
        byte[] crops = StepTests.Pictures(1)[..(3 * config.Encoder.ImagePixels * config.Encoder.ImagePixels)];
        _machine.Ran.Clear();
        List<CheckedTensor> all = DeviceCheck.Compare(Cpu.Open(Simd.Best), _device, config, crops, run: null, DeviceCheck.Halves);
        foreach (IGrouping<string, CheckedTensor> stage in all.GroupBy(t => t.Stage)) TestContext.Out.WriteLine($"{stage.Key}: {stage.MaxBy(t => t.Error)}");
        Assert.That(all.Where(t => t.Drifts), Is.Empty);
        Assert.That(_machine.Ran.Distinct(), Is.SupersetOf(new[] { "gemm_half_kk", "gemm_gelu_kk", "gemm_slope_kn", "gemm_float_mn", "layer_norm_128_bf16",
            "layer_norm_backward_128_bf16", "attention_32", "attention_dq_32", "attention_dkv_32", "head_dots_32", "adamw" }));
    }

    [TestCaseSource(nameof(Cases))]
    public void What_a_cuda_device_would_do_agrees_with_the_cpu(object line, string[] kernels)
    {
        CpuBackend cpu = Cpu.Open(Simd.Best);
        _machine.Ran.Clear();
        foreach (OpCall call in ((OpCase)line).Calls())
            foreach (GradModes modes in call.Modes())
                Agreement.Check(call with { Tolerance = Math.Max(1e-2, call.Tolerance) }, modes, call.Execute(_device, modes), call.Execute(cpu, modes), "the model");
        Assert.That(_machine.Ran.Distinct(), Is.SupersetOf(kernels));
    }
}
