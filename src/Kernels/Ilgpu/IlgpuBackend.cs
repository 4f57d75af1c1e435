using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using ILGPU;
using ILGPU.Runtime;
using ILGPU.Runtime.Cuda;

namespace MimEngine.Kernels.Ilgpu;

/// <summary>
/// Operations as ILGPU kernels on one stream. A kernel is compiled when it is first launched and kept; scratch grows in the first step
/// only. No kernel adds floats atomically: the same device gives the same bits.
/// </summary>
internal sealed partial class IlgpuBackend : Backend
{
    private const int ScratchSlots = 8;
    private readonly Context _context;
    private readonly Accelerator _accelerator;
    private readonly bool _simulated;
    private readonly int _threads;
    private readonly Dictionary<Type, Delegate> _kernels = [];
    private readonly DeviceStorage?[] _scratch = new DeviceStorage?[ScratchSlots];
    private readonly DeviceStorage _nothing;
    private readonly DriverFault? _fault;
    private long _handedOut;
    private bool _lost, _disposed;

    /// <param name="fault">What a test does to the driver; none elsewhere.</param>
    public IlgpuBackend(string name, Context context, Accelerator accelerator, Precision precision, DriverFault? fault)
    {
        (Name, _context, _accelerator, _halves, _fault) = (name, context, accelerator, precision == Precision.BF16, fault);
        _emitted = fault?.Runner is { } runner ? new ModelledDriver(runner) : CudaDriver.For(accelerator);
        if (Stages(accelerator))
        {
            _copies = accelerator.CreateStream();
            _marks = accelerator is CudaAccelerator cuda ? new CudaMarks(cuda, UploadRing.Marks) : null;
            _ring = new UploadRing(this);
        }
        _simulated = accelerator.AcceleratorType == AcceleratorType.CPU;
        _threads = _simulated ? Tile4.Side * Tile4.Side : Tile16.Side * Tile16.Side;
        _nothing = (DeviceStorage)Allocate(64);
        if (accelerator.MaxNumThreadsPerGroup < _threads)
            throw new DeviceException($"device '{name}' ({accelerator.Name}) runs {accelerator.MaxNumThreadsPerGroup} threads a group; "
                + $"the kernels need {_threads}.");
    }

    public override string Name { get; }

    public override string Description => _simulated ? "ILGPU's simulator of a GPU, on the CPU: for checking kernels"
        : $"{_accelerator.Name}, {_accelerator.NumMultiprocessors} multiprocessors, {_accelerator.MemorySize >> 20} MiB, {_accelerator.AcceleratorType}"
            + (_halves ? _emitted is null ? ", bf16 without tensor cores" : ", bf16 by mma.sync" : "");

    public override DType Branch => _halves ? DType.BF16 : DType.F32;

    public override long AllocatedBytes => _handedOut - OwnBytes;

    public override long OwnBytes => _scratch.Sum(s => s?.Bytes ?? 0) + _nothing.Bytes + StagedBytes;

    public override Storage Allocate(long bytes)
    {
        long size = Math.Max(64, (bytes + 63) / 64 * 64);
        MemoryBuffer1D<byte, Stride1D.Dense>? buffer = null;
        try
        {
            Call();
            buffer = _accelerator.Allocate1D<byte>(size);
            buffer.MemSetToZero(_accelerator.DefaultStream);
            _handedOut += bytes;
            return new DeviceStorage(bytes, buffer, this);
        }
        catch (Exception e) when (buffer is null && OutOfMemory(e))
        {
            throw new DeviceMemoryException($"device '{Name}': {size:N0} bytes were asked for and {Free()}. "
                + "A smaller batch or run.recompute=block needs less; mim plan forecasts it.", e);
        }
        catch (AcceleratorException e) { throw Lost(e); }
    }

    private string Free()
    {
        try
        {
            return _accelerator is CudaAccelerator cuda ? $"{cuda.GetFreeMemory():N0} of {cuda.MemorySize:N0} are free"
                : $"it has {_accelerator.MemorySize:N0} in all";
        }
        catch (AcceleratorException e) { throw Lost(e); }
    }

    /// <summary>CUDA and the host say so; of OpenCL any refusal to allocate counts. All else that a driver says means that the device failed.</summary>
    private static bool OutOfMemory(Exception e) => e is OutOfMemoryException or AcceleratorException and not CudaException
        || e is CudaException cuda && (cuda.Error == nameof(CudaError.CUDA_ERROR_OUT_OF_MEMORY) || cuda.Message == "out of memory");

    public override unsafe void Download(Span<byte> destination, Tensor source)
    {
        if (destination.Length != source.Bytes)
            throw new ArgumentException($"Download: a tensor of {source.Bytes} bytes into {destination.Length}.");
        if (destination.Length == 0) return;
        try
        {
            Call();
            // ILGPU takes an address and pins nothing; it waits for the copy.
            fixed (byte* to = destination)
                Bytes(source).CopyToCPU(_accelerator.DefaultStream, ref *to, destination.Length);
        }
        catch (AcceleratorException e) { throw Lost(e); }
    }

    public override void Synchronize()
    {
        try
        {
            Call();
            _accelerator.DefaultStream.Synchronize();
        }
        catch (AcceleratorException e) { throw Lost(e); }
    }

    public override void Dispose()
    {
        if (_disposed) return;
        _disposed = true;
        // A kernel's failure that nobody has waited for yet is said here; what follows then frees in silence.
        try { if (!_lost) Synchronize(); }
        finally
        {
            foreach (DeviceStorage? s in _scratch) s?.Dispose();
            FreeStaging();
            _nothing.Dispose();
            GiveBack(_emitted);
            GiveBack(_accelerator);
            GiveBack(_context);
        }
    }

    /// <summary>Runs a kernel with this many groups.</summary>
    private void Launch<TK>(long groups, in TK kernel) where TK : struct, IKernel
    {
        if (groups == 0) return;
        try
        {
            Call();
            ref Delegate? loaded = ref CollectionsMarshal.GetValueRefOrAddDefault(_kernels, typeof(TK), out _);
            if (_fault is { Skips: true }) return;
            loaded ??= _simulated ? _accelerator.LoadStreamKernel<TK>(Emission.Entry<TK, Tile4>)
                : _accelerator.LoadStreamKernel<TK>(Emission.Entry<TK, Tile16>);
            Unsafe.As<Action<KernelConfig, TK>>(loaded)(new KernelConfig(checked((int)groups), _threads), kernel);
        }
        catch (AcceleratorException e) { throw Lost(e); }
    }

    /// <summary>Runs a kernel with at least this many threads, one an element.</summary>
    private void LaunchEach<TK>(long elements, in TK kernel) where TK : struct, IKernel => Launch((elements + _threads - 1) / _threads, kernel);

    private static int Blocks(int n, int size) => (n + size - 1) / size;

    /// <summary>Results a side that one group of a product makes.</summary>
    private int Block => 4 * (_simulated ? Tile4.Side : Tile16.Side);

    /// <summary>A tensor's bytes. Kernels count elements in 32 bits.</summary>
    private static ArrayView<byte> Bytes(Tensor t) => t.Count <= int.MaxValue ? ((DeviceStorage)t.Storage).View.SubView(t.ByteOffset, t.Bytes)
        : throw new DeviceException($"A tensor of {t.Count:N0} numbers is more than a GPU kernel counts ({int.MaxValue:N0}); use a smaller batch.");

    private static ArrayView<float> F(Tensor t) => t.DType == DType.F32 ? Bytes(t).Cast<float>()
        : throw new ArgumentException($"This operation takes float32; the tensor is {t.DType}.");

    /// <summary>float32 of any length, for kernels that count in 64 bits: gradients may lie far apart in a large arena.</summary>
    private static ArrayView<float> Wide(Tensor t) => ((DeviceStorage)t.Storage).View.SubView(t.ByteOffset, t.Bytes).Cast<float>();

    /// <summary>float32 or bfloat16, whichever the tensor holds.</summary>
    private Cells N(Tensor t) => t.DType == DType.BF16 ? new Cells(None, Bytes(t).Cast<ushort>(), 1) : new Cells(F(t), NoHalves, 0);

    private Cells N(Tensor? t) => t is { } given ? N(given) : new Cells(None, NoHalves, 0);
    private Cells N(Grad g) => g.Wanted ? N(g.Into) : new Cells(None, NoHalves, 0);
    private ArrayView<ushort> NoHalves => _nothing.View.Cast<ushort>();

    private static ArrayView<byte> U(Tensor t) => t.DType == DType.U8 ? Bytes(t)
        : throw new ArgumentException($"This operation takes bytes; the tensor is {t.DType}.");

    /// <summary>A view for an operand that is not there; kernels do not read it.</summary>
    private ArrayView<float> None => _nothing.View.Cast<float>();

    private ArrayView<float> F(Tensor? t) => t is { } given ? F(given) : None;
    private ArrayView<byte> U(Tensor? t) => t is { } given ? U(given) : _nothing.View;
    private ArrayView<float> F(Grad g) => g.Wanted ? F(g.Into) : None;
    private static int Flag(bool b) => b ? 1 : 0;
    private static int Flag(Tensor? t) => t is null ? 0 : 1;

    /// <summary>Grow-only device memory of one operation; see the CPU's. An operation that calls another must use other slots.</summary>
    private ArrayView<T> Scratch<T>(int slot, long count) where T : unmanaged
    {
        long bytes = Math.Max(1, count) * Interop.SizeOf<T>();
        return ScratchBlock(slot, bytes).View.SubView(0, bytes).Cast<T>();
    }

    private DeviceStorage ScratchBlock(int slot, long bytes)
    {
        if (_scratch[slot] is { } there && there.Bytes >= bytes) return there;
        Synchronize();
        _scratch[slot]?.Dispose();
        _scratch[slot] = null;
        DeviceStorage grown = (DeviceStorage)Allocate(bytes);
        _scratch[slot] = grown;
        return grown;
    }

    /// <summary>Stands before every call to the driver.</summary>
    private void Call() => _fault?.Call();

    private DeviceException Lost(AcceleratorException e)
    {
        _lost = true;
        return new($"device '{Name}' failed: {IlgpuProvider.OneLine(e)}. Checkpoints already written are intact; "
            + "--resume continues from the last.", e);
    }

    /// <summary>Frees what the device holds. One that is lost refuses that too, which must not hide why it was lost.</summary>
    private void GiveBack(IDisposable? held)
    {
        try
        {
            held?.Dispose();
            Call();
        }
        catch (AcceleratorException) when (_lost)
        {
            // The driver took it all with the device.
        }
        catch (AcceleratorException e) { throw Lost(e); }
    }

    /// <summary>A block of device memory.</summary>
    private sealed class DeviceStorage(long bytes, MemoryBuffer1D<byte, Stride1D.Dense> buffer, IlgpuBackend owner) : Storage(bytes)
    {
        private bool _disposed;

        public ArrayView<byte> View { get; } = buffer.View.BaseView;

        public override void Dispose()
        {
            if (_disposed) return;
            _disposed = true;
            owner._handedOut -= Bytes;
            owner.GiveBack(buffer);
        }
    }
}
