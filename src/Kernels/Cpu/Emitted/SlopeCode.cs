using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;
using static MimEngine.Kernels.Cpu.Emitted.VectorRegisters;

namespace MimEngine.Kernels.Cpu.Emitted;

/// <summary>
/// The softmax of attention and its slopes, as <see cref="CpuBackend"/> has them in C#, with the same bits in float32; but with every constant in its
/// register and four keys in flight. In bfloat16, results are rounded by the processor's own conversions.
/// </summary>
internal static unsafe class SlopeCode
{
    private const int Together = 4;
    private static readonly AssemblerRegisterZMM s_scale = zmm16, s_low = zmm17, s_one = zmm18, s_delta = zmm19, s_order = zmm20;
    private static readonly AssemblerRegisterZMM s_even = zmm21, s_odd = zmm22;
    private const int FirstTerm = 24;

    /// <summary>Where the fields of <see cref="SlopeColumn"/> lie.</summary>
    private readonly struct Fields
    {
        public readonly int S, Row, Keys, Scale, First, Second, Dp, P, Ds, HalfRow, Pairs, PairRow;

        public Fields()
        {
            SlopeColumn t = default;
            byte* o = (byte*)&t;
            (S, Row, Keys, Scale, First, Second) = (At(&t.S), At(&t.Row), At(&t.Keys), At(&t.Scale), At(&t.First), At(&t.Second));
            (Dp, P, Ds, HalfRow, Pairs, PairRow) = (At(&t.Dp), At(&t.P), At(&t.Ds), At(&t.HalfRow), At(&t.Pairs), At(&t.PairRow));
            int At(void* field) => (int)((byte*)field - o);
        }
    }

    // Of both routines: s, its rows and three of them; keys left; dp or the sums' place; p, ds, their rows, pairs and their rows.
    private static readonly AssemblerRegister64 s_s = rsi, s_row = rcx, s_row3 = rdx, s_keys = rax, s_dp = r8, s_p = r9, s_ds = r10, s_half = r11,
        s_pairs = rbx, s_pairRow = r12, s_half3 = r13;

    public static Assembler Softmax(bool pairs)
    {
        Assembler c = Begin(out Fields f, out Label order);
        Label fours = c.CreateLabel(), few = c.CreateLabel(), ones = c.CreateLabel(), found = c.CreateLabel();
        for (int i = 0; i < Together; i++) c.vmovups(Zmm[i], __zmmword_ptr[s_s]);
        c.shr(s_keys, 2);
        c.je(few);
        c.Label(ref fours);
        for (int i = 0; i < Together; i++) c.vmaxps(Zmm[i], Zmm[i], At(s_s, i));
        c.lea(s_s, __[s_s + s_row * 4]);
        c.dec(s_keys);
        c.jne(fours);
        c.Label(ref few);
        c.mov(s_keys, __[rdi + f.Keys]);
        c.and(s_keys, Together - 1);
        c.je(found);
        c.Label(ref ones);
        c.vmaxps(zmm0, zmm0, __zmmword_ptr[s_s]);
        c.add(s_s, s_row);
        c.dec(s_keys);
        c.jne(ones);
        c.Label(ref found);
        c.vmaxps(zmm0, zmm0, zmm1);
        c.vmaxps(zmm2, zmm2, zmm3);
        c.vmaxps(zmm0, zmm0, zmm2);
        c.vmulps(zmm0, s_scale, zmm0);
        c.mov(s_dp, __[rdi + f.First]);
        c.vmovups(__zmmword_ptr[s_dp], zmm0);
        c.vpxord(s_even, s_even, s_even);
        c.vpxord(s_odd, s_odd, s_odd);
        c.vsubps(s_low, s_even, zmm0);
        c.mov(s_s, __[rdi + f.S]);
        Loop(c, f, Keys);
        c.vaddps(s_even, s_even, s_odd);
        c.mov(s_dp, __[rdi + f.Second]);
        c.vmovups(__zmmword_ptr[s_dp], s_even);
        return End(c, ref order);

        void Keys(int n)
        {
            Exponentials(c, n);
            for (int i = 0; i < n; i++)
            {
                AssemblerRegisterZMM sum = i % 2 == 0 ? s_even : s_odd;
                c.vaddps(sum, sum, Result(i));
                if (!pairs) c.vmovups(At(s_s, i), Result(i));
            }
            if (pairs) StorePairs(c, n, Result);
            Advance(c, n);
        }
    }

    public static Assembler Slopes(bool pairs)
    {
        Assembler c = Begin(out Fields f, out Label order);
        c.mov(s_dp, __[rdi + f.First]);
        c.vmovups(s_low, __zmmword_ptr[s_dp]);
        c.mov(s_dp, __[rdi + f.Second]);
        c.vmovups(s_delta, __zmmword_ptr[s_dp]);
        c.mov(s_dp, __[rdi + f.Dp]);
        Loop(c, f, Keys);
        return End(c, ref order);

        void Keys(int n)
        {
            for (int i = 0; i < n; i++) c.vmovups(Slope(i), At(s_dp, i));
            for (int i = 0; i < n; i++) c.vsubps(Slope(i), Slope(i), s_delta);
            Exponentials(c, n);
            for (int i = 0; i < n; i++) c.vmulps(Slope(i), Result(i), Slope(i));
            if (pairs)
            {
                for (int i = 0; i < n; i += 2)
                {
                    StoreHalves(c, s_p, i, n, Result);
                    StoreHalves(c, s_ds, i, n, Slope);
                }
                StorePairs(c, n, Slope);
                if (n == Together)
                {
                    c.lea(s_p, __[s_p + s_half * 4]);
                    c.lea(s_ds, __[s_ds + s_half * 4]);
                }
                else
                {
                    for (int i = 0; i < n; i++) c.add(s_p, s_half);
                    for (int i = 0; i < n; i++) c.add(s_ds, s_half);
                }
            }
            else
            {
                for (int i = 0; i < n; i++)
                {
                    c.vmovups(At(s_s, i), Result(i));
                    c.vmovups(At(s_dp, i), Slope(i));
                }
            }
            Advance(c, n);
            if (n == Together) c.lea(s_dp, __[s_dp + s_row * 4]);
            else
                for (int i = 0; i < n; i++) c.add(s_dp, s_row);
        }
    }

    private static AssemblerRegisterZMM Whole(int i) => Zmm[i];
    private static AssemblerRegisterZMM Fraction(int i) => Zmm[4 + i];
    private static AssemblerRegisterZMM Result(int i) => Zmm[8 + i];
    private static AssemblerRegisterZMM Slope(int i) => Zmm[12 + i];

    private static AssemblerMemoryOperand At(AssemblerRegister64 at, int key) => key switch
    {
        0 => __zmmword_ptr[at],
        1 => __zmmword_ptr[at + s_row],
        2 => __zmmword_ptr[at + s_row * 2],
        _ => __zmmword_ptr[at + s_row3],
    };

    private static AssemblerMemoryOperand HalfAt(AssemblerRegister64 at, int key) => key switch
    {
        0 => __ymmword_ptr[at],
        1 => __ymmword_ptr[at + s_half],
        2 => __ymmword_ptr[at + s_half * 2],
        _ => __ymmword_ptr[at + s_half3],
    };

    private static Assembler Begin(out Fields f, out Label order)
    {
        Assembler c = new(64) { PreferVex = false };   // registers 16 to 31 exist in EVEX only
        f = new();
        c.push(rbx);
        c.push(r12);
        c.push(r13);
        c.mov(s_s, __[rdi + f.S]);
        c.mov(s_row, __[rdi + f.Row]);
        c.lea(s_row3, __[s_row + s_row * 2]);
        c.mov(s_p, __[rdi + f.P]);
        c.mov(s_ds, __[rdi + f.Ds]);
        c.mov(s_half, __[rdi + f.HalfRow]);
        c.lea(s_half3, __[s_half + s_half * 2]);
        c.mov(s_pairs, __[rdi + f.Pairs]);
        c.mov(s_pairRow, __[rdi + f.PairRow]);
        c.vbroadcastss(s_scale, __dword_ptr[rdi + f.Scale]);
        Constant(s_one, 1f);
        for (int i = 0; i < VectorMath.Exp2Terms.Length; i++) Constant(Zmm[FirstTerm + i], VectorMath.Exp2Terms[i]);
        order = c.CreateLabel();
        c.vmovdqu32(s_order, __zmmword_ptr[order]);
        c.mov(s_keys, __[rdi + f.Keys]);
        return c;

        void Constant(AssemblerRegisterZMM to, float value)
        {
            c.mov(eax, BitConverter.SingleToUInt32Bits(value));
            c.vpbroadcastd(to, eax);
        }
    }

    private static Assembler End(Assembler c, ref Label order)
    {
        c.vzeroupper();
        c.pop(r13);
        c.pop(r12);
        c.pop(rbx);
        c.ret();
        // Words 0, 16, 1, 17, …: neighbours out of two halves.
        c.Label(ref order);
        for (int i = 0; i < 16; i++) c.dd((uint)(i | (i + 16) << 16));
        return c;
    }

    /// <summary>All keys: four at a time, then two, then one.</summary>
    private static void Loop(Assembler c, in Fields f, Action<int> keys)
    {
        Label fours = c.CreateLabel(), two = c.CreateLabel(), one = c.CreateLabel(), done = c.CreateLabel();
        c.mov(s_keys, __[rdi + f.Keys]);
        c.shr(s_keys, 2);
        c.je(two);
        c.Label(ref fours);
        keys(Together);
        c.dec(s_keys);
        c.jne(fours);
        c.Label(ref two);
        c.test(__byte_ptr[rdi + f.Keys], 2);
        c.je(one);
        keys(2);
        c.Label(ref one);
        c.test(__byte_ptr[rdi + f.Keys], 1);
        c.je(done);
        keys(1);
        c.Label(ref done);
        c.nop();
    }

    /// <summary>2^(scale·s + low) of n keys, <see cref="VectorMath.Exp2"/> side by side.</summary>
    private static void Exponentials(Assembler c, int n)
    {
        for (int i = 0; i < n; i++)
        {
            c.vmovaps(Fraction(i), s_scale);
            c.vfmadd132ps(Fraction(i), s_low, At(s_s, i));
        }
        for (int i = 0; i < n; i++) c.vrndscaleps(Whole(i), Fraction(i), 0);
        for (int i = 0; i < n; i++)
        {
            c.vsubps(Fraction(i), Fraction(i), Whole(i));
            c.vmovaps(Result(i), Zmm[FirstTerm]);
        }
        for (int term = 1; term <= VectorMath.Exp2Terms.Length; term++)
            for (int i = 0; i < n; i++)
                c.vfmadd213ps(Result(i), Fraction(i), term == VectorMath.Exp2Terms.Length ? s_one : Zmm[FirstTerm + term]);
        for (int i = 0; i < n; i++) c.vscalefps(Result(i), Result(i), Whole(i));
    }

    /// <summary>Both keys of a pair as halves of one vector, the first one low.</summary>
    private static void Convert(Assembler c, AssemblerRegisterZMM to, int i, int n, Func<int, AssemblerRegisterZMM> value)
    {
        if (i + 1 < n) c.vcvtne2ps2bf16(to, value(i + 1), value(i));
        else c.vcvtneps2bf16(Ymm[Array.IndexOf(Zmm, to)], value(i));   // the upper half becomes zeros
    }

    private static void StoreHalves(Assembler c, AssemblerRegister64 to, int i, int n, Func<int, AssemblerRegisterZMM> value)
    {
        Convert(c, Zmm[i], i, n, value);
        c.vmovups(HalfAt(to, i), Ymm[i]);
        if (i + 1 < n) c.vextracti64x4(HalfAt(to, i + 1), Zmm[i], 1);
    }

    private static void StorePairs(Assembler c, int n, Func<int, AssemblerRegisterZMM> value)
    {
        for (int i = 0; i < n; i += 2)
        {
            Convert(c, Zmm[i], i, n, value);
            c.vpermw(Zmm[i], s_order, Zmm[i]);
            c.vmovups(__zmmword_ptr[s_pairs], Zmm[i]);
            c.add(s_pairs, s_pairRow);
        }
    }

    private static void Advance(Assembler c, int n)
    {
        if (n == Together) c.lea(s_s, __[s_s + s_row * 4]);
        else
            for (int i = 0; i < n; i++) c.add(s_s, s_row);
    }
}
