using MimEngine.Engine.Autograd;
using MimEngine.Engine.Data;
using MimEngine.Engine.Experiments;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Probing;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>From a run folder to a report.</summary>
[TestFixture]
public class ProbeRunTests
{
    private static readonly PretrainConfig Run = Recipes.Kamim() with
    {
        Encoder = new VitConfig { ImagePixels = 16, PatchPixels = 4, Width = 32, Depth = 2, Heads = 2 },
        Masking = new RandomCells(0.6f, 8),
        Run = new RunConfig { Seed = 11 },
    };

    private static readonly ProbeConfig Short = ProbePresets.Linear() with { Epochs = 3, Knn = new KnnConfig { Neighbours = [20] } };

    private string _folder = "";

    [SetUp]
    public void MakeFolder() => _folder = Directory.CreateTempSubdirectory("mim-probe-").FullName;

    [TearDown]
    public void RemoveFolder() => Directory.Delete(_folder, recursive: true);

    [Test]
    public void A_checkpoint_of_no_training_scores_exactly_what_the_random_encoder_scores([Values("linear", "mae-lp", "kamim-lp")] string preset)
    {
        Save(Run, step: 0, seed: Run.Run.Seed);
        ProbeConfig config = ProbePresets.Named(preset) with { Block = 1, Epochs = 1, Accumulate = 1, Knn = Short.Knn };
        var observer = new Observer();
        ProbeReport report = ProbeRun.Execute(Options(config), observer);
        Assert.That(report.Rows.Select(r => (r.Name, r.Encoder)), Is.EqualTo(new[]
        {
            ("k-NN k=20", "pretrained"), (preset, "pretrained"), ("k-NN k=20", "random-init"), (preset, "random-init"),
        }));
        for (int i = 0; i < 2; i++) Assert.That(report.Rows[i] with { Encoder = "random-init" }, Is.EqualTo(report.Rows[i + 2]));
        Assert.That(report.Gaps, Has.All.Matches<ProbeGap>(g => g is { Difference: 0, StandardErrors: 0, WithinNoise: true }));
        Assert.That(report.Rows[0].Top1, Is.GreaterThan(0.5), "neighbours in random features know something of clothes");
        Assert.That(report.Rows[0].StandardError, Is.EqualTo(Math.Sqrt(report.Rows[0].Top1 * (1 - report.Rows[0].Top1) / 2000)));
        Assert.That((report.TrainPictures, report.TestPictures, report.Classes, report.MajorityRate), Is.EqualTo((6000, 2000, 10, 0.1)));
        Assert.That((report.Block, report.Pooling), Is.EqualTo((1, config.Pooling)));
        Assert.That(report.Loaded.OfHeads, Is.EqualTo(new[] { "decoder.weight", "decoder.bias" }));
        Assert.That(observer.Epochs, Is.EqualTo(2));

        string file = Directory.EnumerateFiles(Path.Combine(_folder, "probes")).Single();
        Assert.That(Path.GetFileName(file), Is.EqualTo($"{preset}-block-1-step-00000000-seed-0.json"));
        ProbeReport read = ConfigJson.Read<ProbeReport>(File.ReadAllText(file), file);
        Assert.That(read.Rows, Is.EqualTo(report.Rows));
        Assert.That(ConfigJson.Write(read), Is.EqualTo(ConfigJson.Write(report)));
    }

    [Test]
    public void Aggregations_stand_beside_each_other_with_the_untrained_encoder_below()
    {
        Save(Run, step: 5, seed: 8);
        ProbeConfig config = Short with { Pooling = Pooling.Cls, Beside = [Pooling.MeanPatches, Pooling.SelectiveHead, Pooling.Oracle, Pooling.AbMilp], Rates = [1.6, 6.4], Oracle = _folder, Optim = Short.Optim with { WarmupEpochs = 1 } };
        ProbeReport report = ProbeRun.Execute(Options(config), new Observer());
        Assert.That(report.Rows.Where(r => r.Encoder == "random-init").Select(r => r.Name), Is.EqualTo(new[]
        {
            "k-NN k=20", "linear cls lr=1.6", "linear cls lr=6.4", "linear mean-patches lr=1.6", "linear mean-patches lr=6.4", "linear selective-head lr=1.6",
            "linear selective-head lr=6.4", "linear oracle lr=1.6", "linear oracle lr=6.4", "linear ab-milp lr=1.6", "linear ab-milp lr=6.4",
        }));
        Assert.That(report.Aggregations.Select(a => a.Pooling), Is.EqualTo(config.Beside.Prepend(Pooling.Cls)));
        foreach (AggregationRow a in report.Aggregations)
        {
            ProbeRow[] own = [.. report.Rows.Where(r => r.Pooling == a.Pooling && r.Rate is not null)];
            Assert.That(a.Top1, Is.EqualTo(own.Where(r => r.Encoder == "pretrained").Max(r => r.Top1)));
            Assert.That(a.RandomTop1, Is.EqualTo(own.Where(r => r.Encoder == "random-init").Max(r => r.Top1)));
            Assert.That(a.OverCls, Is.EqualTo(a.Top1 - report.Aggregations[0].Top1));
        }
        Assert.That(report.Rows.Where(r => r.Rate is not null).Select(r => r.Top1), Has.All.GreaterThan(0.15), "random features are better than chance");
        string file = Directory.EnumerateFiles(Path.Combine(_folder, "probes")).Single();
        Assert.That(ConfigJson.Write(ConfigJson.Read<ProbeReport>(File.ReadAllText(file), file)), Is.EqualTo(ConfigJson.Write(report)));
        Assert.That(Assert.Throws<ConfigException>(() => ProbeRun.Execute(Options(config with { Oracle = null }), new Observer()))!.Message, Does.Contain("--set oracle=RUN"));
    }

    [Test]
    public void The_newest_checkpoint_that_verifies_is_probed_and_the_damaged_one_named()
    {
        Save(Run, step: 3, seed: 4);
        string newer = Save(Run, step: 7, seed: 5);
        byte[] bytes = File.ReadAllBytes(newer);
        bytes[^5] ^= 1;
        File.WriteAllBytes(newer, bytes);
        var observer = new Observer();
        ProbeReport report = ProbeRun.Execute(Options(Short) with { Linear = false }, observer);
        Assert.That(report.Step, Is.EqualTo(3));
        Assert.That(report.Notes.Single(), Does.Contain("step-00000007").And.Contain("passed over"));
        Assert.That(observer.Notes, Is.EqualTo(report.Notes));
        Assert.That(report.Rows, Has.Count.EqualTo(2), "k-NN only");
        Assert.That(report.Rows[0].Top1, Is.Not.EqualTo(report.Rows[1].Top1), "other weights, other neighbours");

        ProbeReport same = ProbeRun.Execute(Options(Short) with
        {
            Run = Path.Combine(_folder, "checkpoints", "step-00000003.safetensors"), Linear = false, Threads = 1, LoaderThreads = 2,
        }, new Observer());
        Assert.That(same.Rows, Is.EqualTo(report.Rows), "a file instead of its folder, other threads");
    }

    [Test]
    public void What_cannot_be_probed_is_said_in_a_sentence()
    {
        string message<T>(ProbeOptions options) where T : Exception => Assert.Throws<T>(() => ProbeRun.Execute(options, new Observer()))!.Message;
        Assert.That(message<RunException>(Options(Short)), Does.Contain("no config.json"));
        Assert.That(message<RunException>(Options(Short) with { Run = Path.Combine(_folder, "none") }), Does.Contain("no such run"));
        File.WriteAllText(Path.Combine(_folder, "config.json"), ConfigJson.Write(Run));
        Assert.That(message<RunException>(Options(Short)), Does.Contain("no checkpoint yet"));
        Save(Run with { Encoder = Run.Encoder with { Width = 64 } }, step: 1, seed: 1);
        File.WriteAllText(Path.Combine(_folder, "config.json"), ConfigJson.Write(Run));
        Assert.That(message<WeightFileException>(Options(Short)), Does.Contain("do not fit this encoder").And.Contain("nothing was loaded"));
        Assert.That(message<ConfigException>(Options(ProbePresets.KamimLp())), Does.Contain("this encoder has 2"));
        Assert.That(message<ConfigException>(Options(Short) with { Knn = false, Linear = false }), Does.Contain("neither"));
        Assert.That(message<DataException>(Options(Short) with { Data = Path.Combine(_folder, "none") }), Does.Contain("none"));
        Assert.That(Directory.Exists(Path.Combine(_folder, "probes")), Is.False, "nothing was written");
    }

    [Test]
    public void A_probe_that_is_stopped_writes_nothing()
    {
        Save(Run, step: 0, seed: 1);
        using var stop = new CancellationTokenSource();
        var observer = new Observer { OnProgress = stop.Cancel };
        Assert.Throws<OperationCanceledException>(() => ProbeRun.Execute(Options(Short), observer, stop.Token));
        Assert.That(Directory.Exists(Path.Combine(_folder, "probes")), Is.False);
    }

    [Test]
    public void Pictures_that_are_not_augmented_give_the_batches_of_cached_features()
    {
        using IDataset data = Datasets.Open(null, Split.Test);
        using var backend = new CpuBackend(2);
        ProbeConfig config = ProbePresets.KamimLp() with { Batch = 300, Seed = 6, Mix = BatchMix.None };
        using var encoder = new FrozenEncoder(backend, Run.Encoder, new FeaturePlace(2, true, Pooling.MeanPatches));
        encoder.Initialise(3);
        var views = new AugmentedViews(Engine.Imaging.AugmentConfig.Resize, Run.Encoder.ImagePixels);
        FeatureSet set = FeatureSet.Extract(encoder, data, views, threads: 2);
        using var cached = new CachedFeatures(set, 300, 10, 6);
        using var fresh = new AugmentedFeatures(encoder, config, data, views, threads: 2);
        float[] a = new float[300 * 32], b = new float[300 * 32], ta = new float[3000], tb = new float[3000];
        Assert.That((cached.BatchesPerEpoch, fresh.BatchesPerEpoch), Is.EqualTo((6, 6)));
        for (int number = 0; number < 8; number++)
        {
            cached.Next(number, a, ta);
            fresh.Next(number, b, tb);
            Assert.That(b, Is.EqualTo(a), $"batch {number}");
            Assert.That(tb, Is.EqualTo(ta), $"targets {number}");
        }
    }

    private ProbeOptions Options(ProbeConfig config) => new() { Run = _folder, Config = config, Threads = 2 };

    private string Save(PretrainConfig config, long step, ulong seed)
    {
        File.WriteAllText(Path.Combine(_folder, "config.json"), ConfigJson.Write(config));
        Directory.CreateDirectory(Path.Combine(_folder, "checkpoints"));
        using var backend = new CpuBackend(1);
        using var model = new MimModel(config);
        model.Params.Allocate(backend, seed);
        return Checkpoint.Save(Path.Combine(_folder, "checkpoints"), new CheckpointHeader(step, ""),
            [.. model.Params.Params.Select(p => NamedTensor.From("params/" + p.Name, p.Data, backend))]).File;
    }

    private sealed class Observer : IProbeObserver
    {
        public List<string> Notes { get; } = [];
        public int Epochs { get; private set; }
        public Action? OnProgress { get; init; }
        public void Progress(string what, int done, int total) => OnProgress?.Invoke();
        public void Epoch(string encoder, SideProbe probe, ProbeEpoch epoch, int epochs) => Epochs++;
        public void Note(string sentence) => Notes.Add(sentence);
    }
}
