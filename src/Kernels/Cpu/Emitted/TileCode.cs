using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;
using static MimEngine.Kernels.Cpu.Emitted.VectorRegisters;

namespace MimEngine.Kernels.Cpu.Emitted;

/// <summary>
/// The float32 register tile (8 rows × 1 to 3 vectors of 16) as machine code: the chains of <see cref="MicroKernels"/>, so the same
/// bits, but unrolled twice with every sum in its register, which the JIT does not do.
/// </summary>
/// <remarks>
/// A step of 3 vectors is 24 multiply-adds, 12 cycles of both ports, and 11 loads. Loads are the scarce thing beside them: so there is one
/// prefetch in two steps, and none of b, which the processor's own prefetcher follows.
/// With pairs the operands are bfloat16, two neighbours along k in every 32 bits, and VDPBF16PS adds both products to the float32 sum.
/// </remarks>
internal static unsafe partial class TileCode
{
    public const int Rows = 8;
    private const int Line = 64, Unroll = 2;

    /// <summary>Where the fields of <see cref="Tile"/> lie.</summary>
    private readonly struct Fields
    {
        public readonly int K, A, ARow, AStep, B, BRow, Start, C, CRow, Accumulate, Ahead, AheadStep, AheadJump, Also, AlsoStep, CopyA, CopyB, Sums, Beside, Gamma, RowScales;

        public Fields()
        {
            Tile t = default;
            byte* o = (byte*)&t;
            (K, A, ARow, AStep) = (At(&t.K), At(&t.A), At(&t.ARow), At(&t.AStep));
            (B, BRow, Start, C, CRow) = (At(&t.B), At(&t.BRow), At(&t.Start), At(&t.C), At(&t.CRow));
            (Accumulate, Ahead, AheadStep) = (At(&t.Accumulate), At(&t.Ahead), At(&t.AheadStep));
            AheadJump = At(&t.AheadJump);
            (Beside, Gamma, RowScales) = (At(&t.Beside), At(&t.Gamma), At(&t.RowScales));
            (Also, AlsoStep, CopyA, CopyB, Sums) = (At(&t.Also), At(&t.AlsoStep), At(&t.CopyA), At(&t.CopyB), At(&t.Sums));
            int At(void* field) => (int)((byte*)field - o);
        }
    }

    /// <summary>A tile whose rows of a are read along k (ARow apart, AStep 1) and whose b is packed 48 wide.</summary>
    /// <param name="rounds">c is bfloat16 and only written.</param>
    /// <param name="finish">What becomes of the sums; if anything, c is only written.</param>
    public static Assembler AlongRows(int vectors, bool pairs, bool rounds = false, Finish finish = Finish.Plain)
    {
        Assembler c = new(64) { PreferVex = false };   // registers 16 to 31 exist in EVEX only
        Fields f = new();
        (AssemblerRegister64 a, AssemblerRegister64 a4, AssemblerRegister64 row, AssemblerRegister64 row3, AssemblerRegister64 b) =
            (rax, rdx, rcx, rsi, r8);
        bool finished = finish != Finish.Plain;
        if (finished)
        {
            c.push(r14);
            c.mov(r14, __[rdi + f.Beside]);
            c.sub(r14, __[rdi + f.C]);
        }
        Begin(c, f, vectors);
        c.mov(a, __[rdi + f.A]);
        c.mov(row, __[rdi + f.ARow]);
        c.shl(row, 2);
        c.lea(a4, __[a + row * 4]);
        c.lea(row3, __[row + row * 2]);
        c.mov(b, __[rdi + f.B]);
        Loop(c, f, vectors, Step, steps =>
        {
            c.add(b, steps * MicroKernels.Vectors * Line);
            c.add(a, steps * sizeof(float));
            c.add(a4, steps * sizeof(float));
        }, rounds ? 1 : 0, finished);
        if (finished)
        {
            if (finish == Finish.Residual) EndResidual(c, f, vectors);
            else EndCurved(c, f, vectors, rounds, finish);
            c.pop(r14);
        }
        else if (rounds) EndRounded(c, f, vectors);
        else End(c, f, vectors);
        c.ret();
        return c;

        void Step(int u)
        {
            for (int j = 0; j < vectors; j++) c.vmovups(Zmm[29 + j], __zmmword_ptr[b + (u * MicroKernels.Vectors + j) * Line]);
            for (int r = 0; r < Rows; r++)
            {
                AssemblerRegister64 at = r < 4 ? a : a4;
                AssemblerMemoryOperand x = (r & 3) switch
                {
                    0 => __dword_ptr[at + u * 4],
                    1 => __dword_ptr[at + row + u * 4],
                    2 => __dword_ptr[at + row * 2 + u * 4],
                    _ => __dword_ptr[at + row3 + u * 4],
                };
                MultiplyRow(c, r, vectors, x, pairs);
            }
        }
    }

    /// <summary>Rows·Vectors independent chains of VDPBF16PS in registers, as many turns as the argument says: what the ports can do at best.</summary>
    public static Assembler DotChains()
    {
        Assembler c = new(64) { PreferVex = false };
        Label top = c.CreateLabel();
        for (int i = 0; i < 32; i++) c.vpxord(Zmm[i], Zmm[i], Zmm[i]);
        c.Label(ref top);
        for (int i = 0; i < Rows * MicroKernels.Vectors; i++) c.vdpbf16ps(Zmm[i], zmm30, zmm31);
        c.dec(rdi);
        c.jne(top);
        c.vzeroupper();
        c.ret();
        return c;
    }

    /// <summary>Saves what the caller wants back, and starts every row's sums.</summary>
    private static void Begin(Assembler c, in Fields f, int vectors)
    {
        c.push(rbx);
        c.push(r12);
        c.push(r13);
        c.mov(rax, __[rdi + f.Start]);
        for (int j = 0; j < vectors; j++) c.vmovups(Zmm[j], __zmmword_ptr[rax + j * Line]);
        for (int i = vectors; i < Rows * vectors; i++) c.vmovaps(Zmm[i], Zmm[i % vectors]);
        c.mov(r10, __[rdi + f.Ahead]);
        c.mov(r11, __[rdi + f.AheadStep]);
        c.add(r11, r11);
        c.mov(r9d, Line);
        c.cmp(r11, r9);
        c.cmovg(r11, r9);
    }

    /// <summary>
    /// Two steps a turn, and the last one alone where their number is odd. The turns are cut in eight: before each eighth a row of c is
    /// asked for, since 24 lines at once would keep a and b waiting behind them, and one of what lies r14 beside it.
    /// </summary>
    private static void Loop(Assembler c, in Fields f, int vectors, Action<int> step, Action<int> advance, int shrink = 0, bool beside = false)
    {
        Label row = c.CreateLabel(), few = c.CreateLabel(), even = c.CreateLabel(), last = c.CreateLabel();
        (AssemblerRegister64 cRow, AssemblerRegister32 turns, AssemblerRegister32 eighth, AssemblerRegister32 rows) = (rbx, r9d, r12d, r13d);
        c.mov(eighth, __dword_ptr[rdi + f.K]);
        c.shr(eighth, 4);
        c.je(few);
        c.mov(cRow, __[rdi + f.C]);
        c.mov(rows, Rows);
        c.Label(ref row);
        for (int j = 0; j < (vectors + shrink) >> shrink; j++) c.prefetchw(__byte_ptr[cRow + j * Line]);
        for (int j = 0; beside && j < (vectors + shrink) >> shrink; j++) c.prefetchw(__byte_ptr[cRow + r14 + j * Line]);
        c.mov(r9, __[rdi + f.CRow]);
        c.lea(cRow, __[cRow + r9 * (4 >> shrink)]);
        c.mov(turns, eighth);
        Turns();
        c.add(r10, __[rdi + f.AheadJump]);
        c.dec(rows);
        c.jne(row);
        c.Label(ref few);
        c.mov(turns, __dword_ptr[rdi + f.K]);
        c.shr(turns, 1);
        c.and(turns, Rows - 1);
        c.je(last);
        Turns();
        c.Label(ref last);
        c.test(__byte_ptr[rdi + f.K], 1);
        c.je(even);
        step(0);
        c.Label(ref even);
        c.nop();

        void Turns()
        {
            Label top = c.CreateLabel();
            c.Label(ref top);
            c.prefetcht1(__byte_ptr[r10]);
            c.add(r10, r11);
            for (int u = 0; u < Unroll; u++) step(u);
            advance(Unroll);
            c.dec(turns);
            c.jne(top);
        }
    }

    /// <param name="spares">Registers from 24 on that rows take turns in.</param>
    private static void MultiplyRow(Assembler c, int r, int vectors, AssemblerMemoryOperand a, bool pairs, int spares = 5)
    {
        AssemblerRegisterZMM x = Zmm[24 + r % spares];
        c.vbroadcastss(x, a);
        for (int j = 0; j < vectors; j++)
        {
            if (pairs) c.vdpbf16ps(Zmm[r * vectors + j], x, Zmm[29 + j]);
            else c.vfmadd231ps(Zmm[r * vectors + j], x, Zmm[29 + j]);
        }
    }

    /// <summary>Adds c's old content if it takes part, and stores.</summary>
    private static void End(Assembler c, in Fields f, int vectors)
    {
        Label store = c.CreateLabel();
        CRows(c, f);
        c.cmp(__byte_ptr[rdi + f.Accumulate], 0);
        c.je(store);
        for (int i = 0; i < Rows * vectors; i++) c.vaddps(Zmm[i], Zmm[i], CVector(i / vectors, i % vectors));
        c.Label(ref store);
        for (int i = 0; i < Rows * vectors; i++) c.vmovups(CVector(i / vectors, i % vectors), Zmm[i]);
        Leave(c);
    }

    /// <summary>Rounds to bfloat16, nearest even, and stores.</summary>
    private static void EndRounded(Assembler c, in Fields f, int vectors)
    {
        CRows(c, f, 1);
        for (int i = 0; i < Rows * vectors; i++)
        {
            c.vcvtneps2bf16(Ymm[i], Zmm[i]);
            c.vmovups(CHalf(i / vectors, i % vectors), Ymm[i]);
        }
        Leave(c);
    }

    /// <summary>Stores what lies beside + scale·gamma·sums: every row has a scale, every column a gamma.</summary>
    private static void EndResidual(Assembler c, in Fields f, int vectors)
    {
        CRows(c, f);
        c.mov(r8, __[rdi + f.Beside]);
        c.lea(r9, __[r8 + rcx * 4]);
        c.mov(r10, __[rdi + f.Gamma]);
        c.mov(r11, __[rdi + f.RowScales]);
        for (int j = 0; j < vectors; j++) c.vmovups(Zmm[29 + j], __zmmword_ptr[r10 + j * Line]);
        for (int r = 0; r < Rows; r++)
        {
            c.vbroadcastss(zmm24, __dword_ptr[r11 + r * sizeof(float)]);
            for (int j = 0; j < vectors; j++)
            {
                int i = r * vectors + j;
                c.vmulps(Zmm[25 + i % 4], zmm24, Zmm[29 + j]);
                c.vfmadd213ps(Zmm[i], Zmm[25 + i % 4], Whole(r < 4 ? r8 : r9, r, j));
                c.vmovups(CVector(r, j), Zmm[i]);
            }
        }
        Leave(c);
    }

    private static void Leave(Assembler c)
    {
        c.vzeroupper();
        c.pop(r13);
        c.pop(r12);
        c.pop(rbx);
    }

    private static void CRows(Assembler c, in Fields f, byte shift = 2)
    {
        c.mov(rax, __[rdi + f.C]);
        c.mov(rcx, __[rdi + f.CRow]);
        c.shl(rcx, shift);
        c.lea(rdx, __[rax + rcx * 4]);
        c.lea(rsi, __[rcx + rcx * 2]);
    }

    private static AssemblerMemoryOperand CHalf(int r, int j)
    {
        AssemblerRegister64 at = r < 4 ? rax : rdx;
        return (r & 3) switch
        {
            0 => __ymmword_ptr[at + j * (Line / 2)],
            1 => __ymmword_ptr[at + rcx + j * (Line / 2)],
            2 => __ymmword_ptr[at + rcx * 2 + j * (Line / 2)],
            _ => __ymmword_ptr[at + rsi + j * (Line / 2)],
        };
    }

    private static AssemblerMemoryOperand CVector(int r, int j)
    {
        AssemblerRegister64 at = r < 4 ? rax : rdx;
        return (r & 3) switch
        {
            0 => __zmmword_ptr[at + j * Line],
            1 => __zmmword_ptr[at + rcx + j * Line],
            2 => __zmmword_ptr[at + rcx * 2 + j * Line],
            _ => __zmmword_ptr[at + rsi + j * Line],
        };
    }
}
