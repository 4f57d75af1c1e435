using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Optim;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>A whole training step: what it allocates, what it learns, what must not matter.</summary>
[TestFixture]
public class StepTests
{
    private const int Pixels = 32, Batch = 16;

    internal static PretrainConfig Config(string recipe)
    {
        PretrainConfig c = Recipes.Short(Recipes.AtPixels(Recipes.Named(recipe), Pixels), epochs: 1, Batch);
        return c with
        {
            Encoder = c.Encoder.WithSize("micro"),
            Terms = [.. c.Terms.Select(t => t with { Head = Small(t.Head) })],
            Views = c.Views with { Local = Math.Min(2, c.Views.Local) },
        };

        static Head Small(Head head) => head switch
        {
            TransformerDecoder d => d with { Width = 64, Depth = 2, Heads = 2 },
            PrototypeHead p => p with { Prototypes = 96, HiddenWidth = 64, Bottleneck = 32 },
            _ => head,
        };
    }

    /// <summary>Crops of an experiment: cut out of <see cref="Pictures"/>, as many times as it has views.</summary>
    internal static byte[] Crops(PretrainConfig config, int seed)
    {
        byte[] pictures = Pictures(seed), crops = new byte[config.BatchBytes];
        for (int i = 0; i < crops.Length; i++) crops[i] = (byte)(pictures[i % pictures.Length] + 37 * (i / pictures.Length));
        return crops;
    }

    internal static byte[] Pictures(int seed)
    {
        // Blobs on a ground: something to fill in, and corners for FAST.
        byte[] pixels = new byte[Batch * 3 * Pixels * Pixels];
        for (int i = 0; i < Batch; i++)
        {
            RngSequence rng = new Rng((ulong)seed, RandomStream.Test, (ulong)i).Start();
            (int cx, int cy, int r) = (rng.Below(Pixels), rng.Below(Pixels), 4 + rng.Below(10));
            for (int c = 0; c < 3; c++)
            {
                (byte inside, byte outside) = ((byte)rng.Below(256), (byte)rng.Below(256));
                for (int y = 0; y < Pixels; y++)
                    for (int x = 0; x < Pixels; x++)
                        pixels[((i * 3 + c) * Pixels + y) * Pixels + x] = Math.Abs(x - cx) < r && Math.Abs(y - cy) < r ? inside : outside;
            }
        }
        return pixels;
    }

    [Test]
    public void A_stopwatch_around_operations_changes_no_bit_and_sees_every_call([Values("kamim", "mae")] string recipe)
    {
        PretrainConfig config = Config(recipe);
        byte[] pixels = Pictures(1);
        var results = new List<float[]>();
        foreach (bool watched in new[] { false, true })
        {
            using var cpu = new CpuBackend(2);
            var timed = new TimedBackend(cpu);
            using var pretrainer = new Pretrainer(watched ? timed : cpu, config, MemoryPlan.Of(config).ArenaBytes);
            for (int step = 0; step < 2; step++)
            {
                timed.Clear();
                pretrainer.Pass(pixels, step, firstPass: true);
                pretrainer.Update(1e-3);
            }
            results.Add(pretrainer.Model.Params.Master.Host<float>().ToArray());
            if (!watched) continue;
            double flops = timed.Times.Where(t => t.Cost.Name.StartsWith("Linear") || t.Cost.Name.StartsWith("Attention")).Sum(t => t.Cost.Flops * t.Calls);
            Assert.Multiple(() =>
            {
                Assert.That(timed.Times.Single(t => t.Cost.Name == nameof(Backend.AdamWStep)).Calls, Is.EqualTo(1));
                Assert.That(timed.Times.Sum(t => t.Seconds), Is.GreaterThan(0));
                // The products are counted twice, once by the plan and once by what was called: they differ by biases and softmaxes.
                if (recipe == "kamim") Assert.That(flops / (StepCost.Of(config).Total * Batch), Is.InRange(1.0, 1.06));
            });
        }
        Assert.That(results[1], Is.EqualTo(results[0]));
    }

    [Test]
    public void A_warm_step_allocates_no_managed_byte_and_rents_nothing_new(
        [Values("kamim", "simmim", "mae", "dino", "ibot-attmask-hint")] string recipe, [Values(1, 2)] int passes, [Values] Recompute recompute, [Values] Precision precision)
    {
        const int threads = 2;
        PretrainConfig config = Config(recipe);
        config = config with { Run = config.Run with { Recompute = recompute, Accumulate = passes, Precision = precision } };
        using var cpu = new CpuBackend(threads, precision: precision);
        using var pretrainer = new Pretrainer(cpu, config, MemoryPlan.Of(config, threads: threads).ArenaBytes);
        byte[] pixels = Crops(config, 1);
        void Step(long number)
        {
            for (int pass = 0; pass < passes; pass++) pretrainer.Pass(pixels, passes * number + pass, firstPass: pass == 0);
            pretrainer.Update(1e-3);
        }
        for (int i = 0; i < 3; i++) Step(i);
        (long peak, long own, long held) = (pretrainer.Arena.Peak, cpu.OwnBytes, cpu.AllocatedBytes);
        // Tiering may compile a method in the middle of one step: the best of a few is what a step itself allocates.
        long least = long.MaxValue;
        for (int i = 3; i < 8; i++)
        {
            long before = GC.GetTotalAllocatedBytes(precise: true);
            Step(i);
            least = Math.Min(least, GC.GetTotalAllocatedBytes(precise: true) - before);
        }
        Assert.Multiple(() =>
        {
            Assert.That(least, Is.Zero);
            Assert.That(pretrainer.Arena.Live, Is.Zero);
            Assert.That((pretrainer.Arena.Peak, cpu.OwnBytes, cpu.AllocatedBytes), Is.EqualTo((peak, own, held)));
        });
    }

    [Test]
    public void A_run_takes_the_memory_that_the_plan_said([Values("kamim", "simmim", "mae", "dino", "ibot-attmask-hint")] string recipe, [Values(1, 3)] int threads,
        [Values] Recompute recompute, [Values] Precision precision)
    {
        PretrainConfig config = Config(recipe);
        config = config with { Run = config.Run with { Recompute = recompute, Precision = precision } };
        MemoryPlan plan = MemoryPlan.Of(config, threads: threads);
        using var cpu = new CpuBackend(threads, precision: precision);
        using var pretrainer = new Pretrainer(cpu, config, plan.ArenaBytes);
        pretrainer.Pass(Crops(config, 1), 0, firstPass: true);
        pretrainer.Update(1e-3);
        Assert.Multiple(() =>
        {
            Assert.That(pretrainer.Arena.Peak, Is.EqualTo(plan.ArenaBytes));
            Assert.That(cpu.AllocatedBytes + cpu.OwnBytes, Is.EqualTo(plan.TotalBytes).Within(2).Percent);
        });
    }

    [TestCase("kamim")]
    [TestCase("kamim-baseline")]
    [TestCase("simmim")]
    public void A_recipe_learns_sixteen_pictures_by_heart(string recipe)
    {
        PretrainConfig config = Config(recipe);
        using var cpu = new CpuBackend(2);
        using var pretrainer = new Pretrainer(cpu, config, MemoryPlan.Of(config, threads: 2).ArenaBytes);
        byte[] pixels = Pictures(2);
        float[] losses = new float[2];
        for (int round = 0; round < 2; round++)
        {
            for (int i = 0; i < 150; i++)
            {
                pretrainer.Pass(pixels, round * 150 + i, firstPass: true);
                pretrainer.Update(2e-3);
                if (round == 0 && i == 9) losses[0] = pretrainer.ReadOut(10).Losses[0];
            }
            losses[1] = pretrainer.ReadOut(150 * (round + 1)).Losses[0];
        }
        TestContext.Out.WriteLine($"{recipe}: {losses[0]} → {losses[1]}");
        Assert.That(losses[1], Is.LessThan(0.35f * losses[0]));
    }

    [Test]
    public void Weights_of_one_are_SimMim_and_a_constant_factor_is_a_factor_of_the_loss()
    {
        PretrainConfig config = Config("kamim-baseline");
        using var cpu = new CpuBackend(1);
        using var model = new MimModel(config);
        model.Params.Allocate(cpu, seed: 5);
        using var arena = new Arena(cpu, 64 << 20);
        var tape = new Tape(cpu, arena);
        tape.BeginNoGrad();
        var shape = new Shape(Batch, 3, Pixels, Pixels);
        Tensor crops = tape.Keep(shape, DType.U8), images = tape.Keep(shape), hidden = tape.Keep(new Shape(Batch, 64), DType.U8);
        cpu.Upload(crops, Pictures(3));
        cpu.NormalizeImages(images, crops, Normalization.Mean, Normalization.Std);
        byte[] mask = new byte[Batch * 64];
        for (int i = 0; i < mask.Length; i += 3) mask[i] = 1;
        cpu.Upload(hidden, mask);
        (Value prediction, PixelOrder order) = model.Predict(tape, model.Encoder.Encode(tape, images, new EncodeRequest(hidden)), 0);
        Tensor weights = tape.Keep(new Shape(Batch, 4, 4));
        float Loss(float? weight)
        {
            if (weight is { } w) cpu.Fill(weights, w);
            var inputs = new TermInputs(images, hidden, weight is null ? null : weights, 4, order, 1f);
            return Transfer.Floats(cpu, new PixelTarget().Loss(tape, prediction, inputs).Data)[0];
        }
        float plain = Loss(null);
        Assert.That(Loss(1f), Is.EqualTo(plain).Within(1e-4).Percent);
        Assert.That(Loss(7f), Is.EqualTo(7f * plain).Within(1e-3).Percent);
        tape.EndNoGrad();
    }

    [Test]
    public void A_number_that_is_not_finite_stops_the_run_and_is_named()
    {
        PretrainConfig config = Config("kamim");
        using var cpu = new CpuBackend(1);
        using var pretrainer = new Pretrainer(cpu, config, MemoryPlan.Of(config, threads: 1).ArenaBytes);
        Param p = pretrainer.Model.Params["blocks.1.mlp.fc1.weight"];
        p.Data.Host<float>()[7] = float.NaN;
        pretrainer.Pass(Pictures(1), 0, firstPass: true);
        pretrainer.Update(1e-3);
        NonFiniteException e = Assert.Throws<NonFiniteException>(() => pretrainer.ReadOut(1))!;
        Assert.That(e.Message, Does.Contain("loss 'pixels' is NaN").And.Contain("between steps 1 and 1").And.Contain("the first tensor"));
    }

    [Test]
    public void Decay_spares_what_each_method_spares()
    {
        var tokens = new Shape(1, 64);
        Assert.Multiple(() =>
        {
            Assert.That(Optimizer.Decays(DecayRule.Everything, "norm.bias", new Shape(64)));
            Assert.That(Optimizer.Decays(DecayRule.NotVectors, "cls_token", tokens));
            Assert.That(Optimizer.Decays(DecayRule.NotVectors, "norm.bias", new Shape(64)), Is.False);
            Assert.That(Optimizer.Decays(DecayRule.NotVectorsClsPositions, "cls_token", tokens), Is.False);
            Assert.That(Optimizer.Decays(DecayRule.NotVectorsClsPositions, "mask_token", tokens));
        });
    }
}
