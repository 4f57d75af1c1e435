using System.Security.Cryptography;
using System.Text.Json;
using MimEngine.Engine.Data;
using MimEngine.Engine.Experiments;
using MimEngine.Engine.Imaging;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Multi-crop: colours and blurs against Pillow, recorded crops of the official augmentation, and the loader that delivers them.</summary>
[TestFixture]
public class ViewsTests
{
    private static RgbImage Picture(SafeTensors golden)
    {
        TensorEntry entry = golden["in.image_u8"];
        RgbImage image = new((int)entry.Shape[1], (int)entry.Shape[0]);
        golden.Bytes(entry.Name).CopyTo(image.Bytes);
        return image;
    }

    private static byte[] Planar(ReadOnlySpan<byte> pixels)
    {
        byte[] planar = new byte[pixels.Length];
        for (int i = 0; i < pixels.Length; i++) planar[i % 3 * (pixels.Length / 3) + i / 3] = pixels[i];
        return planar;
    }

    private static byte[] Interleaved(ReadOnlySpan<byte> planar)
    {
        byte[] pixels = new byte[planar.Length];
        for (int i = 0; i < planar.Length; i++) pixels[i % (planar.Length / 3) * 3 + i / (planar.Length / 3)] = planar[i];
        return pixels;
    }

    private static ColorJitter Jitter(float brightness, float contrast, float saturation, float hue, params int[] order)
        => new(brightness, contrast, saturation, hue, ColorJitter.OrderOf(order));

    private static readonly (string Name, ColorJitter Jitter)[] s_colours =
    [
        ("pil_brightness_1.3", Jitter(1.3f, 1, 1, 0, 0)), ("pil_brightness_0.6", Jitter(0.6f, 1, 1, 0, 0)),
        ("pil_contrast_0.7", Jitter(1, 0.7f, 1, 0, 1)), ("pil_contrast_1.4", Jitter(1, 1.4f, 1, 0, 1)),
        ("pil_saturation_1.5", Jitter(1, 1, 1.5f, 0, 2)), ("pil_saturation_0.2", Jitter(1, 1, 0.2f, 0, 2)),
        ("pil_hue_0.1", Jitter(1, 1, 1, 0.1f, 3)), ("pil_hue_-0.07", Jitter(1, 1, 1, -0.07f, 3)),
        ("pil_color_jitter", Jitter(1.3f, 0.7f, 1.5f, 0.1f, 2, 0, 3, 1)),
    ];

    [Test]
    public void Colours_change_as_pillows_do_byte_for_byte([Range(0, 8)] int number)
    {
        (string name, ColorJitter jitter) = s_colours[number];
        using Golden golden = Golden.Open("06_ops/image_transforms");
        byte[] planar = Planar(golden.Tensors.Bytes("in.image_u8"));
        jitter.Apply(planar);
        Assert.That(Interleaved(planar), Is.EqualTo(golden.Tensors.Bytes("out." + name)));
    }

    [Test]
    public void Grey_crops_are_pillows_byte_for_byte()
    {
        using Golden golden = Golden.Open("06_ops/image_transforms");
        byte[] planar = Planar(golden.Tensors.Bytes("in.image_u8"));
        ColorJitter.Grayscale(planar);
        Assert.That(Interleaved(planar), Is.EqualTo(golden.Tensors.Bytes("out.pil_grayscale3")));
    }

    /// <summary>The blur is of a square, the reference of 40 × 56: a square of its rows is compared where its border is not felt.</summary>
    [TestCase("0.3", 0.3f)]
    [TestCase("1.0", 1f)]
    [TestCase("2.0", 2f)]
    public void A_blur_is_pillows_byte_for_byte(string name, float radius)
    {
        const int Side = 40, Width = 56, Reach = 6;
        using Golden golden = Golden.Open("06_ops/image_transforms");
        byte[] from = golden.Tensors.Bytes("in.image_u8").ToArray(), expected = golden.Tensors.Bytes($"out.pil_gaussian_blur_r{name}").ToArray();
        byte[] planar = new byte[3 * Side * Side];
        for (int i = 0; i < planar.Length; i++) planar[i] = from[(i / Side % Side * Width + i % Side) * 3 + i / (Side * Side)];
        new GaussianBlur().Apply(planar, Side, radius);
        for (int i = 0; i < planar.Length; i++)
            if (i % Side < Side - Reach)
                Assert.That(planar[i], Is.EqualTo(expected[(i / Side % Side * Width + i % Side) * 3 + i / (Side * Side)]), $"at {i}");
    }

    /// <summary>Every recorded crop of the official augmentation: box, flip, jitter, grey, blur, solarising.</summary>
    [Test]
    public void Recorded_crops_of_the_official_augmentation_are_made_byte_for_byte([Range(0, 15)] int number)
    {
        using Golden golden = Golden.Open("05_ibot_attmask/multicrop_recorded");
        JsonElement crop = golden.Values[number];
        int size = crop.GetProperty("size").GetInt32();
        int[] box = [.. crop.GetProperty("crop_ijhw").EnumerateArray().Select(v => v.GetInt32())];
        byte[] planar = new byte[3 * size * size];
        new Resampler().Crop(Picture(golden.Tensors), new CropBox(box[1], box[0], box[3], box[2]), size, Interpolation.Bicubic, antialias: true,
            planar, mirror: crop.TryGetProperty("hflip", out _));
        if (crop.TryGetProperty("jitter", out JsonElement j))
        {
            float factor(string name) => j.GetProperty(name).GetSingle();
            int[] order = [.. j.GetProperty("order").EnumerateArray().Select(v => v.GetInt32())];
            Jitter(factor("brightness"), factor("contrast"), factor("saturation"), factor("hue"), order).Apply(planar);
        }
        if (crop.TryGetProperty("gray", out _)) ColorJitter.Grayscale(planar);
        if (crop.TryGetProperty("blur_radius", out JsonElement radius)) new GaussianBlur().Apply(planar, size, radius.GetSingle());
        if (crop.TryGetProperty("solarize", out _)) PixelTransforms.Solarize(planar, 128);
        Assert.That(Interleaved(planar), Is.EqualTo(golden.Tensors.Bytes($"out.crop{number}_u8")), crop.ToString());
    }

    [Test]
    public void Boxes_of_crops_have_torchvisions_statistics([Range(0, 3)] int number)
    {
        using Golden golden = Golden.Open("05_ibot_attmask/crop_param_stats");
        JsonElement expected = golden.Values[number];
        double value(string name) => expected.GetProperty(name).GetDouble();
        int width = (int)value("W"), height = (int)value("H"), draws = (int)value("draws");
        float scale(int i) => expected.GetProperty("scale")[i].GetSingle();
        var augmenter = new Augmenter(new AugmentConfig { CropScaleMin = scale(0), CropScaleMax = scale(1) });
        double area = 0, ratio = 0, x = 0, y = 0;
        for (int i = 0; i < draws; i++)
        {
            RngSequence random = new Rng(3, RandomStream.Augment, (ulong)i).Start();
            CropBox box = augmenter.RandomBox(width, height, ref random);
            area += (double)box.Width * box.Height / (width * height) / draws;
            ratio += Math.Log(box.Width / (double)box.Height) / draws;
            x += (box.Left + box.Width / 2.0) / width / draws;
            y += (box.Top + box.Height / 2.0) / height / draws;
        }
        // Both are means of as many draws: the difference of two has √2 of the deviation of one.
        void within(double mean, string name, string of)
            => Assert.That(mean, Is.EqualTo(value(of + "mean")).Within(4 * Math.Sqrt(2) * value(of + "std") / Math.Sqrt(draws)), name);
        within(area, "area", "area_");
        within(ratio, "log of aspect", "logratio_");
        within(x, "centre, x", "cx_");
        within(y, "centre, y", "cy_");
    }

    private static readonly PretrainConfig s_multi = new()
    {
        Encoder = new() { ImagePixels = 32, PatchPixels = 8 },
        Augment = new AugmentConfig { CropScaleMin = 0.25f, Interpolation = Interpolation.Bicubic, HorizontalFlip = 0.5f, ColorJitter = 0.8f, Grayscale = 0.2f, Blur = 1f },
        Views = new ViewsConfig
        {
            Global = 2,
            OtherAugment = new AugmentConfig { CropScaleMin = 0.25f, HorizontalFlip = 0.5f, ColorJitter = 0.8f, Grayscale = 0.2f, Blur = 0.1f, Solarize = 0.2f },
            Local = 3,
            LocalPixels = 16,
            LocalAugment = new AugmentConfig { CropScaleMin = 0.05f, CropScaleMax = 0.25f, HorizontalFlip = 0.5f, ColorJitter = 0.8f, Blur = 0.5f },
        },
    };

    private static byte[] Read(PretrainConfig config, int threads, int step, Action<Batch, IDataset>? look = null)
    {
        using IDataset data = Datasets.Open(null, Split.Train);
        using var loader = new Loader(new LoaderConfig(data, new AugmentedViews(config), 6) { Seed = 5, StartStep = step, Threads = threads });
        Batch batch = loader.Next();
        look?.Invoke(batch, data);
        return SHA256.HashData(batch.Filled);
    }

    [Test]
    public void Crops_of_a_batch_are_global_ones_then_local_ones_each_from_its_own_name()
        => Read(s_multi, threads: 2, step: 4, (batch, data) =>
        {
            const int Globals = 2, Locals = 3, Side = 32, Small = 16, Slots = 6;
            Assert.That(batch.Globals.Length, Is.EqualTo(Globals * Slots * 3 * Side * Side));
            Assert.That(batch.Locals.Length, Is.EqualTo(Locals * Slots * 3 * Small * Small));
            var image = new RgbImage();
            for (int slot = 0; slot < Slots; slot++)
            {
                data.Read(batch.Ids[slot], image);
                for (int view = 0; view < Globals + Locals; view++)
                {
                    bool local = view >= Globals;
                    int side = local ? Small : Side, row = (local ? view - Globals : view) * Slots + slot, bytes = 3 * side * side;
                    AugmentConfig augment = view == 0 ? s_multi.Augment : local ? s_multi.Views.LocalAugment : s_multi.Views.OtherAugment!;
                    RngSequence random = new Rng(5, RandomStream.Augment, (ulong)((4 * Slots + slot) * (Globals + Locals) + view)).Start();
                    byte[] expected = new byte[bytes];
                    new Augmenter(augment).Apply(image, ref random, side, expected);
                    Assert.That((local ? batch.Locals : batch.Globals).Slice(row * bytes, bytes).ToArray(), Is.EqualTo(expected), $"{slot} {view}");
                }
            }
        });

    [Test]
    public void Crops_do_not_depend_on_threads()
    {
        byte[] one = Read(s_multi, threads: 1, step: 2);
        Assert.That(Read(s_multi, threads: 5, step: 2), Is.EqualTo(one));
        Assert.That(Read(s_multi, threads: 1, step: 3), Is.Not.EqualTo(one));
    }

    [Test]
    public void A_warm_multi_crop_loader_allocates_nothing()
    {
        using IDataset data = Datasets.Open(null, Split.Train);
        using var loader = new Loader(new LoaderConfig(data, new AugmentedViews(s_multi), 16) { Seed = 5, Threads = 2 });
        long best = long.MaxValue;
        for (int round = 0; round < 20 && best > 0; round++)
        {
            long before = GC.GetTotalAllocatedBytes(precise: true);
            for (int i = 0; i < 20; i++) loader.Return(loader.Next());
            best = Math.Min(best, GC.GetTotalAllocatedBytes(precise: true) - before);
        }
        Assert.That(best, Is.Zero);
    }

    [Test]
    public void Small_crops_keep_their_share_in_whole_patches()
    {
        ViewsConfig views = new() { Global = 2, Local = 6 };
        Assert.That(views.Scaled(224, 224, 16).LocalPixels, Is.EqualTo(96));
        Assert.That(views.Scaled(224, 64, 8).LocalPixels, Is.EqualTo(24));
        Assert.That(views.Scaled(224, 32, 4).LocalPixels, Is.EqualTo(12));
        Assert.That(views.Scaled(224, 32, 8).LocalPixels, Is.EqualTo(16));
    }

    [Test]
    public void Views_that_make_no_sense_are_refused_in_a_sentence()
    {
        void refused(ViewsConfig views, string part)
            => Assert.That(() => views.Validate(8), Throws.TypeOf<ConfigException>().With.Message.Contains(part));
        refused(new ViewsConfig { Global = 0 }, "views.global is 0");
        refused(new ViewsConfig { Local = -1 }, "views.local is -1");
        refused(new ViewsConfig { Local = 2, LocalPixels = 12 }, "views.localPixels is 12; it must be a positive multiple of encoder.patchPixels (8)");
        refused(new ViewsConfig { OtherAugment = new AugmentConfig { Blur = 2 } }, "views.otherAugment.blur is 2; it is a probability");
        refused(new ViewsConfig { LocalAugment = new AugmentConfig { Hue = 0.7f } }, "views.localAugment.hue is 0.7");
    }
}
