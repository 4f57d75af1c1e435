using System.Text.Json;
using MimEngine.Cli;
using MimEngine.Engine.Experiments;
using MimEngine.Engine.Imaging;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Runs with a teacher as a user looks at them: pictures of its attention, k-NN while training, probes of what is left when it is hidden.</summary>
[TestFixture]
public class EvaluationRunTests
{
    private string _root = "";

    [OneTimeSetUp]
    public void Train()
    {
        _root = Directory.CreateTempSubdirectory("mim-eval-").FullName;
        Mim("pretrain", "--recipe", "ibot-attmask-high", "--vit", "micro", "--batch", "8", "--steps", "4", "--seed", "3", "--out", In("run"),
            "--set", "run.knnEveryEpochs=0.001", "--set", "run.knnPictures=200", "--set", "run.logEverySteps=2");
    }

    [OneTimeTearDown]
    public void RemoveFolder() => Directory.Delete(_root, recursive: true);

    private string In(string name) => Path.Combine(_root, name);

    private static string Mim(params string[] args)
    {
        using StopSignal stop = new();
        StringWriter output = new(), error = new();
        int code = Program.Run(args, new Terminal(output, error, Live: false, stop));
        Assert.That(code, Is.Zero, error.ToString());
        return output.ToString();
    }

    [Test]
    public void A_run_with_a_teacher_draws_what_it_looks_at_and_would_hide()
    {
        string file = Directory.GetFiles(In("run/pictures"), "attention-*.png").Single();
        var image = new RgbImage();
        Png.Decode(File.ReadAllBytes(file), image, file);
        // Eight rows; five columns of 128-pixel cells with gaps of six.
        Assert.That(image.Width, Is.EqualTo(5 * 134 + 6));
        Assert.That(image.Height, Is.EqualTo(8 * 134 + 6));
        Assert.That(File.ReadLines(In("run/metrics.jsonl")).Any(), Is.True);
    }

    [Test]
    public void Neighbours_are_asked_while_the_run_trains()
    {
        JsonElement[] lines = [.. File.ReadLines(In("run/metrics.jsonl")).Select(l => JsonDocument.Parse(l).RootElement)];
        foreach (string name in new[] { "knn.cls", "knn.patches" })
        {
            double[] seen = [.. lines.Where(l => l.TryGetProperty(name, out _)).Select(l => l.GetProperty(name).GetDouble())];
            Assert.That(seen, Is.Not.Empty, name);
            Assert.That(seen, Has.All.InRange(0.05, 1.0), "ten classes of clothes: even raw pixels are told apart");
        }
    }

    [Test]
    public void Neighbours_take_the_memory_that_was_planned([Values] Precision precision)
    {
        PretrainConfig config = StepTests.Config("ibot");
        config = config with { Run = config.Run with { KnnEveryEpochs = 1, KnnPictures = 300, Precision = precision } };
        MemoryPlan plan = PretrainRun.Plan(config, "cpu", threads: 2, pictures: 6000), without = MemoryPlan.Of(config, threads: 2);
        using var cpu = new CpuBackend(2, precision: precision);
        using var pretrainer = new Pretrainer(cpu, config, plan.ArenaBytes);
        pretrainer.Pass(StepTests.Crops(config, 1), 0, firstPass: true);
        pretrainer.Update(1e-3);
        using var knn = new LiveKnn(cpu, config, data: null, threads: 1);
        Assert.That(knn.Look(pretrainer.Teacher!.Model.Params), Has.Count.EqualTo(2));
        // The bank of features and similarities is gone again after a look: 300 rows and 256, and 256 × 300 numbers.
        long bank = 4L * ((300 + 256) * config.Encoder.Width + 256 * 300), used = cpu.AllocatedBytes + cpu.OwnBytes;
        Assert.That(used + bank, Is.EqualTo(plan.TotalBytes).Within(2).Percent);
        Assert.That(plan.WatchBytes, Is.GreaterThan(without.TotalBytes / 20), "it is no rounding");
    }

    [Test]
    public void A_probe_scores_few_labels_and_black_patches()
    {
        string output = Mim("probe", "--run", In("run"), "--shots", "1,5", "--masked", "0,0.5", "--epochs", "2", "--data", SmallFolder(),
            "--set", "knn.neighbours=[5]");
        Assert.That(output, Does.Contain("Low-shot k-NN").And.Contain("50.00 % black"));
        JsonElement report = JsonDocument.Parse(File.ReadAllText(Directory.GetFiles(In("run/probes"), "*.json").Single())).RootElement;
        double top(string name, double ratio) => report.GetProperty("masked").EnumerateArray().Single(m => m.GetProperty("name").GetString() == name
            && m.GetProperty("encoder").GetString() == "pretrained" && m.GetProperty("ratio").GetDouble() == ratio).GetProperty("top1").GetDouble();
        double whole(string name) => report.GetProperty("rows").EnumerateArray().Single(m => m.GetProperty("name").GetString() == name
            && m.GetProperty("encoder").GetString() == "pretrained").GetProperty("top1").GetDouble();
        foreach (string name in new[] { "k-NN k=5", "linear" }) Assert.That(top(name, 0), Is.EqualTo(whole(name)), $"{name}: nothing black changes nothing");
        Assert.That(report.GetProperty("lowShot").EnumerateArray().Select(r => r.GetProperty("draws").GetArrayLength()), Has.All.EqualTo(5));
    }

    [Test]
    public void Masks_are_shown_of_an_untrained_teacher_and_of_a_runs()
    {
        string own = Mim("show-masks", "--recipe", "ibot-attmask-hint", "--vit", "micro", "--count", "3", "--out", In("untrained.png"));
        Assert.That(own, Does.Contain("untrained").And.Contain("high").And.Contain("hint"));
        string trained = Mim("show-masks", "--run", In("run"), "--count", "3", "--out", In("trained.png"));
        Assert.That(trained, Does.Contain("step 4"));
        Assert.That(File.ReadAllBytes(In("untrained.png")), Is.Not.EqualTo(File.ReadAllBytes(In("trained.png"))));
    }

    /// <summary>Forty pictures of two classes in each split: bright ones and dark ones.</summary>
    private string SmallFolder()
    {
        string root = In("pictures");
        if (Directory.Exists(root)) return root;
        foreach (string split in new[] { "train", "test" })
            foreach (string label in new[] { "bright", "dark" })
            {
                Directory.CreateDirectory(Path.Combine(root, split, label));
                for (int i = 0; i < 40; i++)
                {
                    var image = new RgbImage(32, 32);
                    for (int k = 0; k < image.Bytes.Length; k++) image.Bytes[k] = (byte)((label == "dark" ? 20 : 160) + (k * 7 + i * 13) % 80);
                    File.WriteAllBytes(Path.Combine(root, split, label, $"{i:00}.png"), Png.Encode(image));
                }
            }
        return root;
    }
}
