using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;

namespace MimEngine.Kernels.Cpu.Emitted;

/// <summary>What the processor can do that .NET has no intrinsic for (Intel SDM, CPUID leaf 7).</summary>
internal static partial class CpuFeatures
{
    /// <summary>VDPBF16PS on 512-bit vectors. Off with the runtime's own AVX-512.</summary>
    public static bool HasBf16Dot => Simd.Best == SimdLevel.Vector512 && Bit(Leaf7(1).Eax, 5);

    /// <summary>Tiles of bfloat16 (AMX), and the system lets this process use them. Off with the runtime's own AVX-512.</summary>
    public static bool HasBf16Tiles => s_tiles.Value;

    private static readonly Lazy<bool> s_tiles = new(() =>
    {
        const int requestPermission = 158 /* arch_prctl */, state = 0x1023 /* ARCH_REQ_XCOMP_PERM */, tileData = 18;
        if (Simd.Best != SimdLevel.Vector512 || !OperatingSystem.IsLinux() || RuntimeInformation.ProcessArchitecture != Architecture.X64) return false;
        int edx = Leaf7(0).Edx;
        // Linux gives the 8 KB of tile registers to processes that ask.
        return Bit(edx, 22) && Bit(edx, 24) && SystemCall(requestPermission, state, tileData) == 0;
    });

    private static (int Eax, int Edx) Leaf7(int part)
    {
        if (!X86Base.IsSupported || X86Base.CpuId(0, 0).Eax < 7) return default;
        (int eax, _, _, int edx) = X86Base.CpuId(7, part);
        return (eax, edx);
    }

    private static bool Bit(int word, int bit) => (word >> bit & 1) != 0;

    [LibraryImport("libc", EntryPoint = "syscall")]
    private static partial nint SystemCall(nint number, nint first, nint second);
}
