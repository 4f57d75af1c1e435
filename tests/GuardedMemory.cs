using System.Runtime.InteropServices;
using MimEngine.Kernels;

namespace MimEngine.Tests;

/// <summary>
/// Host memory between two pages that may not be touched: one byte past the end (or before the beginning) faults, whoever reads it.
/// Elsewhere than on Linux it is ordinary memory.
/// </summary>
/// <param name="bytes">Bytes that may be used.</param>
/// <param name="atEnd">Whether the last byte, rather than the first, lies next to a forbidden page.</param>
internal sealed unsafe class GuardedStorage(long bytes, bool atEnd = true) : Storage(bytes)
{
    private const int Page = 4096, ReadWrite = 3, PrivateAnonymous = 0x22;
    private readonly nuint _mapped = (nuint)((bytes + Page - 1) / Page * Page + 2 * Page);
    private byte* _memory;

    public override nint Address
    {
        get
        {
            if (_memory == null) Map();
            return (nint)(atEnd ? _memory + _mapped - Page - Bytes : _memory + Page);
        }
    }

    public override void Dispose()
    {
        if (_memory == null) return;
        if (OperatingSystem.IsLinux()) Assert(munmap(_memory, _mapped) == 0);
        else NativeMemory.Free(_memory);
        _memory = null;
    }

    private void Map()
    {
        if (!OperatingSystem.IsLinux())
        {
            _memory = (byte*)NativeMemory.AllocZeroed(_mapped);
            return;
        }
        _memory = (byte*)mmap(null, _mapped, ReadWrite, PrivateAnonymous, -1, 0);
        Assert((nint)_memory != -1);
        Assert(mprotect(_memory, Page, 0) == 0);
        Assert(mprotect(_memory + _mapped - Page, Page, 0) == 0);
    }

    private static void Assert(bool done)
    {
        if (!done) throw new InvalidOperationException($"Guarded memory: the system refused (error {Marshal.GetLastPInvokeError()}).");
    }

    [DllImport("libc", SetLastError = true)]
    private static extern void* mmap(void* address, nuint length, int protection, int flags, int file, nint offset);

    [DllImport("libc", SetLastError = true)]
    private static extern int munmap(void* address, nuint length);

    [DllImport("libc", SetLastError = true)]
    private static extern int mprotect(void* address, nuint length, int protection);
}
