using MimEngine.Engine.Autograd;
using MimEngine.Engine.Data;
using MimEngine.Engine.Imaging;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Optim;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Probing;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Fine-tuning against MAE's, SimMIM's and KAMIM's own code, and the step around it.</summary>
[TestFixture]
public class FinetuneTests
{
    private static readonly CpuBackend s_cpu = new(2);

    [OneTimeTearDown]
    public void Close() => s_cpu.Dispose();

    [Test]
    public void Maes_network_agrees_pooled_with_its_own_norm_and_by_cls([Values] bool cls, [Values] Recompute recompute)
    {
        using Golden golden = Golden.Open("03_mae/vit_finetune");
        VitConfig encoder = new()
        {
            ImagePixels = golden.Int("img_size"), PatchPixels = golden.Int("patch_size"), Width = golden.Int("embed_dim"), Depth = golden.Int("depth"),
            Heads = golden.Int("num_heads"), MlpRatio = golden.Int("mlp_ratio"), Corruption = Corruption.Drop, FinalNorm = cls,
        };
        FinetuneConfig config = new() { Encoder = encoder, Pooling = cls ? Pooling.Cls : Pooling.MeanPatches, Mix = new MixConfig { Smoothing = 0.1f } };
        Dictionary<string, float[]> weights = WeightNames.Read(golden.Tensors, "param.");
        if (cls)
            foreach (string part in new[] { "weight", "bias" })
            {
                weights.Add("norm." + part, weights["fc_norm." + part]);   // as the golden's description says
                weights.Remove("fc_norm." + part);
            }
        string which = cls ? "cls" : "global_pool";
        using var network = new Network(config, golden.Int("num_classes"), recompute);
        network.Load(weights);
        float[] targets = new float[3 * golden.Int("num_classes")];
        int[] labels = [.. golden.Tensors.Longs("in.label").Select(l => (int)l)];
        new Mixing(1f, null, MixPartner.Flipped).Targets(targets, labels, golden.Int("num_classes"), 0.1f);
        network.Run(golden.Tensors.Floats("in.x"), targets, 3);
        golden.AssertClose($"out.{which}.features", network.Features);
        golden.AssertClose($"out.{which}.logits", network.Scores);
        golden.AssertClose($"out.{which}.loss_ls0.1", [network.Loss]);
        Dictionary<string, float[]> gradients = WeightNames.Read(golden.Tensors, $"grad.{which}.");
        if (!cls) Assert.That(gradients.Keys, Is.EquivalentTo(network.Model.Params.Params.Select(p => p.Name)), "all of them are compared");
        network.CheckGradients(golden, gradients);
    }

    [Test]
    public void Kamims_network_agrees_with_soft_targets()
    {
        using Golden golden = Golden.Open("01_kamim_model/classification");
        VitConfig encoder = new()
        {
            ImagePixels = golden.Int("image_size"), PatchPixels = golden.Int("patch_size"), Width = golden.Int("hidden_size"),
            Depth = golden.Int("num_hidden_layers"), Heads = golden.Int("num_attention_heads"),
            MlpRatio = golden.Int("intermediate_size") / (float)golden.Int("hidden_size"), LayerNormEps = golden.Float("layer_norm_eps"),
        };
        FinetuneConfig config = FinetunePresets.Kamim(encoder);
        Assert.That(config.Encoder, Is.EqualTo(encoder), "KAMIM fine-tunes the network as it is");
        Dictionary<string, float[]> theirs = WeightNames.Read(golden.Tensors, "param.");
        (float[] head, float[] bias) = (theirs["cls.2.weight"], theirs["cls.2.bias"]);
        theirs.Remove("cls.2.weight");
        theirs.Remove("cls.2.bias");
        Dictionary<string, float[]> weights = WeightNames.FromKamim(theirs);
        weights.Add("head.weight", head);
        weights.Add("head.bias", bias);
        using var network = new Network(config, golden.Int("n_classes"));
        network.Load(weights);
        network.Run(golden.Tensors.Floats("in.x"), golden.Tensors.Floats("in.soft_target"), 2);
        golden.AssertClose("out.finetune.logits", network.Scores);
        golden.AssertClose("out.finetune.loss", [network.Loss]);
        Dictionary<string, string> names = new()
        {
            ["cls.2.weight"] = "head.weight", ["cls.2.bias"] = "head.bias", ["vit_backbone.embeddings.position_embeddings"] = "pos_embed",
            ["vit_backbone.layernorm.weight"] = "norm.weight", ["vit_backbone.layernorm.bias"] = "norm.bias",
        };
        for (int i = 0; i < encoder.Depth; i++)
            foreach (string part in new[] { "weight", "bias" })
            {
                names.Add($"vit_backbone.encoder.layer.{i}.layernorm_before.{part}", $"blocks.{i}.norm1.{part}");
                names.Add($"vit_backbone.encoder.layer.{i}.layernorm_after.{part}", $"blocks.{i}.norm2.{part}");
            }
        network.CheckGradients(golden, names.ToDictionary(n => n.Value, n => golden.Tensors.Floats("grad.finetune." + n.Key)));
        int c = encoder.Width;
        foreach (string part in new[] { "weight", "bias" })
        {
            float[] wanted = golden.Tensors.Floats($"grad.finetune.vit_backbone.encoder.layer.0.attention.attention.query.{part}");
            float[] actual = Transfer.Floats(s_cpu, network.Model.Params[$"blocks.0.attn.qkv.{part}"].Gradient)[..(part == "weight" ? c * c : c)];
            golden.AssertClose("grad.finetune.query", $"query {part}", actual, wanted);
        }
    }

    [Test]
    public void A_SimMIM_checkpoint_becomes_the_official_network_of_another_size()
    {
        using Golden golden = Golden.Open("01_simmim/finetune_remap");
        VitConfig pretrained = Recipes.SimMim().Encoder with
        {
            ImagePixels = golden.Int("src_img"), PatchPixels = golden.Int("patch_size"), Width = golden.Int("embed_dim"), Depth = golden.Int("depth"),
            Heads = golden.Int("num_heads"), MlpRatio = golden.Int("mlp_ratio"),
        };
        Dictionary<string, float[]> theirs = golden.Tensors.Entries.Where(e => e.Name.StartsWith("ckpt.encoder.", StringComparison.Ordinal)
            && e.DType == "F32").ToDictionary(e => e.Name["ckpt.".Length..], e => golden.Tensors.Floats(e.Name));
        Dictionary<string, float[]> values = WeightNames.FromSimMim(theirs);
        FinetuneConfig config = FinetunePresets.SimMim(pretrained with { ImagePixels = golden.Int("dst_img") });
        using var network = new Network(config, golden.Int("num_classes"));
        FinetuneLoaded loaded = FinetuneWeights.Put(s_cpu, network.Model, pretrained, values);
        Assert.Multiple(() =>
        {
            Assert.That(loaded.Resized, Is.EqualTo(new[] { "relative biases: 4 × 4 → 6 × 6 patches, bicubic spline over a geometric progression" }));
            Assert.That(loaded.Fresh, Is.EqualTo(new[] { "fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias" }));
            Assert.That(loaded.LeftAside, Is.EquivalentTo(new[] { "norm.weight", "norm.bias" }));
            Assert.That(loaded.Matched, Is.EqualTo(network.Model.Params.Params.Count - 4));
        });
        foreach (string name in loaded.Fresh) ParamSet.Set(s_cpu, network.Model.Params[name], golden.Tensors.Floats("param." + name));
        float[] targets = new float[2 * golden.Int("num_classes")];
        int[] labels = [.. golden.Tensors.Longs("in.label").Select(l => (int)l)];
        for (int i = 0; i < labels.Length; i++) targets[i * golden.Int("num_classes") + labels[i]] = 1;
        network.Run(golden.Tensors.Floats("in.x"), targets, 2);
        golden.AssertClose("out.features", network.Features);
        golden.AssertClose("out.logits", network.Scores);
        golden.AssertClose("out.loss", [network.Loss]);
        network.CheckGradients(golden, WeightNames.Read(golden.Tensors, "grad.").ToDictionary(g => OurName(g.Key), g => g.Value));
    }

    [TestCase("03_mae/vit_finetune")]
    [TestCase("01_simmim/finetune_remap")]
    public void Layer_decay_and_weight_decay_form_the_official_groups(string id)
    {
        using Golden golden = Golden.Open(id);
        float decay = golden.Float("layer_decay");
        int depth = golden.Int("depth"), seen = 0;
        foreach (var group in golden.Values.GetProperty("layer_decay_groups").EnumerateArray())
            foreach (string theirs in group.GetProperty("params").EnumerateArray().Select(p => p.GetString()!))
            {
                string name = OurName(theirs);
                Shape shape = theirs is "cls_token" or "pos_embed" || theirs.EndsWith("_table", StringComparison.Ordinal) ? new Shape(2, 8)
                    : theirs.EndsWith(".weight", StringComparison.Ordinal) && !theirs.Contains("norm") ? new Shape(8, 8) : new Shape(8);
                Assert.That(LayerDecay.ScaleOf(name, depth, decay), Is.EqualTo(group.GetProperty("lr_scale").GetDouble()).Within(1e-7), name);
                Assert.That(Optimizer.Decays(DecayRule.NotVectorsClsPositions, name, shape), Is.EqualTo(group.GetProperty("weight_decay").GetDouble() > 0), name);
                seen++;
            }
        Assert.That(seen, Is.GreaterThan(20));
    }

    [Test]
    public void Every_layer_moves_at_its_own_rate()
    {
        FinetuneConfig config = Small() with { LayerDecay = 0.5f, Optim = new OptimConfig { Kind = OptimizerKind.Sgd, WeightDecay = 0, ClipNorm = 0, Momentum = 0 } };
        using var tuner = new Finetuner(s_cpu, config, Classes, Finetuner.Planned(s_cpu, config, Classes), seed: 1);
        Dictionary<string, float[]> before = tuner.Model.Params.Params.ToDictionary(p => p.Name, p => Transfer.Floats(s_cpu, p.Data));
        tuner.Pass(StepTests.Pictures(1), Labels, 0, firstPass: true);
        Dictionary<string, float[]> gradients = tuner.Model.Params.Params.ToDictionary(p => p.Name,
            p => p.Written ? Transfer.Floats(s_cpu, p.Gradient) : new float[p.DeclaredShape.Count]);
        tuner.Update(0.1);
        foreach (Param p in tuner.Model.Params.Params)
        {
            float[] gradient = gradients[p.Name];
            float[] after = Transfer.Floats(s_cpu, p.Data);
            float rate = 0.1f * LayerDecay.ScaleOf(p.Name, config.Encoder.Depth, 0.5f);
            for (int i = 0; i < after.Length; i++)
                Assert.That(after[i], Is.EqualTo(before[p.Name][i] - rate * gradient[i]).Within(2e-7 + 1e-6 * Math.Abs(before[p.Name][i])), $"{p.Name}[{i}]");
        }
    }

    [Test]
    public void The_average_follows_the_weights_and_is_what_is_scored()
    {
        FinetuneConfig config = Small() with { Ema = 0.75f };
        using var tuner = new Finetuner(s_cpu, config, Classes, Finetuner.Planned(s_cpu, config, Classes), seed: 1);
        tuner.BeginAverage();
        float[] average = Transfer.Floats(s_cpu, tuner.Model.Params.Master);
        for (int step = 0; step < 3; step++)
        {
            tuner.Pass(StepTests.Pictures(step), Labels, step, firstPass: true);
            tuner.Update(1e-2);
            float[] weights = Transfer.Floats(s_cpu, tuner.Model.Params.Master);
            for (int i = 0; i < average.Length; i++) average[i] = 0.25f * weights[i] + 0.75f * average[i];
        }
        Assert.That(Transfer.Floats(s_cpu, tuner.Average!.Master), Is.EqualTo(average).Within(1e-6f));
        float[] averaged = new float[Batch * Classes], own = new float[Batch * Classes], swapped = new float[Batch * Classes];
        tuner.Logits(averaged, StepTests.Pictures(1), Batch);
        s_cpu.Copy(tuner.Average.Master, tuner.Model.Params.Master);
        tuner.Logits(own, StepTests.Pictures(1), Batch);
        Assert.That(own, Is.Not.EqualTo(averaged));
        Transfer.Upload(s_cpu, tuner.Average.Master, average);
        tuner.Logits(swapped, StepTests.Pictures(1), Batch);
        Assert.That(swapped, Is.EqualTo(averaged).Within(1e-4f));
    }

    [Test]
    public void A_warm_step_allocates_no_managed_byte([Values(1, 2)] int threads)
    {
        FinetuneConfig config = Small() with
        {
            Erasing = 0.5f, Mix = new MixConfig { Mixup = 0.8f, CutMix = 1f, Smoothing = 0.1f }, Ema = 0.9f, LayerDecay = 0.75f,
        };
        config = config with { Encoder = config.Encoder with { DropPath = 0.1f } };
        using var cpu = new CpuBackend(threads);
        using var tuner = new Finetuner(cpu, config, Classes, Finetuner.Planned(cpu, config, Classes), seed: 1);
        byte[] pixels = StepTests.Pictures(1);
        int[] labels = Labels;
        float[] logits = new float[Batch * Classes];
        long least = long.MaxValue;
        for (int i = 0; i < 8; i++)
        {
            long before = GC.GetTotalAllocatedBytes(precise: true);
            tuner.Pass(pixels, labels, i, firstPass: true);
            tuner.Update(1e-3);
            if (i > 2) least = Math.Min(least, GC.GetTotalAllocatedBytes(precise: true) - before);
            tuner.Logits(logits, pixels, Batch);
            Assert.That(tuner.Arena.Live, Is.Zero);
        }
        Assert.That(least, Is.Zero);
    }

    [Test]
    public void Sixteen_pictures_are_learned_by_heart()
    {
        FinetuneConfig config = Small();
        using var tuner = new Finetuner(s_cpu, config, Classes, Finetuner.Planned(s_cpu, config, Classes), seed: 1);
        byte[] pixels = StepTests.Pictures(4);
        for (int i = 0; i < 60; i++)
        {
            tuner.Pass(pixels, Labels, i, firstPass: true);
            tuner.Update(2e-3);
        }
        float[] logits = new float[Batch * Classes];
        tuner.Logits(logits, pixels, Batch);
        Assert.That(LinearProbe.Accuracy(logits, Labels, Classes).Top1, Is.EqualTo(1.0));
    }

    [Test]
    public void Presets_hold_the_published_numbers()
    {
        VitConfig vit = Recipes.Mae().Encoder;
        FinetuneConfig mae = FinetunePresets.Mae(vit), large = FinetunePresets.Mae(vit.WithSize("large")), kamim = FinetunePresets.Kamim(Recipes.Kamim().Encoder);
        FinetuneConfig simmim = FinetunePresets.SimMim(Recipes.SimMim().Encoder);
        const int imageNet = 1_281_167;
        Assert.Multiple(() =>
        {
            Assert.That(mae.Rates(imageNet / 128).Peak, Is.EqualTo(2e-3).Within(1e-12), "5e-4 · 1024 / 256");
            Assert.That(mae.Rates(imageNet / 128).Minimum, Is.EqualTo(1e-6).Within(1e-15), "min_lr");
            Assert.That((mae.LayerDecay, mae.Encoder.DropPath, large.LayerDecay, large.Encoder.DropPath), Is.EqualTo((0.65f, 0.1f, 0.75f, 0.2f)));
            Assert.That(mae.Encoder.Positions, Is.EqualTo(Positions.Learned), "trained from the sine-cosine table on");
            Assert.That(simmim.Rates(imageNet / 128).Peak, Is.EqualTo(5e-3).Within(1e-12), "1.25e-3 · 2048 / 512");
            Assert.That(simmim.Encoder.RelativeBias, Is.EqualTo(RelativeBias.PerBlock));
            Assert.That(kamim.Rates(imageNet / 256).Peak, Is.EqualTo(5e-3));
            Assert.That(kamim.Loop.Batch * kamim.Loop.Accumulate, Is.EqualTo(2048));
            FinetuneConfig ibot = FinetunePresets.Ibot(Recipes.Ibot().Encoder);
            RateSpan cifar = ibot.Rates(50_000 / 150);
            Assert.That((cifar.Peak, cifar.Warmup, cifar.Minimum), Is.EqualTo((1.318359375e-5, 1e-6, 1e-5)).Using<double>((a, b) => Math.Abs(a - b) < 1e-15));
            Assert.That(ibot.Optim.RateOf(cifar, cifar.StepsPerEpoch + 7, 6), Is.EqualTo(1e-6 + (1.318359375e-5 - 1e-6) / 5).Within(1e-15), "second epoch");
            foreach (FinetuneConfig preset in FinetunePresets.ByName.Values.Select(make => make(vit))) Assert.DoesNotThrow(preset.Validate);
        });
    }

    [Test]
    public void What_makes_no_sense_is_refused_in_a_sentence()
    {
        Refuses(c => c with { Pooling = Pooling.AbMilp }, "pooling is ab-milp; fine-tuning pools by mean-patches or cls");
        Refuses(c => c with { LayerDecay = 0 }, "layerDecay is 0; it must lie in (0, 1]");
        Refuses(c => c with { Ema = 1 }, "ema is 1; it must lie in [0, 1)");
        Refuses(c => c with { Erasing = 2 }, "erasing is 2; it is a probability");
        Refuses(c => c with { Mix = new MixConfig { Mixup = -1 } }, "mix.mixup and mix.cutMix are -1 and 0");
        Refuses(c => c with { Mix = new MixConfig { Smoothing = 1 } }, "mix.smoothing is 1");
        Refuses(c => c with { Augment = new AugmentConfig { RandAugment = new RandAugmentConfig { Magnitude = 11 } } }, "magnitude is 11; strengths go from 0 to 10");
        Refuses(c => c with { Encoder = c.Encoder with { ImagePixels = 33 } }, "patches of 4 pixels do not tile it");
        Refuses(c => c with { Optim = c.Optim with { Kind = OptimizerKind.Lars } }, "optim.kind is lars");
        Refuses(c => c with { Loop = c.Loop with { Batch = 0 } }, "loop.batch is 0");

        static void Refuses(Func<FinetuneConfig, FinetuneConfig> change, string says)
            => Assert.That(Assert.Throws<ConfigException>(() => change(Small()).Validate())!.Message, Does.Contain(says));
    }

    [Test]
    public void Weights_that_do_not_fit_are_refused_and_nothing_is_loaded()
    {
        FinetuneConfig config = Small();
        using var model = new FinetuneModel(config, Classes);
        model.Params.Allocate(s_cpu, seed: 1);
        float[] before = Transfer.Floats(s_cpu, model.Params.Master);
        Dictionary<string, float[]> values = model.Params.Params.Take(model.EncoderParams).ToDictionary(p => p.Name, p => new float[p.DeclaredShape.Count]);
        Refused("blocks.1.mlp.fc2.weight", null, "The pretrained encoder has no 'blocks.1.mlp.fc2.weight'");
        Refused("patch_embed.proj.weight", new float[12], "'patch_embed.proj.weight' has 12 numbers in the pretrained encoder");
        Assert.That(Transfer.Floats(s_cpu, model.Params.Master), Is.EqualTo(before));

        void Refused(string name, float[]? instead, string says)
        {
            Dictionary<string, float[]> broken = new(values);
            if (instead is null) broken.Remove(name);
            else broken[name] = instead;
            Assert.That(Assert.Throws<WeightFileException>(() => FinetuneWeights.Put(s_cpu, model, config.Encoder, broken))!.Message, Does.Contain(says));
        }
    }

    private const int Batch = 16, Classes = 4;

    private static int[] Labels => [.. Enumerable.Range(0, Batch).Select(i => i * 7 % Classes)];

    private static FinetuneConfig Small()
    {
        FinetuneConfig config = FinetunePresets.Small(StepTests.Config("mae").Encoder);
        return config with { Loop = config.Loop with { Batch = Batch } };
    }

    private static string OurName(string theirs) => theirs.Replace("attn.relative_position_bias_table", "attn.rel_pos_bias.relative_position_bias_table")
        .Replace("gamma_1", "ls1.gamma").Replace("gamma_2", "ls2.gamma").Replace("attn.q_bias", "attn.qkv.bias").Replace("attn.v_bias", "attn.qkv.bias");

    /// <summary>A model on the CPU, run once.</summary>
    private sealed class Network : IDisposable
    {
        private readonly Arena _arena = new(s_cpu, 32 << 20);
        private readonly Tape _tape;

        public Network(FinetuneConfig config, int classes, Recompute recompute = Recompute.None)
        {
            Model = new FinetuneModel(config, classes);
            Model.Params.Allocate(s_cpu, seed: null);
            _tape = new Tape(s_cpu, _arena, recompute);
        }

        public FinetuneModel Model { get; }
        public float[] Features { get; private set; } = [];
        public float[] Scores { get; private set; } = [];
        public float Loss { get; private set; }

        public void Load(Dictionary<string, float[]> weights)
        {
            Assert.That(weights.Keys, Is.EquivalentTo(Model.Params.Params.Select(p => p.Name)));
            foreach (Param p in Model.Params.Params) ParamSet.Set(s_cpu, p, weights[p.Name]);
        }

        public void Run(float[] images, float[] targets, int batch)
        {
            int side = Model.Encoder.Config.ImagePixels;
            Tensor x = _tape.Keep(new Shape(batch, 3, side, side)), y = _tape.Keep(new Shape(batch, Model.Classes));
            Transfer.Upload(s_cpu, x, images);
            Transfer.Upload(s_cpu, y, targets);
            _tape.BeginNoGrad();
            Features = Transfer.Floats(s_cpu, Model.Features(_tape, x, null).Data);
            _tape.EndNoGrad();
            Model.Params.BeginUpdate();
            Value logits = Model.Logits(_tape, x, null);
            Scores = Transfer.Floats(s_cpu, logits.Data);
            Loss = Transfer.Floats(s_cpu, _tape.CrossEntropyLoss(logits, y).Data)[0];
            _tape.Backward();
            _tape.Reset();
            Model.Params.ClearAbsent(s_cpu);
        }

        public void CheckGradients(Golden golden, Dictionary<string, float[]> expected) => Assert.Multiple(() =>
        {
            foreach ((string name, float[] wanted) in expected)
            {
                float[] actual = Transfer.Floats(s_cpu, Model.Params[name].Gradient);
                if (name.EndsWith("attn.qkv.bias", StringComparison.Ordinal))
                {
                    // A key bias changes no softmax: its gradient is noise around 0, in the reference too.
                    int c = wanted.Length / 3;
                    Assert.That(actual.Skip(c).Take(c).Max(Math.Abs), Is.LessThan(1e-6f * wanted.Max(Math.Abs) + 1e-7f), name + ", key part");
                    Array.Clear(actual, c, c);
                    Array.Clear(wanted, c, c);
                }
                golden.AssertClose("grad.*", name, actual, wanted);
            }
        });

        public void Dispose()
        {
            Model.Dispose();
            _arena.Dispose();
        }
    }
}
