using MimEngine.Engine.Data;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;
using NUnit.Framework;

namespace MimEngine.Tests;

[TestFixture]
public class DataTestsMixing
{
    private static RngSequence Random(int n) => new Rng(11, RandomStream.Mixup, (ulong)n).Start();

    [Test]
    public void Mixing_agrees_with_timms_batch_mode()
    {
        using SafeTensors golden = SafeTensors.Open(Path.Combine(TestContext.CurrentContext.TestDirectory, "Goldens", "06_ops", "mixup_cutmix.safetensors"));
        int[] labels = [.. golden.Longs("in.label").Select(l => (int)l)];
        Mixing[] cases =
        [
            new(0.3f, null, MixPartner.Flipped), Mixing.Cut(new MixBox(8, 16, 9, 19), 16, 20, MixPartner.Flipped),
            Mixing.Cut(new MixBox(10, 16, 8, 20), 16, 20, MixPartner.Flipped), new(1f, null, MixPartner.Flipped),
        ];
        Assert.That(cases.Select(c => c.Lambda), Is.EqualTo(new[] { 0.3f, 0.75f, 0.775f, 1f }));
        for (int i = 0; i < cases.Length; i++)
        {
            float[] images = golden.Floats("in.x"), targets = new float[4 * 6];
            cases[i].Apply(images, 4, 3, 16, 20);
            cases[i].Targets(targets, labels, 6, 0.1f);
            Assert.That(images, Is.EqualTo(golden.Floats($"out.x{i}")).Within(1e-6), $"images of case {i}");
            Assert.That(targets, Is.EqualTo(golden.Floats($"out.target{i}")).Within(1e-6), $"targets of case {i}");
        }
    }

    [TestCase(1)]
    [TestCase(2)]
    [TestCase(5)]
    public void The_rolled_partner_is_the_picture_before(int batch)
    {
        const int height = 30, width = 21;  // rows and pictures longer and shorter than one piece of the mixing loop
        RngSequence random = Random(0);
        float[] images = new float[batch * 3 * height * width];
        foreach (ref float x in images.AsSpan()) x = random.Uniform(-2, 2);
        int picture = 3 * height * width;
        float At(int i, int k) => images[(i + batch) % batch * picture + k];
        Mixing[] cases = [new(0.7f, null, MixPartner.Rolled), Mixing.Cut(new MixBox(2, 29, 0, 5), height, width, MixPartner.Rolled)];
        foreach (Mixing mixing in cases)
        {
            float[] mixed = [.. images];
            mixing.Apply(mixed, batch, 3, height, width);
            for (int i = 0; i < batch; i++)
                for (int k = 0; k < picture; k++)
                {
                    bool inside = k / width % height is >= 2 and < 29 && k % width < 5;
                    float expected = mixing.Box is null ? 0.7f * At(i, k) + (1 - 0.7f) * At(i - 1, k) : inside ? At(i - 1, k) : At(i, k);
                    Assert.That(mixed[i * picture + k], Is.EqualTo(expected));
                }
            float[] targets = new float[batch * 4];
            mixing.Targets(targets, [.. Enumerable.Range(0, batch).Select(i => i % 4)], 4);
            for (int i = 0; i < batch; i++)
            {
                float[] expected = new float[4];
                expected[i % 4] += mixing.Lambda;
                expected[(i + batch - 1) % batch % 4] += 1 - mixing.Lambda;
                Assert.That(targets[(i * 4)..(i * 4 + 4)], Is.EqualTo(expected).Within(1e-7));
            }
        }
    }

    [Test]
    public void A_cut_box_follows_its_rule_and_lambda_its_area()
    {
        int clipped = 0;
        for (int n = 0; n < 2000; n++)
        {
            RngSequence random = Random(n), again = Random(n);
            Mixing mixing = Mixing.CutMix(ref random, 1, 24, 40, MixPartner.Rolled);
            MixBox box = mixing.Box!.Value;
            double half = 0.5 * Math.Sqrt(1 - again.UniformDouble());
            Assert.That(box.Right - box.Left, Is.LessThanOrEqualTo(2 * (int)(half * 40)));
            Assert.That((box.Top, box.Left), Is.EqualTo((Math.Clamp(box.Top, 0, 24), Math.Clamp(box.Left, 0, 40))));
            Assert.That((box.Bottom, box.Right), Is.EqualTo((Math.Clamp(box.Bottom, 0, 24), Math.Clamp(box.Right, 0, 40))));
            Assert.That(mixing.Lambda, Is.EqualTo(1 - (box.Bottom - box.Top) * (box.Right - box.Left) / 960.0).Within(1e-6));
            if (box.Right - box.Left < 2 * (int)(half * 40)) clipped++;
        }
        Assert.That(clipped, Is.InRange(300, 1700), "about half of the boxes reach over the border");
    }

    [TestCase(1.0)]
    [TestCase(0.8)]
    [TestCase(0.2)]
    [TestCase(3.0)]
    public void Lambda_has_the_moments_of_the_beta_distribution(double alpha)
    {
        const int n = 20_000;
        double sum = 0, squares = 0;
        for (int i = 0; i < n; i++)
        {
            RngSequence random = Random(i);
            double lambda = Mixing.Mixup(ref random, alpha, MixPartner.Rolled).Lambda;
            Assert.That(lambda, Is.InRange(0, 1));
            sum += lambda;
            squares += (lambda - 0.5) * (lambda - 0.5);
        }
        double variance = 1 / (4 * (2 * alpha + 1));
        Assert.That(sum / n, Is.EqualTo(0.5).Within(4 * Math.Sqrt(variance / n)));
        Assert.That(squares / n, Is.EqualTo(variance).Within(0.04 * variance));
    }

    [Test]
    public void Kamims_rule_takes_mixup_and_cutmix_equally_often_with_the_rolled_partner()
    {
        int cut = 0;
        for (int n = 0; n < 1000; n++)
        {
            RngSequence random = Random(n);
            Mixing mixing = Mixing.Kamim(ref random, 32, 32);
            Assert.That(mixing.Partner, Is.EqualTo(MixPartner.Rolled));
            if (mixing.Box is not null) cut++;
        }
        Assert.That(cut, Is.InRange(430, 570));
    }
}
