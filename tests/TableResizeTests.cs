using System.Text.Json;
using MimEngine.Engine.Nn;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Position tables at another number of patches, against the official implementations.</summary>
[TestFixture]
public class TableResizeTests
{
    [Test]
    public void A_position_table_is_resized_as_MAE_does_it()
    {
        using Golden golden = Golden.Open("03_mae/pos_embed");
        int i = 0;
        foreach (JsonElement c in golden.Hyper.GetProperty("interp").EnumerateArray())
        {
            int Int(string key) => c.GetProperty(key).GetInt32();
            float[] table = golden.Tensors.Floats($"in.pos{i}");
            golden.AssertClose($"out.interp{i}", PositionTable.Resize(table, Int("dim"), Int("src_grid"), Int("dst_grid"), Int("extra_tokens")));
            i++;
        }
        Assert.That(i, Is.EqualTo(3));
    }

    [Test]
    public void Bicubic_resampling_is_that_of_PyTorch_with_sizes_and_with_scale_factors()
    {
        using Golden golden = Golden.Open("06_ops/interpolate");
        int i = 0, compared = 0;
        foreach (JsonElement c in golden.Hyper.GetProperty("configs").EnumerateArray())
        {
            (int, int) Pair(string key) => (c.GetProperty(key)[0].GetInt32(), c.GetProperty(key)[1].GetInt32());
            if (c.GetProperty("mode").GetString() == "bicubic" && !c.GetProperty("antialias").GetBoolean())
            {
                ((int Rows, int Columns) from, (int Rows, int Columns) to) = (Pair("src"), Pair("dst"));
                JsonElement scale = c.GetProperty("scale_factor");
                (double, double) step = scale.ValueKind == JsonValueKind.Array ? (1 / scale[0].GetDouble(), 1 / scale[1].GetDouble())
                    : ((double)from.Rows / to.Rows, (double)from.Columns / to.Columns);
                float[] x = golden.Tensors.Floats($"in.x{i}");
                int channels = x.Length / (from.Rows * from.Columns), cells = to.Rows * to.Columns;
                float[] y = new float[channels * cells];
                for (int channel = 0; channel < channels; channel++)
                    PositionTable.Bicubic(y.AsSpan(channel * cells, cells), to, x.AsSpan(channel * x.Length / channels, x.Length / channels), from, 1, step);
                golden.AssertClose($"out.y{i}", y);
                compared++;
            }
            i++;
        }
        Assert.That(compared, Is.EqualTo(3));
    }

    [Test]
    public void A_position_table_with_a_scale_factor_is_that_of_iBOT_and_DINO()
    {
        using Golden golden = Golden.Open("05_ibot_attmask/vit_features_interpolate");
        float[] table = golden.Tensors.Floats("param.pos_embed");
        int width = golden.Int("dim"), patch = golden.Int("patch"), grid = golden.Int("img_size") / patch, i = 0;
        foreach (JsonElement size in golden.Hyper.GetProperty("sizes").EnumerateArray())
        {
            (int rows, int columns) = (size[0].GetInt32() / patch, size[1].GetInt32() / patch);
            float[] resized = new float[(1 + rows * columns) * width];
            table.AsSpan(0, width).CopyTo(resized);
            if (rows == grid && columns == grid) table.CopyTo(resized, 0);
            else
                PositionTable.Bicubic(resized.AsSpan(width), (rows, columns), table.AsSpan(width), (grid, grid), width, (grid / (rows + 0.1), grid / (columns + 0.1)));
            golden.AssertClose($"out.x{i++}.pos_embed", resized);
        }
        Assert.That(i, Is.EqualTo(4));
    }

    [Test]
    public void A_relative_bias_table_is_resized_as_SimMIM_does_it()
    {
        using Golden golden = Golden.Open("01_simmim/finetune_remap");
        float[] table = golden.Tensors.Floats("ckpt.encoder.rel_pos_bias.relative_position_bias_table");
        int heads = (int)golden.Tensors["ckpt.encoder.rel_pos_bias.relative_position_bias_table"].Shape[1];
        float[] resized = RelativeBiasTable.Resize(table, heads, from: 4, to: 6);
        foreach (int block in new[] { 0, 1 })
            golden.AssertClose($"param.blocks.{block}.attn.relative_position_bias_table", resized);
        Assert.That(RelativeBiasTable.Resize(table, heads, 4, 4), Is.EqualTo(table), "the same size changes nothing");
    }

    [TestCase(2)]
    [TestCase(3)]
    [TestCase(9)]
    public void A_constant_stays_constant_at_any_size(int to)
    {
        float[] table = [.. Enumerable.Repeat(0.75f, 10 * 2)], bias = [.. Enumerable.Repeat(0.75f, 28 * 2)];
        Assert.That(PositionTable.Resize(table, 2, 3, to), Has.All.EqualTo(0.75f).Within(1e-6));
        float[] resized = RelativeBiasTable.Resize(bias, 2, 3, to);
        Assert.That(resized, Has.Length.EqualTo(((2 * to - 1) * (2 * to - 1) + 3) * 2));
        Assert.That(resized, Has.All.EqualTo(0.75f).Within(1e-6));
        Assert.Throws<ArgumentException>(() => PositionTable.Resize(table, 2, 4, to));
        Assert.Throws<ArgumentException>(() => RelativeBiasTable.Resize(bias, 2, 4, to));
    }
}
