using System.Text.Json;
using MimEngine.Cli;
using MimEngine.Engine.Runs;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Fine-tuning as a user starts, stops and continues it.</summary>
[TestFixture]
public class FinetuneCliTests
{
    private const int Steps = 12;
    private string _root = "";

    [OneTimeSetUp]
    public void Pretrain()
    {
        _root = Directory.CreateTempSubdirectory("mim-ft-").FullName;
        foreach (string recipe in new[] { "mae", "simmim" })
            Works("pretrain", "--recipe", recipe, "--vit", "micro", "--batch", "16", "--steps", "3", "--seed", "5", "--out", In(recipe));
    }

    [OneTimeTearDown]
    public void RemoveFolder() => Directory.Delete(_root, recursive: true);

    private string In(string name) => Path.Combine(_root, name);

    private static (int Code, string Out, string Error) Mim(StopSignal stop, params string[] args)
    {
        StringWriter output = new(), error = new();
        return (Program.Run(args, new Terminal(output, error, Live: false, stop)), output.ToString(), error.ToString());
    }

    private static string Works(params string[] args)
    {
        using StopSignal stop = new();
        (int code, string output, string error) = Mim(stop, args);
        Assert.That((code, error), Is.EqualTo((0, "")), output);
        return output;
    }

    private static void Fails(int code, string says, params string[] args)
    {
        using StopSignal stop = new();
        (int actual, string output, string error) = Mim(stop, args);
        Assert.That(error.TrimEnd(), Does.Contain(says).And.Not.Contain("\n").And.Not.Contain("   at "), output);
        Assert.That(actual, Is.EqualTo(code), error);
    }

    private string[] Small(string from, string name) =>
    [
        "finetune", "--run", In(from), "--batch", "16", "--seed", "3", "--out", In(name), "--set", $"loop.steps={Steps}",
        "--set", "loop.checkpointEveryEpochs=0.005", "--set", "loop.testEveryEpochs=0.02", "--set", "loop.logEverySteps=2", "--set", "ema=0.9",
        "--set", "erasing=0.25", "--set", "mix.mixup=0.8", "--set", "mix.cutMix=1", "--set", "encoder.dropPath=0.1",
        "--set", "augment.randAugment={}",
    ];

    private byte[] Final(string name) => File.ReadAllBytes(Path.Combine(In(name), "checkpoints", Checkpoint.FileName(Steps)));

    [Test]
    public void A_run_leaves_its_report_and_the_untrained_start_beside_it()
    {
        string output = Works([.. Small("mae", "beside"), "--beside-untrained"]);
        Assert.That(output, Does.Contain("pretrained").And.Contain("untrained").And.Contain("points over the untrained start").And.Contain("img/s")
            .And.Contain("fresh: fc_norm.weight, fc_norm.bias, head.weight, head.bias, left aside: norm.weight, norm.bias"));
        using JsonDocument report = JsonDocument.Parse(File.ReadAllText(In("beside/finetune.json")));
        JsonElement rows = report.RootElement.GetProperty("rows");
        Assert.That(rows.EnumerateArray().Select(r => r.GetProperty("start").GetString()), Is.EqualTo(new[] { "pretrained", "untrained" }));
        foreach (JsonElement row in rows.EnumerateArray())
        {
            Assert.That(row.GetProperty("step").GetInt64(), Is.EqualTo(Steps));
            Assert.That(row.GetProperty("last").GetProperty("top1").GetDouble(), Is.InRange(0.0, 1.0));
            Assert.That(row.GetProperty("last").GetProperty("top5").GetDouble(), Is.GreaterThanOrEqualTo(row.GetProperty("last").GetProperty("top1").GetDouble()));
        }
        Assert.That(File.Exists(In("beside/untrained/checkpoints/" + Checkpoint.FileName(Steps))));
        string[] lines = File.ReadAllLines(In("beside/metrics.jsonl"));
        Assert.That(lines, Has.Length.GreaterThanOrEqualTo(Steps / 2));
        Assert.That(lines[^1], Does.Contain("test.top1").And.Contain("\"rate\""));
    }

    [Test]
    public void Thread_counts_change_no_bit()
    {
        Works([.. Small("mae", "one"), "--threads", "1"]);
        Works([.. Small("mae", "seven"), "--threads", "7", "--loader-threads", "4"]);
        Assert.That(Final("seven"), Is.EqualTo(Final("one")));
    }

    [Test]
    public void A_stopped_run_saves_says_how_to_continue_and_ends_with_the_same_bits()
    {
        Works(Small("simmim", "whole"));
        using (StopSignal stop = new())
        {
            Thread watcher = new(() =>
            {
                while (!File.Exists(In("part/metrics.jsonl")) || new FileInfo(In("part/metrics.jsonl")).Length == 0) Thread.Sleep(1);
                stop.Request(130);
            });
            watcher.Start();
            (int code, string output, _) = Mim(stop, Small("simmim", "part"));
            watcher.Join();
            Assert.That(code, Is.EqualTo(130), output);
            Assert.That(output, Does.Contain($"mim finetune --resume {In("part")}"));
        }
        Assert.That(Works("finetune", "--resume", In("part")), Does.Contain("continued at step"));
        Assert.That(Final("part"), Is.EqualTo(Final("whole")));
        long[] steps = [.. File.ReadLines(In("part/metrics.jsonl")).Select(l => JsonDocument.Parse(l).RootElement.GetProperty("step").GetInt64())];
        Assert.That(steps, Is.Ordered.Ascending.And.Unique);
        Assert.That(Works("finetune", "--resume", In("part")), Does.Contain("The whole report"), "a finished run is scored again");
    }

    [Test]
    public void A_fine_tuned_run_is_a_run_for_the_other_commands()
    {
        Works(Small("mae", "tuned"));
        string output = Works("probe", "--run", In("tuned"), "--only", "knn");
        Assert.That(output, Does.Contain("finetuned, step 12").And.Contain("k-NN k=20"));
        Assert.That(Works("analyze", "--run", In("tuned"), "--count", "16"),
            Does.Contain("finetuned, step 12: attention on 16 pictures").And.Contain("entropy of [cls]"));
        Assert.That(Directory.GetFiles(In("tuned/analysis"), "attention-*"), Has.Length.EqualTo(2), "JSON and one picture");
        Assert.That(Works("embed", "--run", In("tuned"), "--out", In("features"), "--pooling", "cls", "--split", "test"),
            Does.Contain("features.npy (2000, 64)").And.Contain("block 2, without the final norm"), "fine-tuned networks have a norm of the mean instead");
        Works("export", "--run", In("tuned"), "--out", In("exported"));
        Assert.That(Works("finetune", "--run", In("tuned"), "--batch", "16", "--set", "loop.steps=2", "--pixels", "48", "--out", In("again")),
            Does.Contain("pos_embed: 8 × 8 → 12 × 12 patches, bicubic"));
    }

    [Test]
    public void In_bfloat16_it_trains_as_in_float32_within_its_rounding()
    {
        string output = Works([.. Small("mae", "half"), "--precision", "bf16"]);
        Assert.That(output, Does.Contain("products in bf16").Or.Contain("bfloat16"), "the device says what multiplies");
        Works(Small("mae", "full"));
        double[] half = Losses("half"), full = Losses("full");
        Assert.That(half, Has.Length.EqualTo(full.Length).And.Not.EqualTo(full), "float32 would be a quiet detour");
        for (int i = 0; i < half.Length; i++) Assert.That(half[i], Is.EqualTo(full[i]).Within(0.01 * full[i]), $"line {i}");
    }

    private double[] Losses(string run) =>
        [.. File.ReadLines(In(run + "/metrics.jsonl")).Select(l => JsonDocument.Parse(l).RootElement.GetProperty("loss").GetDouble())];

    [Test]
    public void Wrong_words_are_told_in_one_sentence()
    {
        Fails(2, "finetune needs --run RUN", "finetune");
        Fails(2, "--preset mae-tf: there is no such preset; did you mean 'mae-ft'?", "finetune", "--run", In("mae"), "--preset", "mae-tf");
        Fails(1, "there is no such run folder or checkpoint", "finetune", "--run", In("nowhere"));
        Fails(2, "--epochs cannot go with --resume", "finetune", "--resume", In("mae"), "--epochs", "3");
        Fails(2, "the run's patches of 4 pixels do not tile it", "finetune", "--run", In("mae"), "--pixels", "30");
        Fails(2, "there is no 'layerDecai' here; did you mean 'layerDecay'?", "finetune", "--run", In("mae"), "--set", "layerDecai=1");
        Fails(2, "loop.batch is 9000, but there are 6000 training pictures", "finetune", "--run", In("mae"), "--batch", "9000", "--out", In("no"));
        Fails(2, "config.json", "finetune", "--resume", In("mae"));
        Assert.That(Directory.Exists(In("no")), Is.False, "what cannot work leaves no folder");
    }
}
