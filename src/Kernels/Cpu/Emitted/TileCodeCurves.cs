using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;
using static MimEngine.Kernels.Cpu.Emitted.VectorRegisters;

namespace MimEngine.Kernels.Cpu.Emitted;

/// <summary>Tiles that end with GELU or its slope, the operations of <see cref="GeluPieces"/> in their order: the same bits.</summary>
internal static unsafe partial class TileCode
{
    /// <summary>
    /// Stores the sums and their GELU, or the sums times GELU′. One half of each table is in registers, for which the last rows' sums make room on the
    /// stack; the other half is read with the permutation.
    /// </summary>
    /// <param name="half">c and what lies beside it are bfloat16.</param>
    private static void EndCurved(Assembler c, in Fields f, int vectors, bool half, Finish finish)
    {
        bool slope = finish == Finish.Slope;
        int terms = slope ? GeluPieces.SlopeTerms : GeluPieces.GeluTerms, spilled = vectors == 3 ? 3 : 0, kept = Rows - spilled, next = 31;
        float* table = slope ? GeluPieces.Slope : GeluPieces.Gelu, constants = table + terms * GeluPieces.Pieces;
        var tables = new AssemblerRegisterZMM[terms];
        c.push(rbp);
        c.mov(rbp, rsp);
        c.sub(rsp, 9 * Line);
        c.and(rsp, -Line);
        for (int i = kept * vectors; i < Rows * vectors; i++) c.vmovaps(__zmmword_ptr[rsp + (i - kept * vectors) * Line], Zmm[i]);
        CRows(c, f, (byte)(half ? 1 : 2));
        c.mov(r8, __[rdi + f.Beside]);
        c.lea(r9, __[r8 + rcx * 4]);
        c.mov(r10, (ulong)table);
        for (int d = 0; d < terms; d++)
        {
            tables[d] = Zmm[next--];
            c.vmovaps(tables[d], __zmmword_ptr[r10 + d * 2 * Line]);
        }
        (AssemblerRegisterZMM end, AssemblerRegisterZMM rounder, AssemblerRegisterZMM one, AssemblerRegisterZMM magnitude, AssemblerRegisterZMM zero)
            = (Zmm[next--], Zmm[next--], Zmm[next--], Zmm[next--], Zmm[next--]);
        foreach ((AssemblerRegisterZMM to, int i) in new[] { (end, 0), (rounder, 1), (one, 2), (magnitude, 3) })
            c.vbroadcastss(to, __dword_ptr[r10 + (int)((byte*)(constants + i) - (byte*)table)]);
        c.vpxord(zero, zero, zero);
        (int placeName, int pieceName, int valueName, int otherName) = (next--, next--, next--, next--);
        (AssemblerRegisterZMM place, AssemblerRegisterZMM piece, AssemblerRegisterZMM value, AssemblerRegisterZMM other)
            = (Zmm[placeName], Zmm[pieceName], Zmm[valueName], Zmm[otherName]);
        for (int r = 0; r < kept; r++)
            for (int j = 0; j < vectors; j++) One(r * vectors + j, r, j);
        for (int i = 0; i < spilled * vectors; i++) c.vmovaps(Zmm[i], __zmmword_ptr[rsp + i * Line]);
        for (int r = kept; r < Rows; r++)
            for (int j = 0; j < vectors; j++) One((r - kept) * vectors + j, r, j);
        c.mov(rsp, rbp);
        c.pop(rbp);
        Leave(c);

        void One(int sumName, int r, int j)
        {
            AssemblerRegisterZMM sum = Zmm[sumName], x = slope ? other : sum;
            if (!slope) Store(sumName, CPlace(r, j));
            else if (half)
            {
                c.vpmovzxwd(x, Half(r < 4 ? r8 : r9, r, j));
                c.vpslld(x, x, 16);
            }
            else c.vmovups(x, Whole(r < 4 ? r8 : r9, r, j));
            c.vandps(place, x, magnitude);
            c.vminps(place, end, place);   // the second operand wins where one is NaN
            c.vaddps(piece, place, rounder);
            c.vsubps(value, piece, rounder);
            c.vsubps(place, place, value);
            LookUp(value, terms - 1);
            AssemblerRegisterZMM found = slope ? Zmm[next] : other;
            for (int d = terms - 2; d >= 0; d--)
            {
                LookUp(found, d);
                c.vfmadd213ps(value, place, found);
            }
            if (slope)
            {
                c.vcmpps(k1, zero, x, 1);   // 0 < x
                c.vsubps(value.k1, one, value);
                c.vmulps(sum, sum, value);
                Store(sumName, CPlace(r, j));
                return;
            }
            c.vmaxps(sum, zero, sum);
            c.vsubps(sum, sum, value);
            Store(sumName, half ? Half(r < 4 ? r8 : r9, r, j) : Whole(r < 4 ? r8 : r9, r, j));
        }

        void LookUp(AssemblerRegisterZMM to, int d)
        {
            c.vmovaps(to, tables[d]);
            c.vpermt2ps(to, piece, __zmmword_ptr[r10 + (2 * d + 1) * Line]);
        }

        void Store(int name, AssemblerMemoryOperand at)
        {
            if (!half)
            {
                c.vmovups(at, Zmm[name]);
                return;
            }
            c.vcvtneps2bf16(Ymm[valueName], Zmm[name]);
            c.vmovups(at, Ymm[valueName]);
        }

        AssemblerMemoryOperand CPlace(int r, int j) => half ? CHalf(r, j) : CVector(r, j);
    }

    /// <summary>Vector j of row r of bfloat16 numbers, of whose rows the first or the fifth lies at the address; rcx and rsi are one and three strides.</summary>
    private static AssemblerMemoryOperand Half(AssemblerRegister64 at, int r, int j) => (r & 3) switch
    {
        0 => __ymmword_ptr[at + j * (Line / 2)],
        1 => __ymmword_ptr[at + rcx + j * (Line / 2)],
        2 => __ymmword_ptr[at + rcx * 2 + j * (Line / 2)],
        _ => __ymmword_ptr[at + rsi + j * (Line / 2)],
    };

    private static AssemblerMemoryOperand Whole(AssemblerRegister64 at, int r, int j) => (r & 3) switch
    {
        0 => __zmmword_ptr[at + j * Line],
        1 => __zmmword_ptr[at + rcx + j * Line],
        2 => __zmmword_ptr[at + rcx * 2 + j * Line],
        _ => __zmmword_ptr[at + rsi + j * Line],
    };
}
