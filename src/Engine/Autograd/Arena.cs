using MimEngine.Kernels;

namespace MimEngine.Engine.Autograd;

/// <summary>
/// Memory of one step: one block of the device's, cut as a step asks. Neighbouring holes become one. What is given back again soon lies in
/// the smallest hole that has room for it; what stays while the rest goes lies as high as it can, out of the way. A step asks for the same
/// sizes in the same order, so it is cut alike every time.
/// </summary>
public sealed class Arena : IDisposable
{
    internal const int Alignment = 64;
    private readonly Storage _storage;
    private readonly bool _owner = true;
    private readonly List<Hole> _holes = [];   // by address; none touches another or the top
    private long _top;                         // everything above is free
    private bool _frozen;

    /// <summary>Free memory between rented pieces.</summary>
    private readonly record struct Hole(long First, long Bytes)
    {
        public long End => First + Bytes;
    }

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

    /// <summary>The highest end of a piece ever rented: what a step needs.</summary>
    public long Peak { get; private set; }

    /// <summary>Bytes rented now.</summary>
    public long Live { get; private set; }

    /// <summary>Called for every rented activation while a plan is made: (shape, bytes).</summary>
    internal Action<Shape, long>? Rented { get; set; }

    /// <summary>Memory for one activation, holding anything.</summary>
    /// <exception cref="DeviceMemoryException">The arena is too small, or frozen and this step needs more than those before.</exception>
    public Tensor Rent(Shape shape, DType dtype)
    {
        long bytes = Rounded(shape.Count * dtype.Size());
        int smallest = -1;
        for (int i = 0; i < _holes.Count; i++)
            if (_holes[i].Bytes >= bytes && (smallest < 0 || _holes[i].Bytes < _holes[smallest].Bytes)) smallest = i;
        Rented?.Invoke(shape, bytes);
        return new Tensor(_storage, smallest < 0 ? OffTheTop(bytes) : Out(smallest, bytes, high: false), shape, dtype);
    }

    /// <summary>Memory for what stays when activations go: a parameter's gradient.</summary>
    /// <inheritdoc cref="Rent" path="/exception"/>
    public Tensor RentHigh(Shape shape, DType dtype)
    {
        long bytes = Rounded(shape.Count * dtype.Size());
        int highest = _holes.Count - 1;
        while (highest >= 0 && _holes[highest].Bytes < bytes) highest--;
        return new Tensor(_storage, highest < 0 ? OffTheTop(bytes) : Out(highest, bytes, high: true), shape, dtype);
    }

    /// <summary>Gives a rented tensor back.</summary>
    /// <exception cref="InvalidOperationException">It is not rented.</exception>
    public void Return(Tensor tensor)
    {
        long first = tensor.ByteOffset, end = first + Rounded(tensor.Bytes);
        int after = 0;
        while (after < _holes.Count && _holes[after].End <= first) after++;
        if (end > _top || after < _holes.Count && _holes[after].First < end)
            throw new InvalidOperationException($"{tensor.Shape} at byte {first:N0} was given back but is not rented out.");
        Live -= end - first;
        // One hole with its neighbours, or with everything above.
        int at = after > 0 && _holes[after - 1].End == first ? after - 1 : after, joined = after - at;
        if (at < after) first = _holes[at].First;
        if (after < _holes.Count && _holes[after].First == end)
        {
            end = _holes[after].End;
            joined++;
        }
        _holes.RemoveRange(at, joined);
        if (end == _top) _top = first;
        else _holes.Insert(at, new Hole(first, end - first));
    }

    /// <summary>From now on growing is an error.</summary>
    public void Freeze() => _frozen = true;

    public void Dispose()
    {
        if (_owner) _storage.Dispose();
    }

    /// <summary>Takes bytes out of one end of a hole; returns the first.</summary>
    private long Out(int hole, long bytes, bool high)
    {
        (long first, long room) = _holes[hole];
        if (room == bytes) _holes.RemoveAt(hole);
        else _holes[hole] = high ? new Hole(first, room - bytes) : new Hole(first + bytes, room - bytes);
        Live += bytes;
        return high ? first + room - bytes : first;
    }

    private long OffTheTop(long bytes)
    {
        long first = _top, end = first + bytes;
        if (end > Capacity)
            throw new DeviceMemoryException(
                $"A step needs more than the {Capacity:N0} bytes planned: {bytes:N0} bytes asked, {Capacity - first:N0} free at the end.");
        if (_frozen && end > Peak) throw new DeviceMemoryException($"A later step needs {end:N0} bytes; the first step used {Peak:N0}.");
        _top = end;
        Peak = Math.Max(Peak, end);
        Live += bytes;
        return first;
    }

    internal static long Rounded(long bytes) => (Math.Max(1, bytes) + Alignment - 1) / Alignment * Alignment;
}
