using System.Security.Cryptography;
using MimEngine.Engine.Data;
using MimEngine.Engine.Imaging;
using MimEngine.Kernels;
using NUnit.Framework;

namespace MimEngine.Tests;

[TestFixture]
public class DataTestsLoader
{
    private static LoaderConfig Config(IDataset dataset, int batch = 5) => new(dataset, new ShiftedCorner(2, 8), batch) { Seed = 7 };

    private static List<string> Hashes(LoaderConfig config, int steps)
    {
        using var loader = new Loader(config);
        var hashes = new List<string>();
        for (int i = 0; i < steps; i++)
        {
            Batch batch = loader.Next();
            byte[] ids = [.. batch.Ids.Take(batch.Count).Concat(batch.Labels.Take(batch.Count)).SelectMany(BitConverter.GetBytes)];
            hashes.Add($"{batch.Step} {Convert.ToHexString(SHA256.HashData([.. batch.Filled, .. ids]))}");
            loader.Return(batch);
        }
        return hashes;
    }

    [Test]
    public void Batches_do_not_depend_on_the_number_of_threads_or_of_batches_in_memory()
    {
        using var dataset = new Numbered(64);
        List<string> one = Hashes(Config(dataset), 40);
        Assert.That(one.Distinct().Count(), Is.EqualTo(40), "batches repeat, so equality would prove nothing");
        Assert.That(Hashes(Config(dataset) with { Threads = 4 }, 40), Is.EqualTo(one));
        Assert.That(Hashes(Config(dataset) with { Threads = 7, Batches = 6 }, 40), Is.EqualTo(one));
        Assert.That(Hashes(Config(dataset) with { Seed = 8 }, 40), Is.Not.EqualTo(one));
    }

    [Test]
    public void A_resumed_loader_gives_the_same_batches_in_the_middle_of_an_epoch()
    {
        using var dataset = new Numbered(64);
        List<string> whole = Hashes(Config(dataset), 30);
        foreach (int start in new[] { 1, 11, 12, 13, 29 })
            Assert.That(Hashes(Config(dataset) with { StartStep = start, Threads = 3 }, 30 - start), Is.EqualTo(whole[start..]));
    }

    [Test]
    public void Every_epoch_shows_each_picture_once_and_drops_the_rest()
    {
        using var dataset = new Numbered(23);
        using var loader = new Loader(Config(dataset) with { Threads = 2 });
        Assert.That(loader.StepsPerEpoch, Is.EqualTo(4));
        var order = new EpochOrder(7, 23);
        for (int epoch = 0; epoch < 3; epoch++)
        {
            var ids = new List<int>();
            for (int step = 0; step < 4; step++)
            {
                Batch batch = loader.Next();
                Assert.That(batch.Count, Is.EqualTo(5));
                Assert.That(batch.Labels, Is.EqualTo(batch.Ids.Select(dataset.Label)));
                ids.AddRange(batch.Ids);
                loader.Return(batch);
            }
            Assert.That(ids, Is.Unique);
            Assert.That(ids, Is.EqualTo(Enumerable.Range(0, 20).Select(p => order.Sample(epoch, p))));
        }
    }

    [Test]
    public void In_order_the_last_batch_is_shorter_and_its_views_are_contiguous()
    {
        using var dataset = new Numbered(13);
        using var loader = new Loader(Config(dataset) with { Order = LoaderOrder.InOrder, Threads = 2 });
        Assert.That(loader.StepsPerEpoch, Is.EqualTo(3));
        var ids = new List<int>();
        for (int step = 0; step < 3; step++)
        {
            Batch batch = loader.Next();
            ids.AddRange(batch.Ids.Take(batch.Count));
            Assert.That(batch.Filled.Length, Is.EqualTo(2 * batch.Count * 3 * 64));
            for (int row = 0; row < 2 * batch.Count; row++)
            {
                int index = batch.Ids[row % batch.Count];
                Assert.That(batch.Filled[row * 192], Is.EqualTo((byte)index), "the cutter writes the picture's number first");
                Assert.That(batch.Filled[row * 192 + 1], Is.EqualTo((byte)(row / batch.Count)), "then the view's");
            }
            loader.Return(batch);
        }
        Assert.That(ids, Is.EqualTo(Enumerable.Range(0, 13)));
    }

    [Test]
    public void A_view_draws_from_the_name_of_its_sample_and_view()
    {
        using var dataset = new Numbered(64);
        using var loader = new Loader(Config(dataset) with { StartStep = 3 });
        Batch batch = loader.Next();
        for (int view = 0; view < 2; view++)
            for (int slot = 0; slot < 5; slot++)
            {
                RngSequence random = new Rng(7, RandomStream.Augment, (ulong)((3 * 5 + slot) * 2 + view)).Start();
                Assert.That(batch.Pixels[(view * 5 + slot) * 192 + 2], Is.EqualTo((byte)random.Word()));
            }
    }

    [Test]
    public void A_dataset_smaller_than_a_batch_is_refused_only_when_the_rest_is_dropped()
    {
        using var dataset = new Numbered(3);
        Assert.That(() => new Loader(Config(dataset)), Throws.TypeOf<DataException>().With.Message.Contains("3 pictures").And.Message.Contains("5"));
        using var loader = new Loader(Config(dataset) with { Order = LoaderOrder.InOrder });
        Assert.That(loader.Next().Count, Is.EqualTo(3));
    }

    [TestCase(1)]
    [TestCase(4)]
    public void Steady_state_allocates_nothing(int threads)
    {
        using IDataset dataset = Datasets.Open(null, Split.Test);
        using var loader = new Loader(new LoaderConfig(dataset, new ShiftedCorner(1, 28), 64) { Threads = threads });
        for (int i = 0; i < 50; i++) loader.Return(loader.Next());
        // The whole process is counted, because the work happens on other threads; other tests may run and allocate, so the best window counts.
        long best = long.MaxValue;
        for (int window = 0; window < 20 && best > 0; window++)
        {
            long before = GC.GetTotalAllocatedBytes(precise: true);
            for (int i = 0; i < 40; i++) loader.Return(loader.Next());
            best = Math.Min(best, GC.GetTotalAllocatedBytes(precise: true) - before);
        }
        Assert.That(best, Is.Zero);
    }

    [Test]
    public void Waiting_is_measured_and_waiting_threads_use_no_cpu()
    {
        using var dataset = new Numbered(64) { ReadMilliseconds = 4 };
        using var loader = new Loader(Config(dataset) with { Batches = 2 });
        for (int i = 0; i < 5; i++) loader.Return(loader.Next());
        Assert.That(loader.WaitSeconds, Is.InRange(0.05, 10), "25 pictures of 4 ms each, nothing between the calls");

        double waited = loader.WaitSeconds;
        Thread.Sleep(300);  // both batches are full now
        int reads = dataset.Reads;
        Thread.Sleep(100);
        Assert.That(dataset.Reads, Is.EqualTo(reads), "reading ahead is bounded");
        loader.Return(loader.Next());
        Assert.That(loader.WaitSeconds, Is.EqualTo(waited), "a batch that is ready is not waited for");
    }

    [Test]
    public void Reading_stops_at_the_last_step()
    {
        using var dataset = new Numbered(64);
        using var loader = new Loader(Config(dataset) with { EndStep = 3, Threads = 2, Batches = 5 });
        for (int i = 0; i < 3; i++) loader.Return(loader.Next());
        Assert.That(() => loader.Next(), Throws.InvalidOperationException);
        Assert.That(dataset.Reads, Is.EqualTo(15));
    }

    [Test]
    public void Misuse_is_refused()
    {
        using var dataset = new Numbered(64);
        var loader = new Loader(Config(dataset) with { Batches = 2 });
        Batch first = loader.Next(), second = loader.Next();
        Assert.That(() => loader.Next(), Throws.InvalidOperationException.With.Message.Contains("2 batches are out"));
        loader.Return(second);
        loader.Return(first);
        Assert.That(() => loader.Return(first), Throws.InvalidOperationException);
        Assert.That(loader.Next().Step, Is.EqualTo(2));
        loader.Dispose();
        Assert.That(() => loader.Next(), Throws.TypeOf<ObjectDisposedException>());
    }

    [Test]
    public void An_unreadable_picture_is_replaced_by_the_next_one_counted_and_named()
    {
        using var whole = new Numbered(400);
        using var broken = new Numbered(400) { Broken = i => i is 6 or 7 };
        List<(int, int)> Read(IDataset dataset, int threads, out string report)
        {
            using var loader = new Loader(Config(dataset, 10) with { Threads = threads });
            var ids = new List<(int, int)>();
            for (int step = 0; step < 80; step++)
            {
                Batch batch = loader.Next();
                for (int i = 0; i < 10; i++) ids.Add((batch.Ids[i], batch.Labels[i]));
                loader.Return(batch);
            }
            report = $"{loader.Corrupt.Failures}/{loader.Corrupt.Reads} {loader.Corrupt.Report()}";
            return ids;
        }
        List<(int Id, int Label)> expected = [.. Read(whole, 1, out string none).Select(p => p.Item1 is 6 or 7 ? (8, whole.Label(8)) : p)];
        Assert.That(none, Is.EqualTo("0/800 "));
        Assert.That(Read(broken, 1, out string one), Is.EqualTo(expected));
        Assert.That(Read(broken, 4, out string four), Is.EqualTo(expected));
        // Two epochs: 6 fails, then 7; and 7 on its own: 3 failures an epoch.
        Assert.That(one, Is.EqualTo(four));
        Assert.That(one, Does.StartWith("6/806 2 unreadable pictures replaced by the next in order: ").And.Contains("number 6").And.Contains("number 7"));
    }

    [TestCase(1)]
    [TestCase(4)]
    public void Twenty_unreadable_pictures_in_a_row_stop_the_run_with_a_sentence(int threads)
    {
        using var dataset = new Numbered(300) { Broken = i => i is >= 100 and < 120 };
        using var loader = new Loader(new LoaderConfig(dataset, new ShiftedCorner(1, 8), 10) { Threads = threads, Order = LoaderOrder.InOrder });
        for (int i = 0; i < 10; i++) loader.Return(loader.Next());
        Assert.That(() => loader.Next(), Throws.TypeOf<DataException>().With.Message.Contains("20 pictures in a row").And.Message.Contains("number 119"));
    }

    [TestCase(1)]
    [TestCase(4)]
    public void More_than_one_per_cent_of_unreadable_pictures_stops_the_run_at_the_same_step(int threads)
    {
        using var dataset = new Numbered(2000) { Broken = i => i % 80 == 79 };
        using var loader = new Loader(new LoaderConfig(dataset, new ShiftedCorner(1, 8), 10) { Threads = threads, Order = LoaderOrder.InOrder });
        int steps = 0;
        var error = Assert.Throws<DataException>(() =>
        {
            for (; ; steps++) loader.Return(loader.Next());
        });
        Assert.That(error!.Message, Does.Contain("13 of 1053 reads failed").And.Contains("number 79"));
        Assert.That(steps, Is.EqualTo(103));
    }

    [Test]
    public void A_fault_that_is_no_fault_of_the_data_reaches_the_caller_as_it_is()
    {
        using var dataset = new Numbered(64) { Fault = new ArithmeticException("a mistake in the code") };
        using var loader = new Loader(Config(dataset));
        Assert.That(() => loader.Next(), Throws.TypeOf<ArithmeticException>());
    }

    /// <summary>Pictures of one colour that say their number.</summary>
    private sealed class Numbered(int count) : IDataset
    {
        private int _reads;

        public Func<int, bool> Broken { get; init; } = _ => false;
        public int ReadMilliseconds { get; init; }
        public Exception? Fault { get; init; }
        public int Reads => Volatile.Read(ref _reads);
        public string Name => "numbered";
        public int Count => count;
        public IReadOnlyList<string> Classes { get; } = ["a", "b", "c"];
        public int Label(int index) => index % 3;

        public void Read(int index, RgbImage into)
        {
            Interlocked.Increment(ref _reads);
            if (ReadMilliseconds > 0) Thread.Sleep(ReadMilliseconds);
            if (Fault is not null) throw Fault;
            if (Broken(index)) throw new DataException($"number {index} is broken.");
            into.Resize(8, 8);
            into.Bytes.Fill((byte)index);
        }

        public void Dispose() { }
    }

    /// <summary>Writes the picture's first value, the view, a random byte, then more random bytes.</summary>
    private sealed class ShiftedCorner(int count, int size) : IViews, IViewCutter
    {
        public int Count => count;
        public int Size => size;
        public IViewCutter NewCutter() => this;

        public void Cut(Span<byte> crop, RgbImage image, int view, ref RngSequence random)
        {
            crop.Fill((byte)view);
            crop[0] = image.Pixels[0];
            for (int i = 2; i < 20; i++) crop[i] = (byte)random.Word();
        }
    }
}
