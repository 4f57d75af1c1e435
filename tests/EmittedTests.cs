using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using MimEngine.Kernels.Cpu.Emitted;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Machine code assembled at run time beside the JIT's: the same products.</summary>
[TestFixture]
public class EmittedTests
{
    // Whole tiles and cut ones, odd and even sums, one block and several, parts wider and narrower than a panel.
    private static readonly (int Rows, int Out, int In)[] s_shapes =
        [(8, 48, 3), (9, 48, 2), (64, 48, 40), (401, 96, 64), (31, 144, 32), (805, 784, 392), (1001, 16, 800), (640, 392, 1008), (17, 40, 33)];

    private static Tensor Some(Backend backend, uint name, int rows, int cols = 1)
    {
        var t = new Tensor(backend.Allocate(4L * rows * cols), 0, cols == 1 ? new Shape(rows) : new Shape(rows, cols), DType.F32);
        uint h = name * 2654435761u + 1;
        foreach (ref float v in t.Host<float>())
        {
            h = h * 1664525 + 1013904223;
            v = ((int)(h >> 12) - (1 << 19)) / (float)(1 << 19);
        }
        return t;
    }

    [Test]
    public void Emitted_tiles_on_threads_and_compiled_ones_on_one_give_the_same_bits([Values] bool accumulate, [Values(2, 4)] int threads)
    {
        if (TileRoutines.Instance == null) Assert.Ignore($"No emitted tiles here: {TileRoutines.Absence}.");
        using CpuBackend emitted = new(threads), compiled = new(1, emit: false);
        foreach ((int rows, int outs, int ins) in s_shapes)
        {
            var results = new List<float[][]>();
            foreach (CpuBackend cpu in new[] { emitted, compiled })
            {
                Tensor x = Some(cpu, 1, rows, ins), w = Some(cpu, 2, outs, ins), b = Some(cpu, 3, outs), dy = Some(cpu, 4, rows, outs),
                    y = Some(cpu, 5, rows, outs), dx = Some(cpu, 6, rows, ins), dw = Some(cpu, 7, outs, ins), db = Some(cpu, 8, outs),
                    onlyDb = Some(cpu, 8, outs), h = Some(cpu, 5, rows, outs), gelu = Some(cpu, 5, rows, outs), sloped = Some(cpu, 5, rows, ins),
                    sum = Some(cpu, 9, rows, outs), scaled = Some(cpu, 9, rows, outs), gamma = Some(cpu, 10, outs),
                    scale = Some(cpu, 11, Enumerable.Range(2, rows).First(d => rows % d == 0));
                cpu.LinearResidualForward(sum, x, w, b, dy, null, null);
                cpu.LinearResidualForward(scaled, x, w, b, scaled, gamma, scale);
                cpu.LinearForward(y, x, w, b);
                cpu.LinearGeluForward(gelu, h, x, w, b);
                cpu.LinearGeluBackward(sloped, dy, w, x);
                Grad Into(Tensor t) => accumulate ? Grad.Add(t) : Grad.Write(t);
                cpu.LinearBackward(Into(dx), Into(dw), Into(db), dy, x, w);
                cpu.LinearBackward(Grad.None, Grad.None, Into(onlyDb), dy, x, w);
                results.Add([.. new[] { y, dx, dw, db, onlyDb, h, gelu, sloped, sum, scaled }.Select(t => t.Host<float>().ToArray())]);
                foreach (Tensor t in new[] { x, w, b, dy, y, dx, dw, db, onlyDb, h, gelu, sloped, sum, scaled, gamma, scale }) t.Storage.Dispose();
            }
            string[] names = ["y", "dx", "dw", "db", "db alone", "h", "its GELU", "dx with GELU's slope", "the sum with a residual", "that with scales, in place"];
            for (int i = 0; i < names.Length; i++)
                Assert.That(results[0][i].AsSpan().SequenceEqual(results[1][i]), $"{names[i]} of {rows} × {outs} × {ins}");
            Assert.That(results[0][3], Is.EqualTo(results[0][4]), "the bias gradient with and without the weight's");
        }
    }

    [Test]
    public void Attention_of_emitted_and_of_compiled_tiles_has_the_same_bits([Values] bool accumulate)
    {
        if (TileRoutines.Instance == null) Assert.Ignore($"No emitted tiles here: {TileRoutines.Absence}.");
        using CpuBackend emitted = new(2), compiled = new(2, emit: false);
        foreach ((int n, int heads, int d) in new[] { (3, 1, 16), (17, 2, 16), (34, 1, 48), (65, 3, 64), (77, 1, 80), (145, 2, 64), (257, 1, 64), (300, 1, 32), (40, 2, 5) })
        {
            var results = new List<float[][]>();
            foreach (CpuBackend cpu in new[] { emitted, compiled })
            {
                int c = heads * d;
                Tensor[] all = [Some(cpu, 1, 2 * n, 3 * c), Some(cpu, 2, 2 * n, c), Some(cpu, 3, 2 * n, c), Some(cpu, 4, 2 * n, 3 * c), Some(cpu, 5, 2 * heads * n)];
                Tensor Shaped(int i, Shape shape) => new(all[i].Storage, 0, shape, DType.F32);
                Tensor qkv = Shaped(0, new(2, n, 3 * c)), y = Shaped(1, new(2, n, c)), dy = Shaped(2, new(2, n, c)), dqkv = Shaped(3, new(2, n, 3 * c)),
                    lse = Shaped(4, new(2, heads, n));
                cpu.AttentionForward(y, lse, qkv, heads, null);
                cpu.AttentionBackward(accumulate ? Grad.Add(dqkv) : Grad.Write(dqkv), Grad.None, dy, y, lse, qkv, heads, null);
                results.Add([.. new[] { y, lse, dqkv }.Select(t => t.Host<float>().ToArray())]);
                foreach (Tensor t in all) t.Storage.Dispose();
            }
            foreach ((int i, string name) in new[] { "y", "lse", "dqkv" }.Index())
                Assert.That(results[0][i].AsSpan().SequenceEqual(results[1][i]), $"{name} of {n} tokens, {heads} heads of {d}");
        }
    }

    private static IEnumerable<Bf16Unit> Units => Enum.GetValues<Bf16Unit>();

    /// <summary>
    /// Against the float32 products of operands rounded beforehand: what is left is the order of the sum and the units' own rounding of it, at most
    /// (length + 4) roundings of the magnitudes' sum.
    /// </summary>
    [TestCaseSource(nameof(Units))]
    public void Bfloat16_products_are_those_of_rounded_operands(Bf16Unit unit)
    {
        if (unit != Bf16Unit.Float32 && Bf16Routines.Of(unit) == null) Assert.Ignore($"This machine has no bfloat16 unit {unit}.");
        using CpuBackend half = new(2, precision: Precision.BF16, bf16: unit), one = new(1, precision: Precision.BF16, bf16: unit), plain = new(2);
        foreach (bool accumulate in new[] { false, true })
            foreach ((int rows, int outs, int ins) in s_shapes.Concat([(1, 1, 2), (33, 31, 65), (100, 200, 1030), (513, 400, 96)]))
            {
                Tensor[] want = Products(plain, rows, outs, ins, accumulate, round: true), got = Products(half, rows, outs, ins, accumulate, false),
                    alone = Products(one, rows, outs, ins, accumulate, false);
                for (int i = 0; i < want.Length; i++)
                {
                    int length = i switch { 0 => ins, 1 => outs, _ => rows };
                    Span<float> w = want[i].Host<float>(), g = got[i].Host<float>();
                    Assert.That(g.SequenceEqual(alone[i].Host<float>()), $"one thread and two, result {i} of {rows} × {outs} × {ins}");
                    // Operands lie in [-1, 1]: the magnitudes' sum is at most the length (+ start and old content).
                    double bound = (length + 4) * (length + 2) / (double)(1 << 23);
                    for (int j = 0; j < w.Length; j++)
                        if (!(Math.Abs(w[j] - g[j]) <= bound)) Assert.Fail($"result {i} of {rows} × {outs} × {ins} at {j}: {g[j]} instead of {w[j]}");
                }
                foreach (Tensor t in want.Concat(got).Concat(alone)) t.Storage.Dispose();
            }
    }

    /// <summary>y, dx, dw and the bias gradient (which is never rounded).</summary>
    private static Tensor[] Products(CpuBackend cpu, int rows, int outs, int ins, bool accumulate, bool round)
    {
        Tensor x = Some(cpu, 1, rows, ins), w = Some(cpu, 2, outs, ins), b = Some(cpu, 3, outs), dy = Some(cpu, 4, rows, outs), y = Some(cpu, 5, rows, outs),
            dx = Some(cpu, 6, rows, ins), dw = Some(cpu, 7, outs, ins), db = Some(cpu, 8, outs), dyr = Some(cpu, 4, rows, outs), other = Some(cpu, 9, outs, ins);
        if (round)
            foreach (Tensor t in new[] { x, w, dyr })
                foreach (ref float v in t.Host<float>()) v = Nearest(v);
        cpu.LinearForward(y, x, w, b);
        Grad Into(Tensor t) => accumulate ? Grad.Add(t) : Grad.Write(t);
        cpu.LinearBackward(Into(dx), Into(dw), Grad.None, dyr, x, w);
        cpu.LinearBackward(Grad.None, Grad.Write(other), Into(db), dy, x, w);
        foreach (Tensor t in new[] { x, w, b, dy, dyr, other }) t.Storage.Dispose();
        return [y, dx, dw, db];
    }

    /// <summary>v with 8 significant bits, ties to even: bfloat16 by the definition.</summary>
    private static float Nearest(float v)
    {
        if (v == 0f || !float.IsFinite(v)) return v;
        int shift = 7 - Math.ILogB(v);
        return (float)Math.ScaleB(Math.Round(Math.ScaleB((double)v, shift), MidpointRounding.ToEven), -shift);
    }

    [TestCaseSource(nameof(Units))]
    public void Finished_bfloat16_products_have_the_bits_of_their_parts(Bf16Unit unit)
    {
        if (unit != Bf16Unit.Float32 && Bf16Routines.Of(unit) == null) Assert.Ignore($"This machine has no bfloat16 unit {unit}.");
        using CpuBackend cpu = new(2, precision: Precision.BF16, bf16: unit);
        foreach ((int rows, int outs, int ins) in s_shapes.Concat([(70, 200, 1500)]))
        {
            Tensor x = Some(cpu, 1, rows, ins), w = Some(cpu, 2, outs, ins), b = Some(cpu, 3, outs), gamma = Some(cpu, 4, outs), residual = Some(cpu, 5, rows, outs),
                h = Some(cpu, 6, rows, outs), y = Some(cpu, 6, rows, outs), h2 = Some(cpu, 6, rows, outs), y2 = Some(cpu, 6, rows, outs);
            cpu.LinearForward(h, x, w, b);
            cpu.GeluForward(y, h);
            cpu.LinearGeluForward(y2, h2, x, w, b);
            Assert.That(h2.Host<float>().SequenceEqual(h.Host<float>()) && y2.Host<float>().SequenceEqual(y.Host<float>()), $"GELU, {rows} × {outs} × {ins}");
            if (ins <= 768)   // one block of the sum: else the parts are added to the residual in turn
            {
                cpu.ScaleAddForward(h, residual, gamma, null);
                cpu.LinearResidualForward(y2, x, w, b, residual, gamma, null);
                Assert.That(y2.Host<float>().SequenceEqual(h.Host<float>()), $"residual, {rows} × {outs} × {ins}");
            }
            foreach (Tensor t in new[] { x, w, b, gamma, residual, h, y, h2, y2 }) t.Storage.Dispose();
        }
    }

    [Test]
    public void Not_a_number_and_infinity_survive_the_rounding()
    {
        foreach (Bf16Unit unit in Units)
        {
            if (unit != Bf16Unit.Float32 && Bf16Routines.Of(unit) == null) continue;
            using CpuBackend cpu = new(1, precision: Precision.BF16, bf16: unit);
            Tensor x = Some(cpu, 1, 16, 32), w = Some(cpu, 2, 16, 32), y = Some(cpu, 3, 16, 16);
            x.Host<float>()[5 * 32 + 7] = BitConverter.UInt32BitsToSingle(0x7F800001);
            x.Host<float>()[6 * 32 + 9] = float.PositiveInfinity;
            cpu.LinearForward(y, x, w, null);
            Assert.That(float.IsNaN(y.Host<float>()[5 * 16]) && float.IsInfinity(y.Host<float>()[6 * 16]) && float.IsFinite(y.Host<float>()[7 * 16]), $"{unit}");
            foreach (Tensor t in new[] { x, w, y }) t.Storage.Dispose();
        }
    }

    /// <summary>
    /// An operand stored as bfloat16 is the float32 operand of the same numbers: every result of every mix has the bits it has in float32, or those
    /// rounded where the result is stored as bfloat16.
    /// </summary>
    [TestCaseSource(nameof(Units))]
    public void Products_take_any_mix_of_float32_and_bfloat16(Bf16Unit unit)
    {
        if (unit != Bf16Unit.Float32 && Bf16Routines.Of(unit) == null) Assert.Ignore($"This machine has no bfloat16 unit {unit}.");
        using CpuBackend one = new(1, precision: Precision.BF16, bf16: unit), three = new(3, precision: Precision.BF16, bf16: unit);
        foreach ((int rows, int outs, int ins) in s_shapes.Concat([(1, 1, 2), (33, 31, 65), (100, 200, 1030), (96, 96, 3072), (40, 112, 1601), (513, 400, 96)]))
        {
            Tensor[] plain = Mixed(one, rows, outs, ins, false, false, false, unit != Bf16Unit.Float32);
            for (int mix = 0; mix < 8; mix++)
            {
                Tensor[] got = Mixed(mix % 2 == 0 ? one : three, rows, outs, ins, (mix & 1) != 0, (mix & 2) != 0, (mix & 4) != 0,
                    unit != Bf16Unit.Float32);
                for (int i = 0; i < got.Length; i++)
                {
                    float[] want = plain[i].Host<float>().ToArray();
                    bool same = got[i].DType == DType.F32 ? got[i].Host<float>().SequenceEqual(want)
                        : got[i].Host<ushort>().SequenceEqual(Array.ConvertAll(want, Bf16.Narrow));
                    Assert.That(same, $"result {i} of {rows} × {outs} × {ins}, mix {mix}");
                }
                foreach (Tensor t in got) t.Storage.Dispose();
            }
            foreach (Tensor t in plain) t.Storage.Dispose();
        }
    }

    /// <summary>
    /// y, h and its GELU, the sum with a residual, dx, dx with GELU's slope of x, dw and db of operands that bfloat16 holds exactly, stored as asked: x and
    /// what has its shape, w, y and dy.
    /// </summary>
    private static Tensor[] Mixed(CpuBackend cpu, int rows, int outs, int ins, bool halfX, bool halfW, bool halfY, bool slopes)
    {
        Tensor x = Stored(cpu, 1, rows, ins, halfX), w = Stored(cpu, 2, outs, ins, halfW), dy = Stored(cpu, 4, rows, outs, halfY), b = Some(cpu, 3, outs),
            residual = Some(cpu, 5, rows, outs), y = Stored(cpu, 6, rows, outs, halfY), gelu = Stored(cpu, 6, rows, outs, halfY), h = Stored(cpu, 6, rows, outs, halfY),
            sum = Some(cpu, 6, rows, outs), dx = Stored(cpu, 6, rows, ins, halfX), dw = Some(cpu, 6, outs, ins), db = Some(cpu, 6, outs),
            sloped = Stored(cpu, 6, rows, ins, halfX);
        cpu.LinearForward(y, x, w, b);
        if (slopes) cpu.LinearGeluBackward(sloped, dy, w, x);   // else in two steps, which round twice
        cpu.LinearGeluForward(gelu, h, x, w, b);
        cpu.LinearResidualForward(sum, x, w, b, residual, null, null);
        cpu.LinearBackward(Grad.Write(dx), Grad.Write(dw), Grad.Write(db), dy, x, w);
        foreach (Tensor t in new[] { x, w, dy, b, residual }) t.Storage.Dispose();
        return [y, h, gelu, sum, dx, sloped, dw, db];
    }

    private static Tensor Stored(CpuBackend cpu, uint name, int rows, int cols, bool half)
    {
        Tensor wide = Some(cpu, name, rows, cols);
        foreach (ref float v in wide.Host<float>()) v = Nearest(v);
        if (!half) return wide;
        var t = new Tensor(cpu.Allocate(wide.Count * 2), 0, wide.Shape, DType.BF16);
        for (int i = 0; i < wide.Count; i++) t.Host<ushort>()[i] = Bf16.Narrow(wide.Host<float>()[i]);
        wide.Storage.Dispose();
        return t;
    }
}
