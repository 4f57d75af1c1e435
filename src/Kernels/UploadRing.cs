namespace MimEngine.Kernels;

/// <summary>The queues of a device. Each works in order; between them only marks give an order.</summary>
internal enum DeviceQueue : byte
{
    /// <summary>Copies from the host, beside what computes.</summary>
    Copies,

    /// <summary>Kernels, and everything that must be in order with them.</summary>
    Compute,
}

/// <summary>
/// What an upload asks of a device. A slot is a block of page-locked host memory and one of device memory. A mark that was never set counts
/// as passed.
/// </summary>
internal interface IUploadDevice
{
    /// <summary>The slot's host block, of at least so many bytes. Nobody may be using the host block; growing waits for all else.</summary>
    Span<byte> Host(int slot, int bytes);

    /// <summary>Queues a copy of the slot's host block to its device block behind <see cref="DeviceQueue.Copies"/>.</summary>
    void Send(int slot, int bytes);

    /// <summary>Queues a copy of the slot's device block to a tensor's bytes behind <see cref="DeviceQueue.Compute"/>.</summary>
    void Place(int slot, Tensor destination, long offset, int bytes);

    /// <summary>Queues a copy of the slot's host block straight to a tensor's bytes behind <see cref="DeviceQueue.Compute"/>.</summary>
    void Put(int slot, Tensor destination, long offset, int bytes);

    /// <summary>Sets a mark behind what the queue holds now.</summary>
    void Mark(DeviceQueue queue, int mark);

    /// <summary>Holds the queue until the mark is passed.</summary>
    void Await(DeviceQueue queue, int mark);

    /// <summary>Holds the caller until the mark is passed.</summary>
    void Await(int mark);
}

/// <summary>
/// Uploads that overlap with computing: the source is copied into a page-locked block, sent on a queue of its own, and put in its place on the
/// compute queue. So the next batch travels while the present one computes, and its source is free on return.
/// </summary>
/// <remarks>
/// Two slots suffice: one is on its way while the other is read. Small uploads (masks, tables) do not take part, or one of them, issued at the
/// end of a step, would hold the slot of the next batch until that step is over; they go straight through many small blocks.
/// </remarks>
internal sealed class UploadRing(IUploadDevice device)
{
    /// <summary>Up to here an upload is small; a batch of 64 at 192 px is 7 MB.</summary>
    public const int Small = 1 << 20;

    /// <summary>The most that one slot holds; longer uploads go in pieces.</summary>
    public const int Piece = 64 << 20;

    /// <summary>Slots of large uploads, then of small ones: some five steps of them.</summary>
    public const int LargeSlots = 2, SmallSlots = 32, Slots = LargeSlots + SmallSlots;

    /// <summary>Marks that are used: of each slot, its host block is read, and its device block is read.</summary>
    public const int Marks = 2 * Slots;

    private int _large, _small;

    /// <summary>Queues the copy; <paramref name="source"/> may be reused on return.</summary>
    public void Upload(Tensor destination, ReadOnlySpan<byte> source)
    {
        if (source.Length <= Small)
        {
            int slot = LargeSlots + _small;
            _small = (_small + 1) % SmallSlots;
            device.Await(HostRead(slot));
            source.CopyTo(device.Host(slot, source.Length));
            device.Put(slot, destination, 0, source.Length);
            device.Mark(DeviceQueue.Compute, HostRead(slot));
            return;
        }
        for (int at = 0; at < source.Length; at += Piece)
        {
            int slot = _large, bytes = Math.Min(Piece, source.Length - at);
            _large = (_large + 1) % LargeSlots;
            device.Await(HostRead(slot));
            source.Slice(at, bytes).CopyTo(device.Host(slot, bytes));
            device.Await(DeviceQueue.Copies, DeviceRead(slot));
            device.Send(slot, bytes);
            device.Mark(DeviceQueue.Copies, HostRead(slot));
            device.Await(DeviceQueue.Compute, HostRead(slot));
            device.Place(slot, destination, at, bytes);
            device.Mark(DeviceQueue.Compute, DeviceRead(slot));
        }
    }

    private static int HostRead(int slot) => 2 * slot;
    private static int DeviceRead(int slot) => 2 * slot + 1;
}
