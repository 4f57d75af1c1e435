using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Optim;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Probing;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>"Beyond [cls]": every working aggregation and learned head of the official code (goldens 04), and probes side by side.</summary>
[TestFixture]
public class AggregationTests
{
    private static readonly CpuBackend s_cpu = new(2);

    private static readonly (string Theirs, Pooling Ours)[] s_names =
    [
        ("cls", Pooling.Cls), ("pos", Pooling.MeanPatches), ("cp1", Pooling.Center1), ("cp2", Pooling.Center2), ("cp3", Pooling.Center3),
        ("cp4", Pooling.Center4), ("ca1", Pooling.CenterAttention1), ("ca2", Pooling.CenterAttention2), ("ca3", Pooling.CenterAttention3),
        ("ca4", Pooling.CenterAttention4), ("attn-lcte", Pooling.SelectiveHead), ("attn-mn", Pooling.MeanHead), ("dino", Pooling.Oracle),
    ];

    [OneTimeTearDown]
    public void Close() => s_cpu.Dispose();

    [Test]
    public void Every_aggregation_and_its_gradients_are_the_official_ones([Values("aggregations", "aggregations_block1_of3")] string id)
    {
        using Golden golden = Golden.Open("04_beyond_cls/" + id);
        foreach ((string theirs, Pooling ours) in s_names)
        {
            bool attends = ours.ReadsAttention();
            using var set = new ParamSet();
            Param tokens = set.Add("tokens", ShapeOf(golden, "mid.tokens"), Init.Zeros);
            Param attention = set.Add("attention", ShapeOf(golden, "mid.attn"), Init.Zeros);
            set.Allocate(s_cpu, seed: null);
            ParamSet.Set(s_cpu, tokens, golden.Tensors.Floats("mid.tokens"));
            ParamSet.Set(s_cpu, attention, golden.Tensors.Floats(ours == Pooling.Oracle ? "mid.oracle_attn" : "mid.attn"));
            using var arena = new Arena(s_cpu, 4 << 20);
            var tape = new Tape(s_cpu, arena);
            Value y = Aggregation.Pool(tape, ours, tokens, attention, prefix: 1, golden.Int("grid"));
            golden.AssertClose("out.agg." + theirs, Transfer.Floats(s_cpu, y.Data));
            Tensor upstream = tape.Keep(y.Shape);
            Transfer.Upload(s_cpu, upstream, golden.Tensors.Floats("in.upstream." + theirs));
            tape.Seed(y, upstream);
            tape.Backward();
            tape.Reset();
            golden.AssertClose("grad.tokens." + theirs, Transfer.Floats(s_cpu, tokens.Gradient));
            Assert.That(attention.Written, Is.EqualTo(attends), theirs);
            if (attends && ours != Pooling.Oracle) golden.AssertClose("grad.attn." + theirs, Transfer.Floats(s_cpu, attention.Gradient));
        }
    }

    [Test]
    public void From_pictures_to_features_of_any_block_is_the_official_way([Values("aggregations", "aggregations_block1_of3")] string id)
    {
        using Golden golden = Golden.Open("04_beyond_cls/" + id);
        Dictionary<string, float[]> weights = WeightNames.Read(golden.Tensors, "param.");
        var vit = new VitConfig
        {
            ImagePixels = golden.Int("img_size"), PatchPixels = golden.Int("patch_size"), Width = golden.Int("embed_dim"), Depth = golden.Int("depth"),
            Heads = golden.Int("num_heads"), MlpRatio = golden.Float("mlp_ratio"), Corruption = Corruption.Drop, FinalNorm = weights.ContainsKey("norm.weight"),
        };
        int block = golden.Hyper.GetProperty("return_block").ValueKind == System.Text.Json.JsonValueKind.Null ? vit.Depth : golden.Int("return_block") + 1;
        Pooling[] all = [.. s_names.Select(n => n.Ours).Where(p => p is not (Pooling.Cls or Pooling.Oracle)), Pooling.AbMilp];
        using var encoder = new FrozenEncoder(s_cpu, vit, new FeaturePlace(block, FinalNorm: false, Pooling.Cls), all);
        Assert.That(encoder.Load(weights, id).Complete);
        int batch = golden.Int("batch");
        float[] rows = new float[batch * encoder.Width];
        encoder.Encode(rows, golden.Tensors.Floats("in.x"), batch);
        foreach (FeaturePart part in encoder.Row.Parts)
        {
            float[] own = new float[batch * part.Length];
            encoder.Row.Take(own, part, rows);
            if (part.Pooling == Pooling.AbMilp) golden.AssertClose("mid.tokens", own);
            else golden.AssertClose("out.agg." + s_names.Single(n => n.Ours == part.Pooling).Theirs, own);
        }
    }

    [TestCase("0_relu_d1_sa-none_cond-none_patch")]
    [TestCase("1_tanh_d2_sa-both_cond-none_all")]
    [TestCase("2_relu_d2_sa-map_cond-pe_patch")]
    [TestCase("3_tanh_d3_sa-none_cond-pe_all")]
    [TestCase("4_relu_d2_sa-both_cond-pe_all")]
    [TestCase("5_tanh_d1_sa-map_cond-none_patch")]
    public void Learned_aggregation_and_its_gradients_are_the_official_ones(string variant)
    {
        using Golden golden = Golden.Open("04_beyond_cls/abmilp_heads");
        using var set = new ParamSet();
        Param tokens = set.Add("tokens", ShapeOf(golden, "in.tokens"), Init.Zeros);
        var head = new AbMilp(set, ConfigOf(golden.Hyper.GetProperty("variants").GetProperty(variant)), golden.Int("dim"), golden.Int("grid"));
        set.Allocate(s_cpu, seed: 1);
        ParamSet.Set(s_cpu, tokens, golden.Tensors.Floats("in.tokens"));
        Dictionary<string, float[]> weights = WeightNames.Read(golden.Tensors, $"param.{variant}."), gradients = WeightNames.Read(golden.Tensors, $"grad.{variant}.");
        foreach (Param p in set.Params.Where(p => p != tokens)) ParamSet.Set(s_cpu, p, weights[p.Name]);
        using var arena = new Arena(s_cpu, 4 << 20);
        var tape = new Tape(s_cpu, arena);
        (Value y, Value map) = head.Forward(tape, tokens);
        golden.AssertClose("out." + variant, Transfer.Floats(s_cpu, y.Data));
        golden.AssertClose($"out.{variant}.attn_map", Transfer.Floats(s_cpu, map.Data));
        Tensor upstream = tape.Keep(y.Shape);
        Transfer.Upload(s_cpu, upstream, golden.Tensors.Floats("in.upstream"));
        tape.Seed(y, upstream);
        tape.Backward();
        tape.Reset();
        Assert.That(set.Params.Select(p => p.Name), Is.SupersetOf(gradients.Keys));
        Assert.Multiple(() =>
        {
            foreach ((string name, float[] expected) in gradients)
                golden.AssertClose($"grad.{variant}.{name}", name, Transfer.Floats(s_cpu, set[name].Gradient), expected);
        });
    }

    [TestCase("probe_lars_abmilp")]
    [TestCase("probe_sgd_abmilp_sa")]
    public void Probe_training_follows_the_official_one_step_by_step(string id)
    {
        using Golden golden = Golden.Open("04_beyond_cls/" + id);
        (int steps, int batch, int classes, int width, int grid) = (golden.Int("steps"), golden.Int("batch"), golden.Int("num_classes"), golden.Int("dim"), golden.Int("grid"));
        bool lars = golden.Hyper.GetProperty("optimizer").GetString() == "lars";
        ProbeConfig config = ProbePresets.BeyondCls() with
        {
            Batch = batch,
            AbMilp = ConfigOf(golden.Hyper),
            Optim = new OptimConfig
            {
                Kind = lars ? OptimizerKind.Lars : OptimizerKind.Sgd,
                Momentum = lars ? 0.9f : 0f,
                WeightDecay = golden.Float("weight_decay"),
                Decay = lars ? DecayRule.NotVectors : DecayRule.Everything,
                ClipNorm = 0f,
            },
        };
        int tokens = 1 + grid * grid;
        using var classifier = new Classifier(s_cpu, config, new FeaturePart(Pooling.AbMilp, 0, tokens, width), grid, classes);
        string theirs(string name) => name.StartsWith("head.", StringComparison.Ordinal) ? "2." + name[5..] : "0." + name;
        foreach (Param p in classifier.Params.Params) ParamSet.Set(s_cpu, p, golden.Tensors.Floats("param." + theirs(p.Name)));
        float[] features = golden.Tensors.Floats("in.tokens"), losses = new float[steps];
        long[] labels = golden.Tensors.Longs("in.labels");
        int each = batch * tokens * width;
        for (int step = 0; step < steps; step++)
        {
            float[] targets = new float[batch * classes];
            for (int i = 0; i < batch; i++) targets[i * classes + labels[step * batch + i]] = 1f;
            double[] own = new double[1];
            classifier.Pass(features.AsSpan(step * each, each), targets, firstPass: true, own);
            classifier.Update(golden.Float("lr"));
            losses[step] = (float)classifier.MeanLoss();
            Assert.That(own[0], Is.EqualTo(losses[step]).Within(1e-5));
        }
        golden.AssertClose("out.loss", losses);
        float[] logits = new float[batch * classes];
        classifier.Logits(logits, features.AsSpan(0, each));
        golden.AssertClose("out.eval_logits_step0", logits);
        foreach (Param p in classifier.Params.Params)
        {
            string name = "out.final." + theirs(p.Name);
            if (golden.Tensors.Entries.Any(e => e.Name == name)) golden.AssertClose(name, Transfer.Floats(s_cpu, p.Data));
        }
        golden.AssertClose("out.final.1.running_mean", Transfer.Floats(s_cpu, classifier.RunningMean));
        golden.AssertClose("out.final.1.running_var", Transfer.Floats(s_cpu, classifier.RunningVariance));
    }

    [Test]
    public void Probes_side_by_side_learn_what_they_would_learn_alone([Values(OptimizerKind.Lars, OptimizerKind.AdamW)] OptimizerKind kind)
    {
        const int classes = 5;
        var vit = new VitConfig { ImagePixels = 8, PatchPixels = 4, Width = 12, Heads = 2, Depth = 1 };
        var row = new FeatureRow([Pooling.Cls, Pooling.MeanPatches, Pooling.AbMilp], vit);
        FeatureSet train = Clusters(400, classes, row.Width, 1), test = Clusters(130, classes, row.Width, 2);
        ProbeConfig config = ProbePresets.Linear() with { Epochs = 30, Batch = 64, Accumulate = 2, Beside = [Pooling.Cls, Pooling.AbMilp], Rates = kind == OptimizerKind.Lars ? [30, 100, 1e9] : [0.02, 0.1, 1e9] };
        config = config with { Optim = config.Optim with { WarmupEpochs = 1 } };
        // Clipping is by each probe's own norm, so that the one that explodes does not slow the others down.
        if (kind == OptimizerKind.AdamW) config = config with { Optim = config.Optim with { Kind = kind, ClipNorm = 1f, WeightDecay = 0.05f } };
        using var stream = new CachedFeatures(train, 64, classes, config.Seed);
        var together = SideBySide.Train(s_cpu, config, row, stream, test, classes);
        Assert.That(together.Select(t => t.Probe), Is.EqualTo(row.Parts.SelectMany(p => config.Rates.Select(r => new SideProbe(p.Pooling, r)))));
        foreach (((Pooling pooling, double rate), LinearProbeResult result) in together.Where(t => t.Probe.Rate < 1e9))
        {
            FeaturePart part = row.Parts.Single(p => p.Pooling == pooling);
            FeatureSet ownTrain = train.Only(row, part), ownTest = test.Only(row, part);
            using var own = new CachedFeatures(ownTrain, 64, classes, config.Seed);
            ProbeConfig one = config with { Pooling = pooling, Beside = [], Rates = [rate] };
            var alone = SideBySide.Train(s_cpu, one, new FeatureRow([pooling], vit), own, ownTest, classes)[0].Result;
            Assert.That(result.Epochs.Select(e => e.Rate), Is.EqualTo(alone.Epochs.Select(e => e.Rate)));
            // Products of other shapes round otherwise; a test picture on the border may change sides.
            Assert.That(result.Last.Top1, Is.EqualTo(alone.Last.Top1).Within(2.5 / 130), $"{pooling} at {rate}");
        }
        Assert.That(together.Where(t => t.Probe.Rate == config.Rates[1]).Select(t => t.Result.Last.Top1), Has.All.GreaterThan(0.4), "and they learn");
    }

    [Test]
    public void A_single_probe_of_a_row_has_the_bits_of_a_single_probe()
    {
        FeatureSet train = Clusters(300, 4, 10, 3), test = Clusters(90, 4, 10, 4);
        ProbeConfig config = ProbePresets.Linear() with { Epochs = 3, Batch = 32 };
        using CachedFeatures a = new(train, 32, 4, 0), b = new(train, 32, 4, 0);
        Assert.That(SideBySide.Train(s_cpu, config with { Rates = [config.Optim.Rate] }, new FeatureRow(10), a, test, 4)[0].Result.Epochs,
            Is.EqualTo(LinearProbe.Train(s_cpu, config, b, test, 4).Epochs));
    }

    [Test]
    public void What_no_probe_can_do_is_refused_in_one_sentence()
    {
        var vit = new VitConfig { ImagePixels = 8, PatchPixels = 4, Width = 10, Heads = 2, Depth = 2 };
        string message(ProbeConfig c) => Assert.Throws<ConfigException>(() => c.Validate(vit))!.Message;
        ProbeConfig config = ProbePresets.Linear();
        Assert.That(message(config with { Beside = [Pooling.MeanPatches] }), Does.Contain("twice"));
        Assert.That(message(config with { Beside = [Pooling.CenterAttention4] }), Does.Contain("reads 4 × 4 patches").And.Contain("has 2 a side"));
        Assert.That(message(config with { Rates = [1, -1] }), Does.Contain("positive"));
        Assert.That(message(config with { Pooling = Pooling.AbMilp, AbMilp = new AbMilpConfig { Positions = true } }), Does.Contain("divisible by 4"));
        Assert.That(message(config with { Pooling = Pooling.AbMilp, AbMilp = new AbMilpConfig { Depth = 0 } }), Does.Contain("abMilp.depth is 0"));
    }

    private static FeatureSet Clusters(int count, int classes, int width, ulong part)
    {
        float[] values = new float[count * width];
        int[] labels = new int[count];
        for (int i = 0; i < count; i++)
        {
            RngSequence random = new Rng(part, RandomStream.Test, (ulong)i).Start();
            labels[i] = i % classes;
            RngSequence center = new Rng(99, RandomStream.Test, (ulong)labels[i]).Start();
            for (int c = 0; c < width; c++) values[i * width + c] = (float)(center.Normal() + 0.8 * random.Normal());
        }
        return new FeatureSet(values, labels, width);
    }

    private static AbMilpConfig ConfigOf(System.Text.Json.JsonElement v) => new()
    {
        Activation = v.GetProperty("activation").GetString() == "relu" ? Activation.Relu : Activation.Tanh,
        Depth = v.GetProperty("depth").GetInt32(),
        SelfAttention = Enum.Parse<AbMilpAttention>(v.GetProperty("self_attention_apply_to").GetString()!, ignoreCase: true),
        Positions = v.GetProperty("cond").GetString() == "pe",
        PatchesOnly = v.GetProperty("content").GetString() == "patch",
    };

    private static Shape ShapeOf(Golden golden, string name)
    {
        int[] s = [.. golden.Tensors.Entries.Single(e => e.Name == name).Shape.ToArray().Select(v => (int)v)];
        return s.Length == 3 ? new Shape(s[0], s[1], s[2]) : new Shape(s[0], s[1], s[2], s[3]);
    }
}
