using MimEngine.Engine.Optim;
using MimEngine.Engine.Pretraining;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Tables of DINO and iBOT.</summary>
[TestFixture]
public class IbotScheduleTests
{
    [Test]
    public void Rates_decays_and_momenta_agree_with_the_official_scheduler()
    {
        using Golden golden = Golden.Open("05_ibot_attmask/cosine_schedules");
        double[] rates = golden.Tensors.Doubles("out.sched0"), decays = golden.Tensors.Doubles("out.sched1"), momenta = golden.Tensors.Doubles("out.sched2");
        var span = new RateSpan(0.0005, 0, 1e-6, 21, 70, 7);
        for (int i = 0; i < rates.Length; i++) Near(new CosineInclusiveSchedule().At(span, i), rates[i], $"rate {i}");
        for (int i = 0; i < decays.Length; i++) Near(Timetable.Cosine(0.04, 0.4, i, 70), decays[i], $"decay {i}");
        for (int i = 0; i < momenta.Length; i++) Near(Timetable.Cosine(0.996, 1, i, 30), momenta[i], $"momentum {i}");

        static void Near(double actual, double expected, string what)
            => Assert.That(actual, Is.EqualTo(expected).Within(1e-16 + 1e-12 * Math.Abs(expected)), what);
    }

    [Test]
    public void The_example_of_the_paper_s_batch_has_the_published_rates()
    {
        // 240 pictures a step, 1,281,167 pictures, drop-last: 5,338 steps an epoch (SPEC E.4).
        PretrainConfig config = Recipes.Ibot() with { };
        config = config with { Run = config.Run with { Batch = 240, Accumulate = 1, Epochs = 100 } };
        RateSpan span = config.Rates(5338);
        var table = new Timetable(config, 5338);
        Assert.Multiple(() =>
        {
            Assert.That(config.RateOf(span, 0), Is.Zero);
            Assert.That(config.RateOf(span, 1), Is.EqualTo(8.78154e-9).Within(1e-14));
            Assert.That(config.RateOf(span, 53379), Is.EqualTo(4.6875e-4).Within(1e-12));
            Assert.That(config.RateOf(span, 53380), Is.EqualTo(4.6875e-4).Within(1e-12));
            Assert.That(config.RateOf(span, 533799), Is.EqualTo(1.000000005e-6).Within(1e-14));
            Assert.That(table.WeightDecay(0), Is.EqualTo(0.04f).Within(1e-7f));
            Assert.That(table.WeightDecay(266900), Is.EqualTo(0.22f).Within(1e-6f));
            Assert.That(table.Momentum(0), Is.EqualTo(0.996).Within(1e-12));
            Assert.That(table.Momentum(266900), Is.EqualTo(0.998).Within(1e-12));
        });
    }
}
