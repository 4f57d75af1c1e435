using System.Globalization;
using MimEngine.Engine.Data;
using MimEngine.Engine.Imaging;
using MimEngine.Kernels;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>timm's RandAugment against Pillow's pixels, and what fine-tuning does to pictures besides.</summary>
[TestFixture]
public class RandAugmentTests
{
    private static IEnumerable<string> Cases()
    {
        using Golden golden = Golden.Open("09_pillow/rand_augment");
        return [.. golden.Tensors.Entries.Select(e => e.Name).Where(n => n.StartsWith("out.", StringComparison.Ordinal))];
    }

    [TestCaseSource(nameof(Cases))]
    public void Every_transform_gives_Pillows_bytes(string name)
    {
        using Golden golden = Golden.Open("09_pillow/rand_augment");
        string[] parts = name["out.".Length..].Split(':');
        RandAugment.Transform transform = Enum.Parse<RandAugment.Transform>(parts[0].Replace("-", ""), ignoreCase: true);
        double strength = parts.Length > 1 ? double.Parse(parts[1], CultureInfo.InvariantCulture) : 0;
        int size = golden.Int("size");
        byte[] planar = golden.Tensors.Bytes("in.image");
        if (transform is RandAugment.Transform.TranslateX or RandAugment.Transform.TranslateY)
            Assert.That(strength, Is.LessThan(1), "a share of the side");
        new RandAugment(new RandAugmentConfig()).Apply(planar, size, transform, strength);
        Assert.That(planar, Is.EqualTo(golden.Tensors.Bytes(name)), name);
    }

    [Test]
    public void The_reference_has_every_transform()
        => Assert.That(Cases().Select(n => n["out.".Length..].Split(':')[0].Replace("-", "")).Distinct(),
            Is.EquivalentTo(Enum.GetNames<RandAugment.Transform>().Select(n => n.ToLowerInvariant())));

    [Test]
    public void Strengths_are_timms_increasing_ones()
    {
        (RandAugment.Transform, double, double)[] table =
        [
            (RandAugment.Transform.Rotate, 0.9, 27), (RandAugment.Transform.Posterize, 0, 4), (RandAugment.Transform.Posterize, 0.9, 1),
            (RandAugment.Transform.Posterize, 1, 0), (RandAugment.Transform.Solarize, 0.9, 26), (RandAugment.Transform.Solarize, 0, 256),
            (RandAugment.Transform.SolarizeAdd, 0.9, 99), (RandAugment.Transform.Contrast, 1, 0.9), (RandAugment.Transform.ShearY, 0.5, 0.15),
            (RandAugment.Transform.TranslateX, 1, 0.45), (RandAugment.Transform.Invert, 0.9, 0),
        ];
        foreach ((RandAugment.Transform transform, double share, double wanted) in table)
            Assert.That(RandAugment.Strength(transform, share), Is.EqualTo(wanted).Within(1e-6), $"{transform} at {share}");
    }

    [Test]
    public void Half_of_two_transforms_happen_and_the_same_name_draws_the_same()
    {
        byte[] before = new byte[3 * 16 * 16];
        for (int i = 0; i < before.Length; i++) before[i] = (byte)(40 + i * 7 % 120);
        int unchanged = 0;
        const int draws = 2000;
        for (int i = 0; i < draws; i++)
        {
            byte[] a = [.. before], b = [.. before];
            foreach (byte[] crop in new[] { a, b })
            {
                RngSequence random = new Rng(3, RandomStream.Test, (ulong)i).Start();
                new RandAugment(new RandAugmentConfig()).Apply(crop, 16, ref random);
            }
            Assert.That(b, Is.EqualTo(a));
            if (a.AsSpan().SequenceEqual(before)) unchanged++;
        }
        // Neither happens with probability 1/4: 500 of 2,000, deviation 19.4. (No transform at this strength leaves such a crop alone.)
        Assert.That(unchanged, Is.InRange(500 - 90, 500 + 90));
    }

    [Test]
    public void Erasing_puts_noise_into_one_rectangle_of_the_stated_size()
    {
        const int size = 32;
        int erased = 0;
        double sum = 0, squares = 0;
        long count = 0;
        for (int i = 0; i < 1000; i++)
        {
            float[] picture = [.. Enumerable.Repeat(7f, 3 * size * size)];
            RngSequence random = new Rng(5, RandomStream.Erase, (ulong)i).Start();
            PixelErasing.Apply(picture, size, 0.25f, ref random);
            int[] touched = [.. Enumerable.Range(0, size * size).Where(p => picture[p] != 7f)];
            if (touched.Length == 0) continue;
            erased++;
            int top = touched.Min() / size, bottom = touched.Max() / size, left = touched.Min(p => p % size), right = touched.Max(p => p % size);
            int height = bottom - top + 1, width = right - left + 1;
            Assert.That(touched, Has.Length.EqualTo(height * width), "one whole rectangle");
            Assert.That(height * width / (double)(size * size), Is.InRange(0.01, 0.37));
            Assert.That(Enumerable.Range(0, 3).Select(c => touched.Count(p => picture[c * size * size + p] != 7f)), Has.All.EqualTo(touched.Length));
            foreach (float v in picture.Where(v => v != 7f)) (sum, squares, count) = (sum + v, squares + (double)v * v, count + 1);
        }
        Assert.That(erased, Is.InRange(250 - 70, 250 + 70));
        Assert.That(sum / count, Is.EqualTo(0).Within(0.02));
        Assert.That(squares / count, Is.EqualTo(1).Within(0.03));
    }

    [Test]
    public void Batches_are_mixed_as_often_and_as_much_as_the_settings_say()
    {
        MixConfig timm = new() { Mixup = 0.8f, CutMix = 1f, Probability = 0.6f, Switch = 0.25f };
        int none = 0, cut = 0;
        double lambda = 0;
        const int draws = 4000;
        for (int i = 0; i < draws; i++)
        {
            RngSequence random = new Rng(1, RandomStream.Mixup, (ulong)i).Start();
            Mixing m = timm.Draw(ref random, 32, 32);
            if (m is { Lambda: 1f, Box: null }) none++;
            else if (m.Box is not null) cut++;
            else lambda += m.Lambda;
        }
        Assert.Multiple(() =>
        {
            Assert.That(none / (double)draws, Is.EqualTo(0.4).Within(0.04));
            Assert.That(cut / (double)(draws - none), Is.EqualTo(0.25).Within(0.04));
            Assert.That(lambda / (draws - none - cut), Is.EqualTo(0.5).Within(0.03));
        });
        RngSequence unused = default;
        Assert.That(new MixConfig { Smoothing = 0.1f }.Draw(ref unused, 8, 8), Is.EqualTo(new Mixing(1f, null, MixPartner.Flipped)));
    }
}
