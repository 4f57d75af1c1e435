using System.Runtime.InteropServices;
using MimEngine.Kernels.Cpu.Emitted;

namespace MimEngine.Kernels.Cpu;

/// <summary>The CPU as a device: float32 through Vector512, Vector256 or scalar kernels, on a fixed set of threads.</summary>
public sealed unsafe partial class CpuBackend : Backend
{
    private readonly Rows _rows;
    private readonly HostStorage?[] _scratch = new HostStorage?[ScratchSlots];
    private const int ScratchSlots = 12;

    /// <param name="threads">Compute threads, the caller's included; 0 = all that the process may use (container limits respected).</param>
    /// <param name="level">Vector width; none = the best this machine has. A lower one is for tests and comparisons.</param>
    /// <param name="emit">Prefer machine code assembled at run time to the JIT's where there is such; the bits are the same.</param>
    /// <param name="precision">What matrix products multiply.</param>
    /// <param name="bf16">The unit for bfloat16 products; none = the best this machine has. Another one is for tests and comparisons.</param>
    public CpuBackend(int threads = 0, SimdLevel? level = null, bool emit = true, Precision precision = Precision.F32, Bf16Unit? bf16 = null)
        : this(threads, level, emit, precision, bf16, dry: false)
    {
    }

    private CpuBackend(int threads, SimdLevel? level, bool emit, Precision precision, Bf16Unit? bf16, bool dry)
    {
        _dry = dry;
        Level = level ?? Simd.Best;
        if (Level > Simd.Best)
            throw new DeviceException($"device 'cpu': SIMD level {Level} was asked for, but this machine or runtime setting has only {Simd.Best}.");
        _rows = new Rows(threads > 0 ? threads : Environment.ProcessorCount, dry);
        _emits = emit && Level == SimdLevel.Vector512;
        Precision = precision;
        if (precision == Precision.F32) return;
        Bf16Unit unit = bf16 ?? (_emits ? Bf16Routines.Best : Bf16Unit.Float32);
        _bf16 = Bf16Routines.Of(unit);
        if (unit != Bf16Unit.Float32 && _bf16 == null)
            throw new DeviceException($"device 'cpu': the bfloat16 unit {unit} was asked for, but this machine or its settings have only {Bf16Routines.Best}.");
    }

    private readonly bool _emits;

    /// <summary>Machine code for float32 tiles, assembled when the first product asks: a plan or a list of devices never does.</summary>
    private TileRoutines? Emitted => _emits && !_dry ? TileRoutines.Instance : null;

    private readonly Bf16Routines? _bf16;

    /// <summary>What matrix products multiply.</summary>
    public Precision Precision { get; }

    public override DType Branch => Precision == Precision.BF16 ? DType.BF16 : DType.F32;

    private readonly bool _dry;

    /// <summary>
    /// A CPU that asks for all its memory but runs no kernel: what it asks for is what a real one will. Pages nobody touches cost nothing.
    /// </summary>
    public static CpuBackend Dry(int threads = 0, Precision precision = Precision.F32) => new(threads, null, true, precision, null, dry: true);

    public SimdLevel Level { get; }
    public int Threads => _rows.Threads;
    public override string Name => "cpu";
    public override string Description => $"CPU, {Threads} thread{(Threads == 1 ? "" : "s")}, {Level switch
    {
        SimdLevel.Vector512 => "AVX-512 (16 lanes)",
        SimdLevel.Vector256 => "AVX2 (8 lanes)",
        _ => "scalar",
    }}{(Precision == Precision.BF16 ? $", products in {Bf16Description}" : "")}";

    /// <summary>What this machine multiplies bfloat16 with, or why with nothing.</summary>
    public static string Bf16Description => Bf16Routines.Best switch
    {
        Bf16Unit.Tiles => "bf16 by AMX tiles",
        Bf16Unit.Dot => "bf16 by VDPBF16PS",
        _ => "float32 of operands rounded to bf16: " + (CpuFeatures.HasBf16Dot ? "the system allows no executable memory"
            : Simd.Best == SimdLevel.Vector512 ? "the processor has neither AMX nor AVX512-BF16" : "AVX-512 is absent or switched off"),
    };

    /// <summary>Bytes handed out by <see cref="Allocate"/> and not yet disposed.</summary>
    public override long AllocatedBytes => Interlocked.Read(ref _allocated);
    private long _allocated;

    public override long OwnBytes => _scratch.Sum(s => s?.Bytes ?? 0);

    public override Storage Allocate(long bytes)
    {
        Interlocked.Add(ref _allocated, bytes);
        return new HostStorage(bytes, () => Interlocked.Add(ref _allocated, -bytes), clear: !_dry);
    }

    public override void Upload(Tensor destination, ReadOnlySpan<byte> source)
    {
        if (source.Length != destination.Bytes)
            throw new ArgumentException($"Upload: {source.Length} bytes into a tensor of {destination.Bytes}.");
        source.CopyTo(new Span<byte>((void*)destination.HostAddress, source.Length));
    }

    public override void Download(Span<byte> destination, Tensor source)
    {
        if (destination.Length != source.Bytes)
            throw new ArgumentException($"Download: a tensor of {source.Bytes} bytes into {destination.Length}.");
        new ReadOnlySpan<byte>((void*)source.HostAddress, destination.Length).CopyTo(destination);
    }

    public override void Dispose()
    {
        _rows.Dispose();
        foreach (HostStorage? s in _scratch) s?.Dispose();
    }

    /// <summary>
    /// Grow-only working memory of one op call. Slots let one op hold several; an op that calls another op must use other slots.
    /// Growth happens in the first step only, since a step repeats its shapes.
    /// </summary>
    internal byte* Scratch(int slot, long bytes) => (byte*)ScratchStorage(slot, bytes).Address;

    private HostStorage ScratchStorage(int slot, long bytes)
    {
        if (_scratch[slot] is not { } s || s.Bytes < bytes)
        {
            _scratch[slot]?.Dispose();
            _scratch[slot] = s = new HostStorage(bytes, null, clear: false);
        }
        return s;
    }
}

/// <summary>Host memory outside the managed heap: aligned to 64 bytes, zeroed, in huge pages where the system offers them.</summary>
internal sealed unsafe class HostStorage : Storage
{
    private const nuint Alignment = 64;
    private const nuint HugePage = 2 << 20;
    private void* _memory;
    private readonly Action? _freed;

    public HostStorage(long bytes, Action? freed, bool clear) : base(bytes)
    {
        _freed = freed;
        nuint size = (nuint)Math.Max(bytes, 64), alignment = size >= HugePage ? HugePage : Alignment;
        try
        {
            _memory = NativeMemory.AlignedAlloc(size, alignment);
        }
        catch (OutOfMemoryException e)
        {
            throw new DeviceMemoryException(
                $"device 'cpu': {bytes:N0} bytes were asked for and the system refused. A smaller batch needs less; mim plan forecasts it.", e);
        }
        if (size >= HugePage && OperatingSystem.IsLinux()) _ = MAdvise(_memory, size, 14 /* MADV_HUGEPAGE: fewer TLB misses; a hint, may fail */);
        if (clear) NativeMemory.Clear(_memory, size);
    }

    public override nint Address => (nint)_memory;

    public override void Dispose()
    {
        if (_memory == null) return;
        NativeMemory.AlignedFree(_memory);
        _memory = null;
        _freed?.Invoke();
        GC.SuppressFinalize(this);
    }

    ~HostStorage() => Dispose();

    [DllImport("libc", EntryPoint = "madvise")]
    private static extern int MAdvise(void* address, nuint length, int advice);
}
