using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Optim;
using MimEngine.Engine.Probing;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Probes against the authors' tensors.</summary>
[TestFixture]
public partial class ProbeTests
{
    private static readonly SimdLevel[] Levels = [.. Enum.GetValues<SimdLevel>().Where(l => l <= Simd.Best)];

    private static int[] Labels(Golden golden, string name) => Array.ConvertAll(golden.Tensors.Longs(name), label => (int)label);

    [Test]
    public void Head_and_optimiser_follow_maes_probe_for_ten_steps([ValueSource(nameof(Levels))] SimdLevel level, [Values(1, 2)] int threads)
    {
        const int steps = 10, batch = 16, width = 24, classes = 8;
        using Golden golden = Golden.Open("03_mae/linear_probe");
        using var backend = new CpuBackend(threads, level);
        using var classifier = new Classifier(backend, ProbePresets.MaeLp() with { Batch = batch }, width, classes);
        ParamSet.Set(backend, classifier.Params["head.weight"], golden.Tensors.Floats("in.head.weight"));
        ParamSet.Set(backend, classifier.Params["head.bias"], golden.Tensors.Floats("in.head.bias"));
        float[] features = golden.Tensors.Floats("in.features"), loss = new float[steps];
        int[] labels = Labels(golden, "in.labels");
        for (int step = 0; step < steps; step++)
        {
            float[] targets = new float[batch * classes];
            for (int i = 0; i < batch; i++) targets[i * classes + labels[step * batch + i]] = 1f;
            classifier.Pass(features.AsSpan(step * batch * width, batch * width), targets, firstPass: true);
            if (step == 0)
            {
                golden.AssertClose("out.grad.weight.step0", Transfer.Floats(backend, classifier.Params["head.weight"].Gradient));
                golden.AssertClose("out.grad.bias.step0", Transfer.Floats(backend, classifier.Params["head.bias"].Gradient));
            }
            classifier.Update(1.2);
            loss[step] = (float)classifier.MeanLoss();
        }
        float[] logits = new float[batch * classes];
        classifier.Logits(logits, features.AsSpan(0, batch * width));
        golden.AssertClose("out.loss", loss);
        golden.AssertClose("out.head.weight", Transfer.Floats(backend, classifier.Params["head.weight"].Data));
        golden.AssertClose("out.head.bias", Transfer.Floats(backend, classifier.Params["head.bias"].Data));
        golden.AssertClose("out.bn.running_mean", Transfer.Floats(backend, classifier.RunningMean));
        golden.AssertClose("out.bn.running_var", Transfer.Floats(backend, classifier.RunningVariance));
        golden.AssertClose("out.eval_logits_on_batch0", logits);
    }

    [Test]
    public void Lars_follows_maes_for_ten_steps([ValueSource(nameof(Levels))] SimdLevel level)
    {
        using Golden golden = Golden.Open("03_mae/lars");
        using var backend = new CpuBackend(2, level);
        using var set = new ParamSet();
        Shape[] shapes = [new(6, 5), new(7), new(4, 3, 2), new(5, 4)];
        Param[] params_ = [.. shapes.Select((shape, i) => set.Add($"p{i}", shape, Init.Zeros))];
        set.Allocate(backend, seed: null);
        foreach (Param p in params_) ParamSet.Set(backend, p, golden.Tensors.Floats("in.param" + p.Name[1..]));
        using var optimizer = new Optimizer(backend, set, new OptimConfig
        {
            Kind = OptimizerKind.Lars,
            WeightDecay = 0.01f,
            Decay = DecayRule.NotVectors,
            ClipNorm = 0f,
        });
        for (int step = 0; step < 10; step++)
        {
            foreach (Param p in params_)
            {
                Transfer.Upload(backend, p.Gradient, golden.Tensors.Floats($"in.grad{p.Name[1..]}.step{step}"));
                p.Written = true;
            }
            optimizer.Step(0.3);
            foreach (Param p in params_) golden.AssertClose($"out.param{p.Name[1..]}.step{step}", Transfer.Floats(backend, p.Data));
        }
        float[] momentum = Transfer.Floats(backend, optimizer.Moment1);
        foreach (Param p in params_)
            golden.AssertClose("out.momentum" + p.Name[1..], momentum.AsSpan((int)set.Offset(p), (int)p.Data.Count).ToArray());
    }

    [Test]
    public void Features_logits_loss_and_gradients_are_those_of_kamims_probe([ValueSource(nameof(Levels))] SimdLevel level)
    {
        const int batch = 2, classes = 5;
        using Golden golden = Golden.Open("01_kamim_model/classification");
        using var backend = new CpuBackend(2, level);
        ProbeConfig config = ProbePresets.KamimLp() with { Block = 2, Batch = batch, Accumulate = 1 };
        VitConfig vit = new()
        {
            ImagePixels = 32, PatchPixels = 8, Width = 32, Depth = 3, Heads = 4, MlpRatio = 2f, LayerNormEps = 1e-12f,
        };
        using var encoder = new FrozenEncoder(backend, vit, config.PlaceIn(vit));
        Dictionary<string, float[]> theirs = WeightNames.Read(golden.Tensors, "param.");
        theirs.Remove("cls.2.weight", out float[]? weight);
        theirs.Remove("cls.2.bias", out float[]? bias);
        LoadReport report = encoder.Load(WeightNames.FromKamim(theirs), "the golden");
        Assert.That(report.Complete, report.ToString());

        float[] features = new float[batch * vit.Width], logits = new float[batch * classes];
        encoder.Encode(features, golden.Tensors.Floats("in.x"), batch);
        using var classifier = new Classifier(backend, config, vit.Width, classes);
        ParamSet.Set(backend, classifier.Params["head.weight"], weight);
        ParamSet.Set(backend, classifier.Params["head.bias"], bias);
        classifier.Logits(logits, features);
        golden.AssertClose("out.linprobe.logits", logits);
        classifier.Pass(features, golden.Tensors.Floats("in.soft_target"), firstPass: true);
        golden.AssertClose("out.linprobe.loss", [(float)classifier.MeanLoss()]);
        golden.AssertClose("grad.linprobe.cls.2.weight", Transfer.Floats(backend, classifier.Params["head.weight"].Gradient));
        golden.AssertClose("grad.linprobe.cls.2.bias", Transfer.Floats(backend, classifier.Params["head.bias"].Gradient));
    }

    [Test]
    public void Neighbours_vote_as_in_ibots_evaluation([ValueSource(nameof(Levels))] SimdLevel level)
    {
        using Golden golden = Golden.Open("05_ibot_attmask/knn");
        using var backend = new CpuBackend(2, level);
        var train = new FeatureSet(golden.Tensors.Floats("in.train_features"), Labels(golden, "in.train_labels"), 24);
        var test = new FeatureSet(golden.Tensors.Floats("in.test_features"), Labels(golden, "in.test_labels"), 24);
        (double Top1, double Top5)[] theirs = [(84.6, 98.8), (86.0, 99.6), (86.8, 99.6), (86.6, 99.8)];
        IReadOnlyList<KnnScore> scores = KnnProbe.Score(backend, new KnnConfig(), train, test, 12);
        Assert.That(scores.Select(s => s.Neighbours), Is.EqualTo(new[] { 10, 20, 100, 200 }));
        for (int i = 0; i < scores.Count; i++) Same(golden, $"k{scores[i].Neighbours}.T0.07", scores[i], theirs[i]);
    }

    [Test]
    public void Supports_are_the_first_pictures_of_each_class_from_a_start_on()
    {
        using Golden golden = Golden.Open("05_ibot_attmask/knn");
        int[] labels = Labels(golden, "in.train_labels");
        foreach ((int shots, int start) in new[] { (1, 0), (5, 0), (10, 3) })
            Assert.That(LowShot.Support(labels, shots, start), Is.EqualTo(Labels(golden, $"out.few{shots}_start{start}.train_indices")));
        Assert.That(LowShot.Support(labels, 400, 100), Is.Null, "no class has 500 pictures");
        Assert.That(new[] { 1, 5, 10, 20 }.Select(s => LowShot.StartOf(s, 4)), Is.EqualTo(new[] { 20, 20, 40, 80 }));
    }

    [Test]
    public void Low_shot_scores_are_those_of_each_support_alone()
    {
        using Golden golden = Golden.Open("05_ibot_attmask/knn");
        using var backend = new CpuBackend(2);
        var all = new FeatureSet(golden.Tensors.Floats("in.train_features"), Labels(golden, "in.train_labels"), 24);
        var test = new FeatureSet(golden.Tensors.Floats("in.test_features"), Labels(golden, "in.test_labels"), 24);
        LowShotRow row = LowShot.Score(backend, new KnnConfig(), "pretrained", all, test, 12, 1)!;
        // One picture of a class, one neighbour: the first support's accuracy is the official one of k = 10 only where the nearest wins.
        FeatureSet support = all.At(Labels(golden, "out.few1_start0.train_indices"));
        double first = KnnProbe.Score(backend, new KnnConfig { Neighbours = [1] }, support, test, 12)[0].Top1;
        Assert.That(row.Draws[0], Is.EqualTo(first));
        Assert.That(row.Draws, Has.Length.EqualTo(5).And.Some.Not.EqualTo(first));
        Assert.That(row.Mean, Is.EqualTo(row.Draws.Average()));
        Assert.That(row.Deviation, Is.EqualTo(Math.Sqrt(row.Draws.Sum(d => Math.Pow(d - row.Mean, 2)) / 4)).Within(1e-12));
    }

    [Test]
    public void Clusters_agree_with_labels_as_in_scikit_learn()
    {
        using Golden golden = Golden.Open("05_ibot_attmask/cluster_metrics");
        ClusterAgreement ours = ClusterAgreement.Of(Labels(golden, "in.labels"), Labels(golden, "in.pred"));
        foreach ((string name, double value) in new[] { ("nmi", ours.Nmi), ("ari", ours.AdjustedRand), ("fscore", ours.FowlkesMallows) })
            Assert.That(value, Is.EqualTo(golden.Values.GetProperty(name).GetDouble()).Within(1e-9 * Math.Abs(value)), name);
        Assert.That(ClusterAgreement.Of([0, 0, 1, 1], [7, 7, 3, 3]), Is.EqualTo(new ClusterAgreement(1, 1, 1)));
    }

    [Test]
    public void The_last_four_class_tokens_are_the_official_features()
    {
        // The golden has two blocks; the same network read twice as deep would be another. So: four equal parts of the row, each checked.
        var vit = new VitConfig { ImagePixels = 16, PatchPixels = 8, Width = 16, Depth = 6, Heads = 2, MlpRatio = 2f };
        using var backend = new CpuBackend(1);
        byte[] crops = [.. Enumerable.Range(0, 2 * 3 * 256).Select(i => (byte)(i * 37))];
        float[] all = new float[2 * 4 * 16], one = new float[2 * 16];
        using var encoder = new FrozenEncoder(backend, vit, new FeaturePlace(6, true, Pooling.ClsOfLastBlocks));
        encoder.Initialise(5);
        encoder.Encode(all, crops, 2);
        for (int block = 3; block <= 6; block++)
        {
            using var single = new FrozenEncoder(backend, vit, new FeaturePlace(block, true, Pooling.Cls));
            single.Initialise(5);
            single.Encode(one, crops, 2);
            for (int i = 0; i < 2; i++)
                Assert.That(all.AsSpan(i * 64 + (block - 3) * 16, 16).ToArray(), Is.EqualTo(one.AsSpan(i * 16, 16).ToArray()), $"block {block}");
        }
    }

    [Test]
    public void Two_blocks_side_by_side_are_iBOTs_intermediate_layers()
    {
        using Golden golden = Golden.Open("05_ibot_attmask/vit_features_interpolate");
        var vit = new VitConfig { ImagePixels = 32, PatchPixels = 8, Width = 24, Depth = 2, Heads = 3, MlpRatio = 2f };
        using var backend = new CpuBackend(1);
        float[] both = new float[48];
        foreach (int block in new[] { 1, 2 })
        {
            using var encoder = new FrozenEncoder(backend, vit, new FeaturePlace(block, true, Pooling.Cls));
            Dictionary<string, float[]> weights = golden.Tensors.Entries.Where(e => e.Name.StartsWith("param."))
                .ToDictionary(e => e.Name[6..], e => golden.Tensors.Floats(e.Name));
            weights["mask_token"] = new float[24];
            encoder.Load(weights, "golden");
            encoder.Encode(both.AsSpan((block - 1) * 24, 24), golden.Tensors.Floats("in.x0").AsSpan(), 1);
        }
        golden.AssertClose("out.x0.feat_n2_avgpool0", both);
    }

    [Test]
    public void The_most_attended_patches_turn_black_and_no_others()
    {
        var vit = new VitConfig { ImagePixels = 16, PatchPixels = 4, Width = 16, Depth = 2, Heads = 2, MlpRatio = 2f };
        using var backend = new CpuBackend(1);
        using var encoder = new FrozenEncoder(backend, vit, new FeaturePlace(2, true, Pooling.Cls));
        encoder.Initialise(5);
        byte[] crops = [.. Enumerable.Range(0, 3 * 3 * 256).Select(i => (byte)(1 + i * 37 % 255))], black = [.. crops];
        float[] attention = new float[3 * 16];
        encoder.ClsAttention(attention, crops, 3);
        new MaskedPictures(encoder, vit).Blacken(black, 3, 0.3);
        for (int i = 0; i < 3; i++)
        {
            int[] best = [.. Enumerable.Range(0, 16).OrderByDescending(p => attention[i * 16 + p]).Take(4)];
            for (int at = 0; at < 3 * 256; at++)
            {
                int patch = at % 256 / 16 / 4 * 4 + at % 16 / 4;
                Assert.That(black[i * 768 + at], Is.EqualTo(best.Contains(patch) ? 0 : crops[i * 768 + at]), $"picture {i}, byte {at}");
            }
        }
    }

    [TestCase("few1_start0.k10", 10, 47.0, 90.4)]
    [TestCase("few5_start0.k10", 10, 69.4, 96.6)]
    [TestCase("few10_start3.k20", 20, 77.6, 99.2)]
    public void Few_labelled_pictures_vote_as_in_ibots_evaluation(string name, int k, double top1, double top5)
    {
        using Golden golden = Golden.Open("05_ibot_attmask/knn");
        using var backend = new CpuBackend(2);
        var all = new FeatureSet(golden.Tensors.Floats("in.train_features"), Labels(golden, "in.train_labels"), 24);
        var test = new FeatureSet(golden.Tensors.Floats("in.test_features"), Labels(golden, "in.test_labels"), 24);
        int[] few = Labels(golden, $"out.{name.Split('.')[0]}.train_indices");
        var train = new FeatureSet([.. few.SelectMany(i => all.Row(i).ToArray())], [.. few.Select(i => all.Labels[i])], 24);
        Same(golden, name + ".T0.07", KnnProbe.Score(backend, new KnnConfig { Neighbours = [k] }, train, test, 12).Single(), (top1, top5));
    }

    [Test]
    public void Neighbours_vote_as_in_dinos_evaluation()
    {
        using Golden golden = Golden.Open("05_dino/dino_knn");
        using var backend = new CpuBackend(1);
        var train = new FeatureSet(golden.Tensors.Floats("in.train_features"), Labels(golden, "in.train_labels"), 12);
        var test = new FeatureSet(golden.Tensors.Floats("in.test_features"), Labels(golden, "in.test_labels"), 12);
        double[] top1 = [0.81, 0.85, 0.87];
        IReadOnlyList<KnnScore> scores = KnnProbe.Score(backend, new KnnConfig { Neighbours = [20, 3, 10] }, train, test, 8);
        for (int i = 0; i < scores.Count; i++)
        {
            Assert.That(scores[i].Predictions, Is.EqualTo(Labels(golden, $"out.k{scores[i].Neighbours}.pred")));
            Assert.That(scores[i].Top1, Is.EqualTo(top1[i]).Within(1e-12));
        }
    }

    private static void Same(Golden golden, string name, KnnScore score, (double Top1, double Top5) theirs)
    {
        Assert.That(score.Predictions, Is.EqualTo(Labels(golden, $"out.{name}.pred")), name);
        Assert.That(score.Top1 * 100, Is.EqualTo(theirs.Top1).Within(1e-9), name);
        Assert.That(score.Top5 * 100, Is.EqualTo(theirs.Top5).Within(1e-9), name);
        golden.AssertClose($"out.{name}.prob_top1", [.. score.Votes.Select(v => (float)v)]);
    }
}
