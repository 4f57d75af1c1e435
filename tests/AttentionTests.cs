using MimEngine.Engine.Analysis;
using MimEngine.Engine.Autograd;
using MimEngine.Engine.Experiments;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Probing;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Statistics of attention against the official ones (goldens 04 and 08), and over a whole run.</summary>
[TestFixture]
public class AttentionTests
{
    private static readonly CpuBackend s_cpu = new(2);

    [OneTimeTearDown]
    public void Close() => s_cpu.Dispose();

    [Test]
    public void The_eight_statistics_of_every_picture_block_and_head_are_the_official_ones()
    {
        using Golden golden = Golden.Open("04_beyond_cls/attention_stats");
        (int batch, int heads, int blocks, int grid) = (golden.Int("batch"), golden.Int("heads"), golden.Int("blocks"), 4);
        List<float> each = [], means = [];
        HeadStatistics[][][] all = [.. Enumerable.Range(0, blocks).Select(l => Heads(golden.Tensors.Floats($"in.attn{l}"), batch, heads, grid, 16))];
        for (int b = 0; b < batch; b++)
            for (int l = 0; l < blocks; l++)
                for (int h = 0; h < heads; h++) each.AddRange(Eight(all[l][b][h]));
        for (int l = 0; l < blocks; l++) means.AddRange(Eight(HeadStatistics.Mean([.. all[l].SelectMany(i => i)])));
        golden.AssertClose("out.per_image_head_stats8", each.ToArray());
        golden.AssertClose("out.mean_stats8_per_block", means.ToArray());
    }

    [Test]
    public void Distance_and_mutual_information_are_the_official_ones()
    {
        using Golden golden = Golden.Open("08_analyses/attention_grid5");
        (int batch, int heads, int grid, int pixels) = (golden.Int("batch"), golden.Int("heads"), golden.Int("grid"), golden.Int("patch_size"));
        for (int l = 0; l < golden.Int("layers"); l++)
        {
            HeadStatistics[] all = [.. Heads(golden.Tensors.Floats($"in.attn{l}"), batch, heads, grid, pixels).SelectMany(i => i)];
            golden.AssertClose($"out.distance{l}", $"distance of layer {l}", Array.ConvertAll(all, s => (float)s.Distance),
                Array.ConvertAll(golden.Tensors.Doubles($"out.distance{l}"), v => (float)v));
            golden.AssertClose($"out.nmi{l}", Array.ConvertAll(all, s => (float)s.Nmi));
        }
    }

    [TestCase(12, 99.7529, 25.9813, 0.340373)]
    [TestCase(14, 116.4922, 26.5980, 0.365767)]
    public void Uniform_local_and_identical_attention_give_the_stated_numbers(int grid, double uniform, double local, double localNmi)
    {
        int n = 1 + grid * grid;
        float[] a = new float[n * n];
        Array.Fill(a, 1f / n);
        HeadStatistics even = HeadStatistics.Of(a, grid, 16);
        Assert.That(even.Distance, Is.EqualTo(uniform).Within(1e-3));
        Assert.That(even.Nmi, Is.EqualTo(0).Within(1e-6));
        Assert.That(even.ClsEntropy, Is.EqualTo(Math.Log(n - 1)).Within(1e-3));
        for (int i = 1; i < n; i++)
        {
            double sum = 0;
            double[] row = new double[n];
            for (int j = 1; j < n; j++)
            {
                double dy = (i - 1) / grid - (j - 1) / grid, dx = (i - 1) % grid - (j - 1) % grid;
                sum += row[j] = Math.Exp(-Math.Sqrt(dx * dx + dy * dy));   // softmax(−distance/16) at 16 px a patch
            }
            for (int j = 1; j < n; j++) a[i * n + j] = (float)(row[j] / sum);
        }
        HeadStatistics near = HeadStatistics.Of(a, grid, 16);
        Assert.That(near.Distance, Is.EqualTo(local).Within(1e-3));
        Assert.That(near.Nmi, Is.EqualTo(localNmi).Within(1e-5));
        Array.Clear(a);
        for (int i = 0; i < n; i++) a[i * n + i] = 1f;
        Assert.That(HeadStatistics.Of(a, grid, 16).Nmi, Is.EqualTo(0.999995).Within(2e-5));
    }

    [TestCase("aggregations")]
    [TestCase("aggregations_block1_of3")]
    [TestCase("simmim_features")]
    public void A_watched_encoder_shows_the_official_attention_and_magnitudes(string id)
    {
        using Golden golden = Golden.Open("04_beyond_cls/" + id);
        bool simMim = id == "simmim_features";
        var names = WeightNames.Read(golden.Tensors, "param.");
        Dictionary<string, float[]> weights = simMim ? WeightNames.FromSimMim(names.ToDictionary(p => "encoder." + p.Key, p => p.Value)) : names;
        var vit = new VitConfig
        {
            ImagePixels = golden.Int("img_size"), PatchPixels = golden.Int("patch_size"), Width = golden.Int("embed_dim"), Depth = golden.Int("depth"),
            Heads = golden.Int("num_heads"), MlpRatio = golden.Float("mlp_ratio"), Corruption = Corruption.Drop, FinalNorm = false,
            Positions = simMim ? Positions.None : Positions.Learned, RelativeBias = simMim ? RelativeBias.Shared : RelativeBias.None,
            QkvBias = simMim ? QkvBias.NoKey : QkvBias.Full, LayerScale = simMim ? 0.1f : null,
        };
        float[] expected = golden.Tensors.Floats("out.attn_stats5"), magnitudes = golden.Tensors.Floats("out.magnitudes");
        (int batch, int n) = (golden.Int("batch"), vit.Tokens);
        int blocks = magnitudes.Length / (2 * batch * n);
        using var encoder = new FrozenEncoder(s_cpu, vit, new FeaturePlace(blocks, false, Pooling.Cls), [Pooling.MeanPatches, Pooling.AbMilp]);
        Assert.That(encoder.Load(weights, id).Complete);
        using var watch = new AttentionWatch(s_cpu, vit.Grid, vit.PatchPixels, batch) { KeepMaps = true };
        encoder.Look(golden.Tensors.Floats("in.x"), batch, watch);
        BlockStatistics[] seen = watch.Blocks();
        Assert.That(seen, Has.Length.EqualTo(blocks));
        int heads = vit.Heads;
        float Stat(int which, int b, int l, int h, int i) => expected[(((which * batch + b) * blocks + l) * heads + h) * n + i];
        double Mean(int which, int l, int h, bool cls) => Enumerable.Range(0, batch)
            .Average(b => cls ? Stat(which, b, l, h, 0) : Enumerable.Range(1, n - 1).Average(i => (double)Stat(which, b, l, h, i)));
        for (int l = 0; l < blocks; l++)
        {
            for (int h = 0; h < heads; h++)
            {
                HeadStatistics s = seen[l].Heads[h];
                double[] ours = [s.ClsCls, s.PatchSelf, s.ClsClsAdjusted, s.PatchSelfAdjusted, s.ClsPatch, s.PatchCls, s.ClsEntropy, s.PatchEntropy];
                double[] theirs = [Mean(0, l, h, true), Mean(0, l, h, false), Mean(1, l, h, true), Mean(1, l, h, false), Mean(2, l, h, false),
                    Mean(3, l, h, false), Mean(4, l, h, true), Mean(4, l, h, false)];
                Assert.That(ours, Is.EqualTo(theirs).Within(2e-5), $"block {l}, head {h}");
            }
            double Ratio(int b, int i) => magnitudes[((batch + b) * blocks + l) * n + i] / (magnitudes[(b * blocks + l) * n + i] + 1e-6);
            Assert.That(seen[l].ClsMagnitude, Is.EqualTo(Enumerable.Range(0, batch).Average(b => Ratio(b, 0))).Within(1e-5), $"block {l}");
            Assert.That(seen[l].PatchMagnitude, Is.EqualTo(Enumerable.Range(0, batch)
                .Average(b => Enumerable.Range(1, n - 1).Average(i => Ratio(b, i)))).Within(1e-5), $"block {l}");
        }
        if (!simMim) return;
        float[] rows = new float[batch * encoder.Width];
        encoder.Encode(rows, golden.Tensors.Floats("in.x"), batch);
        foreach (FeaturePart part in encoder.Row.Parts)
        {
            float[] own = new float[batch * part.Length];
            encoder.Row.Take(own, part, rows);
            golden.AssertClose(part.Pooling switch { Pooling.Cls => "out.cls", Pooling.MeanPatches => "out.pos", _ => "out.raw" }, own);
        }
    }

    [Test]
    public void Analysis_of_a_run_stands_beside_the_untrained_encoder_and_knows_it()
    {
        string folder = Directory.CreateTempSubdirectory("mim-analyze-").FullName;
        try
        {
            PretrainConfig config = Recipes.Mae() with
            {
                Encoder = Recipes.Mae().Encoder with { ImagePixels = 16, PatchPixels = 4, Width = 32, Depth = 2, Heads = 2 },
                Terms = [Recipes.Mae().Terms[0] with { Head = new TransformerDecoder { Width = 16, Depth = 1, Heads = 2 } }],
                Run = new RunConfig { Seed = 3 },
            };
            AttentionReport Look(ulong seed, float sharpen)
            {
                File.WriteAllText(Path.Combine(folder, "config.json"), ConfigJson.Write(config));
                Directory.CreateDirectory(Path.Combine(folder, "checkpoints"));
                using var model = new MimModel(config);
                model.Params.Allocate(s_cpu, seed);
                s_cpu.AddScaled(model.Params["blocks.1.attn.qkv.weight"].Data, model.Params["blocks.1.attn.qkv.weight"].Data, sharpen - 1, 1f);
                Checkpoint.Save(Path.Combine(folder, "checkpoints"), new CheckpointHeader((long)sharpen, ""),
                    [.. model.Params.Params.Select(p => NamedTensor.From("params/" + p.Name, p.Data, s_cpu))]);
                return AnalyzeRun.Execute(new AnalyzeOptions { Run = folder, Count = 300, Threads = 2 }, _ => Assert.Fail("no notes"));
            }
            AttentionReport same = Look(3, 1), other = Look(3, 5);
            Assert.That((same.LooksUntrained, other.LooksUntrained), Is.EqualTo((true, false)));
            Assert.That(same.Trained.Select(b => b.Mean), Is.EqualTo(same.RandomInit.Select(b => b.Mean)));
            Assert.That(other.Trained[0].Mean, Is.EqualTo(same.Trained[0].Mean), "only block 2 was changed");
            Assert.That(other.Trained[1].Mean.PatchEntropy, Is.LessThan(same.Trained[1].Mean.PatchEntropy), "sharper");
            Assert.That(other.Count, Is.EqualTo(300), "more than one pass");
            Assert.That(other.Trained[1].Mean.Distance, Is.EqualTo(other.Trained[1].Heads.Average(h => h.Distance)).Within(1e-9));
            Assert.That(other.Files, Has.All.Exist);
            Assert.That(ConfigJson.Read<AttentionReport>(File.ReadAllText(other.Files[0]), "json").Trained[1].Mean, Is.EqualTo(other.Trained[1].Mean));
            using var picture = File.OpenRead(other.Files[1]);
            Assert.That(picture.Length, Is.GreaterThan(1000));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static HeadStatistics[][] Heads(float[] attention, int batch, int heads, int grid, double pixels)
    {
        int n = 1 + grid * grid;
        return [.. Enumerable.Range(0, batch).Select(b => Enumerable.Range(0, heads)
            .Select(h => HeadStatistics.Of(attention.AsSpan((b * heads + h) * n * n, n * n), grid, pixels)).ToArray())];
    }

    private static float[] Eight(HeadStatistics s) => [(float)s.ClsCls, (float)s.PatchSelf, (float)s.ClsClsAdjusted, (float)s.PatchSelfAdjusted,
        (float)s.ClsPatch, (float)s.PatchCls, (float)s.ClsEntropy, (float)s.PatchEntropy];
}
