using System.Runtime.InteropServices;
using MimEngine.Kernels;

namespace MimEngine.Tests;

/// <summary>
/// The definition of right: every operation as naive loops in float64, written from the contract's formulas and nothing else.
/// All floating tensors are F64 here, statistics and weights included; U8 stays U8.
/// </summary>
internal sealed unsafe partial class OracleBackend : Backend
{
    public override string Name => "oracle";
    public override string Description => "float64 loops on the host: the test oracle";
    public override DType Real => DType.F64;

    /// <summary>Bytes handed out and not yet disposed.</summary>
    public override long AllocatedBytes => _allocated;

    private long _allocated;

    public override Storage Allocate(long bytes)
    {
        _allocated += bytes;
        return new Memory(this, bytes);
    }

    public override void Upload(Tensor destination, ReadOnlySpan<byte> source)
    {
        Require(source.Length == destination.Bytes, $"Upload: {source.Length} bytes into {destination.Bytes}.");
        source.CopyTo(new Span<byte>((void*)destination.HostAddress, source.Length));
    }

    public override void Download(Span<byte> destination, Tensor source)
    {
        Require(destination.Length == source.Bytes, $"Download: {source.Bytes} bytes into {destination.Length}.");
        new ReadOnlySpan<byte>((void*)source.HostAddress, destination.Length).CopyTo(destination);
    }

    public override void Fill(Tensor y, float value)
    {
        if (y.DType == DType.U8) y.Host<byte>().Fill((byte)value);
        else y.Host<double>().Fill(value);
    }

    public override void Copy(Tensor y, Tensor x)
    {
        Require(y.DType == x.DType && y.Count == x.Count, $"Copy: {x.DType} {x.Shape} to {y.DType} {y.Shape}.");
        new ReadOnlySpan<byte>((void*)x.HostAddress, (int)x.Bytes).CopyTo(new Span<byte>((void*)y.HostAddress, (int)y.Bytes));
    }

    public override void Cast(Tensor y, Tensor x) => Copy(y, x);   // both are F64 here

    public override void AddScaled(Tensor y, Tensor x, float a, float b)
    {
        double* to = F(y), from = F(x);
        for (long i = 0; i < y.Count; i++) to[i] = b == 0f ? (double)a * from[i] : (double)a * from[i] + (double)b * to[i];
    }

    public override void Dispose() { }

    /// <summary>The elements of a float64 tensor.</summary>
    private static double* F(Tensor t)
    {
        Require(t.DType == DType.F64, $"The oracle computes in F64, this tensor is {t.DType}.");
        return (double*)t.HostAddress;
    }

    private static double* F(Tensor? t) => t is { } some ? F(some) : null;

    private static byte* U(Tensor t)
    {
        Require(t.DType == DType.U8, $"U8 was expected, this tensor is {t.DType}.");
        return (byte*)t.HostAddress;
    }

    private static byte* U(Tensor? t) => t is { } some ? U(some) : null;

    /// <summary>Puts a finished result where and how its Grad says.</summary>
    private static void Emit(Grad g, double[] values)
    {
        if (!g.Wanted) return;
        Require(g.Into.Count == values.Length, $"A gradient of {values.Length} elements into {g.Into.Shape}.");
        double* to = F(g.Into);
        for (int i = 0; i < values.Length; i++) to[i] = g.Accumulate ? to[i] + values[i] : values[i];
    }

    private static void Require(bool condition, string otherwise)
    {
        if (!condition) throw new ArgumentException(otherwise);
    }

    private sealed class Memory : Storage
    {
        private readonly OracleBackend _owner;
        private void* _address;

        public Memory(OracleBackend owner, long bytes) : base(bytes)
        {
            _owner = owner;
            _address = NativeMemory.AllocZeroed((nuint)Math.Max(64, bytes));
        }

        public override nint Address => (nint)_address;

        public override void Dispose()
        {
            if (_address == null) return;
            NativeMemory.Free(_address);
            _address = null;
            _owner._allocated -= Bytes;
            GC.SuppressFinalize(this);
        }

        ~Memory() => NativeMemory.Free(_address);
    }
}
