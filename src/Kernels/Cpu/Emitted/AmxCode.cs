using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace MimEngine.Kernels.Cpu.Emitted;

/// <summary>One 32 × 32 block of a product for <see cref="AmxCode"/>: c = start + Σ over pairs of a·b.</summary>
internal unsafe struct AmxBlock
{
    /// <summary>Steps of 32 numbers along the sum, at least 1.</summary>
    public int Steps;

    /// <summary>32 rows of bfloat16, ARow bytes apart.</summary>
    public byte* A;
    public nint ARow;

    /// <summary>Pairs along the sum: 128 bytes, two of each of 32 columns, a pair.</summary>
    public byte* B;

    /// <summary>32 × 32 float32 written, CRow bytes apart.</summary>
    public float* C;
    public nint CRow;

    /// <summary>32 × 32 float32 to start from, StartRow bytes apart (0: the same for every row), or null for zeros.</summary>
    public float* Start;
    public nint StartRow;
}

/// <summary>
/// The bfloat16 product on AMX: 2 × 2 tiles of 16 × 16 float32 sums, 4 loads of 1 KB for 4 times 16,384 multiply-adds a step. A tile product
/// takes 16 cycles, so that the four loads and the sums' latency hide behind each other.
/// </summary>
internal static unsafe class AmxCode
{
    public const int Rows = 32, Cols = 32, Step = 32;

    /// <summary>rdi: 64 bytes of tile shapes.</summary>
    public static Assembler Configure()
    {
        Assembler c = new(64);
        c.ldtilecfg(__zmmword_ptr[rdi]);
        c.ret();
        return c;
    }

    /// <summary>Forgets the tiles: the system need not save them any more.</summary>
    public static Assembler Release()
    {
        Assembler c = new(64);
        c.tilerelease();
        c.ret();
        return c;
    }

    /// <summary>Palette 1, eight tiles of 16 rows of 64 bytes.</summary>
    public static void Shapes(Span<byte> config)
    {
        config.Clear();
        config[0] = 1;
        for (int t = 0; t < 8; t++) (config[16 + 2 * t], config[48 + t]) = (64, 16);
    }

    /// <summary>rdi: an <see cref="AmxBlock"/>.</summary>
    public static Assembler Block()
    {
        AmxBlock f = default;
        byte* o = (byte*)&f;
        int At(void* field) => (int)((byte*)field - o);
        Assembler c = new(64);
        Label zeros = c.CreateLabel(), begin = c.CreateLabel(), top = c.CreateLabel();
        c.mov(rax, __[rdi + At(&f.Start)]);
        c.test(rax, rax);
        c.je(zeros);
        c.mov(rcx, __[rdi + At(&f.StartRow)]);
        c.mov(rdx, rcx);
        c.shl(rdx, 4);
        c.add(rdx, rax);
        c.tileloadd(tmm0, __[rax + rcx]);
        c.tileloadd(tmm1, __[rax + rcx + 64]);
        c.tileloadd(tmm2, __[rdx + rcx]);
        c.tileloadd(tmm3, __[rdx + rcx + 64]);
        c.jmp(begin);
        c.Label(ref zeros);
        c.tilezero(tmm0);
        c.tilezero(tmm1);
        c.tilezero(tmm2);
        c.tilezero(tmm3);
        c.Label(ref begin);
        c.mov(rax, __[rdi + At(&f.A)]);
        c.mov(rcx, __[rdi + At(&f.ARow)]);
        c.mov(rdx, rcx);
        c.shl(rdx, 4);
        c.add(rdx, rax);
        c.mov(r8, __[rdi + At(&f.B)]);
        c.mov(r9d, 4 * Cols);
        c.mov(r10d, __dword_ptr[rdi + At(&f.Steps)]);
        c.Label(ref top);
        c.tileloadd(tmm4, __[rax + rcx]);
        c.tileloadd(tmm6, __[r8 + r9]);
        c.tdpbf16ps(tmm0, tmm4, tmm6);
        c.tileloadd(tmm7, __[r8 + r9 + 64]);
        c.tdpbf16ps(tmm1, tmm4, tmm7);
        c.tileloadd(tmm5, __[rdx + rcx]);
        c.tdpbf16ps(tmm2, tmm5, tmm6);
        c.tdpbf16ps(tmm3, tmm5, tmm7);
        c.add(rax, 2 * Step);
        c.add(rdx, 2 * Step);
        c.add(r8, 2 * Step * Cols);
        c.dec(r10d);
        c.jne(top);
        c.mov(rax, __[rdi + At(&f.C)]);
        c.mov(rcx, __[rdi + At(&f.CRow)]);
        c.mov(rdx, rcx);
        c.shl(rdx, 4);
        c.add(rdx, rax);
        c.tilestored(__[rax + rcx], tmm0);
        c.tilestored(__[rax + rcx + 64], tmm1);
        c.tilestored(__[rdx + rcx], tmm2);
        c.tilestored(__[rdx + rcx + 64], tmm3);
        c.ret();
        return c;
    }
}
