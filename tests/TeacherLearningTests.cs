using MimEngine.Engine.Analysis;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>A student that follows its teacher: it learns, and neither of them falls asleep.</summary>
[TestFixture]
public class TeacherLearningTests
{
    private const int Steps = 120, StepsPerEpoch = 20;

    [TestCase("dino", Precision.F32)]
    [TestCase("ibot", Precision.BF16)]
    [TestCase("ibot-attmask-high", Precision.F32)]
    public void The_loss_falls_and_the_teacher_s_answers_stay_apart(string recipe, Precision precision)
    {
        PretrainConfig config = StepTests.Config(recipe);
        config = config with
        {
            Encoder = config.Encoder with { Init = VitInit.Xavier },   // as the small-data presets: small networks start too quiet otherwise
            Teacher = config.Teacher! with { Momentum = 0.99 },
            Optim = config.Optim with { Beta2 = 0.95f },
            Terms = [.. config.Terms.Select(t => t with { Target = (TeacherTokens)t.Target with { Temperature = 0.04, WarmupEpochs = 0 } })],
            Run = config.Run with { Precision = precision, Epochs = Steps / StepsPerEpoch },
        };
        using var cpu = new CpuBackend(2, precision: precision);
        using var pretrainer = new Pretrainer(cpu, config, MemoryPlan.Of(config, threads: 2).ArenaBytes, timetable: new Timetable(config, StepsPerEpoch));
        byte[] crops = StepTests.Crops(config, 2);
        List<StepReadout> epochs = [];
        for (int step = 0; step < Steps; step++)
        {
            pretrainer.Pass(crops, step, firstPass: true);
            pretrainer.Update(1e-3);
            if ((step + 1) % StepsPerEpoch == 0) epochs.Add(pretrainer.ReadOut(step + 1));
        }
        double most = Math.Log(96);
        TestContext.Out.WriteLine(string.Join("\n", epochs.Select(e => $"loss {string.Join(" ", e.Losses)}, entropy {string.Join(" ", e.Entropies)} of {most:F2}")));
        for (int term = 0; term < config.Terms.Length; term++)
        {
            (double first, double last) = (epochs[0].Losses[term], epochs[^1].Losses[term]);
            (double before, double entropy) = (epochs[0].Entropies[term], epochs[^1].Entropies[term]);
            Assert.That(last, Is.LessThan(0.85 * first), config.Terms[term].Name);
            Assert.That(last - entropy, Is.LessThan(0.5 * (first - before)), "student and teacher come nearer to each other");
            Assert.That(entropy, Is.InRange(0.1 * most, 0.6 * most), "neither one prototype nor all of them");
            Assert.That(CollapseWatch.Sentence(config.Terms[term], entropy, last - entropy, most), Is.Null);
        }
    }
}
