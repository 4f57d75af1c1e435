using MimEngine.Engine.Autograd;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>How a step's memory is cut, and gradients of parameters that lie in it.</summary>
[TestFixture]
public class ArenaTests
{
    private sealed record Piece(Tensor Tensor)
    {
        public long First => Tensor.ByteOffset;
        public long End => First + Tensor.Bytes;
    }

    [Test]
    public void Pieces_never_overlap_and_all_memory_comes_back([Range(1, 8)] int seed)
    {
        using var backend = new NullBackend();
        using var arena = new Arena(backend, 1L << 30);
        List<Piece> rented = [];
        List<long>[] places = [[], []];
        foreach (List<long> seen in places)
        {
            RngSequence rng = new Rng((ulong)seed, RandomStream.Test, 0).Start();
            long peak = 0;
            for (int i = 0; i < 3_000; i++)
            {
                // More rents than returns at first, then fewer, as a step has them.
                if (rented.Count == 0 || rng.Below(3_000) > i)
                {
                    var shape = new Shape(1 + rng.Below(1 << rng.Below(12)));
                    DType type = rng.Below(2) == 0 ? DType.F32 : DType.U8;
                    var piece = new Piece(rng.Below(3) == 0 ? arena.RentHigh(shape, type) : arena.Rent(shape, type));
                    foreach (Piece other in rented)
                        Assert.That(piece.End <= other.First || other.End <= piece.First, $"[{piece.First}, {piece.End}) and [{other.First}, {other.End})");
                    Assert.That(piece.First % 64, Is.Zero);
                    rented.Add(piece);
                    seen.Add(piece.First);
                }
                else
                {
                    int which = rng.Below(rented.Count);
                    arena.Return(rented[which].Tensor);
                    rented.RemoveAt(which);
                }
                peak = Math.Max(peak, rented.Count == 0 ? 0 : rented.Max(p => p.End));
                Assert.That(arena.Live, Is.EqualTo(rented.Sum(p => (p.Tensor.Bytes + 63) / 64 * 64)));
            }
            Assert.That(arena.Peak, Is.InRange(peak, peak + 63));
            foreach (Piece p in rented) arena.Return(p.Tensor);
            rented.Clear();
            Assert.That(arena.Live, Is.Zero);
            arena.Freeze();   // the second time asks for nothing that the first did not have
        }
        Assert.That(places[1], Is.EqualTo(places[0]), "the same requests are cut alike");
    }

    [Test]
    public void What_goes_soon_takes_the_smallest_hole_and_what_stays_the_highest()
    {
        using var backend = new NullBackend();
        using var arena = new Arena(backend, 4096);
        Tensor[] row = [.. new[] { 512, 64, 256, 64, 1024, 64, 320, 64 }.Select(n => arena.Rent(new Shape(n), DType.U8))];
        foreach (int i in new[] { 0, 2, 4 }) arena.Return(row[i]);   // holes of 512, 256 and 1024 bytes at 0, 576 and 896
        Assert.That(arena.Rent(new Shape(200), DType.U8).ByteOffset, Is.EqualTo(576));
        Assert.That(arena.RentHigh(new Shape(200), DType.U8).ByteOffset, Is.EqualTo(896 + 1024 - 256));
        Assert.That(arena.Rent(new Shape(700), DType.U8).ByteOffset, Is.EqualTo(896));
        Assert.That(arena.Rent(new Shape(600), DType.U8).ByteOffset, Is.EqualTo(2368), "no hole has room");
        Assert.That(arena.Peak, Is.EqualTo(2368 + 640));
    }

    [Test]
    public void What_is_not_rented_cannot_be_given_back()
    {
        using var backend = new NullBackend();
        using var arena = new Arena(backend, 4096);
        Tensor low = arena.Rent(new Shape(64), DType.U8), middle = arena.Rent(new Shape(64), DType.U8), high = arena.Rent(new Shape(64), DType.U8);
        arena.Return(middle);
        Assert.Throws<InvalidOperationException>(() => arena.Return(middle));
        arena.Return(high);
        Assert.Throws<InvalidOperationException>(() => arena.Return(high));
        arena.Return(low);
        Assert.That(arena.Live, Is.Zero);
    }

    [Test]
    public void Gradients_in_the_arena_change_no_bit([Values("kamim", "simmim", "mae", "dino", "ibot", "ibot-attmask-hint")] string recipe,
        [Values] Recompute recompute, [Values] Precision precision)
    {
        PretrainConfig config = StepTests.Config(recipe);
        config = config with { Run = config.Run with { Recompute = recompute, Precision = precision, Accumulate = 1 } };
        var results = new List<(float[] Values, float[] Moments, float Norm)>();
        foreach (bool slab in new[] { true, false })
        {
            using var cpu = new CpuBackend(2, precision: precision);
            using var pretrainer = new Pretrainer(cpu, config, MemoryPlan.Of(config, "null").ArenaBytes, gradientSlab: slab);
            for (int step = 0; step < 3; step++)
            {
                pretrainer.Pass(StepTests.Crops(config, step), step, firstPass: true);
                pretrainer.Update(1e-3);
            }
            Assert.That(pretrainer.Arena.Live, Is.Zero);
            results.Add((Transfer.Floats(cpu, pretrainer.Model.Params.Master), Transfer.Floats(cpu, pretrainer.Optimizer.Moment1), pretrainer.ReadOut(3).GradientNorm));
        }
        Assert.Multiple(() =>
        {
            Assert.That(results[1].Values, Is.EqualTo(results[0].Values));
            Assert.That(results[1].Moments, Is.EqualTo(results[0].Moments));
            Assert.That(results[1].Norm, Is.EqualTo(results[0].Norm).And.GreaterThan(0f));
        });
    }

    [Test]
    public void Gradients_lie_where_activations_were()
    {
        PretrainConfig config = Recipes.AtPixels(Recipes.Named("kamim-baseline"), 192);
        config = config with { Encoder = config.Encoder.WithSize("small"), Run = config.Run with { Batch = 16, Accumulate = 1 } };
        MemoryPlan once = MemoryPlan.Of(config, "null"), twice = MemoryPlan.Of(config with { Run = config.Run with { Accumulate = 2 } }, "null");
        long gradients = twice.SlabBytes - once.SlabBytes;
        Assert.Multiple(() =>
        {
            Assert.That(gradients, Is.InRange(4 * once.Parameters, 4.01 * once.Parameters));
            Assert.That(once.ArenaBytes, Is.LessThan(twice.ArenaBytes + gradients / 5));
        });
    }

    [Test]
    public void A_gradient_is_there_from_backward_to_the_update_and_never_silently_something_else()
    {
        PretrainConfig config = StepTests.Config("kamim");
        using var cpu = new CpuBackend(1);
        long planned = MemoryPlan.Of(config, "null").ArenaBytes;
        using (var pretrainer = new Pretrainer(cpu, config, planned))
        {
            Param weight = pretrainer.Model.Params["blocks.0.attn.qkv.weight"];
            Assert.That(() => weight.Gradient, Throws.InvalidOperationException.With.Message.Contains("blocks.0.attn.qkv.weight"));
            pretrainer.Pass(StepTests.Pictures(1), 0, firstPass: true);
            Assert.That(Transfer.Floats(cpu, weight.Gradient), Has.Some.Not.Zero);
            Assert.That(() => pretrainer.Arena.Guest(), Throws.InvalidOperationException);
            pretrainer.Update(1e-3);
            Assert.That(() => weight.Gradient, Throws.InvalidOperationException);
            Assert.That(pretrainer.Arena.Live, Is.Zero);
            // A pass that is not followed by its update, as where a run is stopped, leaves nothing behind.
            pretrainer.Pass(StepTests.Pictures(2), 1, firstPass: true);
            pretrainer.Pass(StepTests.Pictures(2), 1, firstPass: true);
            pretrainer.Update(1e-3);
            Assert.That((pretrainer.Arena.Live, pretrainer.Arena.Peak), Is.EqualTo((0L, planned)));
        }
        using var small = new Pretrainer(cpu, config, planned - 64);
        Assert.That(() => small.Pass(StepTests.Pictures(1), 0, firstPass: true), Throws.InstanceOf<DeviceMemoryException>().With.Message.Contains("planned"));
    }
}
