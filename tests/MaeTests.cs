using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Optim;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>The official MAE (goldens 03), and what its parts do in other company.</summary>
[TestFixture]
public class MaeTests
{
    private static readonly CpuBackend s_cpu = new(2);

    [OneTimeTearDown]
    public void Close() => s_cpu.Dispose();

    [Test]
    public void Mae_agrees_with_the_official_network_and_both_losses([Values("mae_patch8", "mae_patch4_half")] string id,
        [Values("plain", "normpix")] string loss, [Values] Recompute recompute)
    {
        using Golden golden = Golden.Open("03_mae/" + id);
        using var model = new MimModel(Official(golden, loss == "normpix"));
        model.Params.Allocate(s_cpu, seed: null);
        Dictionary<string, float[]> weights = WeightNames.Read(golden.Tensors, "param.");
        Assert.That(model.Params.Params.Select(p => p.Name), Is.EquivalentTo(weights.Keys));
        foreach (Param p in model.Params.Params) ParamSet.Set(s_cpu, p, weights[p.Name]);
        using var arena = new Arena(s_cpu, 16 << 20);
        var tape = new Tape(s_cpu, arena, recompute);
        int batch = golden.Int("batch"), side = golden.Int("img_size"), grid = side / golden.Int("patch_size"), kept = golden.Int("len_keep");
        var shape = new Shape(batch, 3, side, side);
        Tensor images = tape.Keep(shape), crops = tape.Keep(shape, DType.U8), hidden = tape.Keep(new Shape(batch, grid * grid), DType.U8);
        Transfer.Upload(s_cpu, images, golden.Tensors.Floats("in.x"));
        s_cpu.Upload(hidden, Array.ConvertAll(golden.Tensors.Floats("aux.mask"), v => (byte)v));
        model.Params.BeginUpdate();
        EncodedTokens tokens = model.Encoder.Encode(tape, images, new EncodeRequest(hidden, Visible: kept));
        golden.AssertClose("out.latent", "out.latent", Transfer.Floats(s_cpu, tokens.All.Data), InRasterOrder(golden, kept));
        golden.AssertClose("out.pred", Transfer.Floats(s_cpu, model.Predict(tape, tokens, 0).Prediction.Data));
        golden.AssertClose($"out.{loss}.loss", Transfer.Floats(s_cpu, model.Loss(tape, tokens, 0, crops, images, hidden, 1f).Data));
        tape.Backward();
        tape.Reset();
        Dictionary<string, float[]> expected = WeightNames.Read(golden.Tensors, $"grad.{loss}.");
        Assert.That(model.Params.Params.Where(p => p.Written).Select(p => p.Name), Is.EquivalentTo(expected.Keys));
        Assert.Multiple(() =>
        {
            foreach ((string name, float[] wanted) in expected)
            {
                float[] actual = Transfer.Floats(s_cpu, model.Params[name].Gradient);
                if (name.EndsWith("attn.qkv.bias", StringComparison.Ordinal))
                {
                    // A key bias changes no softmax: its gradient is noise around 0, in the reference too.
                    int c = wanted.Length / 3;
                    Assert.That(actual.Skip(c).Take(c).Max(Math.Abs), Is.LessThan(1e-6f * wanted.Max(Math.Abs) + 1e-7f), name + ", key part");
                    Array.Clear(actual, c, c);
                    Array.Clear(wanted, c, c);
                }
                golden.AssertClose("grad.*", name, actual, wanted);
            }
        });
    }

    [Test]
    public void Positions_are_the_official_sine_cosine_table_and_never_move()
    {
        using Golden golden = Golden.Open("03_mae/pos_embed");
        int number = 0;
        foreach (var c in golden.Hyper.GetProperty("sincos").EnumerateArray())
        {
            int width = c.GetProperty("embed_dim").GetInt32(), grid = c.GetProperty("grid").GetInt32(), prefix = c.GetProperty("cls_token").GetBoolean() ? 1 : 0;
            float[] table = new float[(prefix + grid * grid) * width];
            RngSequence unused = default;
            new SinCosTable(width, grid, prefix).Fill(table, ref unused);
            double[] expected = golden.Tensors.Doubles($"out.sincos{number}");
            golden.AssertClose("out.sincos*", $"table {number}", table, Array.ConvertAll(expected, v => (float)v));
            number++;
        }
        Assert.That(number, Is.EqualTo(3));
        using var model = new MimModel(Small(Recipes.Mae()));
        Assert.That(model.Params.Params.Where(p => !p.Trained).Select(p => p.Name), Is.EquivalentTo(new[] { "pos_embed", "decoder_pos_embed" }));
    }

    [Test]
    public void Patches_are_cut_as_the_official_code_cuts_them_and_come_back()
    {
        using Golden golden = Golden.Open("03_mae/patchify");
        int number = 0;
        foreach (var c in golden.Hyper.GetProperty("configs").EnumerateArray())
        {
            (int side, int patch, int batch) = (c.GetProperty("img").GetInt32(), c.GetProperty("patch").GetInt32(), c.GetProperty("batch").GetInt32());
            using var arena = new Arena(s_cpu, 1 << 20);
            float[] pixels = golden.Tensors.Floats($"in.x{number}");
            Tensor x = arena.Rent(new Shape(batch, 3, side, side), DType.F32);
            Tensor cut = arena.Rent(new Shape(batch, side / patch * (side / patch), 3 * patch * patch), DType.F32);
            Transfer.Upload(s_cpu, x, pixels);
            s_cpu.Patchify(cut, x, patch, PixelOrder.ChannelFastest);
            Assert.That(Transfer.Floats(s_cpu, cut), Is.EqualTo(golden.Tensors.Floats($"out.patches{number++}")));
            s_cpu.Unpatchify(x, cut, patch, PixelOrder.ChannelFastest);
            Assert.That(Transfer.Floats(s_cpu, x), Is.EqualTo(pixels));
        }
        Assert.That(number, Is.EqualTo(2));
    }

    [Test]
    public void Rates_follow_the_official_schedule_iteration_by_iteration()
    {
        using Golden golden = Golden.Open("03_mae/lr_schedule");
        int number = 0;
        foreach (var c in golden.Hyper.GetProperty("configs").EnumerateArray())
        {
            int iterations = c.GetProperty("iters").GetInt32();
            PretrainConfig recipe = Recipes.Mae();
            PretrainConfig config = recipe with
            {
                Optim = recipe.Optim with
                {
                    Rate = c.GetProperty("lr").GetDouble(),
                    MinRate = c.GetProperty("min_lr").GetDouble(),
                    RatePerBatch = 0,
                    WarmupEpochs = c.GetProperty("warmup").GetInt32(),
                },
                Run = recipe.Run with { Epochs = c.GetProperty("epochs").GetInt32(), Accumulate = 1 },
            };
            RateSpan span = config.Rates(iterations);
            double[] expected = golden.Tensors.Doubles($"out.lr{number}");
            for (int step = 0; 2 * step < expected.Length; step++)
                Assert.That(config.RateOf(span, step), Is.EqualTo(expected[2 * step]).Within(1e-15 + 1e-12 * expected[2 * step]), $"step {step}");
            number++;
        }
        Assert.That(number, Is.EqualTo(2));
    }

    [Test]
    public void The_effective_batch_sets_the_peak_rate()
    {
        PretrainConfig mae = Recipes.Mae();
        Assert.That(mae.Rates(10_000).Peak, Is.EqualTo(2.4e-3).Within(1e-12), "1.5e-4 · 4096 / 256");
    }

    [Test]
    public void Parameters_start_with_the_official_statistics()
    {
        using Golden golden = Golden.Open("03_mae/init_stats");
        PretrainConfig recipe = Recipes.Mae();
        PretrainConfig config = recipe with
        {
            Encoder = recipe.Encoder with { ImagePixels = golden.Int("img"), PatchPixels = golden.Int("patch"), Width = golden.Int("dim"), Depth = golden.Int("depth"), Heads = golden.Int("heads") },
            Terms = [recipe.Terms[0] with { Head = new TransformerDecoder { Width = golden.Int("ddim"), Depth = golden.Int("ddepth"), Heads = golden.Int("dheads") } }],
        };
        using var model = new MimModel(config);
        model.Params.Allocate(s_cpu, seed: 3);
        foreach (var tensor in golden.Values.EnumerateObject())
        {
            Param p = model.Params[tensor.Name];
            float[] values = Transfer.Floats(s_cpu, p.Data);
            double mean = values.Average(v => (double)v), std = Math.Sqrt(values.Average(v => Math.Pow(v - mean, 2)));
            (double theirMean, double theirStd) = (tensor.Value.GetProperty("mean").GetDouble(), tensor.Value.GetProperty("std").GetDouble());
            Assert.That(p.Trained, Is.EqualTo(tensor.Value.GetProperty("requires_grad").GetBoolean()), tensor.Name);
            if (theirStd == 0) Assert.That(values, Has.All.EqualTo((float)theirMean), tensor.Name);
            else if (values.Length >= 1000) Assert.That(std, Is.EqualTo(theirStd).Within(5).Percent, tensor.Name);
            else Assert.That(std, Is.EqualTo(theirStd).Within(30).Percent, tensor.Name);   // a hundred numbers: 4 deviations
        }
        Assert.That(golden.Values.EnumerateObject().Select(t => t.Name), Is.EquivalentTo(model.Params.Params.Select(p => p.Name)));
    }

    /// <summary>Every sensible pair of corruption, masking, target, weighting and head learns.</summary>
    [TestCase("MAE's own")]
    [TestCase("MAE with keypoint weights")]
    [TestCase("SimMIM's masks and tokens, MAE's decoder")]
    [TestCase("cells dropped, learned positions, plain L1")]
    public void Free_combinations_learn(string which)
    {
        PretrainConfig mae = Small(Recipes.Mae()), kamim = Small(Recipes.KamimBaseline());
        PretrainConfig config = which switch
        {
            "MAE's own" => mae,
            "MAE with keypoint weights" => mae.WithWeighting("pixels", new KeypointDensity { CellPixels = 4 }),
            "SimMIM's masks and tokens, MAE's decoder" => kamim with { Terms = [kamim.Terms[0] with { Head = mae.Terms[0].Head }] },
            _ => mae with
            {
                Encoder = mae.Encoder with { Positions = Positions.Learned },
                Masking = new RandomCells(0.6f, 8),
                Terms = [mae.Terms[0] with { Target = new PixelTarget() }],
            },
        };
        config.Validate();
        using var pretrainer = new Pretrainer(s_cpu, config, MemoryPlan.Of(config, threads: 2).ArenaBytes);
        byte[] pixels = new byte[8 * 3 * 16 * 16];
        for (int i = 0; i < pixels.Length; i++) pixels[i] = (byte)(128 + 100 * Math.Sin(i % 16 * 0.3 * (1 + i / 768) + i / 16 % 16 * 0.4));
        float first = 0, last = 0;
        for (int step = 0; step < 300; step++)
        {
            pretrainer.Pass(pixels, step, firstPass: true);
            pretrainer.Update(3e-3);
            if (step == 4) first = pretrainer.ReadOut(5).Losses[0];
            if (step == 279) pretrainer.ReadOut(280);
        }
        last = pretrainer.ReadOut(300).Losses[0];
        TestContext.Out.WriteLine($"{which}: {first} → {last}");
        Assert.That(last, Is.LessThan(0.7f * first));
    }

    [TestCase("drop with a linear head", "terms.head is linear")]
    [TestCase("drop with relative bias", "encoder.relativeBias is Shared")]
    [TestCase("drop without positions", "encoder.positions is none")]
    [TestCase("nothing visible", "hides all 16 patches")]
    [TestCase("decoder heads", "it must divide head.width")]
    [TestCase("sine width", "multiple of 4")]
    public void Nonsense_is_refused_in_one_sentence(string which, string expected)
    {
        PretrainConfig mae = Small(Recipes.Mae());
        var decoder = (TransformerDecoder)mae.Terms[0].Head;
        PretrainConfig config = which switch
        {
            "drop with a linear head" => mae with { Terms = [mae.Terms[0] with { Head = new LinearPixelHead() }] },
            "drop with relative bias" => mae with { Encoder = mae.Encoder with { RelativeBias = RelativeBias.Shared } },
            "drop without positions" => mae with { Encoder = mae.Encoder with { Positions = Positions.None } },
            "nothing visible" => mae with { Masking = new RandomTokens(0.99f) },
            "decoder heads" => mae with { Terms = [mae.Terms[0] with { Head = decoder with { Heads = 5 } }] },
            _ => mae with { Encoder = mae.Encoder with { Width = 66, Heads = 2 } },
        };
        string message = Assert.Throws<ConfigException>(config.Validate)!.Message;
        Assert.That(message, Does.Contain(expected).And.Not.Contain("\n"));
    }

    [Test]
    public void A_prediction_of_normalised_patches_becomes_pixels_again()
    {
        using var arena = new Arena(s_cpu, 1 << 20);
        var shape = new Shape(2, 3, 8, 12 - 4);
        Tensor x = arena.Rent(shape, DType.F32), y = arena.Rent(shape, DType.F32);
        float[] pixels = new float[shape.Count];
        RngSequence random = new Rng(1, RandomStream.Test, 0).Start();
        foreach (ref float v in pixels.AsSpan()) v = (float)random.Normal();
        Transfer.Upload(s_cpu, x, pixels);
        s_cpu.NormalizePatches(y, x, 4, 1e-6f);
        float[] back = Transfer.Floats(s_cpu, y);
        Assert.That(back.Zip(pixels, (a, b) => Math.Abs(a - b)).Max(), Is.GreaterThan(0.1), "normalising changes them");
        new PixelTarget(NormalizePatches: true).ToPixels(back, pixels, 8, 4);
        Assert.That(back, Is.EqualTo(pixels).Within(1e-5f));
    }

    [Test]
    public void An_encoder_that_sees_a_quarter_costs_less_than_a_third()
    {
        PretrainConfig mae = Recipes.Mae(), all = mae with { Masking = new RandomTokens(0.005f) };
        double decoder = 2 * mae.Terms[0].Head.MultiplyAdds(mae, mae.Terms[0], 50);
        Assert.That(StepCost.Of(mae).Forward - decoder, Is.LessThan((StepCost.Of(all).Forward - decoder) / 3));
    }

    private static PretrainConfig Small(PretrainConfig recipe) => recipe with
    {
        Encoder = recipe.Encoder with { ImagePixels = 16, PatchPixels = 4, Width = 64, Depth = 2, Heads = 2, Init = VitInit.Mae },
        Masking = recipe.Masking is RandomCells ? new RandomCells(0.6f, 8) : recipe.Masking,
        Terms = [recipe.Terms[0] with { Head = recipe.Terms[0].Head is TransformerDecoder ? new TransformerDecoder { Width = 32, Depth = 1, Heads = 2 } : recipe.Terms[0].Head }],
        Run = recipe.Run with { Batch = 8, Accumulate = 1 },
    };

    private static PretrainConfig Official(Golden g, bool normalised)
    {
        PretrainConfig recipe = Recipes.Mae();
        return recipe with
        {
            Encoder = recipe.Encoder with
            {
                ImagePixels = g.Int("img_size"),
                PatchPixels = g.Int("patch_size"),
                Width = g.Int("embed_dim"),
                Depth = g.Int("depth"),
                Heads = g.Int("num_heads"),
                MlpRatio = g.Float("mlp_ratio"),
            },
            Masking = new RandomTokens(g.Float("mask_ratio")),
            Terms =
            [
                new Term
                {
                    Target = new PixelTarget(PixelDistance.L2, Eps: 0f, NormalizePatches: normalised),
                    Head = new TransformerDecoder
                    {
                        Width = g.Int("decoder_embed_dim"),
                        Depth = g.Int("decoder_depth"),
                        Heads = g.Int("decoder_num_heads"),
                        MlpRatio = g.Float("mlp_ratio"),
                    },
                },
            ],
        };
    }

    /// <summary>The reference keeps visible tokens in shuffled order, we keep them in raster order.</summary>
    private static float[] InRasterOrder(Golden golden, int kept)
    {
        float[] latent = golden.Tensors.Floats("out.latent"), sorted = new float[latent.Length];
        long[] shuffle = golden.Tensors.Longs("aux.ids_shuffle");
        int batch = golden.Int("batch"), patches = shuffle.Length / batch, width = latent.Length / batch / (kept + 1);
        for (int b = 0; b < batch; b++)
        {
            long[] ids = shuffle[(b * patches)..(b * patches + kept)];
            int[] order = [.. Enumerable.Range(0, kept).OrderBy(i => ids[i])];
            for (int i = 0; i <= kept; i++)
            {
                int from = i == 0 ? 0 : 1 + order[i - 1];
                latent.AsSpan((b * (kept + 1) + from) * width, width).CopyTo(sorted.AsSpan((b * (kept + 1) + i) * width));
            }
        }
        return sorted;
    }
}
