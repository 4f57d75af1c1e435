using System.Runtime.InteropServices;
using Iced.Intel;

namespace MimEngine.Kernels.Cpu.Emitted;

/// <summary>
/// Memory for machine code: writable first, then executable, never both. Routines stay valid until the buffer is disposed.
/// </summary>
internal sealed unsafe partial class CodeBuffer : IDisposable
{
    private const int Alignment = 64;   // a loop's head on a line of its own
    private const int Read = 1, Write = 2, Execute = 4, PrivateAnonymous = 0x22;
    private readonly nuint _size;
    private byte* _memory;
    private int _used;

    /// <exception cref="PlatformNotSupportedException">The system gives no such memory.</exception>
    public CodeBuffer(int bytes)
    {
        // Emitted routines follow the System V calling convention, and mmap's numbers are Linux's.
        if (!OperatingSystem.IsLinux() || RuntimeInformation.ProcessArchitecture != Architecture.X64)
            throw new PlatformNotSupportedException("only on 64-bit Linux");
        _size = (nuint)(bytes + 4095) & ~(nuint)4095;
        void* memory = Map(null, _size, Read | Write, PrivateAnonymous, -1, 0);
        if (memory == (void*)-1) throw new PlatformNotSupportedException($"the system refused {_size:N0} bytes for code");
        _memory = (byte*)memory;
    }

    /// <summary>Assembles at the end of what is there and returns the routine's address, which may be called after <see cref="Seal"/>.</summary>
    public nint Add(Assembler code)
    {
        _used = (_used + Alignment - 1) & ~(Alignment - 1);
        var bytes = new List<byte>();
        code.Assemble(new Writer(bytes), (ulong)(_memory + _used));
        if ((nuint)(_used + bytes.Count) > _size) throw new InvalidOperationException($"{bytes.Count} bytes of code do not fit into {_size} - {_used}.");
        CollectionsMarshal.AsSpan(bytes).CopyTo(new Span<byte>(_memory + _used, bytes.Count));
        nint address = (nint)(_memory + _used);
        _used += bytes.Count;
        return address;
    }

    /// <summary>From now on the memory can be executed and no longer written.</summary>
    /// <exception cref="PlatformNotSupportedException">The system allows no executable memory.</exception>
    public void Seal()
    {
        if (Protect(_memory, _size, Read | Execute) != 0) throw new PlatformNotSupportedException("the system allows no executable memory");
    }

    public void Dispose()
    {
        if (_memory == null) return;
        _ = Unmap(_memory, _size);
        _memory = null;
    }

    private sealed class Writer(List<byte> bytes) : CodeWriter
    {
        public override void WriteByte(byte value) => bytes.Add(value);
    }

    [LibraryImport("libc", EntryPoint = "mmap")]
    private static partial void* Map(void* address, nuint length, int protection, int flags, int file, nint offset);

    [LibraryImport("libc", EntryPoint = "mprotect")]
    private static partial int Protect(void* address, nuint length, int protection);

    [LibraryImport("libc", EntryPoint = "munmap")]
    private static partial int Unmap(void* address, nuint length);
}
