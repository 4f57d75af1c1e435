using System.Diagnostics;
using MimEngine.Cli;
using MimEngine.Engine.Imaging;
using MimEngine.Engine.Runs;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Runs as a user starts, stops, kills and continues them.</summary>
[TestFixture]
public class CliRunTests
{
    private static readonly string[] s_small =
    [
        "--vit", "micro", "--batch", "16", "--steps", "24", "--seed", "5", "--set", "run.checkpointEveryEpochs=0.005",
        "--set", "run.logEverySteps=2",
    ];

    private string _root = "";

    [SetUp]
    public void MakeFolder() => _root = Directory.CreateTempSubdirectory("mim-cli-").FullName;

    [TearDown]
    public void RemoveFolder() => Directory.Delete(_root, recursive: true);

    private string In(string name) => Path.Combine(_root, name);

    private static (int Code, string Out, string Error) Mim(StopSignal stop, params string[] args)
    {
        StringWriter output = new(), error = new();
        return (Program.Run(args, new Terminal(output, error, Live: false, stop)), output.ToString(), error.ToString());
    }

    private static void Fails(int code, string says, params string[] args)
    {
        using StopSignal stop = new();
        (int actual, string output, string error) = Mim(stop, args);
        Assert.That(error.TrimEnd(), Does.Contain(says).And.Not.Contain("\n").And.Not.Contain("   at "), output);
        Assert.That(actual, Is.EqualTo(code), error);
    }

    private string Pretrain(string name, params string[] more)
    {
        using StopSignal stop = new();
        (int code, string output, string error) = Mim(stop, ["pretrain", .. s_small, "--out", In(name), .. more]);
        Assert.That((code, error), Is.EqualTo((0, "")), output);
        return output;
    }

    private byte[] Final(string name) => File.ReadAllBytes(Path.Combine(In(name), "checkpoints", Checkpoint.FileName(24)));

    [Test]
    public void A_run_leaves_everything_that_is_promised_in_its_folder()
    {
        string output = Pretrain("run");
        Assert.That(output, Does.Contain("step 24/24").And.Contain("img/s").And.Contain("loss").And.Contain("data wait")
            .And.Contain("mim probe --run"));
        string[] files = [.. Directory.EnumerateFiles(In("run"), "*", SearchOption.AllDirectories)
            .Select(f => Path.GetRelativePath(In("run"), f).Replace('\\', '/'))];
        Assert.That(files, Is.SupersetOf(new[] { "config.json", "environment.json", "metrics.jsonl",
            "checkpoints/step-00000024.safetensors" }));
        Assert.That(files.Count(f => f.StartsWith("checkpoints/")), Is.EqualTo(2));
        Assert.That(files.Count(f => f.StartsWith("pictures/") && f.EndsWith(".png")), Is.EqualTo(1));
        Assert.That(files.Count(f => f.StartsWith("events.out.tfevents.")), Is.EqualTo(1));
        Assert.That(File.ReadAllLines(In("run/metrics.jsonl")), Has.Length.EqualTo(12));
    }

    [Test]
    public void Thread_counts_and_batches_read_ahead_change_no_bit()
    {
        Pretrain("one", "--threads", "1");
        Pretrain("seven", "--threads", "7", "--loader-threads", "4");
        Assert.That(Final("seven"), Is.EqualTo(Final("one")));
    }

    [TestCase(130)]
    [TestCase(143)]
    public void A_stopped_run_saves_says_how_to_continue_and_ends_with_the_same_bits(int signal)
    {
        Pretrain("whole");
        using (StopSignal stop = new())
        {
            Thread watcher = new(() =>
            {
                while (!File.Exists(In("part/metrics.jsonl")) || new FileInfo(In("part/metrics.jsonl")).Length == 0) Thread.Sleep(1);
                stop.Request(signal);
            });
            watcher.Start();
            (int code, string output, _) = Mim(stop, ["pretrain", .. s_small, "--out", In("part")]);
            watcher.Join();
            Assert.That(code, Is.EqualTo(signal), output);
            Assert.That(output, Does.Contain($"mim pretrain --resume {In("part")}"));
        }
        using (StopSignal stop = new())
        {
            (int code, string output, string error) = Mim(stop, "pretrain", "--resume", In("part"));
            Assert.That((code, error), Is.EqualTo((0, "")));
            Assert.That(output, Does.Contain("continued at step"));
        }
        Assert.That(Final("part"), Is.EqualTo(Final("whole")));
        Assert.That(Steps("part"), Is.Ordered.Ascending.And.Unique);
    }

    /// <summary>A teacher, centres, rising momentum and decay, masks from attention, prototypes that rest at first: two epochs of twelve steps.</summary>
    private static readonly string[] s_taught =
    [
        "--recipe", "ibot-attmask-hint", "--set", "terms.0.head.prototypes=48", "--set", "terms.0.head.hiddenWidth=32",
        "--set", "terms.0.head.bottleneck=16", "--set", "views.local=2",
    ];

    [TestCase("kamim", 5)]
    [TestCase("ibot-attmask-hint", 2)]
    public void A_run_killed_at_some_moments_and_resumed_ends_with_the_same_bits(string recipe, int kills)
    {
        string program = Path.Combine(AppContext.BaseDirectory, "mim.dll");
        Assume.That(File.Exists(program), "the program lies beside the tests");
        string[] more = recipe == "kamim" ? [] : s_taught;
        Pretrain("whole", [.. more, "--threads", "2"]);
        int killed = 0;
        for (int start = 0; start < 40; start++)
        {
            string[] args = Directory.Exists(In("killed")) && File.Exists(In("killed/config.json")) ? ["--resume", In("killed")]
                : [.. s_small, .. more, "--out", In("killed")];
            // killed while it was made
            if (args[0] != "--resume" && Directory.Exists(In("killed"))) Directory.Delete(In("killed"), recursive: true);
            using Process child = Process.Start(new ProcessStartInfo("dotnet",
                [program, "pretrain", .. args, "--threads", $"{1 + start % 3}"]) { RedirectStandardOutput = true, RedirectStandardError = true })!;
            if (killed < kills)
            {
                // Somewhere in the first steps after this start: every process makes progress, none gets to the end.
                while (!child.HasExited && child.StandardOutput.ReadLine() is { } line && !line.StartsWith("step ")) { }
                Thread.Sleep(killed * 3);
                if (!child.HasExited)
                {
                    child.Kill();
                    killed++;
                }
                child.WaitForExit();
                continue;
            }
            string output = child.StandardOutput.ReadToEnd(), error = child.StandardError.ReadToEnd();
            child.WaitForExit();
            Assert.That(child.ExitCode, Is.Zero, output + error);
            break;
        }
        Assert.That(killed, Is.EqualTo(kills));
        Assert.That(Final("killed"), Is.EqualTo(Final("whole")));
        Assert.That(Steps("killed"), Is.Ordered.Ascending.And.Unique, "no step is logged twice");
    }

    [Test]
    public void What_cannot_start_says_so_in_one_sentence()
    {
        File.WriteAllText(In("file"), "");
        Directory.CreateDirectory(In("photos"));
        File.WriteAllText(In("photos/notes.txt"), "");
        Fails(1, "device 'tpu' is unknown", ["pretrain", "--device", "tpu", .. s_small, "--out", In("r")]);
        Fails(1, "is a file", ["pretrain", .. s_small, "--out", In("file")]);
        Fails(1, "is not empty", ["pretrain", .. s_small, "--out", In("photos")]);
        Fails(1, "no such file or folder", ["pretrain", "--data", In("absent"), "--out", In("r")]);
        Fails(1, "holds no pictures", ["pretrain", "--data", In("photos"), "--out", In("r")]);
        Fails(1, "no such run folder", "pretrain", "--resume", In("absent"));
        Fails(1, "no config.json", "pretrain", "--resume", In("photos"));
        Fails(2, "--vit cannot go with --resume", "pretrain", "--resume", In("photos"), "--vit", "small");
        Fails(2, "--out cannot go with --resume", "pretrain", "--resume", In("photos"), "--out", In("x"));
        Assert.That(Directory.Exists(In("r")), Is.False, "what could not start leaves no folder");
    }

    [Test]
    public void Data_that_cannot_be_read_is_one_sentence()
    {
        Directory.CreateDirectory(In("texts"));
        for (int i = 0; i < 30; i++) File.WriteAllText(In($"texts/{i:00}.png"), "this is a text");
        Directory.CreateDirectory(In("idx"));
        File.WriteAllBytes(In("idx/train-images-idx3-ubyte"), [0, 0, 8, 3, 0, 0, 0, 100, 0, 0, 0, 28, 0, 0, 0, 28, .. new byte[1000]]);
        File.WriteAllBytes(In("idx/train-labels-idx1-ubyte"), [0, 0, 8, 1, 0, 0, 0, 100, .. new byte[100]]);
        string[] small = ["--vit", "micro", "--pixels", "32", "--batch", "8", "--epochs", "1", "--out", In("r")];
        Fails(1, ".png", ["pretrain", "--data", In("texts"), .. small]);
        Fails(1, "train-images-idx3-ubyte", ["pretrain", "--data", In("idx"), .. small]);
        File.WriteAllBytes(In("cut.mimpack"), new byte[10]);
        Fails(1, "cut.mimpack", ["pretrain", "--data", In("cut.mimpack"), .. small]);
        File.WriteAllText(In("recipe.json"), """{"recipe":"kamim","masking":{"ratoi":0.5}}""");
        Fails(2, "did you mean 'ratio'", ["pretrain", "--recipe", In("recipe.json"), .. small]);
    }

    [Test]
    public void Damaged_checkpoints_are_passed_over_or_refused_never_ignored()
    {
        Pretrain("run");
        string[] saved = [.. Directory.EnumerateFiles(In("run/checkpoints")).Order()];
        void Flip(string file)
        {
            byte[] bytes = File.ReadAllBytes(file);
            bytes[bytes.Length / 2] ^= 1;
            File.WriteAllBytes(file, bytes);
        }
        byte[] good = File.ReadAllBytes(saved[1]);
        Flip(saved[1]);
        using (StopSignal stop = new())
        {
            (int code, string output, string error) = Mim(stop, "pretrain", "--resume", In("run"));
            Assert.That(code, Is.Zero, error);
            Assert.That(error, Does.Contain(Path.GetFileName(saved[1])).And.Contain("damaged"));
            Assert.That(output, Does.Contain("continued at step 22"));
        }
        Assert.That(File.ReadAllBytes(saved[1]), Is.EqualTo(good), "the lost steps are trained again to the same bits");
        foreach (string file in saved) Flip(file);
        Fails(1, "none of its 2 checkpoints", "pretrain", "--resume", In("run"));
    }

    private long[] Steps(string run) => [.. File.ReadAllLines(Path.Combine(In(run), "metrics.jsonl"))
        .Select(l => System.Text.Json.JsonDocument.Parse(l).RootElement.GetProperty("step").GetInt64())];

    [Test]
    public void Probe_sets_the_pretrained_encoder_beside_a_random_one()
    {
        Pretrain("run");
        using StopSignal stop = new();
        (int code, string output, string error) = Mim(stop, "probe", "--run", In("run"), "--epochs", "2");
        Assert.That((code, error), Is.EqualTo((0, "")));
        foreach (string encoder in new[] { "pretrained", "random-init" })
            Assert.That(output, Does.Match($@"(?m)^  k-NN k=20 +{encoder} +\d+\.\d\d").And.Match($@"(?m)^  linear +{encoder} +\d+\.\d\d"));
        Assert.That(output, Does.Contain("standard errors").And.Contain("after block 2 of 2"));
        string report = Directory.EnumerateFiles(In("run/probes"), "*.json").Single();
        using System.Text.Json.JsonDocument json = System.Text.Json.JsonDocument.Parse(File.ReadAllText(report));
        Assert.That(json.RootElement.GetProperty("step").GetInt64(), Is.EqualTo(24));

        Fails(2, "this encoder has 2", "probe", "--run", In("run"), "--block", "3");
        Fails(2, "did you mean 'kamim-lp'", "probe", "--run", In("run"), "--probe", "kamim-pl");
        Fails(2, "write knn or linear", "probe", "--run", In("run"), "--only", "both");
        Fails(2, "did you mean 'pooling'", "probe", "--run", In("run"), "--set", "poling=cls");
        Fails(1, "no such run folder", "probe", "--run", In("absent"));
        Fails(2, "'--run' is required", "probe");
    }

    [Test]
    public void Show_masks_draws_the_first_crops_of_the_run()
    {
        using StopSignal stop = new();
        (int code, string output, string error) = Mim(stop, "show-masks", "--count", "3", "--out", In("ring.png"));
        Assert.That((code, error), Is.EqualTo((0, "")));
        Assert.That(output, Does.Match(@"(?m)^  #\d+ +10 of 16 +\d+\.\d+ +\d+\.\d+$"), "⌈16·0.6⌉ cells of one patch each");
        Assert.That(Mim(stop, "show-masks", "--count", "3", "--recipe", "simmim", "--out", In("simmim.png")).Out,
            Does.Match(@"(?m)^  #\d+ +10 of 16 +1\.00 +1\.00$"));
        byte[] ring = File.ReadAllBytes(In("ring.png")), again;
        RgbImage sheet = new();
        Png.Decode(ring, sheet, "ring.png");
        Assert.That((sheet.Width, sheet.Height), Is.EqualTo((4 * 134 + 6, 3 * 134 + 6)), "4 columns of 32 px, enlarged 4 times, 6 between");
        Mim(stop, "show-masks", "--count", "3", "--out", In("ring.png"));
        again = File.ReadAllBytes(In("ring.png"));
        Assert.That(again, Is.EqualTo(ring));
        Fails(1, "the picture was not written", "show-masks", "--out", In("no/such/a.png"));
    }
}
