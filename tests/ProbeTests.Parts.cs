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

/// <summary>Probes against plain loops and the properties a probe must have.</summary>
public partial class ProbeTests
{
    private static readonly VitConfig Micro = new() { ImagePixels = 16, PatchPixels = 4, Width = 32, Depth = 2, Heads = 2 };

    /// <summary>Points around one random centre a class; <paramref name="spread"/> against centres about √(2·width) apart.</summary>
    private static FeatureSet Clusters(int count, int classes, int width, double spread, ulong part, bool shuffledLabels = false)
    {
        float[] values = new float[count * width];
        int[] labels = new int[count];
        for (int i = 0; i < count; i++)
        {
            RngSequence own = new Rng(part, RandomStream.Test, (ulong)i).Start();
            RngSequence centre = new Rng(1, RandomStream.Test, (ulong)(i % classes)).Start();
            for (int c = 0; c < width; c++) values[i * width + c] = (float)(centre.Normal() + spread * own.Normal());
            labels[i] = shuffledLabels ? own.Below(classes) : i % classes;
        }
        return new FeatureSet(values, labels, width);
    }

    private static LinearProbeResult Probe(ProbeConfig config, FeatureSet train, FeatureSet test, int classes, int threads = 2)
    {
        using var backend = new CpuBackend(threads);
        using var stream = new CachedFeatures(train, config.Batch, classes, config.Seed);
        return LinearProbe.Train(backend, config, stream, test, classes);
    }

    [Test]
    public void Separable_features_are_classified()
    {
        FeatureSet train = Clusters(2000, 10, 32, 0.5, 2), test = Clusters(500, 10, 32, 0.5, 3);
        foreach (string preset in ProbePresets.ByName.Keys)
        {
            ProbeConfig config = ProbePresets.Named(preset) with { Epochs = 60, Batch = 128, Accumulate = 1 };
            if (preset is "mae-lp" or "beyond-cls") config = config with { Optim = config.Optim with { Rate = 6.4, RatePerBatch = 0 } };
            LinearProbeResult result = Probe(config, train, test, 10);
            Assert.That(result.Last.Top1, Is.GreaterThan(0.95), preset);
            Assert.That(result.Last.Loss, Is.LessThan(result.Epochs[0].Loss), preset);
            Assert.That(result.Best.Top1, Is.EqualTo(result.Epochs.Max(e => e.Top1)), preset);
        }
    }

    [Test]
    public void Labels_that_features_know_nothing_about_are_guessed()
    {
        FeatureSet train = Clusters(2000, 10, 16, 1, 4, shuffledLabels: true), test = Clusters(2000, 10, 16, 1, 5, shuffledLabels: true);
        LinearProbeResult result = Probe(ProbePresets.Linear() with { Epochs = 10 }, train, test, 10);
        double error = Math.Sqrt(0.1 * 0.9 / 2000);
        Assert.That(result.Last.Top1, Is.EqualTo(0.1).Within(5 * error));
        Assert.That(result.Last.Top5, Is.EqualTo(0.5).Within(5 * Math.Sqrt(0.25 / 2000)));
        using var backend = new CpuBackend(2);
        foreach (KnnScore score in KnnProbe.Score(backend, new KnnConfig(), train, test, 10))
            Assert.That(score.Top1, Is.EqualTo(0.1).Within(5 * error), $"k = {score.Neighbours}");
    }

    [Test]
    public void A_linear_probe_gives_the_same_bits_for_any_thread_count()
    {
        FeatureSet train = Clusters(1000, 7, 48, 3, 6), test = Clusters(300, 7, 48, 3, 7);
        foreach (ProbeConfig config in new[] { ProbePresets.Linear(), ProbePresets.KamimLp() with { Batch = 100, Accumulate = 3 } })
        {
            ProbeConfig few = config with { Epochs = 5, Seed = 3 };
            LinearProbeResult one = Probe(few, train, test, 7, threads: 1);
            foreach (int threads in new[] { 2, 7 }) Assert.That(Probe(few, train, test, 7, threads).Epochs, Is.EqualTo(one.Epochs), config.Preset);
            Assert.That(Probe(few with { Seed = 4 }, train, test, 7).Epochs, Is.Not.EqualTo(one.Epochs), config.Preset);
        }
    }

    [Test]
    public void Accumulated_passes_are_one_update_of_the_large_batch()
    {
        FeatureSet train = Clusters(600, 5, 24, 2, 8);
        float[] weights(int batch, int accumulate)
        {
            using var backend = new CpuBackend(2);
            ProbeConfig config = ProbePresets.KamimLp() with { Batch = batch, Accumulate = accumulate };
            using var classifier = new Classifier(backend, config, 24, 5);
            float[] targets = new float[600 * 5];
            for (int i = 0; i < 600; i++) targets[i * 5 + train.Labels[i]] = 1f;
            for (int pass = 0; pass < accumulate; pass++)
                classifier.Pass(train.Values.AsSpan(pass * batch * 24, batch * 24), targets.AsSpan(pass * batch * 5, batch * 5), pass == 0);
            classifier.Update(1e-2);
            Assert.That(classifier.MeanLoss(), Is.GreaterThan(0.1).And.LessThan(20));
            return Transfer.Floats(backend, classifier.Params["head.weight"].Gradient);
        }
        float[] whole = weights(600, 1), parts = weights(200, 3);
        double error = 0, size = 0;
        for (int i = 0; i < whole.Length; i++)
            (error, size) = (error + Math.Pow(whole[i] - parts[i], 2), size + Math.Pow(whole[i], 2));
        Assert.That(Math.Sqrt(error / size), Is.LessThan(1e-5));
    }

    [TestCase(1)]
    [TestCase(7)]
    [TestCase(64)]
    [TestCase(0)]
    public void Neighbours_are_those_of_a_plain_loop_whatever_the_chunk(int chunk)
    {
        const int classes = 9, width = 13, k = 17;
        FeatureSet train = Clusters(331, classes, width, 2, 9), test = Clusters(143, classes, width, 2, 10);
        using var backend = new CpuBackend(2);
        KnnConfig config = new() { Neighbours = [k, 1, 5000], Temperature = 0.1f };
        IReadOnlyList<KnnScore> scores = KnnProbe.Score(backend, config, train, test, classes, chunk);
        Assert.That(scores.Select(s => s.Neighbours), Is.EqualTo(new[] { 1, k }));
        IReadOnlyList<KnnScore> whole = KnnProbe.Score(backend, config, train, test, classes, 143);
        Assert.That(scores[1].Votes, Is.EqualTo(whole[1].Votes), "votes, bit for bit");

        int right = 0;
        for (int i = 0; i < test.Count; i++)
        {
            var near = Enumerable.Range(0, train.Count).Select(j => (Similarity: Cosine(test.Row(i), train.Row(j)), Label: train.Labels[j]))
                .OrderByDescending(p => p.Similarity).Take(k);
            double[] votes = new double[classes];
            foreach ((double similarity, int label) in near) votes[label] += Math.Exp(similarity / 0.1);
            int best = Array.IndexOf(votes, votes.Max());
            Assert.That(scores[1].Predictions[i], Is.EqualTo(best), $"picture {i}");
            Assert.That(scores[1].Votes[i], Is.EqualTo(votes[best]).Within(1e-4 * votes[best]), $"picture {i}");
            if (best == test.Labels[i]) right++;
        }
        Assert.That(scores[1].Top1, Is.EqualTo(right / (double)test.Count));
    }

    [Test]
    public void Equally_near_pictures_count_in_their_order_and_a_class_without_votes_never_counts()
    {
        var train = new FeatureSet([.. Enumerable.Repeat(1f, 12)], [3, 2, 1, 0, 1, 1], 2);
        var test = new FeatureSet([2f, 2f, 2f, 2f], [3, 4], 2);
        using var backend = new CpuBackend(1);
        KnnScore one = KnnProbe.Score(backend, new KnnConfig { Neighbours = [1] }, train, test, 6).Single();
        Assert.That(one.Predictions, Is.EqualTo(new[] { 3, 3 }));
        Assert.That((one.Top1, one.Top5), Is.EqualTo((0.5, 0.5)), "class 4 is fifth of six in order, but nobody voted for it");
        KnnScore six = KnnProbe.Score(backend, new KnnConfig { Neighbours = [6] }, train, test, 6).Single();
        Assert.That(six.Predictions, Is.EqualTo(new[] { 1, 1 }));
    }

    [Test]
    public void Of_equal_scores_the_lower_class_comes_first_and_no_number_comes_last()
    {
        float[] scores = [1, 1, 0, 0, 0, 0, /**/ 1, 1, 0, 0, 0, 0, /**/ 0, 1, 2, 3, 4, 5, /**/ float.NaN, 0, 0, 0, 0, 0];
        Assert.That(LinearProbe.Accuracy(scores, [0, 1, 0, 0], 6), Is.EqualTo((0.25, 0.5)));
    }

    [Test]
    public void Ranks_are_those_of_a_stable_sort_for_every_number_of_classes([Values(1, 5, 7, 8, 9, 10, 16, 17, 31, 100)] int classes)
    {
        RngSequence random = new Rng(4, RandomStream.Test, (ulong)classes).Start();
        float[] scores = new float[50 * classes];
        int[] labels = new int[50];
        foreach (ref float s in scores.AsSpan()) s = random.Below(3 + classes / 4) - 1;   // many are equal
        (int first, int five) = (0, 0);
        for (int row = 0; row < labels.Length; row++)
        {
            labels[row] = random.Below(classes);
            int rank = Enumerable.Range(0, classes).OrderByDescending(k => scores[row * classes + k]).ToList().IndexOf(labels[row]);
            (first, five) = (first + (rank == 0 ? 1 : 0), five + (rank < 5 ? 1 : 0));
        }
        Assert.That(LinearProbe.Accuracy(scores, labels, classes), Is.EqualTo((first / 50.0, five / 50.0)));
    }

    [Test]
    public void Weights_load_completely_or_not_at_all()
    {
        using var backend = new CpuBackend(2);
        using var encoder = new FrozenEncoder(backend, Micro, new FeaturePlace(2, true, Pooling.MeanPatches));
        using var source = new ParamSet();
        _ = new VisionTransformer(source, Micro);
        source.Allocate(backend, seed: 5, gradients: false);
        Dictionary<string, float[]> whole = source.Params.ToDictionary(p => p.Name, p => Transfer.Floats(backend, p.Data));
        whole.Add("decoder.weight", [1f]);

        float[] before = Features(encoder);
        WeightFileException e = Assert.Throws<WeightFileException>(() => encoder.Load(whole, "weights.st"))!;
        Assert.That(e.Message, Does.Contain("weights.st").And.Contain("1 unexpected (decoder.weight)").And.Contain("nothing was loaded"));
        Dictionary<string, float[]> less = new(whole);
        less.Remove("blocks.1.attn.qkv.bias");
        less["norm.weight"] = new float[31];
        e = Assert.Throws<WeightFileException>(() => encoder.Load(less, "weights.st", new HashSet<string> { "decoder.weight" }))!;
        Assert.That(e.Message, Does.Contain("1 missing (blocks.1.attn.qkv.bias)").And.Contain("'norm.weight' has 31 elements, its parameter is (32)"));
        Assert.That(Features(encoder), Is.EqualTo(before), "a failed load changes nothing");

        LoadReport report = encoder.Load(whole, "weights.st", new HashSet<string> { "decoder.weight" });
        Assert.That((report.Matched.Count, report.OfHeads), Is.EqualTo((source.Params.Count, new[] { "decoder.weight" })));
        float[] loaded = Features(encoder);
        Assert.That(loaded, Is.Not.EqualTo(before));
        encoder.Initialise(5);
        Assert.That(Features(encoder), Is.EqualTo(loaded), "the same weights by seed");
    }

    [Test]
    public void A_transposed_matrix_does_not_fit_and_published_shapes_do()
    {
        Assert.That(Misfit.Fits([64, 32], new Shape(64, 32)));
        Assert.That(Misfit.Fits([32, 64], new Shape(64, 32)), Is.False);
        Assert.That(Misfit.Fits([1, 1, 32], new Shape(1, 32)));
        Assert.That(Misfit.Fits([32, 3, 4, 4], new Shape(32, 48)));
        Assert.That(Misfit.Fits([31], new Shape(32)), Is.False);
        Assert.That(Misfit.Fits([], new Shape(1)));
    }

    [Test]
    public void Features_do_not_depend_on_how_many_pictures_are_encoded_at_once_or_by_how_many_threads()
    {
        byte[] crops = Crops(300);
        float[] all = new float[300 * 32], single = new float[32];
        using var backend = new CpuBackend(2);
        using var encoder = new FrozenEncoder(backend, Micro, new FeaturePlace(2, true, Pooling.Cls));
        encoder.Initialise(1);
        encoder.Encode(all, crops, 300);
        foreach (int i in new[] { 0, 130, 255, 256, 299 })
        {
            encoder.Encode(single, crops.AsSpan(i * 768, 768), 1);
            Assert.That(single, Is.EqualTo(all[(i * 32)..((i + 1) * 32)]), $"picture {i}");
        }
        using var alone = new CpuBackend(1);
        using var again = new FrozenEncoder(alone, Micro, new FeaturePlace(2, true, Pooling.Cls));
        again.Initialise(1);
        float[] one = new float[300 * 32];
        again.Encode(one, crops, 300);
        Assert.That(one, Is.EqualTo(all));
    }

    [Test]
    public void Features_are_the_tokens_of_the_place_that_is_named()
    {
        using var backend = new CpuBackend(2);
        byte[] crops = Crops(3);
        using var set = new ParamSet();
        var vit = new VisionTransformer(set, Micro);
        set.Allocate(backend, seed: 9, gradients: false);
        using var arena = new Arena(backend, 1 << 24);
        var tape = new Tape(backend, arena);
        foreach (int block in new[] { 1, 2 })
            foreach (bool norm in new[] { false, true })
            {
                tape.BeginNoGrad();
                Tensor bytes = tape.Keep(new Shape(3, 3, 16, 16), DType.U8), images = tape.Keep(bytes.Shape);
                backend.Upload(bytes, crops);
                backend.NormalizeImages(images, bytes, Normalization.Mean, Normalization.Std);
                float[] tokens = Transfer.Floats(backend, vit.Encode(tape, images, new EncodeRequest(LastBlock: block, SkipFinalNorm: !norm)).All.Data);
                tape.EndNoGrad();
                tape.Reset();
                foreach (Pooling pooling in new[] { Pooling.Cls, Pooling.MeanPatches })
                {
                    using var encoder = new FrozenEncoder(backend, Micro, new FeaturePlace(block, norm, pooling));
                    encoder.Initialise(9);
                    float[] features = new float[3 * 32];
                    encoder.Encode(features, crops, 3);
                    for (int i = 0; i < features.Length; i++)
                    {
                        (int picture, int c) = (i / 32, i % 32);
                        float token(int n) => tokens[(picture * 17 + n) * 32 + c];
                        double expected = pooling == Pooling.Cls ? token(0) : Enumerable.Range(1, 16).Average(n => (double)token(n));
                        Assert.That(features[i], Is.EqualTo(expected).Within(2e-6), $"block {block}, norm {norm}, {pooling}, {i}");
                    }
                }
            }
    }

    [Test]
    public void A_block_the_encoder_does_not_have_is_refused_with_its_depth()
    {
        ConfigException e = Assert.Throws<ConfigException>(() => ProbePresets.KamimLp().Validate(Micro with { Depth = 6 }))!;
        Assert.That(e.Message, Does.Contain("'kamim-lp' reads block 8").And.Contain("this encoder has 6").And.Contain("--block"));
        ProbeConfig own = ProbePresets.KamimLp() with { Block = 4 };
        own.Validate(Micro with { Depth = 6 });
        Assert.That(own.PlaceIn(Micro with { Depth = 6 }), Is.EqualTo(new FeaturePlace(4, false, Pooling.MeanPatches)));
        Assert.That(ProbePresets.Linear().PlaceIn(Micro), Is.EqualTo(new FeaturePlace(2, true, Pooling.MeanPatches)));
        Assert.That(ProbePresets.Linear().PlaceIn(Micro with { FinalNorm = false }).FinalNorm, Is.False);
        Assert.Throws<ConfigException>(() => ProbePresets.Named("linaer"));
    }

    [Test]
    public void A_probe_is_the_same_after_json_and_every_setting_can_be_set()
    {
        foreach (string preset in ProbePresets.ByName.Keys)
        {
            ProbeConfig config = ProbePresets.Named(preset);
            string json = ConfigJson.Write(config);
            Assert.That(ConfigJson.Write(ConfigJson.Read<ProbeConfig>(json, "test")), Is.EqualTo(json));
            Assert.That(ConfigJson.Set(config, "optim.rate", "0.5").Optim.Rate, Is.EqualTo(0.5));
            Assert.That(ConfigJson.Set(config, "pooling", "cls").Pooling, Is.EqualTo(Pooling.Cls));
            Assert.That(ConfigJson.Set(config, "knn.neighbours", "[5]").Knn.Neighbours, Is.EqualTo(new[] { 5 }));
            Assert.Throws<ConfigException>(() => ConfigJson.Set(config, "optim.rat", "1"));
        }
        Assert.Throws<ConfigException>(() => (ProbePresets.KamimLp() with { Augment = null, Block = 1 }).Validate(Micro));
    }

    [Test]
    public void Maes_rate_starts_at_nothing_peaks_after_warm_up_and_ends_near_nothing()
    {
        OptimConfig optim = ProbePresets.MaeLp().Optim;
        RateSpan span = optim.Rates(pictures: 16384, stepsPerEpoch: 78, totalSteps: 78 * 90);
        Assert.That(optim.RateOf(span, 0, 1), Is.Zero);
        Assert.That(optim.RateOf(span, 390, 1), Is.EqualTo(3.2).Within(1e-12), "half way up");
        Assert.That(optim.RateOf(span, 780, 1), Is.EqualTo(6.4).Within(1e-12));
        Assert.That(optim.RateOf(span, 780 + 40 * 78, 1), Is.EqualTo(3.2).Within(1e-12), "half way down");
        Assert.That(optim.RateOf(span, 78 * 90 - 1, 1), Is.GreaterThan(0).And.LessThan(1e-6));
    }

    private static double Cosine(ReadOnlySpan<float> a, ReadOnlySpan<float> b)
    {
        double dot = 0, aa = 0, bb = 0;
        for (int i = 0; i < a.Length; i++) (dot, aa, bb) = (dot + (double)a[i] * b[i], aa + (double)a[i] * a[i], bb + (double)b[i] * b[i]);
        return dot / Math.Sqrt(aa * bb);
    }

    private static byte[] Crops(int count)
    {
        byte[] crops = new byte[count * 768];
        RngSequence random = new Rng(3, RandomStream.Test, 0).Start();
        foreach (ref byte b in crops.AsSpan()) b = (byte)random.Word();
        return crops;
    }

    private static float[] Features(FrozenEncoder encoder)
    {
        float[] features = new float[2 * 32];
        encoder.Encode(features, Crops(2), 2);
        return features;
    }
}
