using System.Runtime.InteropServices;
using MimEngine.Kernels;

namespace MimEngine.Engine.Autograd;

/// <summary>
/// Activation memory: one block of device memory, cut by exact size. A step repeats its sizes, so freed pieces fit again and nothing
/// fragments; the second step rents nothing new.
/// </summary>
public sealed class Arena : IDisposable
{
    private const long Alignment = 64;
    private readonly Storage _storage;
    private readonly bool _owner = true;
    private readonly Dictionary<long, Stack<long>> _free = [];
    private long _top;
    private bool _frozen;

    /// <param name="bytes">Capacity; a plan on the null backend says how much a step needs.</param>
    public Arena(Backend backend, long bytes)
    {
        Capacity = bytes;
        _storage = backend.Allocate(bytes);
    }

    private Arena(Arena host) => (_storage, Capacity, _owner) = (host._storage, host.Capacity, false);

    /// <summary>
    /// A second way to cut the same memory, for work between steps: pictures, probes. Valid while this arena has nothing rented out.
    /// </summary>
    public Arena Guest() => Live == 0 ? new Arena(this)
        : throw new InvalidOperationException($"{Live:N0} bytes are rented out; a guest may come between steps only.");

    public long Capacity { get; }

    /// <summary>Bytes ever cut: what a step needs.</summary>
    public long Peak => _top;

    /// <summary>Bytes rented now.</summary>
    public long Live { get; private set; }

    /// <summary>Pieces ever cut; constant from the second step on.</summary>
    public int Pieces { get; private set; }

    /// <summary>Called for every rented piece while a plan is made: (shape, bytes).</summary>
    internal Action<Shape, long>? Rented { get; set; }

    /// <summary>Memory for one tensor, holding anything.</summary>
    /// <exception cref="DeviceMemoryException">The arena is too small, or frozen and this size is new.</exception>
    public Tensor Rent(Shape shape, DType dtype)
    {
        long bytes = Rounded(shape.Count * dtype.Size());
        ref Stack<long>? free = ref CollectionsMarshal.GetValueRefOrAddDefault(_free, bytes, out _);
        free ??= new Stack<long>();
        if (!free.TryPop(out long offset))
        {
            if (_frozen) throw new DeviceMemoryException($"A later step asked for {bytes:N0} bytes that the first step did not use.");
            if (_top + bytes > Capacity)
                throw new DeviceMemoryException(
                    $"Activations need more than the {Capacity:N0} bytes planned: {bytes:N0} bytes asked, {Capacity - _top:N0} free.");
            offset = _top;
            _top += bytes;
            Pieces++;
        }
        Live += bytes;
        Rented?.Invoke(shape, bytes);
        return new Tensor(_storage, offset, shape, dtype);
    }

    /// <summary>Gives a rented tensor back.</summary>
    public void Return(Tensor tensor)
    {
        long bytes = Rounded(tensor.Bytes);
        _free[bytes].Push(tensor.ByteOffset);
        Live -= bytes;
    }

    /// <summary>From now on growing is an error.</summary>
    public void Freeze() => _frozen = true;

    public void Dispose()
    {
        if (_owner) _storage.Dispose();
    }

    private static long Rounded(long bytes) => (Math.Max(1, bytes) + Alignment - 1) / Alignment * Alignment;
}
