namespace MimEngine.Tests;

/// <summary>The instructions of <see cref="PtxMachine"/> that compute one lane's result from its own operands.</summary>
internal static class PtxInstructions
{
    /// <summary>None where the instruction is of another kind.</summary>
    public static Func<ulong, ulong, ulong, ulong>? Compile(string op, string[] operands)
    {
        if (op.StartsWith("setp.")) return Comparison(op);
        int expected = op.Split('.')[0] switch { "mad" or "fma" or "selp" => 4, "mov" or "cvt" or "ex2" or "lg2" or "rcp" or "rsqrt" or "sqrt" or "abs" or "neg" or "not" or "cvta" => 2, _ => 3 };
        Func<ulong, ulong, ulong, ulong>? f = op switch
        {
            "mov.u32" or "mov.b32" or "mov.f32" or "mov.b64" or "mov.u64" => (a, _, _) => a,
            "add.u32" or "add.s32" => (a, b, _) => (uint)(a + b),
            "sub.u32" or "sub.s32" => (a, b, _) => (uint)(a - b),
            "mul.lo.u32" or "mul.lo.s32" => (a, b, _) => (uint)a * (uint)b,
            "mad.lo.u32" or "mad.lo.s32" => (a, b, c) => (uint)a * (uint)b + (uint)c,
            "mul.wide.u32" => (a, b, _) => (ulong)(uint)a * (uint)b,
            "mad.wide.u32" => (a, b, c) => (ulong)(uint)a * (uint)b + c,
            "mul.lo.u64" => (a, b, _) => a * b,
            "mad.lo.u64" => (a, b, c) => a * b + c,
            "add.u64" or "add.s64" => (a, b, _) => a + b,
            "div.u32" => (a, b, _) => (uint)a / (uint)b,
            "rem.u32" => (a, b, _) => (uint)a % (uint)b,
            "min.u32" => (a, b, _) => Math.Min((uint)a, (uint)b),
            "max.u32" => (a, b, _) => Math.Max((uint)a, (uint)b),
            "min.s32" => (a, b, _) => (uint)Math.Min((int)a, (int)b),
            "shl.b32" => (a, b, _) => (uint)a << (int)b,
            "shr.u32" => (a, b, _) => (uint)a >> (int)b,
            "shl.b64" => (a, b, _) => a << (int)b,
            "and.b32" => (a, b, _) => (uint)(a & b),
            "or.b32" => (a, b, _) => (uint)(a | b),
            "xor.b32" => (a, b, _) => (uint)(a ^ b),
            "and.pred" => (a, b, _) => a & b,
            "or.pred" => (a, b, _) => a | b,
            "selp.b32" or "selp.f32" => (a, b, c) => (uint)(c != 0 ? a : b),
            "or.b64" => (a, b, _) => a | b,
            "cvta.param.u64" => (a, _, _) => a,
            "cvt.u64.u32" => (a, _, _) => (uint)a,
            "cvt.rn.f32.u32" => (a, _, _) => F((uint)a),
            "cvt.rn.bf16x2.f32" => (a, b, _) => (ulong)Half(S(a)) << 16 | Half(S(b)),
            "add.f32" => (a, b, _) => F(S(a) + S(b)),
            "sub.f32" => (a, b, _) => F(S(a) - S(b)),
            "mul.f32" => (a, b, _) => F(S(a) * S(b)),
            "fma.rn.f32" => (a, b, c) => F(MathF.FusedMultiplyAdd(S(a), S(b), S(c))),
            "max.f32" => (a, b, _) => F(float.IsNaN(S(a)) ? S(b) : float.IsNaN(S(b)) ? S(a) : Math.Max(S(a), S(b))),
            "abs.f32" => (a, _, _) => F(MathF.Abs(S(a))),
            "neg.f32" => (a, _, _) => F(-S(a)),
            "ex2.approx.ftz.f32" => (a, _, _) => F(MathF.Pow(2f, S(a))),
            "lg2.approx.ftz.f32" => (a, _, _) => F(MathF.Log2(S(a))),
            "rcp.approx.ftz.f32" or "rcp.rn.f32" => (a, _, _) => F(1f / S(a)),
            "div.rn.f32" => (a, b, _) => F(S(a) / S(b)),
            "sqrt.rn.f32" => (a, _, _) => F(MathF.Sqrt(S(a))),
            _ => null,
        };
        // cvt.rn.bf16x2 is the one conversion of two operands.
        if (op == "cvt.rn.bf16x2.f32") expected = 3;
        if (f is not null && operands.Length != expected) throw new FormatException($"{op} takes {expected} operands, not {operands.Length}");
        return f;
    }

    private static Func<ulong, ulong, ulong, ulong>? Comparison(string op)
    {
        string[] parts = op.Split('.');
        Func<int, bool>? holds = parts[1] switch
        {
            "lt" => c => c < 0, "le" => c => c <= 0, "gt" => c => c > 0, "ge" => c => c >= 0, "eq" => c => c == 0, "ne" => c => c != 0, _ => null,
        };
        if (holds is null) return null;
        return parts[2] switch
        {
            "u32" => (a, b, _) => holds(((uint)a).CompareTo((uint)b)) ? 1u : 0u,
            "s32" => (a, b, _) => holds(((int)a).CompareTo((int)b)) ? 1u : 0u,
            "u64" => (a, b, _) => holds(a.CompareTo(b)) ? 1u : 0u,
            "f32" => (a, b, _) => !float.IsNaN(S(a)) && !float.IsNaN(S(b)) && holds(S(a).CompareTo(S(b))) ? 1u : 0u,
            _ => null,
        };
    }

    private static float S(ulong bits) => BitConverter.UInt32BitsToSingle((uint)bits);
    private static ulong F(float value) => BitConverter.SingleToUInt32Bits(value);

    /// <summary>bfloat16, nearest even.</summary>
    private static ushort Half(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        return float.IsNaN(value) ? (ushort)0x7FFF : (ushort)(bits + 0x7FFF + (bits >> 16 & 1) >> 16);
    }
}
