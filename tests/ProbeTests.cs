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
