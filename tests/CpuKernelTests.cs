using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>
/// Every CPU kernel but the products and the images: against the oracle's float64 loops at every vector width, at sizes that leave
/// every kind of tail, and bit for bit between thread counts.
/// </summary>
[TestFixture]
public class CpuKernelTests
{
    /// <summary>Operands of one call, the same numbers on every backend; outputs start as NaN.</summary>
    internal sealed class Operands(Backend backend) : IDisposable
    {
        private readonly List<Storage> _storages = [];
        private readonly List<Tensor> _outputs = [];
        private ulong _drawn;

        public Backend Backend { get; } = backend;
        private DType Real => Backend is OracleBackend ? DType.F64 : DType.F32;

        /// <summary>Standard normal numbers, times a scale, plus a shift.</summary>
        public Tensor In(Shape shape, double scale = 1, double shift = 0)
        {
            RngSequence rng = new Rng(7, RandomStream.Test, _drawn++).Start();
            return New(shape, () => (float)(shift + scale * rng.Normal()));
        }

        /// <summary>Positive numbers between low and high.</summary>
        public Tensor Positive(Shape shape, float low, float high)
        {
            RngSequence rng = new Rng(7, RandomStream.Test, _drawn++).Start();
            return New(shape, () => rng.Uniform(low, high));
        }

        /// <summary>Bytes, 1 with the given probability.</summary>
        public Tensor Bits(Shape shape, float probability)
        {
            RngSequence rng = new Rng(7, RandomStream.Test, _drawn++).Start();
            Tensor t = New(shape, DType.U8);
            foreach (ref byte x in t.Host<byte>()) x = rng.Uniform() < probability ? (byte)1 : (byte)0;
            return t;
        }

        public Tensor Out(Shape shape)
        {
            Tensor t = New(shape, () => float.NaN);
            _outputs.Add(t);
            return t;
        }

        /// <summary>An input that the call also changes.</summary>
        public Tensor Changed(Tensor t)
        {
            _outputs.Add(t);
            return t;
        }

        /// <summary>A gradient destination: NaN to be written, or numbers to be added to.</summary>
        public Grad Into(Shape shape, bool add) => add ? Grad.Add(Changed(In(shape))) : Grad.Write(Out(shape));

        public double[][] Results() => _outputs.Select(t => t.DType == DType.F64
            ? t.Host<double>().ToArray()
            : Array.ConvertAll(t.Host<float>().ToArray(), x => (double)x)).ToArray();

        public void Dispose() => _storages.ForEach(s => s.Dispose());

        private Tensor New(Shape shape, DType dtype)
        {
            Storage storage = Backend.Allocate(shape.Count * dtype.Size());
            _storages.Add(storage);
            return new Tensor(storage, 0, shape, dtype);
        }

        private Tensor New(Shape shape, Func<float> draw)
        {
            Tensor t = New(shape, Real);
            if (Real == DType.F64) foreach (ref double x in t.Host<double>()) x = draw();
            else foreach (ref float x in t.Host<float>()) x = draw();
            return t;
        }
    }

    public sealed record Case(string Name, Action<object> Call, double Tolerance = 1e-5)
    {
        public override string ToString() => Name;
    }

    private static Case New(string name, Action<Operands> call, double tolerance = 1e-5) => new(name, o => call((Operands)o), tolerance);

    public static IEnumerable<Case> Cases()
    {
        foreach (Case c in TokenCases()) yield return c;
        foreach (Case c in NormCases()) yield return c;
        foreach (Case c in LossCases()) yield return c;
        foreach (Case c in OptimCases()) yield return c;
        foreach (Case c in AttentionCases()) yield return c;
    }

    private static IEnumerable<Case> TokenCases()
    {
        foreach (PixelOrder order in Enum.GetValues<PixelOrder>())
            foreach (int p in (int[])[1, 3, 4, 16, 17])
            {
                yield return New($"patchify {order} {p}",
                    o => o.Backend.Patchify(o.Out(new(2, 6, 3 * p * p)), o.In(new(2, 3, 2 * p, 3 * p)), p, order), 0);
                yield return New($"unpatchify {order} {p}",
                    o => o.Backend.Unpatchify(o.Out(new(2, 3, 2 * p, 3 * p)), o.In(new(2, 6, 3 * p * p)), p, order), 0);
            }
        foreach (int c in (int[])[1, 7, 16, 37, 192])
            for (int kind = 0; kind < 8; kind++)
            {
                (bool cls, bool mask, bool pos) = ((kind & 1) != 0, (kind & 2) != 0, (kind & 4) != 0);
                int prefix = cls ? 1 : 0;
                yield return New($"assemble tokens c={c} cls={cls} mask={mask} pos={pos}", o => o.Backend.AssembleTokensForward(
                    o.Out(new(5, prefix + 9, c)), o.In(new(5, 9, c)), cls ? o.In(new(c)) : null, mask ? o.In(new(c)) : null,
                    mask ? o.Bits(new(5, 9), 0.6f) : null, pos ? o.In(new(prefix + 9, c)) : null), 1e-7);
                yield return New($"assemble tokens backward c={c} cls={cls} mask={mask} add={pos}", o => o.Backend.AssembleTokensBackward(
                    o.Into(new(5, 9, c), pos), cls ? o.Into(new(c), pos) : Grad.None, o.Into(new(c), pos), o.Into(new(prefix + 9, c), pos),
                    o.In(new(5, prefix + 9, c)), mask ? o.Bits(new(5, 9), 0.6f) : null), 1e-6);
            }
        foreach (bool add in (bool[])[false, true])
            foreach (int c in (int[])[1, 5, 16, 41])
            {
                yield return New($"slice c={c}", o => o.Backend.SliceTokensForward(o.Out(new(3, 4, c)), o.In(new(3, 7, c)), 2), 0);
                yield return New($"slice backward c={c} add={add}",
                    o => o.Backend.SliceTokensBackward(o.Into(new(3, 7, c), add), o.In(new(3, 4, c)), 2), 1e-7);
                yield return New($"mean c={c}", o => o.Backend.MeanTokensForward(o.Out(new(3, c)), o.In(new(3, 7, c)), 1), 1e-6);
                yield return New($"mean backward c={c} add={add}",
                    o => o.Backend.MeanTokensBackward(o.Into(new(3, 7, c), add), o.In(new(3, c)), 1), 1e-6);
            }
    }

    private static IEnumerable<Case> NormCases()
    {
        foreach (int c in (int[])[1, 2, 15, 16, 17, 37, 64, 100, 384])
            foreach (int m in (int[])[1, 3, 300])
            {
                yield return New($"layer norm {m}x{c}", o => o.Backend.LayerNormForward(o.Out(new(m, c)), o.Out(new(m)), o.Out(new(m)),
                    o.In(new(m, c), 2, 0.5), o.In(new(c)), o.In(new(c)), 1e-6f), c == 1 ? 1e-3 : 1e-5);
                foreach (bool add in (bool[])[false, true])
                {
                    yield return New($"layer norm backward {m}x{c} add={add}", o => o.Backend.LayerNormBackward(o.Into(new(m, c), add),
                        o.Into(new(c), add), o.Into(new(c), add), o.In(new(m, c)), o.In(new(m, c), 2, 0.5), o.In(new(m), 0.1, 0.5),
                        o.Positive(new(m), 0.3f, 0.7f), o.In(new(c))));
                    yield return New($"softmax backward {m}x{c} add={add}", o => o.Backend.SoftmaxBackward(o.Into(new(m, c), add),
                        o.In(new(m, c)), o.Positive(new(m, c), 0, 2f / c)));
                }
                yield return New($"softmax {m}x{c}", o => o.Backend.SoftmaxForward(o.Out(new(m, c)), o.In(new(m, c), 5)));
                foreach (bool training in (bool[])[false, true])
                {
                    if (m == 1 && training) continue;   // no variance
                    yield return New($"batch norm {m}x{c} training={training}", o => o.Backend.BatchNormForward(o.Out(new(m, c)),
                        o.Out(new(c)), o.Out(new(c)), o.Changed(o.In(new(c))), o.Changed(o.Positive(new(c), 0.5f, 2f)),
                        o.In(new(m, c), 2, 0.5), 1e-6f, 0.1f, training));
                    yield return New($"batch norm backward {m}x{c} training={training}", o => o.Backend.BatchNormBackward(
                        o.Into(new(m, c), c % 2 == 0), o.In(new(m, c)), o.In(new(m, c), 2, 0.5), o.In(new(c), 0.1, 0.5),
                        o.Positive(new(c), 0.3f, 0.7f), training));
                }
            }
    }

    /// <summary>Which of the two walks a machine takes is decided by its processor; both are tested on each.</summary>
    [Test]
    public void LayerNorm_backward_has_the_same_bits_whether_a_row_is_closed_on_the_way_or_after_it([Values] SimdLevel level, [Values] bool add)
    {
        _ = Cpu.Open(level);
        foreach (int c in (int[])[16, 48, 384])
        {
            double[][][] bits = Array.ConvertAll((bool[])[false, true], onTheWay =>
            {
                using var cpu = new CpuBackend(1, level) { ClosesOnTheWay = onTheWay };
                using var o = new Operands(cpu);
                cpu.LayerNormBackward(o.Into(new(40, c), add), o.Into(new(c), add), o.Into(new(c), add), o.In(new(40, c)), o.In(new(40, c), 2, 0.5),
                    o.In(new(40), 0.1, 0.5), o.Positive(new(40), 0.3f, 0.7f), o.In(new(c)));
                return o.Results();
            });
            for (int i = 0; i < bits[0].Length; i++) Assert.That(bits[1][i], Is.EqualTo(bits[0][i]), $"{c} columns, output {i}");
        }
    }

    private static IEnumerable<Case> LossCases()
    {
        foreach (PixelOrder order in Enum.GetValues<PixelOrder>())
            foreach (PixelDistance distance in Enum.GetValues<PixelDistance>())
                foreach ((int p, int w) in ((int, int)[])[(4, 0), (4, 2), (6, 4), (8, 16), (16, 8)])
                    foreach (bool byWeights in (bool[])[false, true])
                    {
                        if (byWeights && w == 0) continue;
                        int s = w == 0 ? 4 * p : Lcm(p, w) * 2, l = s / p * (s / p);
                        string name = $"pixel loss {order} {distance} P={p} w={w} by weights={byWeights}";
                        yield return New(name, o => o.Backend.MaskedPixelLoss(
                            o.Out(new(1)), o.Out(new(3, l, 3 * p * p)), o.In(new(3, l, 3 * p * p)), o.In(new(3, 3, s, s)),
                            o.Bits(new(3, l), 0.6f), w == 0 ? null : o.Positive(new(3, s / w, s / w), 1f, 50f), p, order, distance,
                            byWeights, 1e-5f, 0.5f));
                    }
        foreach (int k in (int[])[1, 2, 10, 16, 17, 100, 1000])
            foreach (int m in (int[])[1, 5, 200])
                yield return New($"cross entropy {m}x{k}", o => o.Backend.CrossEntropyLoss(o.Out(new(1)), k == 1 ? null : o.Out(new(m, k)),
                    o.In(new(m, k), 4, 30), o.Positive(new(m, k), 0, 2f / k), 0.7f), k == 1 ? 1e-3 : 1e-5);
    }

    private static int Lcm(int a, int b)
    {
        int n = a;
        while (n % b != 0) n += a;
        return n;
    }

    private static readonly UpdateSegment[] s_segments =
    [
        new(3, 1, 1e-3f, 0.05f, 1), new(5, 17, 2e-3f, 0f, 3, Trust: false), new(40, 1000, 1e-3f, 0.1f, 1000, Trust: false),
        new(1100, 70_000, 5e-4f, 0.05f, 2), new(80_000, 33, 0f, 0.3f, 5),
    ];

    private static IEnumerable<Case> OptimCases()
    {
        Shape slab = new(80_100), count = new(s_segments.Length);
        yield return New("squared norms", o => o.Backend.SquaredNorms(o.Out(count), o.In(slab), s_segments));
        foreach (bool each in (bool[])[false, true])
            foreach (float max in (float[])[0f, 0.9f, 100f])
                yield return New($"clip scales each={each} max={max}",
                    o => o.Backend.ClipScales(o.Out(count), o.Out(new(1)), o.Positive(count, 0.1f, 1.5f), max, each), 1e-6);
        foreach (bool scaled in (bool[])[false, true])
        {
            yield return New($"adamw scaled={scaled}", o => o.Backend.AdamWStep(o.Changed(o.In(slab)), o.Changed(o.In(slab)),
                o.Changed(o.Positive(slab, 0.01f, 2f)), null, o.In(slab), scaled ? o.Positive(count, 0.1f, 1f) : null, s_segments, 0.9f, 0.999f,
                1e-8f), 1e-6);
            yield return New($"lars scaled={scaled}", o => o.Backend.LarsStep(o.Changed(o.In(slab)), o.Changed(o.In(slab)), null, o.In(slab),
                scaled ? o.Positive(count, 0.1f, 1f) : null, s_segments, 0.9f, 0.001f), 1e-6);
            yield return New($"sgd scaled={scaled}", o => o.Backend.SgdStep(o.Changed(o.In(slab)), o.Changed(o.In(slab)), null, o.In(slab),
                scaled ? o.Positive(count, 0.1f, 1f) : null, s_segments, 0.9f), 1e-6);
        }
    }

    private static IEnumerable<Case> AttentionCases()
    {
        foreach ((int b, int n, int heads, int d) in ((int, int, int, int)[])[(1, 1, 1, 1), (2, 2, 1, 3), (3, 5, 2, 4), (2, 16, 3, 16),
            (5, 17, 3, 16), (2, 49, 2, 24), (2, 65, 1, 64), (1, 10, 40, 8), (1, 97, 1, 64), (9, 13, 5, 33)])
            foreach (bool bias in (bool[])[false, true])
            {
                int c = heads * d;
                yield return New($"attention {b}x{n} heads={heads}x{d} bias={bias}", o => o.Backend.AttentionForward(o.Out(new(b, n, c)),
                    o.Out(new(b, heads, n)), o.In(new(b, n, 3 * c)), heads, bias ? o.In(new(heads, n, n)) : null));
                foreach (bool add in (bool[])[false, true])
                    yield return New($"attention backward {b}x{n} heads={heads}x{d} bias={bias} add={add}", o =>
                    {
                        Tensor qkv = o.In(new(b, n, 3 * c));
                        Tensor? table = bias ? o.In(new(heads, n, n)) : null;
                        Tensor y = o.Out(new(b, n, c)), lse = o.Out(new(b, heads, n));
                        o.Backend.AttentionForward(y, lse, qkv, heads, table);
                        o.Backend.AttentionBackward(o.Into(new(b, n, 3 * c), add), bias || add ? o.Into(new(heads, n, n), add) : Grad.None,
                            o.In(new(b, n, c)), y, lse, qkv, heads, table);
                    }, n == 1 ? 1e-4 : 1e-5);
            }
        foreach (int grid in (int[])[1, 2, 5, 8])
        {
            Shape bias = new(3, 1 + grid * grid, 1 + grid * grid), table = new((2 * grid - 1) * (2 * grid - 1) + 3, 3);
            yield return New($"relative bias {grid}", o => o.Backend.RelativePositionBiasForward(o.Out(bias), o.In(table), grid), 0);
            foreach (bool add in (bool[])[false, true])
                yield return New($"relative bias backward {grid} add={add}",
                    o => o.Backend.RelativePositionBiasBackward(o.Into(table, add), o.In(bias), grid), 1e-6);
        }
    }

    [TestCaseSource(nameof(Cases))]
    public void A_kernel_agrees_with_float64_loops_at_every_width(Case c)
    {
        using OracleBackend oracle = new();
        double[][] expected = Run(oracle, c);
        foreach (SimdLevel level in Enum.GetValues<SimdLevel>().Where(l => l <= Simd.Best))
        {
            using CpuBackend cpu = new(1, level);
            double[][] got = Run(cpu, c);
            for (int i = 0; i < expected.Length; i++)
            {
                int strange = Array.FindIndex(got[i], double.IsNaN);
                Assert.That(strange, Is.EqualTo(-1), $"{level}: NaN in output {i} of {expected.Length}");
                double difference = expected[i].Zip(got[i], (x, y) => (x - y) * (x - y)).Sum(), norm = expected[i].Sum(x => x * x);
                Assert.That(Math.Sqrt(difference), Is.LessThanOrEqualTo(c.Tolerance * Math.Sqrt(norm)),
                    $"{level}: output {i} of {expected.Length}");
            }
        }
    }

    [TestCaseSource(nameof(Cases))]
    public void A_kernel_gives_the_same_bits_for_1_2_and_7_threads(Case c)
    {
        using CpuBackend one = new(1), two = new(2), seven = new(7);
        double[][] expected = Run(one, c);
        Assert.Multiple(() =>
        {
            Assert.That(Run(two, c), Is.EqualTo(expected));
            Assert.That(Run(seven, c), Is.EqualTo(expected));
        });
    }

    private static double[][] Run(Backend backend, Case c)
    {
        using Operands o = new(backend);
        c.Call(o);
        return o.Results();
    }
}
