namespace MimEngine.Kernels;

/// <summary>Element type of a <see cref="Tensor"/>. F64 exists for the test oracle only.</summary>
public enum DType : byte { F32, BF16, F64, I32, U8 }

/// <summary>Sizes of element types.</summary>
public static class DTypes
{
    /// <summary>Bytes of one element.</summary>
    public static int Size(this DType dtype) => dtype switch
    {
        DType.F32 or DType.I32 => 4,
        DType.BF16 => 2,
        DType.F64 => 8,
        DType.U8 => 1,
        _ => throw new ArgumentOutOfRangeException(nameof(dtype)),
    };
}

/// <summary>Up to four extents, row-major, the last one contiguous. Unused trailing extents are 1 and not part of the rank.</summary>
public readonly record struct Shape
{
    public Shape(int d0) : this(d0, 1, 1, 1, 1) { }
    public Shape(int d0, int d1) : this(d0, d1, 1, 1, 2) { }
    public Shape(int d0, int d1, int d2) : this(d0, d1, d2, 1, 3) { }
    public Shape(int d0, int d1, int d2, int d3) : this(d0, d1, d2, d3, 4) { }

    private Shape(int d0, int d1, int d2, int d3, int rank) => (D0, D1, D2, D3, Rank) = (d0, d1, d2, d3, rank);

    public int D0 { get; }
    public int D1 { get; }
    public int D2 { get; }
    public int D3 { get; }
    public int Rank { get; }

    /// <summary>Number of elements.</summary>
    public long Count => (long)D0 * D1 * D2 * D3;

    /// <summary>Length of the contiguous last axis.</summary>
    public int Cols => Rank switch { 1 => D0, 2 => D1, 3 => D2, _ => D3 };

    /// <summary>Everything before the last axis: the tensor seen as (Rows, Cols). A vector is one row.</summary>
    public int Rows => Rank switch { 1 => 1, 2 => D0, 3 => D0 * D1, _ => D0 * D1 * D2 };

    public int this[int axis] => axis switch
    {
        0 => D0, 1 => D1, 2 => D2, 3 => D3, _ => throw new ArgumentOutOfRangeException(nameof(axis)),
    };

    public override string ToString() => Rank switch
    {
        1 => $"({D0})",
        2 => $"({D0}, {D1})",
        3 => $"({D0}, {D1}, {D2})",
        _ => $"({D0}, {D1}, {D2}, {D3})",
    };
}

/// <summary>A block of device memory, owned by whoever allocated it.</summary>
public abstract class Storage(long bytes) : IDisposable
{
    public long Bytes { get; } = bytes;

    /// <summary>Address of the first byte where the memory is the host's; zero elsewhere.</summary>
    public virtual nint Address => 0;

    public abstract void Dispose();
}

/// <summary>A typed, contiguous, row-major view of device memory. No gradient, no ownership, no operators.</summary>
public readonly record struct Tensor(Storage Storage, long ByteOffset, Shape Shape, DType DType)
{
    public long Count => Shape.Count;
    public long Bytes => Shape.Count * DType.Size();

    /// <summary>The same elements under another shape.</summary>
    public Tensor Reshape(Shape shape) => shape.Count == Shape.Count
        ? this with { Shape = shape }
        : throw new ArgumentException($"Reshape: {Shape} has {Shape.Count} elements, {shape} has {shape.Count}.");

    /// <summary><paramref name="rows"/> entries of the first axis, from <paramref name="first"/>.</summary>
    public Tensor Slice(int first, int rows)
    {
        if (first < 0 || rows < 0 || first + rows > Shape.D0)
            throw new ArgumentOutOfRangeException(nameof(first), $"Slice: [{first}, {first + rows}) of the first axis of {Shape}.");
        long stride = Shape.Count / Math.Max(1, Shape.D0) * DType.Size();
        Shape shape = Shape.Rank switch
        {
            1 => new Shape(rows),
            2 => new Shape(rows, Shape.D1),
            3 => new Shape(rows, Shape.D1, Shape.D2),
            _ => new Shape(rows, Shape.D1, Shape.D2, Shape.D3),
        };
        return this with { ByteOffset = ByteOffset + first * stride, Shape = shape };
    }

    /// <summary>The elements as a span; host storage only.</summary>
    public unsafe Span<T> Host<T>() where T : unmanaged
    {
        if (sizeof(T) != DType.Size()) throw new InvalidOperationException($"Host<{typeof(T).Name}> on a {DType} tensor.");
        return new Span<T>((void*)HostAddress, checked((int)Shape.Count));
    }

    /// <summary>Address of the first element; host storage only.</summary>
    public nint HostAddress => Storage.Address != 0
        ? Storage.Address + (nint)ByteOffset
        : throw new InvalidOperationException("This tensor lives on a device; download it first.");

    internal unsafe float* F32 => (float*)Checked(DType.F32);
    internal unsafe ushort* BF16 => (ushort*)Checked(DType.BF16);
    internal unsafe byte* U8 => (byte*)Checked(DType.U8);
    internal unsafe int* I32 => (int*)Checked(DType.I32);

    /// <summary>The first element, of whatever type; host storage only.</summary>
    internal unsafe void* Raw => (void*)HostAddress;

    private nint Checked(DType expected) => DType == expected ? HostAddress
        : throw new ArgumentException($"This operation takes {expected} here; the tensor {Shape} is {DType}.");
}

/// <summary>What a backward kernel does with a result.</summary>
public enum GradMode : byte
{
    /// <summary>Nobody wants it: do not compute it.</summary>
    None,

    /// <summary>Overwrite the destination, whatever it holds (it may hold NaN).</summary>
    Write,

    /// <summary>Add to the destination.</summary>
    Accumulate,
}

/// <summary>Where a backward kernel puts its result, and how. Replaces "is it needed", "zero it first" and "+= or =".</summary>
public readonly record struct Grad(Tensor Into, GradMode Mode)
{
    public static Grad None => default;
    public static Grad Write(Tensor into) => new(into, GradMode.Write);
    public static Grad Add(Tensor into) => new(into, GradMode.Accumulate);
    public bool Wanted => Mode != GradMode.None;
    public bool Accumulate => Mode == GradMode.Accumulate;
}
