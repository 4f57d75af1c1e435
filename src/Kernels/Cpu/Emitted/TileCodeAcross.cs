using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;
using static MimEngine.Kernels.Cpu.Emitted.VectorRegisters;

namespace MimEngine.Kernels.Cpu.Emitted;

/// <summary>Tiles of transposed products: a step of the sum is a row of a as well as of b.</summary>
internal static unsafe partial class TileCode
{
    /// <summary>A tile whose a is read across: eight neighbours of a step (ARow 1, AStep apart); b's rows are BRow apart.</summary>
    public static Assembler AcrossRows(int vectors, bool pairs)
    {
        Assembler c = new(64) { PreferVex = false };   // registers 16 to 31 exist in EVEX only
        Fields f = new();
        (AssemblerRegister64 a, AssemblerRegister64 aStep, AssemblerRegister64 b, AssemblerRegister64 bRow) = (rax, rcx, r8, rdx);
        Begin(c, f, vectors);
        c.mov(a, __[rdi + f.A]);
        c.mov(aStep, __[rdi + f.AStep]);
        c.shl(aStep, 2);
        c.mov(b, __[rdi + f.B]);
        c.mov(bRow, __[rdi + f.BRow]);
        c.shl(bRow, 2);
        Loop(c, f, vectors, Step, _ => { });
        End(c, f, vectors);
        c.ret();
        return c;

        void Step(int u)
        {
            for (int j = 0; j < vectors; j++) c.vmovups(Zmm[29 + j], __zmmword_ptr[b + j * Line]);
            c.add(b, bRow);
            for (int r = 0; r < Rows; r++) MultiplyRow(c, r, vectors, __dword_ptr[a + r * sizeof(float)], pairs);
            c.add(a, aStep);
        }
    }

    /// <summary>
    /// A tile of <see cref="AcrossRows"/> that asks for two runs of lines far apart, and copies on its way what it reads where others will read it
    /// packed: the copy costs three stores a step, which the ports have to spare.
    /// </summary>
    /// <param name="pairs">What is copied lies in memory as rows of bfloat16, AStep and BRow being two of them, and is paired on its way.</param>
    /// <param name="copiesA">Rows of a go to CopyA, eight numbers after eight numbers, and their sums to Sums.</param>
    /// <param name="copiesB">Rows of b go to CopyB, 48 numbers after 48 numbers.</param>
    /// <param name="rounds">
    /// Rows of a that are copied in pairs are float32 and rounded on their way. A turn asks for two rows then, AheadStep being two.
    /// </param>
    public static Assembler Gathering(int vectors, bool pairs, bool copiesA, bool copiesB, bool rounds = false)
    {
        Assembler c = new(64) { PreferVex = false };   // registers 16 to 31 exist in EVEX only
        Fields f = new();
        (AssemblerRegister64 a, AssemblerRegister64 aStep, AssemblerRegister64 b, AssemblerRegister64 bRow) = (rax, rcx, r8, rdx);
        (AssemblerRegister64 copyA, AssemblerRegister64 copyB, AssemblerRegister64 also, AssemblerRegister64 alsoStep) = (rsi, r14, rbp, r15);
        c.push(r14);
        c.push(r15);
        c.push(rbp);
        Begin(c, f, vectors);
        c.mov(r11, __[rdi + f.AheadStep]);
        c.mov(also, __[rdi + f.Also]);
        c.mov(alsoStep, __[rdi + f.AlsoStep]);
        c.mov(copyA, __[rdi + f.CopyA]);
        c.mov(copyB, __[rdi + f.CopyB]);
        c.mov(a, __[rdi + f.A]);
        c.mov(aStep, __[rdi + f.AStep]);
        c.shl(aStep, (byte)(pairs && copiesA && !rounds ? 1 : 2));   // pairs are copied row by row
        c.mov(b, __[rdi + f.B]);
        c.mov(bRow, __[rdi + f.BRow]);
        c.shl(bRow, (byte)(pairs && copiesB ? 1 : 2));
        if (copiesA) c.vpxord(zmm28, zmm28, zmm28);
        Loop(c, f, vectors, Step, _ => { });
        if (copiesA)
        {
            c.mov(rax, __[rdi + f.Sums]);
            c.vmovups(__ymmword_ptr[rax], ymm28);
        }
        End(c, f, vectors);
        c.pop(rbp);
        c.pop(r15);
        c.pop(r14);
        c.ret();
        return c;

        void Step(int u)
        {
            if (u == 0)
            {
                c.prefetcht1(__byte_ptr[also]);
                c.add(also, alsoStep);
            }
            else if (rounds) c.prefetcht1(__byte_ptr[r10 + aStep]);
            LoadB();
            if (copiesA) CopyRowA();
            bool fromCopy = pairs && copiesA;   // the pairs exist nowhere else
            for (int r = 0; r < Rows; r++) MultiplyRow(c, r, vectors, __dword_ptr[(fromCopy ? copyA : a) + r * sizeof(float)], pairs, copiesA ? 4 : 5);
            if (copiesA) c.add(copyA, Rows * sizeof(float));
            if (!fromCopy) c.add(a, aStep);
        }

        void LoadB()
        {
            for (int j = 0; j < vectors; j++)
                if (pairs && copiesB) c.vpmovzxwd(Zmm[29 + j], __ymmword_ptr[b + j * (Line / 2)]);
                else c.vmovups(Zmm[29 + j], __zmmword_ptr[b + j * Line]);
            c.add(b, bRow);
            if (!copiesB) return;
            for (int j = 0; j < vectors; j++)
            {
                if (pairs)
                {
                    c.vpmovzxwd(zmm27, __ymmword_ptr[b + j * (Line / 2)]);
                    c.vpslld(zmm27, zmm27, 16);
                    c.vpord(Zmm[29 + j], Zmm[29 + j], zmm27);
                }
                c.vmovups(__zmmword_ptr[copyB + j * Line], Zmm[29 + j]);
            }
            if (pairs) c.add(b, bRow);
            c.add(copyB, MicroKernels.Vectors * Line);
        }

        void CopyRowA()
        {
            if (!pairs)
            {
                c.vmovups(ymm27, __ymmword_ptr[a]);
                c.vmovups(__ymmword_ptr[copyA], ymm27);
                c.vaddps(ymm28, ymm28, ymm27);
                return;
            }
            if (rounds)
            {
                foreach ((AssemblerRegisterYMM row, AssemblerRegisterXMM half) in new[] { (ymm26, xmm26), (ymm27, xmm27) })
                {
                    c.vmovups(row, __ymmword_ptr[a]);
                    c.add(a, aStep);
                    c.vaddps(ymm28, ymm28, row);
                    c.vcvtneps2bf16(half, row);
                    c.vpmovzxwd(row, half);
                }
                c.vpslld(ymm27, ymm27, 16);
                c.vpord(ymm26, ymm26, ymm27);
                c.vmovups(__ymmword_ptr[copyA], ymm26);
                return;
            }
            c.vpmovzxwd(ymm26, __xmmword_ptr[a]);
            c.add(a, aStep);
            c.vpmovzxwd(ymm27, __xmmword_ptr[a]);
            c.add(a, aStep);
            c.vpslld(ymm27, ymm27, 16);   // bfloat16 in the upper half is float32
            c.vpord(ymm25, ymm26, ymm27);
            c.vmovups(__ymmword_ptr[copyA], ymm25);
            c.vpslld(ymm26, ymm26, 16);
            c.vaddps(ymm28, ymm28, ymm26);
            c.vaddps(ymm28, ymm28, ymm27);
        }
    }
}
