using System.Text.Json;
using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Crops of another size than the encoder's, and [cls]'s attention out of a pass, against iBOT and DINO.</summary>
[TestFixture]
public class EncoderSizeTests
{
    private static readonly CpuBackend s_cpu = new(2);

    [OneTimeTearDown]
    public void Close() => s_cpu.Dispose();

    private static (VisionTransformer Encoder, ParamSet Params) Load(Golden golden, string prefix)
    {
        var vit = new VitConfig
        {
            ImagePixels = golden.Int("img_size"), PatchPixels = golden.Int("patch"), Width = golden.Int("dim"), Depth = golden.Int("depth"),
            Heads = golden.Int("heads"), MlpRatio = 2f,
        };
        var p = new ParamSet();
        var encoder = new VisionTransformer(p, vit);
        p.Allocate(s_cpu, null);
        foreach (Param param in p.Params)
            if (golden.Tensors.Contains(prefix + param.Name)) Transfer.Upload(s_cpu, param.Data, golden.Tensors.Floats(prefix + param.Name));
            else Assert.That(param.Name, Is.EqualTo("mask_token"));
        return (encoder, p);
    }

    /// <summary>Tokens and [cls]'s attention in the last block.</summary>
    private static (float[] Tokens, float[] Attention) Encode(VisionTransformer encoder, Golden golden, string input)
    {
        long[] shape = golden.Tensors[input].Shape;
        int b = (int)shape[0], side = (int)shape[2], grid = side / encoder.TokenPixels;
        using var arena = new Arena(s_cpu, 1 << 24);
        var tape = new Tape(s_cpu, arena);
        Tensor images = tape.Keep(new Shape(b, 3, side, side)), attention = tape.Keep(new Shape(b, grid * grid));
        Transfer.Upload(s_cpu, images, golden.Tensors.Floats(input));
        tape.BeginNoGrad();
        EncodedTokens tokens = encoder.Encode(tape, images,
            new EncodeRequest(Watch: new ClsAttentionWatch { Block = encoder.Depth - 1, Into = attention }));
        tape.EndNoGrad();
        Assert.That(tokens.Grid, Is.EqualTo(grid));
        return (Transfer.Floats(s_cpu, tokens.All.Data), Transfer.Floats(s_cpu, attention));
    }

    /// <summary>Mean over heads of the first row without its first column, of (B, H, N, N).</summary>
    private static float[] ClsRow(Golden golden, string name)
    {
        long[] shape = golden.Tensors[name].Shape;
        (int b, int heads, int n) = ((int)shape[0], (int)shape[1], (int)shape[2]);
        float[] all = golden.Tensors.Floats(name), row = new float[b * (n - 1)];
        for (int i = 0; i < b; i++)
            for (int h = 0; h < heads; h++)
                for (int l = 1; l < n; l++) row[i * (n - 1) + l - 1] += all[((long)i * heads + h) * n * n + l] / heads;
        return row;
    }

    [TestCase(0)]
    [TestCase(1)]
    [TestCase(3)]
    public void Crops_of_other_sizes_get_the_official_tokens_and_attention(int number)
    {
        using Golden golden = Golden.Open("05_ibot_attmask/vit_features_interpolate");
        (VisionTransformer encoder, ParamSet p) = Load(golden, "param.");
        (float[] tokens, float[] attention) = Encode(encoder, golden, $"in.x{number}");
        golden.AssertClose($"out.x{number}.tokens", tokens);
        golden.AssertClose($"out.x{number}.attn_last", "[cls] attention", attention, ClsRow(golden, $"out.x{number}.attn_last"));
        p.Dispose();
    }

    [Test]
    public void Resized_positions_are_the_official_ones_of_squares_and_rectangles()
    {
        using Golden golden = Golden.Open("05_ibot_attmask/vit_features_interpolate");
        float[] table = golden.Tensors.Floats("param.pos_embed");
        using var arena = new Arena(s_cpu, 1 << 20);
        foreach ((int number, int rows, int columns) in new[] { (1, 2, 2), (2, 3, 5), (3, 6, 6) })
        {
            var tape = new Tape(s_cpu, arena);
            Tensor from = tape.Keep(new Shape(17, 24));
            Transfer.Upload(s_cpu, from, table);
            Value resized = tape.ResizePositions(tape.Input(from), GridResize.ByScale(1, 4, rows, columns));
            golden.AssertClose($"out.x{number}.pos_embed", Transfer.Floats(s_cpu, resized.Data));
            tape.Reset();
        }
    }

    [Test]
    public void Every_crop_of_DINOs_multi_crop_gets_the_official_class_token()
    {
        using Golden golden = Golden.Open("05_dino/dino_multicrop");
        (VisionTransformer encoder, ParamSet p) = Load(golden, "param.backbone.");
        for (int crop = 0; crop < 5; crop++)
        {
            (float[] tokens, float[] attention) = Encode(encoder, golden, $"in.x{crop}");
            int n = tokens.Length / 2 / 24;
            golden.AssertClose($"out.cls{crop}", [.. tokens.AsSpan(0, 24), .. tokens.AsSpan(n * 24, 24)]);
            if (crop == 0) golden.AssertClose("out.attn_last_x0", "[cls] attention", attention, ClsRow(golden, "out.attn_last_x0"));
        }
        p.Dispose();
    }

    [Test]
    public void Gradients_of_small_and_large_crops_flow_back_to_one_table_of_positions()
    {
        using var oracle = new OracleBackend();
        var vit = new VitConfig { ImagePixels = 12, PatchPixels = 4, Width = 8, Depth = 1, Heads = 2, MlpRatio = 2f };
        using var p = new ParamSet();
        var encoder = new VisionTransformer(p, vit);
        p.Allocate(oracle, 3);
        using var arena = new Arena(oracle, 1 << 22);
        double loss(bool backward)
        {
            var tape = new Tape(oracle, arena);
            double sum = 0;
            p.BeginUpdate();
            foreach (int side in new[] { 12, 8 })
            {
                Tensor images = tape.Keep(new Shape(2, 3, side, side)), targets = tape.Keep(new Shape(2, 8));
                Transfer.Upload(oracle, images, [.. Enumerable.Range(0, 6 * side * side).Select(i => MathF.Sin(i * 1.7f))]);
                Transfer.Upload(oracle, targets, [.. Enumerable.Range(0, 16).Select(i => i % 8 == 3 + i / 8 ? 1f : 0f)]);
                Value mean = tape.MeanTokens(encoder.Encode(tape, images, new EncodeRequest()).All, 0);
                sum += Transfer.Doubles(oracle, tape.CrossEntropyLoss(mean, targets).Data)[0];
            }
            if (backward) tape.Backward();
            tape.Reset();
            return sum;
        }
        loss(true);
        Param table = p.Params.Single(q => q.Name == "pos_embed");
        double[] exact = Transfer.Doubles(oracle, table.Gradient), numeric = new double[exact.Length];
        for (int i = 0; i < numeric.Length; i++)
        {
            double at(double by)
            {
                Span<double> values = table.Data.Host<double>();
                double kept = values[i];
                values[i] = kept + by;
                double result = loss(false);
                table.Data.Host<double>()[i] = kept;
                return result;
            }
            const double Step = 3e-4;
            numeric[i] = (8 * (at(Step) - at(-Step)) - at(2 * Step) + at(-2 * Step)) / (12 * Step);
        }
        Assert.That(Agreement.Difference(exact, numeric, 1e-6), Is.Null);
        Assert.That(exact.Max(Math.Abs), Is.GreaterThan(1e-3), "a gradient of nothing would agree with anything");
    }

    [Test]
    public void An_encoder_with_relative_biases_refuses_other_sizes()
    {
        using var p = new ParamSet();
        var encoder = new VisionTransformer(p, new VitConfig
        {
            ImagePixels = 16, PatchPixels = 4, Width = 8, Depth = 1, Heads = 2, Positions = Positions.None, RelativeBias = RelativeBias.Shared,
        });
        p.Allocate(s_cpu, 1);
        using var arena = new Arena(s_cpu, 1 << 20);
        var tape = new Tape(s_cpu, arena);
        Assert.That(() => encoder.Encode(tape, tape.Keep(new Shape(1, 3, 8, 8)), new EncodeRequest()),
            Throws.ArgumentException.With.Message.Contains("4 × 4 patches"));
    }
}
