using MimEngine.Engine.Imaging;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Colour and geometric transforms against torchvision's tensors, and the policies that draw them.</summary>
[TestFixture]
public class PolicyTests
{
    private delegate void InPlace(Span<byte> planar);

    private static byte[] Planar(ReadOnlySpan<byte> pixels)
    {
        byte[] planar = new byte[pixels.Length];
        for (int i = 0; i < pixels.Length; i++) planar[i % 3 * (pixels.Length / 3) + i / 3] = pixels[i];
        return planar;
    }

    private static byte[] Noise(int size, ulong seed)
    {
        byte[] planar = new byte[3 * size * size];
        RngSequence random = new Rng(seed, RandomStream.Test, 3).Start();
        foreach (ref byte b in planar.AsSpan()) b = (byte)(100 + random.Below(80));
        return planar;
    }

    private static void AssertGolden(string output, int tolerance, InPlace transform)
    {
        using SafeTensors golden = SafeTensors.Open(
            Path.Combine(TestContext.CurrentContext.TestDirectory, "Goldens", "06_ops", "image_transforms.safetensors"));
        byte[] planar = Planar(golden.Bytes("in.image_u8")), expected = Planar(golden.Bytes(output));
        transform(planar);
        for (int i = 0; i < planar.Length; i++) Assert.That(planar[i], Is.EqualTo((int)expected[i]).Within(tolerance), $"{output}, byte {i}");
    }

    // The goldens' own tolerance: blends may truncate on either side of an integer.
    [TestCase("1.3", 1.3f)]
    [TestCase("0.6", 0.6f)]
    public void Brightness_is_torchvisions_within_one(string label, float factor)
        => AssertGolden("out.tensor_brightness_" + label, 1, p => PixelTransforms.Brightness(p, factor));

    [TestCase("0.7", 0.7f)]
    [TestCase("1.4", 1.4f)]
    public void Contrast_is_torchvisions_within_one(string label, float factor)
        => AssertGolden("out.tensor_contrast_" + label, 1, p => PixelTransforms.Contrast(p, factor));

    [TestCase("1.5", 1.5f)]
    [TestCase("0.2", 0.2f)]
    public void Saturation_is_torchvisions_within_one(string label, float factor)
        => AssertGolden("out.tensor_saturation_" + label, 1, p => PixelTransforms.Saturation(p, factor));

    [TestCase(128)]
    [TestCase(90)]
    public void Solarize_is_torchvisions(int threshold)
        => AssertGolden($"out.tensor_solarize_{threshold}", 0, p => PixelTransforms.Solarize(p, threshold));

    [Test]
    public void Erasing_is_torchvisions() => AssertGolden("out.erase_u8", 0, p => PixelTransforms.Erase(p, 56, new CropBox(6, 5, 20, 12)));

    [Test]
    public void Strengths_are_torchvisions_tables()
    {
        Assert.That(Enumerable.Range(0, 31).Select(i => TrivialAugment.Strength(TrivialAugment.Transform.Posterize, i)), Is.EqualTo(
            new float[] { 8, 8, 8, 7, 7, 7, 7, 7, 6, 6, 6, 6, 6, 5, 5, 5, 5, 5, 4, 4, 4, 4, 4, 3, 3, 3, 3, 3, 2, 2, 2 }));
        Assert.That(TrivialAugment.Strength(TrivialAugment.Transform.ShearX, 30), Is.EqualTo(0.99f));
        Assert.That(TrivialAugment.Strength(TrivialAugment.Transform.Rotate, 10), Is.EqualTo(45f));
        Assert.That(TrivialAugment.Strength(TrivialAugment.Transform.TranslateY, 15), Is.EqualTo(16f));
        Assert.That(TrivialAugment.Strength(TrivialAugment.Transform.Solarize, 0), Is.EqualTo(255f));
        Assert.That(TrivialAugment.Strength(TrivialAugment.Transform.Solarize, 30), Is.Zero);
    }

    [Test]
    public void Geometry_moves_pixels_where_it_should()
    {
        const int size = 20;
        byte[] before = Noise(size, 1);
        Check(TrivialAugment.Transform.TranslateX, 3, (x, y) => (x - 3, y));
        Check(TrivialAugment.Transform.TranslateY, -4, (x, y) => (x, y + 4));
        Check(TrivialAugment.Transform.Rotate, 90, (x, y) => (size - 1 - y, x));   // counter-clockwise
        Check(TrivialAugment.Transform.Rotate, -90, (x, y) => (y, size - 1 - x));
        Check(TrivialAugment.Transform.ShearX, 0.7f, (x, y) => ((int)Math.Round(x + 0.7 * (y + 0.5)), y));
        Check(TrivialAugment.Transform.ShearY, -0.3f, (x, y) => (x, (int)Math.Round(y - 0.3 * (x + 0.5))));

        void Check(TrivialAugment.Transform transform, float strength, Func<int, int, (int X, int Y)> source)
        {
            byte[] after = [.. before];
            new TrivialAugment().Apply(after, size, transform, strength);
            for (int i = 0; i < after.Length; i++)
            {
                (int x, int y) = source(i % size, i / size % size);
                int expected = x is >= 0 and < size && y is >= 0 and < size ? before[i / (size * size) * size * size + y * size + x] : 0;
                Assert.That(after[i], Is.EqualTo(expected), $"{transform} {strength}, byte {i}");
            }
        }
    }

    [Test]
    public void No_strength_changes_nothing_and_full_strength_does()
    {
        byte[] before = Noise(24, 2);
        foreach (TrivialAugment.Transform transform in Enum.GetValues<TrivialAugment.Transform>())
        {
            bool strengthless = transform is TrivialAugment.Transform.Identity or TrivialAugment.Transform.AutoContrast or TrivialAugment.Transform.Equalize;
            byte[] weak = [.. before], strong = [.. before];
            if (!strengthless)
            {
                new TrivialAugment().Apply(weak, 24, transform, TrivialAugment.Strength(transform, 0));
                Assert.That(weak, Is.EqualTo(before), $"{transform}");
            }
            new TrivialAugment().Apply(strong, 24, transform, TrivialAugment.Strength(transform, 30));
            if (transform == TrivialAugment.Transform.Identity) Assert.That(strong, Is.EqualTo(before));
            else Assert.That(strong, Is.Not.EqualTo(before), $"{transform}");
        }
    }

    [Test]
    public void Autocontrast_fills_the_range_and_equalize_flattens_the_histogram()
    {
        byte[] stretched = Noise(256, 3), flat = [.. stretched];
        PixelTransforms.AutoContrast(stretched);
        PixelTransforms.Equalize(flat);
        for (int c = 0; c < 3; c++)
        {
            byte[] channel = stretched[(c * 65_536)..((c + 1) * 65_536)], equal = flat[(c * 65_536)..((c + 1) * 65_536)];
            Assert.That((channel.Min(), channel.Max()), Is.EqualTo(((byte)0, (byte)255)));
            for (int quarter = 0; quarter < 4; quarter++)
                Assert.That(equal.Count(p => p / 64 == quarter) / 65_536.0, Is.EqualTo(0.25).Within(0.02));
        }
        byte[] even = new byte[300];
        even.AsSpan().Fill(9);
        PixelTransforms.AutoContrast(even);
        PixelTransforms.Equalize(even);
        Assert.That(even, Is.All.EqualTo(9), "a flat crop stays as it is");
    }

    [Test]
    public void Sharpness_zero_is_the_weighted_mean_and_the_border_stays()
    {
        byte[] planar = Noise(8, 4), before = [.. planar];
        PixelTransforms.Sharpness(planar, new byte[planar.Length], 8, 0f);
        int at = 3 * 8 + 4, sum = 4 * before[at];
        foreach (int dy in new[] { -8, 0, 8 }) sum += before[at + dy - 1] + before[at + dy] + before[at + dy + 1];
        Assert.That(planar[at], Is.EqualTo((int)Math.Round(sum / 13.0)));
        Assert.That(planar[..8], Is.EqualTo(before[..8]));
    }

    [Test]
    public void Erased_rectangles_lie_inside_and_cover_2_to_33_percent()
    {
        RngSequence random = new Rng(8, RandomStream.Augment, 0).Start();
        double area = 0;
        const int rounds = 20_000;
        for (int i = 0; i < rounds; i++)
        {
            CropBox box = RandomErasing.Box(100, ref random);
            Assert.That(box.Width is > 0 and < 100 && box.Height is > 0 and < 100 && box.Left >= 0 && box.Top >= 0);
            Assert.That(box.Left + box.Width <= 100 && box.Top + box.Height <= 100);
            Assert.That(box.Width * box.Height / 1e4, Is.InRange(0.017, 0.335));
            area += box.Width * box.Height / 1e4;
        }
        Assert.That(area / rounds, Is.EqualTo(0.175).Within(0.004));
    }

    [Test]
    public void Policies_repeat_with_their_name_and_allocate_nothing()
    {
        RgbImage image = new(48, 48);
        image.Bytes.Fill(200);
        AugmentConfig config = AugmentConfig.Resize with { TrivialAugment = true, RandomErasing = 0.5f };
        Augmenter one = new(config), two = new(config);
        byte[] a = new byte[3 * 48 * 48], b = new byte[3 * 48 * 48];
        int same = 0, erased = 0;
        long before = 0;
        for (ulong i = 0; i < 2000; i++)
        {
            if (i == 200) before = GC.GetAllocatedBytesForCurrentThread();
            RngSequence first = new Rng(4, RandomStream.Augment, i).Start(), second = new Rng(4, RandomStream.Augment, i).Start();
            one.Apply(image, ref first, 48, a);
            two.Apply(image, ref second, 48, b);
            if (a.AsSpan().SequenceEqual(b)) same++;
            if (a.AsSpan().Contains((byte)0)) erased++;
        }
        Assert.That(GC.GetAllocatedBytesForCurrentThread() - before, Is.Zero);
        Assert.That(same, Is.EqualTo(2000));
        // A flat crop shows black after erasing (half of them), or where geometry (5 of 14) brought it in.
        Assert.That(erased / 2000.0, Is.InRange(0.6, 0.75));
    }
}
