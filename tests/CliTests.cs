using System.Text.Json;
using MimEngine.Cli;
using MimEngine.Engine.Data;
using MimEngine.Engine.Imaging;
using MimEngine.Engine.Pretraining;
using NUnit.Framework;

namespace MimEngine.Tests;

[TestFixture]
public class CliTests
{
    private static (int Code, string Out, string Error) Mim(params string[] args)
    {
        StringWriter output = new(), error = new();
        using StopSignal stop = new();
        int code = Program.Run(args, new Terminal(output, error, Live: false, stop));
        return (code, output.ToString(), error.ToString());
    }

    private static void Fails(int code, string says, params string[] args)
    {
        (int actual, string output, string error) = Mim(args);
        Assert.That(error.TrimEnd('\n', '\r'), Does.Contain(says).And.Not.Contain("\n").And.Not.Contain("   at "), output);
        Assert.That(actual, Is.EqualTo(code), error);
    }

    [TestCase("there is no option '--thread'; did you mean '--threads'", "devices", "--thread", "2")]
    [TestCase("there is no option '--thraeds'; did you mean '--threads'", "devices", "--thraeds=2")]
    [TestCase("there is no option '--zzz'. See 'mim devices --help'", "devices", "--zzz")]
    [TestCase("there is no command 'devises'; did you mean 'devices'", "devises")]
    [TestCase("there is no command 'frobnicate'. See 'mim --help'", "frobnicate")]
    [TestCase("there is no option '--hlep'; did you mean '--help'", "--hlep")]
    [TestCase("'x' is not a whole number of at least 1", "devices", "--threads", "x")]
    [TestCase("'0' is not a whole number of at least 1", "devices", "--threads", "0")]
    [TestCase("'2.5' is not a whole number", "devices", "--threads", "2.5")]
    [TestCase("--threads", "devices", "--threads")]
    [TestCase("there is no argument 'cpu'", "devices", "cpu")]
    public void A_wrong_command_line_is_one_sentence_and_exit_code_2(string says, params string[] args) => Fails(2, says, args);

    [Test]
    public void Help_teaches_with_examples_and_leaves_with_0()
    {
        foreach (string[] args in new[] { [], ["--help"], ["-h"], new[] { "-?" } })
        {
            (int code, string output, string error) = Mim(args);
            Assert.That((code, error), Is.EqualTo((0, "")));
            Assert.That(output, Does.Contain("mim pretrain").And.Contain("devices"));
        }
        (int devices, string help, _) = Mim("devices", "--help");
        Assert.That(devices, Is.Zero);
        Assert.That(help, Does.Contain("--threads").And.Contain("Examples:"));
        Assert.That(Mim("--version").Out, Does.Match(@"^\d+\.\d+\.\d+"));
    }

    [Test]
    public void Devices_names_the_cpu_and_says_why_others_are_missing()
    {
        (int code, string output, string error) = Mim("devices", "--threads", "3");
        Assert.That((code, error), Is.EqualTo((0, "")));
        Assert.That(output, Does.Match(@"(?m)^  cpu +yes +CPU, 3 threads"));
        Assert.That(output, Does.Match(@"(?m)^  cuda(:\d+ +yes| +no +.*(no GPU backend|NVIDIA driver))"));
        Assert.That(output, Does.Match(@"(?m)^Pictures: PNG"));
    }

    [Test]
    public void Check_shows_the_largest_error_of_each_stage_and_asks_for_a_device()
    {
        (int code, string output, string error) = Mim("check", "--device", "cpu", "--vit", "micro", "--batch", "2");
        Assert.That((code, error), Is.EqualTo((0, "")));
        Assert.That(output, Does.Match(@"(?m)^  backward +\d+ ").And.Match(@"(?m)^All \d+ tensors agree\."));
        (code, _, error) = Mim("check");
        Assert.That(code, Is.EqualTo(2));
        Assert.That(error, Does.Contain("--device is missing"));
    }

    [Test]
    public void A_live_terminal_shows_the_same_facts()
    {
        StringWriter output = new();
        using StopSignal stop = new();
        Assert.That(Program.Run(["devices"], new Terminal(output, TextWriter.Null, Live: true, stop)), Is.Zero);
        Assert.That(output.ToString(), Does.Contain("cpu").And.Contain("AVX").Or.Contain("scalar"));
    }

    [Test]
    public void Pack_writes_a_file_that_opens_like_its_source()
    {
        string folder = Directory.CreateTempSubdirectory("mim-pack-").FullName, pack = Path.Combine(folder, "a.mimpack");
        try
        {
            (int code, string output, string error) = Mim("pack", "--out", pack, "--loader-threads", "2");
            Assert.That((code, error), Is.EqualTo((0, "")));
            Assert.That(output, Does.Contain("8000 pictures, 10 classes"));
            foreach (Split split in new[] { Split.Train, Split.Test })
            {
                using IDataset packed = Datasets.Open(pack, split), source = Datasets.Open(null, split);
                RgbImage a = new(), b = new();
                Assert.That(packed.Count, Is.EqualTo(source.Count));
                foreach (int i in new[] { 0, source.Count / 2, source.Count - 1 })
                {
                    packed.Read(i, a);
                    source.Read(i, b);
                    Assert.That(a.Bytes.SequenceEqual(b.Bytes) && packed.Label(i) == source.Label(i), $"{split} {i}");
                }
            }
            Fails(1, "no such file or folder", "pack", "--data", Path.Combine(folder, "absent"), "--out", pack);
            Fails(2, "must end in .mimpack", "pack", "--out", Path.Combine(folder, "a.tar"));
            Fails(2, "is what --data names", "pack", "--data", pack, "--out", pack);
            Fails(1, "cannot be written", "pack", "--out", Path.Combine(folder, "no/such/a.mimpack"));
            Fails(2, "--out", "pack");
            Assert.That(Directory.GetFileSystemEntries(folder), Is.EqualTo(new[] { pack }), "failures leave nothing behind");
        }
        finally { Directory.Delete(folder, recursive: true); }
    }

    [Test]
    public void A_stopped_command_leaves_with_130_and_no_file()
    {
        string folder = Directory.CreateTempSubdirectory("mim-pack-").FullName;
        try
        {
            using StopSignal stop = new();
            stop.Request(130);
            StringWriter error = new();
            Terminal terminal = new(TextWriter.Null, error, Live: false, stop);
            Assert.That(Program.Run(["pack", "--out", Path.Combine(folder, "a.mimpack")], terminal), Is.EqualTo(130));
            Assert.That(Directory.GetFileSystemEntries(folder), Is.Empty);
            Assert.That(error.ToString(), Does.Not.Contain("   at "));
        }
        finally { Directory.Delete(folder, recursive: true); }
    }

    [TestCase(2, "masking.ratio is 1.2", "--set", "masking.ratio=1.2")]
    [TestCase(2, "did you mean 'masking'", "--set", "maskin.ratio=0.5")]
    [TestCase(2, "did you mean 'ratio'", "--set", "masking.ration=0.5")]
    [TestCase(2, "write PATH=VALUE", "--set", "masking.ratio")]
    [TestCase(2, "run.batch", "--set", "run.batch=many")]
    [TestCase(2, "known are fast, orb, sift.", "--set", "terms.0.weighting.detector=superpoint")]
    [TestCase(2, "optim.clipNorm: a number is expected.", "--set", "optim.clipNorm=yes")]
    [TestCase(2, "optim.clipEachPass: true or false is expected.", "--set", "optim.clipEachPass=1")]
    [TestCase(2, "terms[0].head: the object does not say its \"kind\"", "--set", "terms.0.head={\"patch\":8}")]
    [TestCase(2, "did you mean 'kamim'", "--recipe", "kamin")]
    [TestCase(2, "did you mean 'small'", "--vit", "smal")]
    [TestCase(2, "multiple of 8", "--pixels", "30")]
    [TestCase(2, "no such file", "--recipe", "absent.json")]
    [TestCase(1, "absent-data: there is no such file or folder", "--data", "absent-data")]
    [TestCase(1, "fewer than one batch", "--batch", "100000")]
    [TestCase(2, "its crops are 3,072,000,000 bytes, and a batch holds 2,147,483,647; use 699050 or less", "--batch", "1000000")]
    [TestCase(2, "there is f32 and bf16", "--precision", "f16")]
    public void A_setting_that_makes_no_sense_is_refused_before_anything_runs(int code, string says, params string[] args)
        => Fails(code, says, ["plan", .. args]);

    [Test]
    public void A_profile_tells_where_the_time_goes_in_a_table_and_in_json()
    {
        string file = Path.Combine(TestContext.CurrentContext.WorkDirectory, "profile.json");
        try
        {
            string[] small = ["profile", "--vit", "micro", "--batch", "16", "--updates", "2", "--threads", "2", "--precision", "bf16", "--out", file];
            (int code, string text, string error) = Mim(small);
            Assert.That(code, Is.Zero, error);
            using JsonDocument json = JsonDocument.Parse(File.ReadAllText(file));
            JsonElement[] rows = [.. json.RootElement.GetProperty("rows").EnumerateArray()];
            double ms = json.RootElement.GetProperty("millisecondsAnUpdate").GetDouble();
            double sum = rows.Sum(r => r.GetProperty("milliseconds").GetDouble()) + json.RootElement.GetProperty("hostMilliseconds").GetDouble()
                + json.RootElement.GetProperty("dataWaitMilliseconds").GetDouble();
            Assert.Multiple(() =>
            {
                Assert.That(text, Does.Contain("AttentionForward").And.Contain("(data wait)"));
                Assert.That(json.RootElement.GetProperty("precision").GetString(), Is.EqualTo("bf16"));
                Assert.That(sum, Is.EqualTo(ms).Within(0.02 * ms), "operations, host and waiting make the whole update");
                Assert.That(json.RootElement.GetProperty("roofs").GetProperty("gigaFlops").GetDouble(), Is.GreaterThan(0));
            });
        }
        finally { File.Delete(file); }
        Fails(1, "the profile was not written", "profile", "--vit", "micro", "--batch", "16", "--updates", "1", "--out", "no-such-folder/p.json");
    }

    [Test]
    public void A_recipe_file_is_read_strictly()
    {
        string file = Path.Combine(TestContext.CurrentContext.WorkDirectory, "recipe.json");
        void Refused(string json, string says)
        {
            File.WriteAllText(file, json);
            Fails(2, says, "plan", "--recipe", file);
        }
        try
        {
            Refused("""{"recipe":"kamim","maskng":{"ratio":0.5}}""", "did you mean 'masking'");
            Refused("""{"masking":{"ratio":0.5}}""", "lacks the key \"recipe\"");
            Refused("""{"recipe":"kamim",""", "is not a JSON object");
            Refused("""{"recipe":"kamin"}""", "kamin");
            Refused("""{"recipe":"kamim","masking":{"kind":"no-such","ratio":0.5}}""", "recipe.json");
        }
        finally { File.Delete(file); }
    }

    [Test]
    public void A_ViT_B_step_at_192_pixels_costs_75_GFLOP_an_image()
        => Assert.That(StepCost.Of(Recipes.Kamim()).Total, Is.EqualTo(77.4e9).Within(1).Percent,
            "12 blocks of 145 tokens, 768 wide: 25.8 forward, twice that backward");
}
