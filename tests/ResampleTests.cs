using MimEngine.Engine.Imaging;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Resizing and cropping against Pillow and torchvision, and against their definitions.</summary>
[TestFixture]
public class ResampleTests
{
    private static SafeTensors Golden(string group, string name)
        => SafeTensors.Open(Path.Combine(TestContext.CurrentContext.TestDirectory, "Goldens", group, name + ".safetensors"));

    private static RgbImage Picture(SafeTensors golden)
    {
        TensorEntry entry = golden["in.image_u8"];
        RgbImage image = new((int)entry.Shape[1], (int)entry.Shape[0]);
        golden.Bytes(entry.Name).CopyTo(image.Bytes);
        return image;
    }

    private static RgbImage Noise(int width, int height, ulong seed)
    {
        RgbImage image = new(width, height);
        RngSequence random = new Rng(seed, RandomStream.Test, 7).Start();
        foreach (ref byte b in image.Bytes) b = (byte)random.Word();
        return image;
    }

    private static byte[] Interleaved(ReadOnlySpan<byte> planar)
    {
        byte[] pixels = new byte[planar.Length];
        for (int i = 0; i < planar.Length; i++) pixels[i % (planar.Length / 3) * 3 + i / (planar.Length / 3)] = planar[i];
        return pixels;
    }

    private static int LargestDifference(ReadOnlySpan<byte> a, ReadOnlySpan<byte> b)
    {
        Assert.That(a.Length, Is.EqualTo(b.Length));
        int most = 0;
        for (int i = 0; i < a.Length; i++) most = Math.Max(most, Math.Abs(a[i] - b[i]));
        return most;
    }

    private static byte[] Resize(RgbImage image, CropBox box, int width, int height, Interpolation interpolation, bool antialias)
    {
        byte[] planar = new byte[3 * width * height];
        new Resampler().Crop(image, box, width, height, new CropBox(0, 0, width, height), interpolation, antialias, planar);
        return Interleaved(planar);
    }

    [Test]
    public void Antialiased_resizing_is_pillows_byte_for_byte(
        [Values("bilinear", "bicubic")] string filter, [Values("24x24", "64x48")] string size)
    {
        using SafeTensors golden = Golden("06_ops", "image_transforms");
        TensorEntry expected = golden[$"out.pil_resize_{filter}_{size}"];
        RgbImage image = Picture(golden);
        byte[] resized = Resize(image, CropBox.Of(image), (int)expected.Shape[1], (int)expected.Shape[0], Filter(filter), antialias: true);
        Assert.That(resized, Is.EqualTo(golden.Bytes(expected.Name)));
    }

    [Test]
    public void Antialiased_crops_are_pillows_byte_for_byte([Values("bilinear", "bicubic")] string filter, [Values(0, 1, 2)] int number)
    {
        using SafeTensors golden = Golden("06_ops", "image_transforms");
        byte[] planar = new byte[3 * 24 * 24];
        new Resampler().Crop(Picture(golden), Boxes[number], 24, Filter(filter), antialias: true, planar);
        Assert.That(Interleaved(planar), Is.EqualTo(golden.Bytes($"out.pil_resized_crop_{filter}{number}")));
    }

    [Test]
    public void Crops_without_antialias_are_within_one_of_torchvisions_uint8_crops([Values(0, 1, 2)] int number)
    {
        using SafeTensors golden = Golden("06_ops", "image_transforms");
        byte[] planar = new byte[3 * 24 * 24];
        new Resampler().Crop(Picture(golden), Boxes[number], 24, Interpolation.Bilinear, antialias: false, planar);
        Assert.That(LargestDifference(Interleaved(planar), golden.Bytes($"out.tensor_u8_resized_crop_bilinear_noaa{number}")), Is.LessThanOrEqualTo(1));
    }

    // Not bicubic with antialias: Pillow clips between its two passes and tensors do not, so where the cubic overshoots they differ.
    [TestCase("bilinear", false)]
    [TestCase("bilinear", true)]
    [TestCase("bicubic", false)]
    public void Resizing_is_within_one_of_torchvisions_uint8_resizing(string filter, bool antialias)
    {
        using SafeTensors golden = Golden("06_ops", "image_transforms");
        RgbImage image = Picture(golden);
        foreach (string size in new[] { "24x24", "64x48" })
        {
            TensorEntry expected = golden[$"out.tensor_u8_resize_{filter}_{(antialias ? "aa" : "noaa")}_{size}"];
            byte[] resized = Resize(image, CropBox.Of(image), (int)expected.Shape[1], (int)expected.Shape[0], Filter(filter), antialias);
            Assert.That(LargestDifference(resized, golden.Bytes(expected.Name)), Is.LessThanOrEqualTo(1), size);
        }
    }

    [Test]
    public void The_shorter_side_is_resized_as_pillow_does()
    {
        using SafeTensors golden = Golden("06_ops", "image_transforms");
        RgbImage image = Picture(golden);   // 56 × 40 to 42 × 30
        Assert.That(Resize(image, CropBox.Of(image), 42, 30, Interpolation.Bicubic, antialias: true),
            Is.EqualTo(golden.Bytes("out.pil_resize_short_side")));
    }

    [TestCase("eval_32_bilinear", 32, Interpolation.Bilinear)]
    [TestCase("eval_40_bicubic", 40, Interpolation.Bicubic)]
    public void Evaluation_crops_are_timms(string name, int pixels, Interpolation interpolation)
    {
        using SafeTensors golden = Golden("06_ops", "timm_eval_transform");
        byte[] planar = new byte[3 * pixels * pixels];
        RngSequence random = default;
        new Augmenter(AugmentConfig.Evaluation with { Interpolation = interpolation }).Apply(Picture(golden), ref random, pixels, planar);
        float[] expected = golden.Floats("out." + name), mean = [0.485f, 0.456f, 0.406f], std = [0.229f, 0.224f, 0.225f];
        for (int i = 0; i < planar.Length; i++)
        {
            int c = i / (pixels * pixels);
            Assert.That((planar[i] / 255.0 - mean[c]) / std[c], Is.EqualTo(expected[i]).Within(1e-5), $"element {i}");
        }
    }

    [Test]
    public void Every_size_without_antialias_is_the_definition_rounded()
    {
        RngSequence random = new Rng(5, RandomStream.Test, 0).Start();
        Resampler resampler = new();
        for (int round = 0; round < 120; round++)
        {
            RgbImage image = Noise(1 + random.Below(60), 1 + random.Below(60), (ulong)round);
            int w = 1 + random.Below(image.Width), h = 1 + random.Below(image.Height), size = 1 + random.Below(70);
            CropBox box = new(random.Below(image.Width - w + 1), random.Below(image.Height - h + 1), w, h);
            Interpolation interpolation = (Interpolation)random.Below(2);
            byte[] planar = new byte[3 * size * size];
            resampler.Crop(image, box, size, interpolation, antialias: false, planar);
            for (int i = 0; i < planar.Length; i++)
            {
                double exact = Sampled(image, box, i % size, i / size % size, i / size / size, size, interpolation);
                // 1e-3: float32 sums may land on the other side of a half.
                if (Math.Abs(planar[i] - Math.Clamp(exact, 0, 255)) > 0.5 + 1e-3)
                    Assert.Fail($"round {round}, element {i}: {planar[i]} instead of {exact:F3}");
            }
        }
    }

    [Test]
    public void Antialiased_resizing_keeps_a_flat_picture_flat_and_the_mean_of_noise()
    {
        RgbImage flat = new(301, 97);
        flat.Bytes.Fill(77);
        foreach (Interpolation interpolation in Enum.GetValues<Interpolation>())
        {
            Assert.That(Resize(flat, CropBox.Of(flat), 40, 33, interpolation, antialias: true), Is.All.EqualTo(77));
            RgbImage noise = Noise(320, 320, 3);
            byte[] small = Resize(noise, CropBox.Of(noise), 20, 20, interpolation, antialias: true);
            Assert.That(small.Average(b => (double)b), Is.EqualTo(127.5).Within(2), "a sixteenth of the size is an average of 256 pixels");
            Assert.That(small.Max() - small.Min(), Is.LessThan(64));
        }
    }

    [Test]
    public void A_window_of_a_resized_picture_is_cut_out_of_the_whole([Values] Interpolation interpolation, [Values] bool antialias)
    {
        RgbImage image = Noise(83, 61, 9);
        byte[] whole = new byte[3 * 50 * 40], part = new byte[3 * 33 * 17];
        Resampler resampler = new();
        resampler.Crop(image, CropBox.Of(image), 50, 40, new CropBox(0, 0, 50, 40), interpolation, antialias, whole);
        resampler.Crop(image, CropBox.Of(image), 50, 40, new CropBox(9, 21, 33, 17), interpolation, antialias, part);
        for (int i = 0; i < part.Length; i++)
        {
            (int x, int y, int c) = (i % 33, i / 33 % 17, i / (33 * 17));
            Assert.That(part[i], Is.EqualTo(whole[c * 2000 + (y + 21) * 50 + x + 9]));
        }
    }

    [Test]
    public void Mirrored_and_flipped_crops_are_the_crop_read_backwards([Values(20, 32, 71)] int size)
    {
        RgbImage image = Noise(90, 80, 4);
        byte[] plain = new byte[3 * size * size], turned = new byte[3 * size * size];
        Resampler resampler = new();
        resampler.Crop(image, new CropBox(3, 4, 70, 60), size, Interpolation.Bilinear, antialias: true, plain);
        resampler.Crop(image, new CropBox(3, 4, 70, 60), size, Interpolation.Bilinear, antialias: true, turned, mirror: true, flip: true);
        for (int c = 0; c < 3; c++) plain.AsSpan(c * size * size, size * size).Reverse();
        Assert.That(turned, Is.EqualTo(plain));
    }

    [Test]
    public void Boxes_outside_the_picture_are_refused_with_their_numbers()
    {
        RgbImage image = new(10, 8);
        byte[] planar = new byte[48];
        foreach (CropBox box in new[] { new CropBox(-1, 0, 4, 4), new(7, 0, 4, 4), new(0, 5, 4, 4), new(0, 0, 0, 4), new(int.MaxValue, 0, 2, 2) })
            Assert.That(() => new Resampler().Crop(image, box, 4, Interpolation.Bilinear, false, planar),
                Throws.InstanceOf<ArgumentOutOfRangeException>().With.Message.Contains("10 × 8"));
        Assert.That(() => new Resampler().Crop(image, CropBox.Of(image), 5, Interpolation.Bilinear, false, planar),
            Throws.InstanceOf<ArgumentOutOfRangeException>().With.Message.Contains("48 bytes"));
    }

    [Test]
    public void Box_sizes_are_those_of_the_published_random_resized_crop()
    {
        using SafeTensors golden = Golden("03_mae", "random_resized_crop");
        double[] draws = golden.Doubles("in.area_frac_and_log_ratio");
        long[] expected = golden.Longs("out.i_j_h_w");
        for (int i = 0; i < draws.Length / 2; i++)
        {
            (int w, int h) = Augmenter.BoxSize(500, 375, draws[2 * i], draws[2 * i + 1]);
            // MAE's variant clips to the picture where torchvision draws again.
            Assert.That((Math.Min(h, 375), Math.Min(w, 500)), Is.EqualTo(((int)expected[4 * i + 2], (int)expected[4 * i + 3])), $"draw {i}");
        }
    }

    [Test]
    public void Random_boxes_lie_in_the_picture_with_area_and_aspect_in_range_and_uniform_corners()
    {
        Augmenter augmenter = new(new AugmentConfig { CropScaleMin = 0.2f, CropScaleMax = 0.5f });
        RngSequence random = new Rng(1, RandomStream.Augment, 1).Start();
        double area = 0, across = 0;
        const int rounds = 20_000;
        for (int i = 0; i < rounds; i++)
        {
            CropBox box = augmenter.RandomBox(640, 480, ref random);
            Assert.That(box.Left >= 0 && box.Top >= 0 && box.Left + box.Width <= 640 && box.Top + box.Height <= 480);
            Assert.That(box.Width / (double)box.Height, Is.InRange(0.74, 1.35));
            double share = box.Width * box.Height / (640.0 * 480.0);
            Assert.That(share, Is.InRange(0.197, 0.503));
            area += share;
            across += box.Left / (double)(640 - box.Width);
        }
        Assert.That(area / rounds, Is.EqualTo(0.35).Within(0.003));
        Assert.That(across / rounds, Is.EqualTo(0.5).Within(0.01));
    }

    [TestCase(400, 20, 27, 20)]     // wider than 4/3: 20 · 4/3 = 26.67
    [TestCase(20, 400, 20, 27)]     // narrower than 3/4
    public void When_no_box_fits_the_middle_is_taken_with_its_aspect_in_range(int width, int height, int boxWidth, int boxHeight)
    {
        // 99 to 100 % of such a strip never fits into it with these aspects.
        Augmenter augmenter = new(new AugmentConfig { CropScaleMin = 0.99f });
        RngSequence random = new Rng(1, RandomStream.Augment, 2).Start();
        Assert.That(augmenter.RandomBox(width, height, ref random),
            Is.EqualTo(new CropBox((width - boxWidth) / 2, (height - boxHeight) / 2, boxWidth, boxHeight)));
    }

    [TestCase(1, 1)]
    [TestCase(1, 50)]
    [TestCase(28, 28)]
    [TestCase(2000, 3)]
    public void Every_framing_works_on_small_and_strange_pictures(int width, int height)
    {
        RgbImage image = Noise(width, height, 1);
        byte[] planar = new byte[3 * 48 * 48];
        foreach (Framing framing in Enum.GetValues<Framing>())
            foreach (Interpolation interpolation in Enum.GetValues<Interpolation>())
                foreach (bool antialias in new[] { false, true })
                {
                    Augmenter augmenter = new(new AugmentConfig { Framing = framing, Interpolation = interpolation, Antialias = antialias,
                        HorizontalFlip = 0.5f, VerticalFlip = 0.5f });
                    for (ulong i = 0; i < 20; i++)
                    {
                        RngSequence random = new Rng(1, RandomStream.Augment, i).Start();
                        Assert.That(() => augmenter.Apply(image, ref random, 48, planar), Throws.Nothing);
                    }
                }
    }

    [Test]
    public void Crops_repeat_with_their_name_flip_as_often_as_asked_and_allocate_nothing()
    {
        RgbImage image = Noise(120, 90, 8);
        byte[] first = new byte[3 * 64 * 64], again = new byte[3 * 64 * 64];
        Augmenter augmenter = new(new AugmentConfig { HorizontalFlip = 0.3f });
        RngSequence one = new Rng(4, RandomStream.Augment, 77).Start(), two = new Rng(4, RandomStream.Augment, 77).Start();
        augmenter.Apply(image, ref one, 64, first);
        new Augmenter(new AugmentConfig { HorizontalFlip = 0.3f }).Apply(image, ref two, 64, again);
        Assert.That(again, Is.EqualTo(first));

        // A picture that is dark on the left shows by its crop's first row whether it was mirrored.
        for (int i = 0; i < image.Bytes.Length; i++) image.Bytes[i] = (byte)(i / 3 % 120 * 2);
        int mirrored = 0;
        for (ulong i = 0; i < 40; i++) Mirrored(i);
        long before = GC.GetAllocatedBytesForCurrentThread();
        mirrored = 0;
        for (ulong i = 0; i < 4000; i++) Mirrored(i);
        Assert.That(GC.GetAllocatedBytesForCurrentThread() - before, Is.Zero);
        Assert.That(mirrored / 4000.0, Is.EqualTo(0.3).Within(0.03));

        void Mirrored(ulong i)
        {
            RngSequence random = new Rng(4, RandomStream.Augment, i).Start();
            augmenter.Apply(image, ref random, 64, first);
            if (first[0] > first[63]) mirrored++;
        }
    }

    private static readonly CropBox[] Boxes = [new(7, 3, 40, 30), new(0, 0, 56, 40), new(20, 10, 13, 9)];

    private static Interpolation Filter(string name) => name == "bilinear" ? Interpolation.Bilinear : Interpolation.Bicubic;

    /// <summary>PyTorch's interpolate with align_corners = false, in double.</summary>
    private static double Sampled(RgbImage image, CropBox box, int x, int y, int c, int size, Interpolation interpolation)
    {
        (int X, double W)[] across = Taps(x, box.Width, size, interpolation), down = Taps(y, box.Height, size, interpolation);
        return down.Sum(d => d.W * across.Sum(a => a.W * image.Pixels[((box.Top + d.X) * image.Width + box.Left + a.X) * 3 + c]));
    }

    private static (int X, double W)[] Taps(int output, int from, int to, Interpolation interpolation)
    {
        double at = (output + 0.5) * from / to - 0.5;
        if (interpolation == Interpolation.Bilinear)
        {
            at = Math.Max(0, at);
            int floor = (int)at;
            return [(Math.Min(floor, from - 1), 1 - (at - floor)), (Math.Min(floor + 1, from - 1), at - floor)];
        }
        int middle = (int)Math.Floor(at);
        return [.. Enumerable.Range(-1, 4).Select(k => (Math.Clamp(middle + k, 0, from - 1), Keys(Math.Abs(at - middle - k))))];

        static double Keys(double d) => d <= 1 ? 1.25 * d * d * d - 2.25 * d * d + 1 : d < 2 ? -0.75 * (d * d * d - 5 * d * d + 8 * d - 4) : 0;
    }
}
