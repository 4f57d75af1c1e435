using MimEngine.Engine.Autograd;
using MimEngine.Engine.Experiments;
using MimEngine.Engine.Optim;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Training with what lies between products in bfloat16.</summary>
[TestFixture]
public class Bf16StepTests
{
    private static Pretrainer Open(CpuBackend cpu, string recipe, OptimizerKind kind = OptimizerKind.AdamW)
    {
        PretrainConfig config = StepTests.Config(recipe);
        config = config with { Run = config.Run with { Precision = cpu.Precision }, Optim = config.Optim with { Kind = kind } };
        return new Pretrainer(cpu, config, MemoryPlan.Of(config, threads: 1).ArenaBytes);
    }

    private static void Steps(Pretrainer pretrainer, int first, int count)
    {
        byte[] pixels = StepTests.Pictures(1);
        for (int i = first; i < first + count; i++)
        {
            pretrainer.Pass(pixels, i, firstPass: true);
            pretrainer.Update(1e-3);
        }
    }

    /// <summary>Every parameter, and every number of its copy: the master's, rounded.</summary>
    private static void AssertCopies(Pretrainer pretrainer, string when)
    {
        foreach (Param p in pretrainer.Model.Params.Params)
        {
            Assert.That(p.Operand.DType, Is.EqualTo(DType.BF16));
            ushort[] expected = Array.ConvertAll(p.Data.Host<float>().ToArray(), Bf16.Narrow);
            Assert.That(p.Operand.Host<ushort>().SequenceEqual(expected), $"{p.Name} {when}");
        }
    }

    [Test]
    public void Products_read_the_rounded_masters_whoever_changed_them([Values] OptimizerKind kind)
    {
        using var cpu = new CpuBackend(1, precision: Precision.BF16);
        using Pretrainer pretrainer = Open(cpu, "simmim", kind);
        AssertCopies(pretrainer, "when drawn");
        Steps(pretrainer, 0, 2);
        AssertCopies(pretrainer, "after two updates");
        Param weight = pretrainer.Model.Params["blocks.0.mlp.fc1.weight"];
        ParamSet.Set(cpu, weight, [.. Enumerable.Range(0, (int)weight.Data.Count).Select(i => 1f / (i + 3))]);
        AssertCopies(pretrainer, "after one was set");
    }

    [Test]
    public void Gradients_of_every_parameter_are_near_those_of_float32([Values("kamim", "mae")] string recipe)
    {
        using var cpu = new CpuBackend(1);
        using var half = new CpuBackend(1, precision: Precision.BF16);
        using Pretrainer right = Open(cpu, recipe), tested = Open(half, recipe);
        right.Pass(StepTests.Pictures(1), 0, firstPass: true);
        tested.Pass(StepTests.Pictures(1), 0, firstPass: true);
        foreach ((Param a, Param b) in right.Model.Params.Params.Zip(tested.Model.Params.Params))
        {
            if (!a.Written) continue;
            double[] expected = Transfer.Doubles(cpu, a.Gradient), actual = Transfer.Doubles(half, b.Gradient);
            double norm = Math.Sqrt(expected.Sum(v => v * v)), off = Math.Sqrt(expected.Zip(actual, (x, y) => (x - y) * (x - y)).Sum());
            // A dozen roundings of 2^-9 lie between a parameter and the loss.
            Assert.That(off, Is.LessThan(0.05 * norm + 1e-9), $"{a.Name}: off by {off:g3} of {norm:g3}");
        }
    }

    [Test]
    public void A_step_in_bf16_takes_less_memory_for_activations()
    {
        PretrainConfig config = StepTests.Config("simmim");
        long ArenaBytes(Precision p) => MemoryPlan.Of(config with { Run = config.Run with { Precision = p } }, "null").ArenaBytes;
        Assert.That(ArenaBytes(Precision.BF16), Is.LessThan(0.75 * ArenaBytes(Precision.F32)));
    }

    [Test]
    public void A_checkpoint_holds_masters_and_goes_on_in_either_precision([Values] Precision before, [Values] Precision after)
    {
        using CpuBackend first = new(1, precision: before), second = new(1, precision: after);
        using Pretrainer saved = Open(first, "simmim"), resumed = Open(second, "simmim");
        Steps(saved, 0, 2);
        using var stream = new MemoryStream();
        SafeTensorsWriter.Write(stream, new RunState(first, saved).Tensors());
        using (SafeTensors tensors = SafeTensors.Read(stream.ToArray(), "checkpoint")) new RunState(second, resumed).Load(tensors);
        Assert.That(resumed.Model.Params.Master.Host<float>().SequenceEqual(saved.Model.Params.Master.Host<float>()));
        if (after == Precision.BF16) AssertCopies(resumed, "when resumed");
        Steps(saved, 2, 1);
        Steps(resumed, 2, 1);
        float[] expected = Transfer.Floats(first, saved.Model.Params.Master), actual = Transfer.Floats(second, resumed.Model.Params.Master);
        if (before == after) Assert.That(actual, Is.EqualTo(expected));
        else Assert.That(expected.Zip(actual, (a, b) => Math.Abs(a - b)).Max(), Is.LessThan(3e-3));   // Adam moves by at most about its rate
    }
}
