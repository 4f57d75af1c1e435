using System.ComponentModel;
using System.Runtime.InteropServices;
using MimEngine.Kernels;

namespace MimEngine.Tests;

/// <summary>Memory between two pages that nobody may touch: an operand at either end faults on the first stray byte.</summary>
internal sealed partial class GuardedMemory : Storage
{
    private const int ReadWrite = 3, NoAccess = 0, PrivateAnonymousLinux = 0x22, PrivateAnonymousMac = 0x1002;
    private readonly nint _mapping;
    private readonly long _mapped;

    /// <summary>At least this many usable bytes, rounded up to whole pages.</summary>
    public GuardedMemory(long bytes) : base(RoundUp(bytes))
    {
        int page = Environment.SystemPageSize;
        _mapped = Bytes + 2 * page;
        _mapping = Map(0, (nuint)_mapped, ReadWrite, OperatingSystem.IsMacOS() ? PrivateAnonymousMac : PrivateAnonymousLinux, -1, 0);
        if (_mapping == -1) throw new Win32Exception(Marshal.GetLastPInvokeError(), $"mmap of {_mapped} bytes failed.");
        if (Protect(_mapping, (nuint)page, NoAccess) != 0 || Protect(_mapping + (nint)(_mapped - page), (nuint)page, NoAccess) != 0)
            throw new Win32Exception(Marshal.GetLastPInvokeError(), "mprotect failed.");
    }

    /// <summary>Why there is none on this system, or none.</summary>
    public static string? WhyAbsent => OperatingSystem.IsLinux()
        || OperatingSystem.IsMacOS() ? null : "guarded memory needs mmap and mprotect";

    public override nint Address => _mapping + Environment.SystemPageSize;

    public override void Dispose() => _ = Unmap(_mapping, (nuint)_mapped);

    private static long RoundUp(long bytes)
    {
        long page = Environment.SystemPageSize;
        return Math.Max(1, (bytes + page - 1) / page) * page;
    }

    [LibraryImport("libc", EntryPoint = "mmap", SetLastError = true)]
    private static partial nint Map(nint address, nuint length, int protection, int flags, int file, nint offset);

    [LibraryImport("libc", EntryPoint = "mprotect", SetLastError = true)]
    private static partial int Protect(nint address, nuint length, int protection);

    [LibraryImport("libc", EntryPoint = "munmap", SetLastError = true)]
    private static partial int Unmap(nint address, nuint length);
}

/// <summary>Exactly so many bytes of guarded memory, the last or the first of them next to a forbidden page.</summary>
internal sealed class GuardedStorage(long bytes, bool atEnd = true) : Storage(bytes)
{
    private readonly GuardedMemory _memory = new(bytes);

    public override nint Address => _memory.Address + (atEnd ? (nint)(_memory.Bytes - Bytes) : 0);

    public override void Dispose() => _memory.Dispose();
}
