using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>
/// The order of uploads on a device with two queues, modelled: what is queued happens late and in any order that marks allow. Every batch must
/// be read whole, whatever the timing, and a wait that is left out must show.
/// </summary>
[TestFixture]
public class UploadTests
{
    private const int Steps = 40, Large = UploadRing.Small + 4096, Little = 512;

    public enum LeftOut { Nothing, HostForCopies, CopiesForCompute, ComputeForCopies, HostForSmall }

    [Test]
    public void Every_step_reads_its_own_batch_in_whatever_order_the_queues_run([Range(1, 20)] int seed)
        => Assert.That(StepsThatReadAnotherBatch(seed, LeftOut.Nothing) + StepsThatReadAnotherBatch(seed, LeftOut.Nothing, batches: false), Is.Zero);

    [Test]
    public void A_wait_that_is_left_out_is_seen([Values(LeftOut.HostForCopies, LeftOut.CopiesForCompute, LeftOut.ComputeForCopies, LeftOut.HostForSmall)] LeftOut what)
    {
        // Batches keep the host near the device; only without them can small uploads run into each other.
        Assert.That(Enumerable.Range(1, 20).Sum(seed => StepsThatReadAnotherBatch(seed, what, batches: what != LeftOut.HostForSmall)), Is.GreaterThan(0));
    }

    /// <summary>The next batch is under way before the present one's step is over: only then is anything overlapped.</summary>
    [Test]
    public void The_next_batch_travels_while_the_present_step_has_not_begun()
    {
        using var cpu = new CpuBackend(1);
        using Storage storage = cpu.Allocate(Large);
        var model = new TwoQueues(1, LeftOut.Nothing) { Sleeps = true };
        var ring = new UploadRing(model);
        for (int step = 0; step < 2; step++) ring.Upload(new Tensor(storage, 0, new Shape(Large), DType.U8), Bytes(step, Large));
        model.Drain(DeviceQueue.Copies);
        Assert.That((model.Sent, model.Placed), Is.EqualTo((2, 0)));
    }

    [Test]
    public void Long_uploads_go_in_pieces_and_arrive_whole()
    {
        using var cpu = new CpuBackend(1);
        const int bytes = UploadRing.Piece + 12345;
        using Storage storage = cpu.Allocate(bytes);
        var tensor = new Tensor(storage, 0, new Shape(bytes), DType.U8);
        byte[] source = Bytes(3, bytes);
        var model = new TwoQueues(5, LeftOut.Nothing);
        new UploadRing(model).Upload(tensor, source);
        model.Finish();
        Assert.That(tensor.Host<byte>().SequenceEqual(source), Is.True);
        Assert.That(model.Sent, Is.EqualTo(2));
    }

    private static byte[] Bytes(int step, int count)
    {
        byte[] all = new byte[count];
        for (int i = 0; i < count; i++) all[i] = (byte)(step * 37 + i * 11 + (i >> 8));
        return all;
    }

    /// <summary>Steps of one large and three small uploads into the same memory, as an arena gives it; sources are overwritten at once.</summary>
    private static int StepsThatReadAnotherBatch(int seed, LeftOut leftOut, bool batches = true)
    {
        using var cpu = new CpuBackend(1);
        using Storage pixels = cpu.Allocate(Large), masks = cpu.Allocate(3 * Little);
        Tensor batch = new(pixels, 0, new Shape(Large), DType.U8), all = new(masks, 0, new Shape(3, Little), DType.U8);
        var model = new TwoQueues(seed, leftOut);
        var ring = new UploadRing(model);
        int wrong = 0;
        for (int step = 0; step < Steps; step++)
        {
            byte[] large = Bytes(step, Large), little = Bytes(step + 1, 3 * Little), keptLarge = [.. large], keptLittle = [.. little];
            if (batches) ring.Upload(batch, large);
            for (int i = 0; i < 3; i++) ring.Upload(all.Slice(i, 1), little.AsSpan(i * Little, Little));
            Array.Fill(large, (byte)0xEE);
            Array.Fill(little, (byte)0xEE);
            model.Compute(() =>
            {
                if (batches && !batch.Host<byte>().SequenceEqual(keptLarge) || !all.Host<byte>().SequenceEqual(keptLittle)) wrong++;
            });
        }
        model.Finish();
        return wrong;
    }

    /// <summary>
    /// Two queues of actions. Now and then one goes on, where marks let it, always when it is waited for; for whole stretches one or both sleep.
    /// </summary>
    private sealed class TwoQueues(int seed, LeftOut leftOut) : IUploadDevice
    {
        private readonly record struct Entry(Action? Do, int Waits);   // Waits: for that many settings of all marks together, 0 = for none

        private readonly Queue<Entry>[] _queues = [new(), new()];
        private readonly byte[][] _host = new byte[UploadRing.Slots][], _device = new byte[UploadRing.Slots][];
        private readonly int[] _lastSet = new int[UploadRing.Marks];
        private readonly HashSet<int> _passed = [];
        private uint _random = (uint)seed * 2654435761u, _awake = 3;   // bit of each queue
        private int _set;

        /// <summary>Nothing goes on but what is waited for.</summary>
        public bool Sleeps { get; init; }

        public int Sent { get; private set; }
        public int Placed { get; private set; }

        public Span<byte> Host(int slot, int bytes)
        {
            if (_host[slot] is null || _host[slot].Length < bytes) (_host[slot], _device[slot]) = (new byte[bytes], new byte[bytes]);
            Wander();
            return _host[slot];
        }

        public void Send(int slot, int bytes) => Queue(DeviceQueue.Copies, () =>
        {
            _host[slot].AsSpan(0, bytes).CopyTo(_device[slot]);
            Sent++;
        });

        public void Place(int slot, Tensor destination, long offset, int bytes) => Queue(DeviceQueue.Compute, () =>
        {
            _device[slot].AsSpan(0, bytes).CopyTo(destination.Host<byte>()[(int)offset..]);
            Placed++;
        });

        public void Put(int slot, Tensor destination, long offset, int bytes)
            => Queue(DeviceQueue.Compute, () => _host[slot].AsSpan(0, bytes).CopyTo(destination.Host<byte>()[(int)offset..]));

        public void Compute(Action work) => Queue(DeviceQueue.Compute, work);

        public void Mark(DeviceQueue queue, int mark)
        {
            int setting = _lastSet[mark] = ++_set;
            Queue(queue, () => _passed.Add(setting));
        }

        public void Await(DeviceQueue queue, int mark)
        {
            if (leftOut == (queue == DeviceQueue.Copies ? LeftOut.CopiesForCompute : LeftOut.ComputeForCopies) || _lastSet[mark] == 0) return;
            _queues[(int)queue].Enqueue(new Entry(null, _lastSet[mark]));
        }

        public void Await(int mark)
        {
            if (leftOut == (mark < 2 * UploadRing.LargeSlots ? LeftOut.HostForCopies : LeftOut.HostForSmall)) return;
            while (_lastSet[mark] != 0 && !_passed.Contains(_lastSet[mark]))
                if (!Step(Next() % 2)) Step(0);
        }

        public void Drain(DeviceQueue queue)
        {
            while (Step((uint)queue)) { }
        }

        public void Finish()
        {
            while (_queues.Any(q => q.Count > 0))
                if (!Step(Next() % 2) && !Step(0) && !Step(1)) throw new InvalidOperationException("each queue waits for the other");
        }

        private void Queue(DeviceQueue queue, Action work)
        {
            _queues[(int)queue].Enqueue(new Entry(work, 0));
            Wander();
        }

        private void Wander()
        {
            if (Sleeps) return;
            if (Next() % 64 == 0) _awake = Next() % 4;
            for (uint n = Next() % 4; n > 0; n--)
                if (Next() % 2 is var queue && (_awake >> (int)queue & 1) != 0) Step(queue);
        }

        private bool Step(uint queue)
        {
            if (!_queues[queue].TryPeek(out Entry e) || e.Waits != 0 && !_passed.Contains(e.Waits)) return false;
            _queues[queue].Dequeue().Do?.Invoke();
            return true;
        }

        private uint Next()
        {
            _random = _random * 1664525 + 1013904223;
            return _random >> 16;
        }
    }
}
