using System.Text.Json;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Block-wise, random and attention-guided masks against BEiT's, iBOT's and AttMask's.</summary>
[TestFixture]
public class MaskingTests
{
    private const int OfficialDraws = 10_000, Draws = 40_000, Grid = 14, Patches = Grid * Grid;

    private static MaskRequest Request(int draw, float[]? attention = null, double epoch = 0) => new()
    {
        Grid = Grid,
        PatchPixels = 16,
        Crop = new Rng(11, RandomStream.Mask, (ulong)draw),
        Step = new Rng(11, RandomStream.MaskStep, (ulong)(draw / 8)),
        Epoch = epoch,
        ClsAttention = attention,
    };

    private static readonly Masking[] s_loaders =
        [new BlockwiseMasking([0.3f], [0f]), new BlockwiseMasking(), new RandomPatches([0.3f], [0.2f]), new BlockwiseMasking([0.5f], [0f], MinPatches: 16)];

    /// <summary>Share hidden, how often each patch and each count, and the length of borders, over many masks: more than the official ones, so that
    /// the noise is theirs.</summary>
    [Test]
    public void Masks_of_the_loader_have_the_official_statistics([Range(0, 3)] int number)
    {
        using Golden golden = Golden.Open("05_ibot_attmask/block_masking_stats");
        JsonElement expected = golden.Values[number];
        double value(string name) => expected.GetProperty(name).GetDouble();
        double[] cells = new double[Patches], counts = new double[Patches + 1];
        double mean = 0, perimeter = 0;
        byte[] hidden = new byte[Patches];
        for (int draw = 0; draw < Draws; draw++)
        {
            if (number == 3)
            {
                // BEiT's own: 75 patches of 196, whole numbers.
                RngSequence random = new Rng(11, RandomStream.Mask, (ulong)draw).Start();
                Array.Clear(hidden);
                ((BlockwiseMasking)s_loaders[3]).Fill(ref random, expected.GetProperty("num_masking_patches").GetInt32(), Grid, hidden);
            }
            else s_loaders[number].Sample(Request(draw), hidden);
            int count = hidden.Sum(h => h);
            mean += count / (double)Patches / Draws;
            counts[count] += 1.0 / Draws;
            perimeter += Borders(hidden) / (double)Draws;
            for (int i = 0; i < Patches; i++) cells[i] += hidden[i] / (double)Draws;
        }
        float[] frequency = golden.Tensors.Floats($"out.c{number}.cell_frequency");
        float[] histogram = [.. golden.Tensors.Longs($"out.c{number}.count_hist").Select(v => v / (float)OfficialDraws)];
        double distance = counts.Zip(histogram, (a, b) => Math.Abs(a - b)).Sum() / 2;
        Assert.That(mean, Is.EqualTo(value("mean_fraction")).Within(4 * value("std_fraction") / Math.Sqrt(OfficialDraws) * Math.Sqrt(2)));
        Assert.That(cells.Zip(frequency, (a, b) => Math.Abs(a - b)).Max(), Is.LessThan(0.02), "how often each patch is hidden");
        Assert.That(perimeter, Is.EqualTo(value("mean_perimeter")).Within(2).Percent, "neighbours of which one is hidden");
        Assert.That(distance, Is.LessThan(0.05), "total variation of the numbers hidden");
    }

    private static int Borders(byte[] hidden)
    {
        int borders = 0;
        for (int i = 0; i < Patches; i++)
        {
            if (i % Grid < Grid - 1 && hidden[i] != hidden[i + 1]) borders++;
            if (i < Patches - Grid && hidden[i] != hidden[i + Grid]) borders++;
        }
        return borders;
    }

    [Test]
    public void Attention_hides_the_official_patches_and_hints_come_from_the_official_ones([Range(0, 3)] int number)
    {
        using Golden golden = Golden.Open("05_ibot_attmask/attmask");
        JsonElement config = golden.Hyper.GetProperty("configs")[number];
        float ratio = config.GetProperty("ratio").GetSingle(), probability = config.GetProperty("masking_prob").GetSingle();
        float showMax = config.GetProperty("show_max").GetSingle();
        string mode = config.GetProperty("mode").GetString()!;
        Guide guide = mode.EndsWith("low") ? Guide.Low : mode.EndsWith("hint") ? Guide.Hint : Guide.High;
        float[] attention = golden.Tensors.Floats("in.attention"), uniform = golden.Tensors.Floats($"in.c{number}.uniform");
        byte[] whole = golden.Tensors.Bytes($"out.c{number}.token_mask").ToArray(), expected = golden.Tensors.Bytes($"out.c{number}.mask").ToArray();
        var masking = new AttentionGuided(guide, [ratio], [0f], 1f, showMax);
        int best = masking.BestOf(Patches);
        for (int image = 0; image < uniform.Length; image++)
        {
            float[] a = attention.AsSpan(image * Patches, Patches).ToArray();
            byte[] hidden = new byte[Patches];
            // Everything but the hints is certain at probability 1; the recorded draws and indices then give the official mask exactly.
            (masking with { Guide = guide == Guide.Hint ? Guide.High : guide }).Sample(Request(image, a), hidden);
            Assert.That(hidden, Is.EqualTo(whole.AsSpan(image * Patches, Patches).ToArray()), "hidden by attention");
            if (guide == Guide.Hint)
            {
                int[] order = new int[Patches];
                AttentionGuided.Rank(a, mostFirst: true, order);
                byte[] top = golden.Tensors.Bytes($"out.c{number}.top_mask").AsSpan(image * Patches, Patches).ToArray();
                Assert.That(order[..best].Order(), Is.EqualTo(Enumerable.Range(0, Patches).Where(i => top[i] != 0)), "hints may be these");
                long[] revealed = golden.Tensors.Longs($"in.c{number}.revealed_idx");
                int show = config.GetProperty("N_reveal").GetInt32();
                for (int k = 0; k < show; k++) hidden[revealed[image * show + k]] = 0;
                byte[] ours = new byte[Patches];
                masking.Sample(Request(image, a), ours);
                int[] shown = [.. Enumerable.Range(0, Patches).Where(i => whole[image * Patches + i] != 0 && ours[i] == 0)];
                Assert.That(shown.All(order[..best].Contains), "shown patches are of the best");
                Assert.That(shown, Has.Length.EqualTo(show), "as many as officially");
            }
            if (uniform[image] > probability) Array.Clear(hidden);
            Assert.That(hidden, Is.EqualTo(expected.AsSpan(image * Patches, Patches).ToArray()), $"image {image}");
        }
    }

    [Test]
    public void Gates_and_hints_have_the_official_frequencies([Range(0, 3)] int number)
    {
        const int draws = 3000;
        using Golden golden = Golden.Open("05_ibot_attmask/attmask");
        JsonElement config = golden.Hyper.GetProperty("configs")[number];
        string mode = config.GetProperty("mode").GetString()!;
        var masking = new AttentionGuided(mode.EndsWith("low") ? Guide.Low : mode.EndsWith("hint") ? Guide.Hint : Guide.High,
            [config.GetProperty("ratio").GetSingle()], [0f], config.GetProperty("masking_prob").GetSingle(), config.GetProperty("show_max").GetSingle());
        float[] attention = golden.Tensors.Floats("in.attention")[..Patches], expected = golden.Tensors.Floats($"out.c{number}.mask_frequency_image0_3000");
        double[] often = new double[Patches];
        byte[] hidden = new byte[Patches];
        for (int draw = 0; draw < draws; draw++)
        {
            masking.Sample(Request(draw, attention), hidden);
            for (int i = 0; i < Patches; i++) often[i] += hidden[i] / (double)draws;
        }
        for (int i = 0; i < Patches; i++)
        {
            double p = expected[i], deviation = Math.Sqrt(Math.Max(p * (1 - p), 1.0 / draws) / draws);
            Assert.That(often[i], Is.EqualTo(p).Within(4 * Math.Sqrt(2) * deviation), $"patch {i}");
        }
    }

    [Test]
    public void The_written_example_hides_the_written_patches()
    {
        float[] a = [.. Enumerable.Range(0, Patches).Select(i => (37 * i + 11) % 196 / 196f)];
        byte[] hidden = new byte[Patches];
        new AttentionGuided(Guide.High, [0.3f], [0f], 1f).Sample(Request(0, a), hidden);
        int[] indices = [.. Enumerable.Range(0, Patches).Where(i => hidden[i] != 0)];
        Assert.That(indices, Has.Length.EqualTo(58));
        Assert.That(indices.Sum(), Is.EqualTo(5843));
        Assert.That(indices[..8], Is.EqualTo(new[] { 4, 9, 10, 15, 20, 25, 26, 30 }));
    }

    [Test]
    public void One_ratio_serves_a_batch_and_every_crop_has_its_own_gate()
    {
        float[] a = [.. Enumerable.Range(0, Patches).Select(i => (37 * i + 11) % 196 / 196f)];
        var masking = new AttentionGuided();
        HashSet<int> ratios = [];
        int masked = 0;
        for (int batch = 0; batch < 100; batch++)
        {
            HashSet<int> counts = [];
            for (int crop = 0; crop < 8; crop++)
            {
                byte[] hidden = new byte[Patches];
                masking.Sample(Request(batch * 8 + crop, a), hidden);
                int count = hidden.Sum(h => h);
                if (count > 0) counts.Add(count);
                masked += count > 0 ? 1 : 0;
            }
            Assert.That(counts, Has.Count.LessThan(2), "all masked crops of a batch hide as many patches");
            ratios.UnionWith(counts);
        }
        Assert.That(masked / 800.0, Is.EqualTo(0.5).Within(4 * Math.Sqrt(0.25 / 800)));
        Assert.That(ratios, Has.Count.GreaterThan(20), "ratios differ from batch to batch");
        Assert.That(ratios.Min(), Is.GreaterThanOrEqualTo(19));
        Assert.That(ratios.Max(), Is.LessThanOrEqualTo(98));
    }

    [Test]
    public void Equal_attention_goes_by_index_and_nothing_is_hidden_before_the_start_epoch()
    {
        float[] flat = new float[Patches];
        byte[] hidden = new byte[Patches];
        foreach (Guide guide in new[] { Guide.High, Guide.Low })
        {
            new AttentionGuided(guide, [0.25f], [0f], 1f).Sample(Request(0, flat), hidden);
            Assert.That(Enumerable.Range(0, Patches).Where(i => hidden[i] != 0), Is.EqualTo(Enumerable.Range(0, 49)), $"{guide}");
        }
        foreach (Masking masking in new Masking[] { new AttentionGuided { StartEpoch = 2 }, new BlockwiseMasking([0.3f], [0f], StartEpoch: 2), new RandomPatches([0.3f], [0f], 2) })
        {
            masking.Sample(Request(3, flat, epoch: 1.99), hidden);
            Assert.That(hidden, Has.All.Zero);
        }
    }

    [Test]
    public void Masks_that_make_no_sense_are_refused_in_a_sentence()
    {
        void refused(Masking masking, string part)
            => Assert.That(() => masking.Validate(224, 16), Throws.TypeOf<ConfigException>().With.Message.Contains(part));
        refused(new BlockwiseMasking([0.3f], [0f, 0.2f]), "masking.ratio has 1 entries and masking.spread 2");
        refused(new BlockwiseMasking([0.3f], [0.4f]), "masking.ratio 0.3 ± 0.4");
        refused(new RandomPatches([0.9f], [0.2f]), "masking.ratio 0.9 ± 0.2");
        refused(new BlockwiseMasking { AspectMin = 0 }, "masking.aspectMin is 0");
        refused(new AttentionGuided { Probability = 1.5f }, "masking.probability is 1.5");
        refused(new AttentionGuided { ShowMax = -1 }, "masking.showMax is -1");
        refused(new AttentionGuided { StartEpoch = -1 }, "masking.startEpoch is -1");
        Assert.That(() => new PretrainConfig { Masking = new AttentionGuided() }.Validate(),
            Throws.TypeOf<ConfigException>().With.Message.Contains("teacher"));
    }

    [Test]
    public void Maskings_survive_their_own_json()
    {
        foreach (Masking masking in new Masking[] { new AttentionGuided { Guide = Guide.Hint, ShowMax = 0.2f }, new BlockwiseMasking(), new RandomPatches([0.75f], [0f]) })
        {
            string json = ConfigJson.Write(new PretrainConfig { Masking = masking });
            Assert.That(ConfigJson.Write(ConfigJson.Read<PretrainConfig>(json, "here")), Is.EqualTo(json));
        }
        Assert.That(ConfigJson.Set(new PretrainConfig { Masking = new AttentionGuided() }, "masking.guide", "low").Masking,
            Has.Property(nameof(AttentionGuided.Guide)).EqualTo(Guide.Low));
    }
}
