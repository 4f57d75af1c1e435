using MimEngine.Engine.Autograd;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>SimMIM's clipping of what is summed so far, after every pass of an update (SPEC B.5).</summary>
[TestFixture]
public class ClipTests
{
    private static readonly CpuBackend s_cpu = new(1);

    private static PretrainConfig Config(float clip, bool eachPass)
    {
        PretrainConfig c = Recipes.Embedded(Recipes.KamimBaseline(), epochs: 1, batch: 4);
        return c with
        {
            Encoder = c.Encoder with { Width = 16, Depth = 1, Heads = 2 },
            Optim = c.Optim with { ClipNorm = clip, ClipEachPass = eachPass },
            Run = c.Run with { Seed = 3, Batch = 4, Accumulate = 3 },
        };
    }

    /// <summary>Gradients after one, two and three passes.</summary>
    private static float[][] Gradients(PretrainConfig config)
    {
        config.Validate();
        using var pretrainer = new Pretrainer(s_cpu, config, MemoryPlan.Of(config, threads: 1).ArenaBytes);
        return [.. Enumerable.Range(0, 3).Select(pass =>
        {
            byte[] pixels = [.. Enumerable.Range(0, 4 * 3 * 32 * 32).Select(i => (byte)(128 + 100 * Math.Sin(i * 0.3 * (pass + 1) + i / 32 * 0.4)))];
            pretrainer.Pass(pixels, pass, firstPass: pass == 0);
            return Flat(pretrainer.Model.Params);
        })];
    }

    private static float[] Flat(ParamSet set) => [.. set.Params.SelectMany(p => Transfer.Floats(s_cpu, p.Gradient))];

    [Test]
    public void The_sum_so_far_is_scaled_to_the_norm_before_the_next_pass_is_added()
    {
        float[][] plain = Gradients(Config(1f, eachPass: false));
        double first = Norm(plain[0]);
        float clip = (float)(0.25 * first);
        float[][] clipped = Gradients(Config(clip, eachPass: true));
        Assert.That(clipped[0], Is.EqualTo(plain[0]), "one pass is left as it is: the update clips it");
        double scale = clip / (first + 1e-6);
        double[] two = [.. plain[0].Select((g, i) => scale * g + (plain[1][i] - g))];
        AssertNear(clipped[1], two, "after two passes");
        double norm = Math.Sqrt(two.Sum(v => v * v)), again = Math.Min(1, clip / (norm + 1e-6));
        AssertNear(clipped[2], [.. two.Select((g, i) => again * g + (plain[2][i] - plain[1][i]))], "after three passes");
        Assert.That(again, Is.LessThan(1), "the case clips twice");
    }

    [Test]
    public void A_norm_that_is_never_reached_changes_no_bit()
        => Assert.That(Gradients(Config(1e6f, eachPass: true)), Is.EqualTo(Gradients(Config(1e6f, eachPass: false))));

    [Test]
    public void Clipping_passes_and_parameters_at_once_is_refused()
    {
        PretrainConfig c = Config(1f, eachPass: true);
        c = c with { Optim = c.Optim with { ClipEachParameter = true } };
        Assert.That(Assert.Throws<ConfigException>(c.Validate)!.Message, Does.Contain("clipEachPass").And.Contain("switch one off"));
    }

    private static double Norm(float[] g) => Math.Sqrt(g.Sum(v => (double)v * v));

    private static void AssertNear(float[] got, double[] expected, string what)
    {
        double difference = Math.Sqrt(got.Select((g, i) => Math.Pow(g - expected[i], 2)).Sum()), norm = Math.Sqrt(expected.Sum(v => v * v));
        Assert.That(difference, Is.LessThanOrEqualTo(1e-5 * norm), what);
    }
}
