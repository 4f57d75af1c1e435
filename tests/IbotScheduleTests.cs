using MimEngine.Engine.Autograd;
using MimEngine.Engine.Optim;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Probing;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Tables and optimisers of DINO and iBOT.</summary>
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

    [Test]
    public void The_linear_probe_lowers_its_rate_once_an_epoch()
    {
        OptimConfig optim = ProbePresets.IbotLp().Optim;
        RateSpan span = optim.Rates(2048, stepsPerEpoch: 7, totalSteps: 700);
        for (int step = 0; step < 700; step++)
            Assert.That(optim.RateOf(span, step, 1), Is.EqualTo(0.04 * 0.5 * (1 + Math.Cos(Math.PI * (step / 7) / 100))).Within(1e-12), $"update {step}");
    }

    [Test]
    public void Lars_takes_the_official_steps()
    {
        using Golden golden = Golden.Open("05_ibot_attmask/lars");
        using var cpu = new CpuBackend(1);
        using var set = new ParamSet();
        Param[] all = [set.Add("p0", new(5, 4), Init.Zeros), set.Add("p1", new(6), Init.Zeros), set.Add("p2", new(3, 2, 2), Init.Zeros)];
        set.Allocate(cpu, seed: null);
        for (int i = 0; i < all.Length; i++) ParamSet.Set(cpu, all[i], golden.Tensors.Floats($"in.param{i}"));
        using var lars = new Optimizer(cpu, set, new OptimConfig
        {
            Kind = OptimizerKind.Lars,
            WeightDecay = golden.Float("weight_decay"),
            Momentum = golden.Float("momentum"),
            Decay = DecayRule.NotVectors,
            ClipNorm = 0,
        });
        using var arena = new Arena(cpu, 1 << 12);
        var tape = new Tape(cpu, arena);
        for (int step = 0; step < 6; step++)
        {
            set.BeginUpdate();
            for (int i = 0; i < all.Length; i++) Transfer.Upload(cpu, tape.GradFor(all[i]).Into, golden.Tensors.Floats($"in.grad{i}.step{step}"));
            lars.Step(golden.Float("lr"));
        }
        for (int i = 0; i < all.Length; i++)
            golden.AssertClose("out.*", $"p{i}", Transfer.Floats(cpu, all[i].Data), golden.Tensors.Floats($"out.param{i}"));
    }
}
