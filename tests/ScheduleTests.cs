using MimEngine.Engine.Optim;
using MimEngine.Engine.Pretraining;
using NUnit.Framework;

namespace MimEngine.Tests;

[TestFixture]
public class ScheduleTests
{
    [Test]
    public void SimMim_schedules_agree_with_the_official_ones()
    {
        using Golden golden = Golden.Open("01_simmim/lr_schedules");
        int number = 0;
        foreach (var c in golden.Hyper.GetProperty("configs").EnumerateArray())
        {
            int iterations = c.GetProperty("iters").GetInt32(), epochs = c.GetProperty("epochs").GetInt32();
            Schedule schedule = c.GetProperty("name").GetString() switch
            {
                "cosine" => new CosineSchedule(),
                "multistep" => new MultiStepSchedule(0.1, [.. c.GetProperty("multisteps").EnumerateArray().Select(v => v.GetInt32())]),
                "linear" => new LinearSchedule(0.01),
                _ => new StepSchedule(0.1, c.GetProperty("decay_epochs").GetInt32()),
            };
            var span = new RateSpan(c.GetProperty("base_lr").GetDouble(), c.GetProperty("warmup_lr").GetDouble(), c.GetProperty("min_lr").GetDouble(),
                (long)c.GetProperty("warmup").GetInt32() * iterations, (long)epochs * iterations, iterations);
            double[] expected = golden.Tensors.Doubles($"out.lr{number}");
            // Row 0 is the rate after construction, row n + 1 the rate after update n: the schedule at n.
            Assert.That(schedule.At(span, 0), Is.EqualTo(expected[0]).Within(1e-12 + 1e-9 * expected[0]));
            for (int n = 0; 2 * (n + 1) < expected.Length; n++)
                Assert.That(schedule.At(span, n), Is.EqualTo(expected[2 * (n + 1)]).Within(1e-12 + 1e-9 * expected[2 * (n + 1)]), $"{c.GetProperty("name")}, update {n}");
            number++;
        }
        Assert.That(number, Is.EqualTo(4));
    }

    [Test]
    public void Kamim_rates_agree_with_the_official_loop_with_and_without_the_saw_tooth()
    {
        using Golden golden = Golden.Open("01_kamim_model/lr_schedule");
        int number = 0;
        foreach (var c in golden.Hyper.GetProperty("configs").EnumerateArray())
        {
            int accumulate = c.GetProperty("accum").GetInt32(), steps = c.GetProperty("epoch_steps").GetInt32();
            PretrainConfig recipe = Recipes.Kamim();
            PretrainConfig config = recipe with
            {
                Optim = recipe.Optim with
                {
                    ScheduleEpochs = c.GetProperty("epochs").GetInt32(),
                    WarmupEpochs = c.GetProperty("warmup_epochs").GetInt32(),
                    RateIndex = RateIndex.MicroBatches,
                },
                Run = recipe.Run with { Accumulate = accumulate },
            };
            RateSpan span = config.Rates(steps * accumulate);
            double[] expected = golden.Tensors.Doubles($"out.lr{number}");
            for (int n = 0; n < expected.Length; n++)
                Assert.That(config.RateOf(span, n), Is.EqualTo(expected[n]).Within(1e-12 + 1e-9 * expected[n]), $"accumulation {accumulate}, update {n}");
            number++;
        }
        Assert.That(number, Is.EqualTo(2));
    }

    [TestCase(0, 1e-6)]
    [TestCase(6259, 7.9987e-4)]
    [TestCase(6260, 7.8067e-4)]
    [TestCase(31300, 4.05e-4)]
    [TestCase(61974, 1.0195e-5)]
    [TestCase(62600, 1e-5)]
    public void Kamim_on_ImageNet_has_the_published_rates(long t, double expected)
    {
        var span = new RateSpan(8e-4, 1e-6, 1e-5, 6260, 62600, 626);
        Assert.That(new CosineSchedule().At(span, t), Is.EqualTo(expected).Within(0.02).Percent);
    }
}
