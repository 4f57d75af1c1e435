using System.Text.Json;
using MimEngine.Engine.Analysis;
using MimEngine.Engine.Autograd;
using MimEngine.Engine.Experiments;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Optim;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>The official iBOT training epoch, step by step: gradients, clipping, frozen layer, AdamW, EMA, centres.</summary>
[TestFixture]
public class TeacherTests
{
    [TestCase("train_steps_block", 1)]
    [TestCase("train_steps_attmask_high", 2)]
    public void Two_official_epochs_of_iBot_give_the_same_losses_gradients_students_teachers_and_centres(string name, int stepsPerEpoch)
    {
        using Golden golden = Golden.Open("05_ibot_attmask/" + name);
        PretrainConfig config = Official(golden, stepsPerEpoch);
        config.Validate();
        using var cpu = new CpuBackend(2);
        using var pretrainer = new Pretrainer(cpu, config, MemoryPlan.Of(config, threads: 2).ArenaBytes, initialise: false,
            new Timetable(config, stepsPerEpoch));
        LoadParams(cpu, golden, pretrainer.Model.Params, "param.student.");
        LoadParams(cpu, golden, pretrainer.Teacher!.Model.Params, "param.teacher.");
        double[] rates = golden.Tensors.Doubles("in.lr_schedule");
        float[] losses = golden.Tensors.Floats("out.losses");
        using var storage = cpu.Allocate(1 << 20);
        Assert.Multiple(() =>
        {
            for (int step = 0; step < rates.Length; step++)
            {
                Crops global = Load(cpu, storage, 0, golden, step, 0, 2), local = Load(cpu, storage, 1 << 19, golden, step, 2, config.Views.Local);
                pretrainer.Pass(global, local, step, firstPass: true, golden.Tensors.Bytes($"aux.it{step}.masks"));
                if (step == 0) CheckGradients(cpu, golden, pretrainer.Model.Params);
                pretrainer.Update(rates[step]);
                float[] read = pretrainer.ReadOut(step + 1).Losses;
                golden.AssertClose("out.losses", $"losses of step {step}", [read[0], read[1], read[0] + read[1]], losses.AsSpan(3 * step, 3));
                if ((step + 1) % stepsPerEpoch == 0) CheckState(cpu, golden, pretrainer, $"out.after_epoch{step / stepsPerEpoch}.");
            }
        });
    }

    [Test]
    public void Student_teacher_and_centres_are_the_same_for_any_thread_count_and_after_a_resume([Values("ibot", "dino", "ibot-attmask-hint")] string recipe)
    {
        PretrainConfig config = StepTests.Config(recipe) with { Teacher = new TeacherConfig { Momentum = 0.9 } };
        config = config with { Run = config.Run with { Batch = 3 } };
        byte[] one = State(config, 1, null), three = State(config, 3, null), resumed = State(config, 2, 3);
        Assert.That(three.AsSpan().SequenceEqual(one), "three threads");
        Assert.That(resumed.AsSpan().SequenceEqual(one), "saved after three steps, and loaded by another process's pretrainer");
    }

    /// <summary>The checkpoint of six steps; with <paramref name="resumeAt"/>, saved there and continued by another pretrainer.</summary>
    private static byte[] State(PretrainConfig config, int threads, int? resumeAt)
    {
        string folder = Directory.CreateTempSubdirectory("mim-teacher-").FullName;
        try
        {
            int from = 0;
            foreach (int to in resumeAt is { } middle ? new[] { middle, 6 } : [6])
            {
                using var cpu = new CpuBackend(threads);
                using var pretrainer = new Pretrainer(cpu, config, MemoryPlan.Of(config, threads: threads).ArenaBytes, initialise: from == 0,
                    new Timetable(config, 2));
                var state = new RunState(cpu, pretrainer);
                if (from > 0)
                {
                    using Checkpoint saved = Checkpoint.Latest(folder).Newest!;
                    state.Load(saved.Tensors);
                }
                for (int step = from; step < to; step++)
                {
                    pretrainer.Pass(StepTests.Crops(config, step), step, firstPass: true);
                    pretrainer.Update(1e-3);
                }
                Checkpoint.Save(folder, new CheckpointHeader(to, "hash", new Dictionary<string, string>()), state.Tensors(), 1);
                from = to;
            }
            return File.ReadAllBytes(Directory.EnumerateFiles(folder).Single());
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Test]
    public void A_teacher_of_momentum_one_stays_and_of_momentum_zero_is_the_student()
    {
        foreach (double momentum in new[] { 0.0, 1.0 })
        {
            PretrainConfig config = StepTests.Config("ibot") with { Teacher = new TeacherConfig { Momentum = momentum, MomentumEnd = momentum } };
            using var cpu = new CpuBackend(1);
            using var pretrainer = new Pretrainer(cpu, config, MemoryPlan.Of(config, threads: 1).ArenaBytes);
            float[] before = pretrainer.Teacher!.Model.Params.Master.Host<float>().ToArray();
            pretrainer.Pass(StepTests.Crops(config, 1), 0, firstPass: true);
            pretrainer.Update(1e-3);
            float[] after = pretrainer.Teacher.Model.Params.Master.Host<float>().ToArray(), student = pretrainer.Model.Params.Master.Host<float>().ToArray();
            Assert.That(student, Is.Not.EqualTo(before));
            Assert.That(after, Is.EqualTo(momentum == 1 ? before : student));
        }
    }

    [Test]
    public void Prototypes_rest_in_the_first_epoch_and_move_in_the_second()
    {
        PretrainConfig config = StepTests.Config("ibot");
        using var cpu = new CpuBackend(1);
        using var pretrainer = new Pretrainer(cpu, config, MemoryPlan.Of(config, threads: 1).ArenaBytes, timetable: new Timetable(config, 1));
        Param last = pretrainer.Model.Params["head.last_layer.weight_v"];
        for (int step = 0; step < 2; step++)
        {
            float[] before = Transfer.Floats(cpu, last.Data);
            pretrainer.Pass(StepTests.Crops(config, 1), step, firstPass: true);
            pretrainer.Update(1e-3);
            Assert.That(Transfer.Floats(cpu, last.Data), step == 0 ? Is.EqualTo(before) : Is.Not.EqualTo(before));
            Assert.That(pretrainer.Optimizer.StepCounts[last.Segment], Is.EqualTo(step), "its own step count");
        }
    }

    [Test]
    public void A_recipe_on_pixels_with_a_teacher_hides_what_its_attention_says()
    {
        PretrainConfig config = StepTests.Config("simmim") with { Teacher = new TeacherConfig(), Masking = new AttentionGuided() };
        config = config with { Encoder = config.Encoder with { RelativeBias = RelativeBias.None, Positions = Positions.Learned } };
        config.Validate();
        using var cpu = new CpuBackend(2);
        using var pretrainer = new Pretrainer(cpu, config, MemoryPlan.Of(config, threads: 2).ArenaBytes);
        float[] teacher = pretrainer.Teacher!.Model.Params.Master.Host<float>().ToArray();
        for (int step = 0; step < 3; step++)
        {
            pretrainer.Pass(StepTests.Crops(config, step), step, firstPass: true);
            pretrainer.Update(1e-3);
        }
        Assert.That(pretrainer.ReadOut(3).Losses[0], Is.GreaterThan(0));
        Assert.That(pretrainer.Teacher.Model.Params.Master.Host<float>().ToArray(), Is.Not.EqualTo(teacher), "it follows");
    }

    [Test]
    public void Initial_parameters_have_the_official_statistics()
    {
        using Golden golden = Golden.Open("05_ibot_attmask/init_stats");
        PretrainConfig config = Recipes.Ibot();
        config = config with
        {
            Encoder = config.Encoder with { ImagePixels = golden.Int("img"), Width = golden.Int("dim"), Depth = golden.Int("depth"), Heads = golden.Int("heads") },
            Views = config.Views with { LocalPixels = 32 },
            Terms = [config.Terms[0] with
            {
                Head = new PrototypeHead { Prototypes = golden.Int("out"), HiddenWidth = golden.Int("hidden"), Bottleneck = golden.Int("bottleneck"), UnitPrototypes = false },
            }, config.Terms[1]],
        };
        using var cpu = new CpuBackend(1);
        using var model = new MimModel(config);
        model.Params.Allocate(cpu, seed: 1);
        int seen = 0;
        Assert.Multiple(() =>
        {
            foreach (Param p in model.Params.Params)
            {
                if (!golden.Values.TryGetProperty(Official(p.Name), out JsonElement stats)) continue;
                seen++;
                float[] values = Transfer.Floats(cpu, p.Data);
                double mean = values.Average(v => (double)v), deviation = Math.Sqrt(values.Average(v => (v - mean) * (v - mean))), wanted = stats.GetProperty("std").GetDouble();
                if (wanted == 0) Assert.That(values, Is.All.EqualTo((float)stats.GetProperty("mean").GetDouble()), p.Name);
                else if (values.Length >= 1000) Assert.That(deviation, Is.EqualTo(wanted).Within(5).Percent, p.Name);
            }
        });
        Assert.That(seen, Is.GreaterThan(30));
    }

    [Test]
    public void Nonsense_is_refused_in_a_sentence()
    {
        PretrainConfig ibot = Recipes.Ibot();
        (PretrainConfig Config, string Says)[] wrong =
        [
            (ibot with { Teacher = null }, "teacher is null"),
            (ibot with { Views = ibot.Views with { Global = 1 } }, "views.global is 1"),
            (ibot with { Masking = new NoMasking() }, "masking hides none"),
            (ibot with { Terms = [ibot.Terms[0], ibot.Terms[1] with { Name = "cls" }] }, "name is 'cls'"),
            (ibot with { Terms = [ibot.Terms[1], ibot.Terms[0]] }, "must name a term before this one"),
            (ibot with { Views = new ViewsConfig { Global = 2 }, Terms = [new Term { Target = new TeacherTokens() }] }, "must be of kind prototypes"),
            (ibot with { Terms = [ibot.Terms[0] with { Target = new PixelTarget() }] }, "pixels belong to patches"),
            (Recipes.Mae() with { Views = new ViewsConfig { Local = 2 } }, "views.local is 2"),
        ];
        foreach ((PretrainConfig config, string says) in wrong)
            Assert.That(Assert.Throws<ConfigException>(config.Validate)!.Message, Does.Contain(says));
    }

    [Test]
    public void Collapse_is_told_from_health_and_the_rank_of_features_from_their_number()
    {
        var term = new Term { Name = "cls" };
        Assert.Multiple(() =>
        {
            Assert.That(CollapseWatch.Sentence(term, 3.0, 0.8, 6.93), Is.Null);
            Assert.That(CollapseWatch.Sentence(term, 6.92, 0.001, 6.93), Does.Contain("uniform answer").And.Contain("lower target.temperature"));
            Assert.That(CollapseWatch.Sentence(term, 0.01, 0.001, 6.93), Does.Contain("single prototype").And.Contain("higher target.temperature"));
            // Two opposite directions lie on a line; a simplex of four points spans three directions evenly.
            Assert.That(CollapseWatch.EffectiveRank([1, 2, -1, -2, 1, 2, -1, -2], 4), Is.EqualTo(1).Within(1e-6));
            Assert.That(CollapseWatch.EffectiveRank([1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1], 4), Is.EqualTo(3).Within(1e-6));
        });
    }

    private static PretrainConfig Official(Golden golden, int stepsPerEpoch)
    {
        double[] cls = Schedule(golden, "teacher_temp_schedule"), patch = Schedule(golden, "teacher_temp2_schedule");
        int batch = golden.Int("batch");
        return new PretrainConfig
        {
            Encoder = new VitConfig
            {
                ImagePixels = golden.Int("img"),
                PatchPixels = golden.Int("patch"),
                Width = golden.Int("embed_dim"),
                Depth = golden.Int("depth"),
                Heads = golden.Int("heads"),
                MlpRatio = golden.Float("mlp_ratio"),
                LayerNormEps = 1e-6f,
            },
            Masking = new RandomTokens(0.4f),   // not drawn: the official masks are given
            Views = new ViewsConfig { Global = 2, Local = golden.Int("local_crops"), LocalPixels = golden.Int("local_img") },
            Teacher = new TeacherConfig { Momentum = 0.9, SharedHead = golden.Bool("shared_head_teacher") },
            Terms =
            [
                new Term
                {
                    Name = "cls",
                    On = TokenChoice.Cls,
                    Target = Target(cls),
                    Head = new PrototypeHead
                    {
                        Prototypes = golden.Int("out_dim"),
                        HiddenWidth = golden.Int("head_hidden"),
                        Bottleneck = golden.Int("bottleneck"),
                        Layers = golden.Int("head_layers"),
                        UnitPrototypes = golden.Bool("norm_last_layer"),
                        FreezeEpochs = golden.Int("freeze_last_layer"),
                    },
                },
                new Term
                {
                    Name = "patches",
                    Target = Target(patch),
                    Head = new SharedPrototypes("cls", golden.Bool("shared_head_student") ? 0 : golden.Int("out_dim")),
                },
            ],
            Optim = new OptimConfig
            {
                WeightDecay = 0.04f,
                WeightDecayEnd = 0.4f,
                Decay = DecayRule.NotVectors,
                ClipNorm = golden.Float("clip_grad"),
                ClipEachParameter = true,
            },
            Run = new RunConfig { Batch = batch, Accumulate = 1, Epochs = 2 },
        };

        // The schedules are straight lines of three epochs: .04 … .07 and .04 … .06.
        static TeacherTokens Target(double[] t) => new() { WarmupTemperature = t[0], Temperature = t[2], WarmupEpochs = 3 };
    }

    private static double[] Schedule(Golden golden, string name) => [.. golden.Hyper.GetProperty(name).EnumerateArray().Select(v => v.GetDouble())];

    private static Crops Load(CpuBackend cpu, Storage storage, long at, Golden golden, int step, int first, int views)
    {
        long[] shape = [.. golden.Tensors[$"in.it{step}.crop{first}"].Shape];
        float[] all = [.. Enumerable.Range(first, views).SelectMany(v => golden.Tensors.Floats($"in.it{step}.crop{v}"))];
        var images = new Tensor(storage, at, new Shape(views * (int)shape[0], 3, (int)shape[2], (int)shape[3]), DType.F32);
        Transfer.Upload(cpu, images, all);
        return new Crops(images, images);   // nothing here looks at bytes
    }

    private static string Official(string ours) => ours.StartsWith("head.", StringComparison.Ordinal) ? ours
        : "backbone." + (ours == "mask_token" ? "masked_embed" : ours);

    private static void LoadParams(CpuBackend cpu, Golden golden, ParamSet set, string prefix)
    {
        foreach (Param p in set.Params)
        {
            string name = prefix + Official(p.Name);
            // Only the student has a mask token that is used.
            if (prefix.Contains("teacher") && p.Name == "mask_token") continue;
            ParamSet.Set(cpu, p, golden.Tensors.Floats(name));
        }
    }

    private static void CheckGradients(CpuBackend cpu, Golden golden, ParamSet set)
    {
        foreach (Param p in set.Params)
        {
            string name = "grad.it0." + Official(p.Name);
            bool there = golden.Tensors.Entries.Any(e => e.Name == name);
            Assert.That(p.Written, Is.EqualTo(there), $"{p.Name} has a gradient");
            if (!there) continue;
            float[] actual = Transfer.Floats(cpu, p.Gradient), expected = golden.Tensors.Floats(name);
            if (p.Name.EndsWith("qkv.bias", StringComparison.Ordinal))
            {
                // The key bias moves no attention: what both have there is rounding.
                int c = expected.Length / 3;
                Assert.That(actual.Skip(c).Take(c).Max(Math.Abs), Is.LessThan(1e-5), p.Name + ", key part");
                actual = [.. actual[..c], .. actual[(2 * c)..]];
                expected = [.. expected[..c], .. expected[(2 * c)..]];
            }
            golden.AssertClose("grad.*", p.Name, actual, expected);
        }
    }

    private static void CheckState(CpuBackend cpu, Golden golden, Pretrainer pretrainer, string prefix)
    {
        Check(pretrainer.Model.Params, prefix + "student.");
        Check(pretrainer.Teacher!.Model.Params, prefix + "teacher.");
        foreach ((string term, Tensor center) in pretrainer.Teacher.Centers)
            golden.AssertClose("out.after_epoch0.center", prefix + "center of " + term, Transfer.Floats(cpu, center),
                golden.Tensors.Floats(prefix + (term == "cls" ? "center" : "center2")));

        void Check(ParamSet set, string where)
        {
            int seen = 0;
            foreach (Param p in set.Params)
            {
                string name = where + Official(p.Name);
                if (golden.Tensors.Entries.All(e => e.Name != name)) continue;   // the first epoch's state holds a selection
                seen++;
                float[] actual = Transfer.Floats(cpu, p.Data), expected = golden.Tensors.Floats(name);
                if (p.Name.EndsWith("qkv.bias", StringComparison.Ordinal))
                {
                    // The manifest: AdamW turns the key bias's rounding into ±rate.
                    int c = expected.Length / 3;
                    for (int i = c; i < 2 * c; i++) Assert.That(actual[i], Is.EqualTo(expected[i]).Within(0.01), name);
                    actual = [.. actual[..c], .. actual[(2 * c)..]];
                    expected = [.. expected[..c], .. expected[(2 * c)..]];
                }
                golden.AssertClose(name, name, actual, expected);
            }
            Assert.That(seen, Is.GreaterThan(10), where);
        }
    }
}
