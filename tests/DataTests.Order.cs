using MimEngine.Engine.Data;
using NUnit.Framework;

namespace MimEngine.Tests;

[TestFixture]
public class DataTestsOrder
{
    [Test]
    public void Every_epoch_is_a_permutation_at_every_count()
    {
        for (int count = 1; count <= 300; count++)
            for (long epoch = 0; epoch < 3; epoch++)
            {
                var order = new EpochOrder(42, count);
                Assert.That(Enumerable.Range(0, count).Select(p => order.Sample(epoch, p)).Order(), Is.EqualTo(Enumerable.Range(0, count)));
            }
    }

    [TestCase(6000)]
    [TestCase(65537)]
    public void Large_epochs_are_permutations_and_differ_by_epoch_and_seed(int count)
    {
        int[] Order(ulong seed, long epoch)
        {
            var order = new EpochOrder(seed, count);
            return [.. Enumerable.Range(0, count).Select(p => order.Sample(epoch, p))];
        }
        int[] first = Order(1, 0);
        Assert.That(first.Order(), Is.EqualTo(Enumerable.Range(0, count)));
        // Two unrelated permutations agree in one place on average.
        Assert.That(first.Zip(Order(1, 1)).Count(p => p.First == p.Second), Is.LessThan(12));
        Assert.That(first.Zip(Order(2, 0)).Count(p => p.First == p.Second), Is.LessThan(12));
        Assert.That(first.Where((sample, p) => sample == p).Count(), Is.LessThan(12));
        Assert.That(first.Zip(first.Skip(1)).Count(p => p.Second == p.First + 1), Is.LessThan(12));
    }

    [Test]
    public void Every_sample_is_equally_likely_at_every_position()
    {
        const int count = 10, epochs = 20_000;
        var order = new EpochOrder(3, count);
        foreach (int position in new[] { 0, 4, 9 })
        {
            int[] seen = new int[count];
            for (int epoch = 0; epoch < epochs; epoch++) seen[order.Sample(epoch, position)]++;
            double expected = (double)epochs / count, chi = seen.Sum(n => (n - expected) * (n - expected) / expected);
            Assert.That(chi, Is.LessThan(27.9), "chi-squared with 9 degrees of freedom exceeds this once in a thousand");
        }
    }

    [Test]
    public void Two_positions_are_independent()
    {
        // All ordered pairs of different samples, at positions 0 and 1, equally often: 90 cells, 89 degrees of freedom.
        const int count = 10, epochs = 45_000;
        var order = new EpochOrder(5, count);
        int[] seen = new int[count * count];
        for (int epoch = 0; epoch < epochs; epoch++) seen[order.Sample(epoch, 0) * count + order.Sample(epoch, 1)]++;
        double expected = epochs / 90.0;
        double chi = seen.Where((_, i) => i / count != i % count).Sum(n => (n - expected) * (n - expected) / expected);
        Assert.That(chi, Is.LessThan(135.98), "exceeded once in a thousand");
    }

    [Test]
    public void The_largest_dataset_works()
    {
        var order = new EpochOrder(9, int.MaxValue);
        int[] samples = [.. Enumerable.Range(0, 1000).Select(i => order.Sample(long.MaxValue, int.MaxValue - 1 - i))];
        Assert.That(samples, Is.Unique);
        Assert.That(samples, Is.All.InRange(0, int.MaxValue - 1));
        Assert.That(() => order.Sample(0, int.MaxValue), Throws.TypeOf<ArgumentOutOfRangeException>());
    }
}
