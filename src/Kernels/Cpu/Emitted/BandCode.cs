using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;
using static MimEngine.Kernels.Cpu.Emitted.VectorRegisters;

namespace MimEngine.Kernels.Cpu.Emitted;

/// <summary>
/// A product of attention, c (rows, vectors) = a·b, as one routine: register tiles one below the other, each element a chain of multiply-adds in the
/// order of k like <see cref="MicroKernels"/>'. Extents and strides are in numbers of 32 bits: floats, or pairs of bfloat16.
/// </summary>
internal unsafe struct Band
{
    /// <summary>Tiles to do, and the length of their sums, at least 1.</summary>
    public nint Tiles, K;

    /// <summary>Element (r, k) of a lies at r·ARow + k·AStep, row k of b at k·BRow; rows of c are CRow elements of c's type apart.</summary>
    public float* A;
    public nint ARow, AStep;
    public float* B;
    public nint BRow;
    public void* C;
    public nint CRow;

    /// <summary>Raw sums only: they are added to what is in c.</summary>
    public nint Accumulate;

    /// <summary>Scaled sums only: row r of c is multiplied by the number at r·ScaleStep, 0 or 1 apart.</summary>
    public float* Scales;
    public nint ScaleStep;

    /// <summary>What is asked for meanwhile, one run of rows after the other.</summary>
    public AttentionAhead* Ahead;
}

/// <summary>
/// Tiles of up to 24 sums for <see cref="Band"/>: with four vectors six rows (10 loads for 24 multiply-adds, and a head 64 deep in one go), with fewer
/// eight. The loop over tiles is in here: between two tiles of 64 steps a call would cost a twentieth of them.
/// </summary>
internal static unsafe class BandCode
{
    public const int Vectors = 4;
    private const int Line = 64, Unroll = 4, FirstSpare = 24, FirstB = 28;

    /// <summary>What becomes of the sums: stored or added to c; multiplied by their row's scale; the same, rounded to bfloat16, nearest even.</summary>
    public enum Form { Raw, Scaled, Rounded }

    /// <summary>Rows of the largest tile.</summary>
    public static int Rows(int vectors) => vectors == 4 ? 6 : 8;

    private static readonly AssemblerRegister64[] s_saved = [rbx, rbp, r12, r13, r14, r15];

    /// <summary>Where the fields of <see cref="Band"/> lie.</summary>
    private readonly struct Fields
    {
        public readonly int Tiles, K, A, ARow, AStep, B, BRow, C, CRow, Accumulate, Scales, ScaleStep, Ahead;

        public Fields()
        {
            Band t = default;
            byte* o = (byte*)&t;
            (Tiles, K, A, ARow, AStep) = (At(&t.Tiles), At(&t.K), At(&t.A), At(&t.ARow), At(&t.AStep));
            (B, BRow, C, CRow, Accumulate) = (At(&t.B), At(&t.BRow), At(&t.C), At(&t.CRow), At(&t.Accumulate));
            (Scales, ScaleStep, Ahead) = (At(&t.Scales), At(&t.ScaleStep), At(&t.Ahead));
            int At(void* field) => (int)((byte*)field - o);
        }
    }

    public static Assembler Tiles(int rows, int vectors, bool pairs, Form form)
    {
        Assembler c = new(64) { PreferVex = false };   // registers 16 to 31 exist in EVEX only
        Fields f = new();
        (AssemblerRegister64 first, AssemblerRegister64 a, AssemblerRegister64 a4, AssemblerRegister64 row, AssemblerRegister64 row3) = (rsi, rax, r13, rcx, rbp);
        (AssemblerRegister64 step, AssemblerRegister64 b, AssemblerRegister64 bRow, AssemblerRegister64 result) = (rbx, r8, rdx, r12);
        (AssemblerRegister64 area, AssemblerRegister64 ahead, AssemblerRegister64 aheadRow, AssemblerRegister64 turns) = (r9, r10, r11, r15);
        Label tile = c.CreateLabel(), few = c.CreateLabel(), fours = c.CreateLabel(), ones = c.CreateLabel(), done = c.CreateLabel(), same = c.CreateLabel();
        foreach (AssemblerRegister64 r in s_saved) c.push(r);
        c.mov(r14, __[rdi + f.Tiles]);
        c.mov(first, __[rdi + f.A]);
        c.mov(row, __[rdi + f.ARow]);
        c.shl(row, 2);
        c.lea(row3, __[row + row * 2]);
        c.mov(step, __[rdi + f.AStep]);
        c.shl(step, 2);
        c.mov(bRow, __[rdi + f.BRow]);
        c.shl(bRow, 2);
        c.mov(result, __[rdi + f.C]);

        c.Label(ref tile);
        c.mov(area, __[rdi + f.Ahead]);
        c.mov(area, __[area]);
        c.mov(ahead, __[area]);
        c.mov(aheadRow, __[area + 8]);
        c.mov(a, first);
        if (rows > 4) c.lea(a4, __[first + row * 4]);
        c.mov(b, __[rdi + f.B]);
        for (int i = 0; i < rows * vectors; i++) c.vpxord(Zmm[i], Zmm[i], Zmm[i]);
        c.mov(turns, __[rdi + f.K]);
        c.shr(turns, 2);
        c.je(few);
        c.Label(ref fours);
        for (int u = 0; u < Unroll; u++)
        {
            Ask(u);
            Step();
        }
        c.dec(turns);
        c.jne(fours);
        c.Label(ref few);
        c.mov(turns, __[rdi + f.K]);
        c.and(turns, Unroll - 1);
        c.je(done);
        c.Label(ref ones);
        Step();
        c.dec(turns);
        c.jne(ones);

        c.Label(ref done);
        c.mov(__[area], ahead);
        c.mov(turns, __[rdi + f.K]);
        c.shr(turns, 2);
        if (pairs) c.add(turns, turns);
        c.sub(__[area + 16], turns);
        c.jg(same);
        c.add(area, AttentionAhead.AreaBytes);
        c.mov(turns, __[rdi + f.Ahead]);
        c.mov(__[turns], area);
        c.Label(ref same);
        Store();
        c.imul(turns, row, rows);
        c.add(first, turns);
        c.dec(r14);
        c.jne(tile);
        c.vzeroupper();
        foreach (AssemblerRegister64 r in s_saved.Reverse()) c.pop(r);
        c.ret();
        return c;

        // Four lines in four steps: of one row of 64 floats, or of two rows of 64 bfloat16 numbers.
        void Ask(int u)
        {
            c.prefetcht1(__byte_ptr[ahead + (pairs ? u & 1 : u) * Line]);
            if (u == Unroll - 1 || pairs && u == 1) c.add(ahead, aheadRow);
        }

        void Step()
        {
            for (int j = 0; j < vectors; j++) c.vmovups(Zmm[FirstB + j], __zmmword_ptr[b + j * Line]);
            for (int r = 0; r < rows; r++)
            {
                AssemblerRegisterZMM x = Zmm[FirstSpare + r % (FirstB - FirstSpare)];
                AssemblerRegister64 at = r < 4 ? a : a4;
                c.vbroadcastss(x, (r & 3) switch
                {
                    0 => __dword_ptr[at],
                    1 => __dword_ptr[at + row],
                    2 => __dword_ptr[at + row * 2],
                    _ => __dword_ptr[at + row3],
                });
                for (int j = 0; j < vectors; j++)
                {
                    if (pairs) c.vdpbf16ps(Zmm[r * vectors + j], x, Zmm[FirstB + j]);
                    else c.vfmadd231ps(Zmm[r * vectors + j], x, Zmm[FirstB + j]);
                }
            }
            c.add(b, bRow);
            c.add(a, step);
            if (rows > 4) c.add(a4, step);
        }

        // Row by row; the rows' places lie one cRow apart.
        void Store()
        {
            AssemblerRegister64 cRow = rax;
            c.mov(cRow, __[rdi + f.CRow]);
            c.shl(cRow, (byte)(form == Form.Rounded ? 1 : 2));
            if (form == Form.Raw)
            {
                Label fresh = c.CreateLabel();
                c.cmp(__qword_ptr[rdi + f.Accumulate], 0);
                c.je(fresh);
                c.mov(r8, result);
                for (int r = 0; r < rows; r++)
                {
                    for (int j = 0; j < vectors; j++) c.vaddps(Zmm[r * vectors + j], Zmm[r * vectors + j], __zmmword_ptr[r8 + j * Line]);
                    c.add(r8, cRow);
                }
                c.Label(ref fresh);
                c.nop();
            }
            else
            {
                c.mov(r10, __[rdi + f.Scales]);
                c.mov(r11, __[rdi + f.ScaleStep]);
                c.shl(r11, 2);
            }
            for (int r = 0; r < rows; r++)
            {
                AssemblerRegisterZMM scale = Zmm[FirstSpare + r % (FirstB - FirstSpare)];
                if (form != Form.Raw)
                {
                    c.vbroadcastss(scale, __dword_ptr[r10]);
                    c.add(r10, r11);
                }
                for (int j = 0; j < vectors; j++)
                {
                    int i = r * vectors + j;
                    if (form != Form.Raw) c.vmulps(Zmm[i], scale, Zmm[i]);
                    if (form == Form.Rounded)
                    {
                        c.vcvtneps2bf16(Ymm[i], Zmm[i]);
                        c.vmovups(__ymmword_ptr[result + j * (Line / 2)], Ymm[i]);
                    }
                    else c.vmovups(__zmmword_ptr[result + j * Line], Zmm[i]);
                }
                c.add(result, cRow);
            }
            if (form != Form.Raw) c.mov(__[rdi + f.Scales], r10);
        }
    }
}
