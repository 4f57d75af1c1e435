namespace MimEngine.Kernels;

/// <summary>
/// The seam between networks and devices: device memory plus about forty coarse operations, one partial file a family.
/// Abstract = every backend must have it; virtual = a backend may be faster than the composed body, which is its meaning.
/// </summary>
/// <remarks>
/// Floating tensors are F32 (the oracle's F64), unless a docstring says "Real or Branch": then each such operand by itself is F32 or BF16.
/// A BF16 operand is read exactly, computed with in float32 and rounded to nearest even once, when it is written; what is accumulated into
/// a BF16 gradient is added in float32 before that. Under <see cref="Precision.BF16"/> a backend may round operands of its products, those of
/// attention included, to bfloat16 as well.
/// Argument order everywhere: gradients, destinations, upstream gradient, inputs, options. All tensors are contiguous.
/// Operations on one backend are called from one thread at a time and complete in call order.
/// A destination may hold anything before a call (tests poison it with NaN); it never overlaps an input unless a docstring says so.
/// </remarks>
public abstract partial class Backend : IDisposable
{
    /// <summary>Name as a user types it: "cpu", "null", "cuda:1".</summary>
    public abstract string Name { get; }

    /// <summary>One line for people: hardware, threads, instruction set.</summary>
    public abstract string Description { get; }

    /// <summary>Element type of everything that is float32 in the contract: F64 in the oracle of the tests, F32 elsewhere.</summary>
    public virtual DType Real => DType.F32;

    /// <summary>
    /// Element type of what lies between the products of a block: LayerNorm's output, qkv, attention's output, the MLP's pre-activation and
    /// activation, the gradients of all these, and the copy of the weights that products read. BF16 under <see cref="Precision.BF16"/>, else
    /// <see cref="Real"/>. The residual stream and everything outside of blocks is Real.
    /// </summary>
    public virtual DType Branch => Real;

    /// <summary>Allocates zeroed device memory, aligned to at least 64 bytes.</summary>
    /// <exception cref="DeviceMemoryException">The device has not that much left.</exception>
    public abstract Storage Allocate(long bytes);

    /// <summary>Copies host bytes to the device. May be asynchronous on a device, but the source may be reused on return.</summary>
    public abstract void Upload(Tensor destination, ReadOnlySpan<byte> source);

    /// <summary>Copies device bytes to the host, after everything queued before.</summary>
    public abstract void Download(Span<byte> destination, Tensor source);

    /// <summary>Waits for everything queued.</summary>
    public virtual void Synchronize() { }

    /// <summary>Sets every element. F32 and U8.</summary>
    public abstract void Fill(Tensor y, float value);

    /// <summary>y = x, element for element; same type and count.</summary>
    public abstract void Copy(Tensor y, Tensor x);

    /// <summary>
    /// y = x, element for element, in y's type: float32 to bfloat16 rounds to nearest, ties to even, NaN stays NaN and what is beyond the largest
    /// becomes infinite; bfloat16 to float32 is exact. Same count.
    /// </summary>
    public abstract void Cast(Tensor y, Tensor x);

    /// <summary>y = a·x + b·y. With b = 0, y may hold NaN. F32.</summary>
    public abstract void AddScaled(Tensor y, Tensor x, float a, float b);

    /// <summary>Bytes of scratch and packing buffers this backend holds beside the tensors it handed out.</summary>
    public virtual long OwnBytes => 0;

    /// <summary>Bytes of the memory handed out by <see cref="Allocate"/> and not yet disposed.</summary>
    public virtual long AllocatedBytes => 0;

    public abstract void Dispose();

    /// <summary>Opens a device by the name a user typed.</summary>
    /// <param name="threads">Worker threads of the CPU; 0 = all that the process may use. Ignored by other devices.</param>
    /// <param name="precision">What matrix products multiply, and what lies between them; a device that has only float32 refuses the other.</param>
    /// <exception cref="DeviceException">The device is unknown, absent or refused; the message says what to do.</exception>
    public static Backend Open(string name, int threads = 0, Precision precision = Precision.F32) => name switch
    {
        "cpu" => new Cpu.CpuBackend(threads, precision: precision),
        "null" => new NullBackend(precision),
        _ => BackendLoader.Open(name, precision),
    };
}

/// <summary>A device that is unknown, absent, refused or lost. The message is one sentence for the user.</summary>
public class DeviceException(string message, Exception? inner = null) : Exception(message, inner);

/// <summary>A device that ran out of memory. The message holds the bytes asked and what is known of those free.</summary>
public sealed class DeviceMemoryException(string message, Exception? inner = null) : DeviceException(message, inner);
