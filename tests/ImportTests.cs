using System.Buffers.Binary;
using System.Text;
using MimEngine.Cli;
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

/// <summary>Weights from elsewhere into a run, and a run's weights out again.</summary>
[TestFixture]
public class ImportTests
{
    private const int Width = 32, Heads = 2, Patch = 4, Grid = 4;
    private static readonly string s_goldens = Path.Combine(TestContext.CurrentContext.TestDirectory, "Goldens");
    private string _folder = "";

    [SetUp]
    public void MakeFolder() => _folder = Directory.CreateTempSubdirectory("mim-import-").FullName;

    [TearDown]
    public void RemoveFolder() => Directory.Delete(_folder, recursive: true);

    private string In(string name) => Path.Combine(_folder, name);

    [TestCase("mae_checkpoint-3", "model", "model/", NameLayout.Timm)]
    [TestCase("mae_release_style", "model", "model/", NameLayout.Timm)]
    [TestCase("ibot_teacher_backbone", "state_dict", "state_dict/", NameLayout.Timm)]
    [TestCase("ibot_checkpoint", "teacher/backbone.", "teacher/backbone.", NameLayout.Timm)]
    [TestCase("simmim_ckpt_epoch_7", "model/encoder.", "model/encoder.", NameLayout.Beit)]
    public void An_encoder_of_another_project_arrives_bit_for_bit(string name, string place, string prefix, NameLayout layout)
    {
        string golden = Path.Combine(s_goldens, "07_checkpoints", name);
        ImportReport report = ImportRun.Execute(new ImportOptions { Weights = golden + ".pth", Out = In("run") });
        Assert.That((report.Place, report.Layout, report.Missing, report.Unexpected), Is.EqualTo((place, layout, Array.Empty<string>(), Array.Empty<string>())));
        using SafeTensors truth = SafeTensors.Open(golden + ".expected.safetensors");
        using TrainedRun run = TrainedRun.Open(In("run"));
        Dictionary<string, float[]> ours = run.EncoderValues();
        Assert.That(ours.Keys, Is.EquivalentTo(report.Matched.Keys));
        Assert.That(report.Matched.Values.Concat(report.LeftAside), Is.SupersetOf(truth.Entries.Where(e => !e.Name.EndsWith("v_bias")).Select(e => e.Name)));
        foreach ((string our, string their) in report.Matched)
        {
            float[] expected = truth.Floats(their);
            if (their.EndsWith(".q_bias")) expected = [.. expected, .. new float[expected.Length], .. truth.Floats(their.Replace(".q_bias", ".v_bias"))];
            Assert.That(ours[our], Is.EqualTo(expected), our);
            Assert.That(their, Does.StartWith(prefix));
        }
        Assert.That(ConfigJson.Read<ImportReport>(File.ReadAllText(In("run/import.json")), "import.json").Matched, Is.EqualTo(report.Matched));
    }

    [Test]
    public void The_student_of_an_iBOT_file_is_read_on_request()
    {
        string file = Path.Combine(s_goldens, "07_checkpoints", "ibot_checkpoint.pth");
        ImportReport report = ImportRun.Execute(new ImportOptions { Weights = file, Out = In("run"), Key = "student" });
        Assert.That(report.Place, Is.EqualTo("student/module.backbone."));
        Assert.That(report.Matched["mask_token"], Is.EqualTo("student/module.backbone.masked_embed"));
        Refused("there is no encoder under 'pupil'; the file has one under 'student/module.backbone.', 'teacher/backbone.'",
            new ImportOptions { Weights = file, Out = In("other"), Key = "pupil" });
    }

    [Test]
    public void An_imported_encoder_computes_what_its_authors_code_computes()
    {
        using Golden golden = Golden.Open("05_ibot_attmask/vit_features_interpolate");
        string file = Path.Combine(s_goldens, "05_ibot_attmask", "vit_features_interpolate.safetensors");
        ImportReport report = ImportRun.Execute(new ImportOptions { Weights = file, Out = In("run"), Wish = new EncoderWish { Heads = golden.Int("heads") } });
        VitConfig vit = report.Encoder;
        Assert.That((vit.Width, vit.Depth, vit.ImagePixels, vit.PatchPixels, vit.Hidden), Is.EqualTo((24, 2, 32, 8, 48)));
        using TrainedRun run = TrainedRun.Open(In("run"));
        using var backend = new CpuBackend(1);
        float[] tokens = golden.Tensors.Floats("out.x0.tokens"), cls = new float[24], mean = new float[24], expected = new float[24];
        foreach ((Pooling pooling, float[] into) in new[] { (Pooling.Cls, cls), (Pooling.MeanPatches, mean) })
        {
            using var encoder = new FrozenEncoder(backend, vit, new FeaturePlace(2, true, pooling));
            run.LoadInto(encoder);
            encoder.Encode(into, golden.Tensors.Floats("in.x0").AsSpan(), 1);
        }
        for (int i = 24; i < tokens.Length; i++) expected[i % 24] += tokens[i] / 16;
        golden.AssertClose("out.x0.tokens", "[cls]", cls, tokens.AsSpan(0, 24));
        golden.AssertClose("out.x0.tokens", "mean of patches", mean, expected);
    }

    [TestCase(true)]
    [TestCase(false)]
    public void An_export_imports_again_to_the_same_bits(bool relative)
    {
        string file = relative ? Path.Combine(s_goldens, "07_checkpoints", "simmim_ckpt_epoch_7.pth") : Save(Encoder(layerScale: true), "vit.safetensors");
        ImportReport first = ImportRun.Execute(new ImportOptions { Weights = file, Out = In("a"), Wish = new EncoderWish { LayerNormEps = 1e-5f } });
        ExportReport export = ExportRun.Execute(In("a"), In("exported"));
        Assert.That(export.Architecture, Does.StartWith(relative ? "beit_" : "vit_"));
        ImportReport second = ImportRun.Execute(new ImportOptions { Weights = In("exported"), Out = In("b") });
        using TrainedRun a = TrainedRun.Open(In("a")), b = TrainedRun.Open(In("b"));
        Dictionary<string, float[]> before = a.EncoderValues(), after = b.EncoderValues();
        foreach (string name in before.Keys.Where(n => n != "mask_token")) Assert.That(after[name], Is.EqualTo(before[name]), name);
        Assert.That(second.Encoder, Is.EqualTo(first.Encoder), "heads and epsilon come back out of config.json");
        Assert.That(Assert.Throws<RunException>(() => ExportRun.Execute(In("a"), In("exported")))!.Message, Does.Contain("exists already"));
        using SafeTensors exported = SafeTensors.Open(In("exported/model.safetensors"));
        Assert.That(exported["patch_embed.proj.weight"].Shape, Has.Length.EqualTo(4));
        Assert.That(exported["cls_token"].Shape, Is.EqualTo(new long[] { 1, 1, first.Encoder.Width }));
        Assert.That(exported.Metadata["format"], Is.EqualTo("pt"));
    }

    [Test]
    public void Tables_are_resized_to_the_pictures_a_user_wants_and_the_report_says_so()
    {
        string file = Save(Encoder(), "vit.safetensors");
        ImportReport report = ImportRun.Execute(new ImportOptions { Weights = file, Out = In("run"), Wish = new EncoderWish { Pixels = 24 } });
        Assert.That(report.Resized, Is.EqualTo(new[] { "pos_embed: 4 × 4 → 6 × 6 patches, bicubic" }));
        using TrainedRun run = TrainedRun.Open(In("run"));
        using SafeTensors original = SafeTensors.Open(file);
        Assert.That(run.EncoderValues()["pos_embed"], Is.EqualTo(PositionTable.Resize(original.Floats("pos_embed"), Width, 4, 6)));

        file = Path.Combine(s_goldens, "01_simmim", "finetune_remap.safetensors");
        report = ImportRun.Execute(new ImportOptions { Weights = file, Key = "ckpt.encoder.", Out = In("simmim"), Wish = new EncoderWish { Pixels = 48 } });
        Assert.That(report.Resized.Single(), Does.StartWith("rel_pos_bias.relative_position_bias_table: 4 × 4 → 6 × 6 patches"));
        using Golden golden = Golden.Open("01_simmim/finetune_remap");
        using TrainedRun simmim = TrainedRun.Open(In("simmim"));
        golden.AssertClose("param.blocks.0.attn.relative_position_bias_table",
            simmim.EncoderValues()["rel_pos_bias.relative_position_bias_table"]);
    }

    private static IEnumerable<TestCaseData> Misfits()
    {
        yield return Case("'patch_embed.proj.weight' (32, 4, 4, 4) reads pictures of 4 channels, but pictures here have 3: (32, 3, 4, 4) would fit",
            e => e["patch_embed.proj.weight"] = ([32, 4, 4, 4], new float[32 * 64]));
        yield return Case("'patch_embed.proj.weight' (32, 1, 4, 4) reads pictures of 1 channel,", e => e["patch_embed.proj.weight"] = ([32, 1, 4, 4], new float[512]));
        yield return Case("patches of 4 × 8 px; square ones would fit", e => e["patch_embed.proj.weight"] = ([32, 3, 4, 8], new float[32 * 96]));
        yield return Case("'pos_embed' (1, 20, 32) has 20 tokens, which are not [cls] and a square of patches: (1, 17, 32) or (1, 26, 32) would fit",
            e => e["pos_embed"] = ([1, 20, 32], new float[640]));
        yield return Case("'pos_embed' (1, 17, 48) has vectors of 48 numbers, but the patch embedding makes 32 channels", e => e["pos_embed"] = ([1, 17, 48], new float[816]));
        yield return Case("'cls_token' (1, 1, 48) has 48 numbers", e => e["cls_token"] = ([1, 1, 48], new float[48]));
        yield return Case("'blocks.1.attn.qkv.weight' is (144, 48), its parameter is (96, 32): encoder.width=48 would fit",
            e => e["blocks.1.attn.qkv.weight"] = ([144, 48], new float[144 * 48]));
        yield return Case("'blocks.1.mlp.fc1.weight' is (64, 32), its parameter is (128, 32): encoder.mlpRatio=2 would fit",
            e => e["blocks.1.mlp.fc1.weight"] = ([64, 32], new float[64 * 32]));
        yield return Case("'blocks.0.attn.proj.weight' is (16, 64), its parameter is (32, 32)", e => e["blocks.0.attn.proj.weight"] = ([16, 64], new float[1024]));
        yield return Case("there is no blocks.1.attn.proj.bias", e => e.Remove("blocks.1.attn.proj.bias"));
        yield return Case("has no cls_token; encoders without [cls] are not read", e => e.Remove("cls_token"));
        yield return Case("no parameter takes 'blocks.0.attn.q_norm.weight'; the encoder may compute something else than ours; --lenient",
            e => e["blocks.0.attn.q_norm.weight"] = ([16], new float[16]));
        yield return Case("no parameter takes 'blocks.2.mlp.fc1.bias'", e => e["blocks.2.mlp.fc1.bias"] = ([128], new float[128]));
        yield return Case("'norm.weight' holds NaN or infinity", e => e["norm.weight"] = ([32], [.. Enumerable.Repeat(float.NaN, 32)]));
        yield return Case("none of its 20 tensors is a ViT's patch embedding (patch_embed.proj.weight); the first is", e =>
        {
            foreach (string name in e.Keys.Where(n => n.StartsWith("patch") || n.StartsWith("blocks.1") || n.StartsWith("pos")).ToArray()) e.Remove(name);
            for (int i = e.Count; i < 20; i++) e[$"layer{i}.weight"] = ([2], new float[2]);
        });
    }

    private static TestCaseData Case(string says, Action<Dictionary<string, (long[] Shape, float[] Values)>> change)
        => new TestCaseData(says, change).SetArgDisplayNames(says.Length <= 60 ? says : says[..60]);

    [TestCaseSource(nameof(Misfits))]
    public void An_encoder_that_is_none_of_ours_is_refused_with_the_tensor_and_what_would_fit(string says,
        Action<Dictionary<string, (long[] Shape, float[] Values)>> change)
    {
        Dictionary<string, (long[], float[])> encoder = Encoder();
        change(encoder);
        Refused(says, new ImportOptions { Weights = Save(encoder, "bad.safetensors"), Out = In("run") });
    }

    [Test]
    public void An_encoder_of_KAMIM_arrives_with_one_qkv_and_its_own_epsilon()
    {
        using Golden golden = Golden.Open("01_kamim_model/kamim_fast_p16");
        string file = Path.Combine(s_goldens, "01_kamim_model", "kamim_fast_p16.safetensors");
        int heads = golden.Int("num_attention_heads");
        Refused("it holds several encoders, under 'grad.vit.', 'param.vit.'", new ImportOptions { Weights = file, Out = In("run") });
        ImportReport report = ImportRun.Execute(new ImportOptions
        {
            Weights = file, Out = In("run"), Key = "param.vit.", Wish = new EncoderWish { Heads = heads },
        });
        Assert.That((report.Layout, report.Place, report.Encoder.LayerNormEps), Is.EqualTo((NameLayout.HuggingFace, "param.vit.", 1e-12f)));
        using TrainedRun run = TrainedRun.Open(In("run"));
        Dictionary<string, float[]> expected = WeightNames.FromKamim(WeightNames.Read(golden.Tensors, "param.")), found = run.EncoderValues();
        foreach (string name in expected.Keys.Where(n => !n.StartsWith("decoder"))) Assert.That(found[name], Is.EqualTo(expected[name]), name);
    }

    [Test]
    public void The_fixed_table_of_MAE_is_recognised_and_a_learned_one_is_not()
    {
        Dictionary<string, (long[] Shape, float[] Values)> mae = Encoder();
        RngSequence none = default;
        new SinCosTable(Width, Grid).Fill(mae["pos_embed"].Values, ref none);
        VitConfig of(Dictionary<string, (long[], float[])> encoder, string name)
            => ImportRun.Execute(new ImportOptions { Weights = Save(encoder, name), Out = In(name + "-run") }).Encoder;
        Assert.That(of(mae, "mae"), Has.Property("Positions").EqualTo(Positions.SinCos).And.Property("Init").EqualTo(VitInit.Mae));
        Assert.That(of(Encoder(), "timm"), Has.Property("Positions").EqualTo(Positions.Learned).And.Property("Corruption").EqualTo(Corruption.Drop));
        Dictionary<string, (long[] Shape, float[] Values)> ibot = Encoder();
        ibot["masked_embed"] = ([1, Width], new float[Width]);
        Assert.That(of(ibot, "ibot").Corruption, Is.EqualTo(Corruption.Replace));
    }

    private static IEnumerable<TestCaseData> Wishes()
    {
        yield return new TestCaseData(new EncoderWish { Size = "small" }, "patch_embed.proj.weight is 32 wide, so its encoder is 32 wide and 2 deep, but --vit small is "
            + "384 wide and 12 deep; leave --vit out");
        yield return new TestCaseData(new EncoderWish { Heads = 5 }, "5 heads do not divide the width 32");
        yield return new TestCaseData(new EncoderWish { Pixels = 18 }, "has patches of 4 px, which do not tile 18 px; 16 or 20 would fit");
        yield return new TestCaseData(new EncoderWish { Pixels = 3 }, "which do not tile 3 px; 4 would fit");
    }

    [TestCaseSource(nameof(Wishes))]
    public void A_wish_that_the_file_cannot_fulfil_is_answered_with_one_it_can(EncoderWish wish, string says)
        => Refused(says, new ImportOptions { Weights = Save(Encoder(), "vit.safetensors"), Out = In("run"), Wish = wish });

    [Test]
    public void Heads_decoders_and_second_networks_are_left_aside_and_unknown_tensors_only_on_request()
    {
        Dictionary<string, (long[], float[])> moco = [];
        foreach ((string name, (long[], float[]) tensor) in Encoder()) moco["module.base_encoder." + name] = moco["module.momentum_encoder." + name] = tensor;
        moco["module.base_encoder.head.0.weight"] = ([4, 32], new float[128]);
        moco["module.predictor.0.weight"] = ([4, 4], new float[16]);
        ImportReport report = ImportRun.Execute(new ImportOptions { Weights = Save(moco, "moco.safetensors"), Out = In("moco") });
        Assert.That((report.Place, report.Matched.Count, report.LeftAside.Count), Is.EqualTo(("module.base_encoder.", Encoder().Count, Encoder().Count + 2)));

        Dictionary<string, (long[], float[])> odd = Encoder();
        odd["blocks.0.attn.q_norm.weight"] = ([16], new float[16]);
        report = ImportRun.Execute(new ImportOptions { Weights = Save(odd, "odd.safetensors"), Out = In("odd"), Lenient = true });
        Assert.That(report.Unexpected, Is.EqualTo(new[] { "blocks.0.attn.q_norm.weight" }));

        Dictionary<string, (long[], float[])> two = [];
        foreach ((string name, (long[], float[]) tensor) in Encoder()) two["a." + name] = two["b." + name] = tensor;
        Refused("it holds several encoders, under 'a.', 'b.'; name one of them with --key", new ImportOptions { Weights = Save(two, "two.safetensors"), Out = In("two") });
        Assert.That(ImportRun.Execute(new ImportOptions { Weights = In("two.safetensors"), Out = In("two"), Key = "b" }).Place, Is.EqualTo("b."));
    }

    [Test]
    public void An_untrained_network_is_noticed_and_a_trained_one_is_not()
    {
        Dictionary<string, (long[] Shape, float[] Values)> fresh = Encoder();
        RngSequence random = new Rng(4, RandomStream.Init, 9).Start();
        foreach (string name in fresh.Keys.Where(n => n.EndsWith("weight") && fresh[n].Shape.Length == 2).ToArray())
            for (int i = 0; i < fresh[name].Values.Length; i++) fresh[name].Values[i] = (float)(0.02 * random.Normal());
        fresh["blocks.0.attn.qkv.bias"] = ([96], new float[96]);
        ImportReport report = ImportRun.Execute(new ImportOptions { Weights = Save(fresh, "fresh.safetensors"), Out = In("fresh") });
        Assert.That(report.LooksUntrained);
        Assert.That(report.LooksFresh, Does.Contain(new FreshTensor("blocks.1.mlp.fc1.weight", "normal 0.02")).And.Contain(new FreshTensor("blocks.0.attn.qkv.bias", "all 0")));
        Assert.That(ImportRun.Execute(new ImportOptions { Weights = Save(Encoder(), "t.safetensors"), Out = In("trained") }).LooksUntrained, Is.False);

        float[] uniform = [.. Enumerable.Range(0, 4096).Select(_ => random.Uniform(-1, 1) * MathF.Sqrt(6f / 128))];
        Assert.That(FreshLook.Of(uniform, [64, 64]), Is.EqualTo("uniform within Xavier's bound"));
        Assert.That(FreshLook.Of([.. uniform.Select(v => v * 1.05f)], [64, 64]), Is.Null);
        Assert.That(FreshLook.Of([.. uniform.Select(v => v + 0.05f)], [64, 64]), Is.Null);
    }

    [Test]
    public void The_command_line_imports_probes_embeds_and_exports_and_says_what_is_wrong()
    {
        string file = Save(Encoder(), "vit.safetensors"), run = In("run");
        Assert.That(Mim(0, "import", "--weights", file, "--out", run, "--heads", "4").Out, Does.Match("matched +30\\b").And.Contain("4 heads").And.Contain("mim probe --run"));
        Assert.That(Mim(1, "import", "--weights", file, "--out", run).Error, Does.Contain("holds a run already"));
        Assert.That(Mim(1, "import", "--weights", run, "--out", In("x")).Error, Does.Contain("is a run of this program already"));
        Assert.That(Mim(1, "import", "--weights", In("none.pth"), "--out", In("x")).Error, Does.Contain("none.pth: no such file."));
        Assert.That(Mim(1, "import", "--weights", _folder, "--out", In("x")).Error, Does.Contain("without model.safetensors"));
        Assert.That(Mim(2, "import", "--weights", file, "--out", In("x"), "--vit", "smal").Error, Does.Contain("did you mean 'small'"));
        Assert.That(Mim(2, "import", "--weights", file).Error, Does.Contain("--out"));
        string evil = Path.Combine(s_goldens, "07_checkpoints", "malicious_os_system.pth");
        Assert.That(Mim(1, "import", "--weights", evil, "--out", In("x")).Error, Does.Contain("os.system").And.Contain("nothing of it was run"));
        Assert.That(Directory.Exists(In("x")), Is.False, "a refused file leaves no folder");

        Mim(0, "embed", "--run", run, "--split", "test", "--out", In("features"), "--pooling", "cls", "--block", "1", "--threads", "2");
        (int rows, int columns, float[] values) = Npy(In("features/features.npy"));
        Assert.That((rows, columns), Is.EqualTo((2000, Width)));
        using (IDataset data = Datasets.Open(null, Split.Test))
        using (TrainedRun trained = TrainedRun.Open(run))
        using (var backend = new CpuBackend(1))
        using (var encoder = new FrozenEncoder(backend, trained.Config.Encoder, new FeaturePlace(1, true, Pooling.Cls)))
        {
            trained.LoadInto(encoder);
            FeatureSet set = FeatureSet.Extract(encoder, data, new AugmentedViews(Engine.Imaging.AugmentConfig.Resize, 16), threads: 1);
            Assert.That(values, Is.EqualTo(set.Values), "the probe's own features");
            string[] index = File.ReadAllLines(In("features/index.csv"));
            Assert.That(index, Has.Length.EqualTo(2001));
            Assert.That(index[0], Is.EqualTo("row,picture,label,class"));
            Assert.That(index[8], Is.EqualTo($"7,picture 7 of {data.Name},{set.Labels[7]},{data.Classes[set.Labels[7]]}"));
        }
        Assert.That(Mim(2, "embed", "--run", run, "--out", In("f"), "--block", "3").Error, Does.Contain("this encoder has 2; choose 1 … 2"));
        Assert.That(Mim(2, "embed", "--run", run, "--out", In("f"), "--pooling", "mean-patch").Error, Does.Contain("did you mean 'mean-patches'"));
        Assert.That(Mim(2, "embed", "--run", run, "--out", In("f"), "--pooling", "ab-milp").Error, Does.Contain("needs more than this encoder"));
        Mim(0, "embed", "--run", run, "--split", "test", "--out", In("tokens"), "--pooling", "tokens", "--block", "1", "--threads", "2");
        (int pictures, int numbers, float[] tokens) = Npy(In("tokens/features.npy"));
        Assert.That((pictures, numbers), Is.EqualTo((2000, (1 + Grid * Grid) * Width)));
        for (int i = 0; i < 2000; i += 100)
            Assert.That(tokens.AsSpan(i * numbers, Width).ToArray(), Is.EqualTo(values.AsSpan(i * Width, Width).ToArray()), "[cls] is the first token");
        Assert.That(Mim(1, "embed", "--run", In("none"), "--out", In("f")).Error, Does.Contain("no such run folder"));
        Assert.That(Mim(1, "embed", "--run", run, "--data", In("nowhere"), "--out", In("f")).Error, Does.Contain("nowhere"));

        Assert.That(Mim(0, "export", "--run", run, "--out", In("exported")).Out, Does.Contain("30 tensors").And.Contain("vit_tiny_patch16_224"));
        Assert.That(Mim(1, "export", "--run", run, "--out", In("exported")).Error, Does.Contain("exists already"));
        Assert.That(Mim(0, "probe", "--run", run, "--only", "knn").Out, Does.Contain("random-init"));
        string json = File.ReadAllText(In("run/config.json"));
        File.WriteAllText(In("run/config.json"), json.Replace("\"imagePixels\": 16", "\"imagePixels\": 24"));
        Assert.That(Mim(1, "probe", "--run", run).Error,
            Does.Contain("'pos_embed' is (17, 32), its parameter is (37, 32): a table of 4 × 4 patches, which encoder.imagePixels=16 would fit"));
    }

    private static (string Out, string Error) Mim(int code, params string[] args)
    {
        StringWriter output = new(), error = new();
        using StopSignal stop = new();
        Assert.That(Program.Run(args, new Terminal(output, error, Live: false, stop)), Is.EqualTo(code), $"{string.Join(' ', args)}: {error}");
        if (code != 0) Assert.That(error.ToString().TrimEnd(), Does.Not.Contain("\n").And.StartsWith("mim"), "one sentence");
        return (output.ToString(), error.ToString());
    }

    private void Refused(string says, ImportOptions options)
    {
        string message = Assert.Throws<WeightFileException>(() => ImportRun.Execute(options))!.Message;
        Assert.That(message, Does.Contain(says).And.StartWith(options.Weights + ": "));
        Assert.That(Directory.Exists(options.Out), Is.False, "nothing was written");
    }

    private string Save(Dictionary<string, (long[] Shape, float[] Values)> tensors, string name)
    {
        using FileStream file = File.Create(In(name));
        SafeTensorsWriter.Write(file, [.. tensors.Select(t => NamedTensor.From(t.Key, t.Value.Values, t.Value.Shape))]);
        return In(name);
    }

    /// <summary>A small ViT under timm's names, with numbers that no initialisation draws.</summary>
    private static Dictionary<string, (long[] Shape, float[] Values)> Encoder(bool layerScale = false)
    {
        Dictionary<string, (long[], float[])> e = [];
        RngSequence random = new Rng(3, RandomStream.Init, 5).Start();
        void Add(string name, params long[] shape)
            => e.Add(name, (shape, [.. Enumerable.Range(0, (int)shape.Aggregate((a, b) => a * b)).Select(_ => (float)(0.3 * random.Normal()))]));
        void Pair(string name, params long[] shape) { Add(name + ".weight", shape); Add(name + ".bias", shape[0]); }
        Add("cls_token", 1, 1, Width);
        Add("pos_embed", 1, 1 + Grid * Grid, Width);
        Pair("patch_embed.proj", Width, 3, Patch, Patch);
        for (int block = 0; block < 2; block++)
        {
            string b = $"blocks.{block}.";
            Pair(b + "norm1", Width);
            Pair(b + "norm2", Width);
            Pair(b + "attn.qkv", 3 * Width, Width);
            Pair(b + "attn.proj", Width, Width);
            Pair(b + "mlp.fc1", 4 * Width, Width);
            Pair(b + "mlp.fc2", Width, 4 * Width);
            if (!layerScale) continue;
            Add(b + "ls1.gamma", Width);
            Add(b + "ls2.gamma", Width);
        }
        Pair("norm", Width);
        return e;
    }

    private static (int Rows, int Columns, float[] Values) Npy(string path)
    {
        byte[] bytes = File.ReadAllBytes(path);
        Assert.That(bytes.AsSpan(0, 8).ToArray(), Is.EqualTo(new byte[] { 0x93, (byte)'N', (byte)'U', (byte)'M', (byte)'P', (byte)'Y', 1, 0 }));
        int length = BinaryPrimitives.ReadUInt16LittleEndian(bytes.AsSpan(8));
        Assert.That((10 + length) % 64, Is.Zero);
        string header = Encoding.ASCII.GetString(bytes, 10, length);
        System.Text.RegularExpressions.Match shape = System.Text.RegularExpressions.Regex.Match(header,
            @"^\{'descr': '<f4', 'fortran_order': False, 'shape': \((\d+)(, (\d+))+\), \} *\n$");
        Assert.That(shape.Success, header);
        float[] values = System.Runtime.InteropServices.MemoryMarshal.Cast<byte, float>(bytes.AsSpan(10 + length)).ToArray();
        return (int.Parse(shape.Groups[1].Value), shape.Groups[3].Captures.Aggregate(1, (n, c) => n * int.Parse(c.Value)), values);
    }
}
