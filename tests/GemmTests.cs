using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>
/// Matrix products against float64 loops: every remainder of the tile in all three layouts, every epilogue, every vector width, and
/// the same bits for any number of threads. Bounds are rigorous: (length of the sum + 4) roundings of the sum of magnitudes.
/// </summary>
[TestFixture]
public class GemmTests
{
    private const double Unit = 1.0 / (1 << 24);
    private static readonly int[] s_rows = [1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31];
    private static readonly int[] s_cols = [.. Enumerable.Range(1, 50), 63, 64, 65, 95, 96, 97];
    private static readonly int[] s_sums = [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 33];

    private static IEnumerable<SimdLevel> Levels => Enum.GetValues<SimdLevel>().Where(l => l <= Simd.Best);

    /// <summary>Shapes beyond one chunk, one block of the sum and one group of panels.</summary>
    private static readonly (int M, int N, int K)[] s_large = [(97, 193, 769), (200, 50, 1537), (33, 300, 1000), (9, 1000, 65),
        (801, 49, 31)];

    private static IEnumerable<(int M, int N, int K)> Shapes(SimdLevel level)
    {
        foreach (int m in s_rows)
            foreach (int n in s_cols)
                foreach (int k in s_sums)
                    if (level == SimdLevel.Vector512 || (m + n + k) % 5 == 0) yield return (m, n, k);
        foreach (var shape in s_large) yield return shape;
    }

    private static IEnumerable<(int M, int N, int K)> Few => s_large.Concat([(1, 1, 1), (7, 5, 3), (8, 48, 16), (16, 96, 32), (5, 67, 40)]);

    /// <summary>Fills with numbers of both signs, exact in float32, that depend on nothing but the place and the name.</summary>
    private static Tensor Some(Backend backend, Shape shape, uint name)
    {
        var t = new Tensor(backend.Allocate(shape.Count * 4), 0, shape, DType.F32);
        Span<float> v = t.Host<float>();
        uint h = name * 2654435761u + 12345;
        for (int i = 0; i < v.Length; i++)
        {
            h = h * 1664525 + 1013904223;
            v[i] = ((int)(h >> 12) - (1 << 19)) / (float)(1 << 19);
        }
        return t;
    }

    private static Tensor Poison(Backend backend, Shape shape)
    {
        var t = new Tensor(backend.Allocate(shape.Count * 4), 0, shape, DType.F32);
        t.Host<float>().Fill(float.NaN);
        return t;
    }

    private static void Free(params Tensor[] tensors)
    {
        foreach (Tensor t in tensors) t.Storage.Dispose();
    }

    /// <summary>start + Σ a·b in float64, and the sum of magnitudes its rounding error is proportional to.</summary>
    private static (double Value, double Size) Sum(int length, Func<int, float> a, Func<int, float> b, double start)
    {
        double value = start, size = Math.Abs(start);
        for (int i = 0; i < length; i++)
        {
            double p = (double)a(i) * b(i);
            value += p;
            size += Math.Abs(p);
        }
        return (value, size);
    }

    private static void Close(float got, (double Value, double Size) want, int length, string where)
    {
        if (!(Math.Abs(got - want.Value) <= (length + 4) * Unit * want.Size + 1e-30))
            Assert.Fail($"{where}: {got} instead of {want.Value}");
    }

    /// <summary>Elements to look at: all of a small matrix, a spread with both ends of a large one.</summary>
    private static IEnumerable<int> Places(int count)
    {
        int step = count <= 4000 ? 1 : count / 1500 | 1;
        for (int i = 0; i < count; i += step) yield return i;
        yield return count - 1;
    }

    [TestCaseSource(nameof(Levels))]
    public void Forward_with_and_without_bias_is_right_for_every_remainder(SimdLevel level)
    {
        using var cpu = new CpuBackend(2, level);
        foreach ((int m, int n, int k) in Shapes(level))
        {
            Tensor x = Some(cpu, new(m, k), 1), w = Some(cpu, new(n, k), 2), b = Some(cpu, new(n), 3), y = Poison(cpu, new(m, n));
            bool biased = (m + n + k) % 2 == 0;
            cpu.LinearForward(y, x, w, biased ? b : null);
            foreach (int i in Places(m * n))
            {
                (int r, int c) = (i / n, i % n);
                Close(y.Host<float>()[i], Sum(k, j => x.Host<float>()[r * k + j], j => w.Host<float>()[c * k + j],
                    biased ? b.Host<float>()[c] : 0), k, $"{m}×{n}×{k} at ({r}, {c})");
            }
            Free(x, w, b, y);
        }
    }

    [TestCaseSource(nameof(Levels))]
    public void Backward_is_right_for_every_remainder_written_and_accumulated(SimdLevel level)
    {
        using var cpu = new CpuBackend(2, level);
        foreach ((int m, int n, int k) in Shapes(level))
        {
            bool add = (m + n + k) % 2 == 0;
            Tensor x = Some(cpu, new(m, k), 1), w = Some(cpu, new(n, k), 2), dy = Some(cpu, new(m, n), 3);
            Tensor dx = add ? Some(cpu, new(m, k), 4) : Poison(cpu, new(m, k)), dw = add ? Some(cpu, new(n, k), 5) : Poison(cpu, new(n, k));
            Tensor db = add ? Some(cpu, new(n), 6) : Poison(cpu, new(n));
            float[] dx0 = dx.Host<float>().ToArray(), dw0 = dw.Host<float>().ToArray(), db0 = db.Host<float>().ToArray();
            GradMode mode = add ? GradMode.Accumulate : GradMode.Write;
            cpu.LinearBackward(new Grad(dx, mode), new Grad(dw, mode), new Grad(db, mode), dy, x, w);
            foreach (int i in Places(m * k))
                Close(dx.Host<float>()[i], Sum(n, j => dy.Host<float>()[i / k * n + j], j => w.Host<float>()[j * k + i % k],
                    add ? dx0[i] : 0), n, $"dx {m}×{n}×{k} at {i}");
            foreach (int i in Places(n * k))
                Close(dw.Host<float>()[i], Sum(m, j => dy.Host<float>()[j * n + i / k], j => x.Host<float>()[j * k + i % k],
                    add ? dw0[i] : 0), m, $"dw {m}×{n}×{k} at {i}");
            for (int i = 0; i < n; i++)
                Close(db.Host<float>()[i], Sum(m, j => dy.Host<float>()[j * n + i], _ => 1f, add ? db0[i] : 0), m,
                    $"db {m}×{n}×{k} at {i}");
            Free(x, w, dy, dx, dw, db);
        }
    }

    [TestCaseSource(nameof(Levels))]
    public void A_gradient_that_is_not_wanted_is_not_touched_and_the_bias_gradient_alone_has_the_same_bits(SimdLevel level)
    {
        using var cpu = new CpuBackend(2, level);
        foreach ((int m, int n, int k) in Few)
        {
            Tensor x = Some(cpu, new(m, k), 1), w = Some(cpu, new(n, k), 2), dy = Some(cpu, new(m, n), 3);
            Tensor dx = Poison(cpu, new(m, k)), dw = Poison(cpu, new(n, k)), db = Poison(cpu, new(n)), alone = Poison(cpu, new(n));
            cpu.LinearBackward(Grad.None, Grad.Write(dw), Grad.Write(db), dy, x, w);
            cpu.LinearBackward(Grad.None, Grad.None, Grad.Write(alone), dy, x, w);
            Assert.That(dx.Host<float>().ToArray(), Is.All.NaN);
            Assert.That(alone.Host<float>().SequenceEqual(db.Host<float>()), $"{m}×{n}×{k}");
            Free(x, w, dy, dx, dw, db, alone);
        }
    }

    [TestCaseSource(nameof(Levels))]
    public void Linear_with_GELU_gives_the_bits_of_Linear_and_then_GELU(SimdLevel level)
    {
        using var cpu = new CpuBackend(2, level);
        foreach ((int m, int n, int k) in Few)
        {
            Tensor x = Some(cpu, new(m, k), 1), w = Some(cpu, new(n, k), 2), b = Some(cpu, new(n), 3);
            Tensor y = Poison(cpu, new(m, n)), h = Poison(cpu, new(m, n)), y2 = Poison(cpu, new(m, n)), h2 = Poison(cpu, new(m, n));
            cpu.LinearGeluForward(y, h, x, w, b);
            cpu.LinearForward(h2, x, w, b);
            cpu.GeluForward(y2, h2);
            Assert.That(h.Host<float>().SequenceEqual(h2.Host<float>()) && y.Host<float>().SequenceEqual(y2.Host<float>()), $"{m}×{n}×{k}");
            Free(x, w, b, y, h, y2, h2);
        }
    }

    [TestCaseSource(nameof(Levels))]
    public void Linear_with_residual_is_right_apart_and_in_place(SimdLevel level)
    {
        using var cpu = new CpuBackend(2, level);
        foreach ((int m, int n, int k) in Few)
            for (int variant = 0; variant < 4; variant++)
            {
                int groups = m % 3 == 0 ? 3 : 1;
                Tensor x = Some(cpu, new(m, k), 1), w = Some(cpu, new(n, k), 2), b = Some(cpu, new(n), 3),
                    residual = Some(cpu, new(m, n), 4);
                Tensor gamma = Some(cpu, new(n), 5), scale = Some(cpu, new(groups), 6), y = Poison(cpu, new(m, n));
                scale.Host<float>()[0] = variant == 3 ? 0f : 1.25f;
                Tensor? g = (variant & 1) != 0 ? gamma : null, s = (variant & 2) != 0 ? scale : null;
                float[] before = residual.Host<float>().ToArray();
                cpu.LinearResidualForward(y, x, w, b, residual, g, s);
                Assert.That(residual.Host<float>().SequenceEqual(before), "the residual was changed");
                cpu.LinearResidualForward(residual, x, w, b, residual, g, s);
                Assert.That(residual.Host<float>().SequenceEqual(y.Host<float>()), $"in place differs: {m}×{n}×{k}");
                foreach (int i in Places(m * n))
                {
                    (int r, int c) = (i / n, i % n);
                    double factor = (g is null ? 1.0 : gamma.Host<float>()[c]) * (s is null ? 1.0 : scale.Host<float>()[r / (m / groups)]);
                    (double v, double size) = Sum(k, j => x.Host<float>()[r * k + j], j => w.Host<float>()[c * k + j], b.Host<float>()[c]);
                    Close(y.Host<float>()[i], (before[i] + factor * v, Math.Abs(before[i]) + Math.Abs(factor) * size), k + 4,
                        $"{m}×{n}×{k}, variant {variant}, at {i}");
                }
                Free(x, w, b, residual, gamma, scale, y);
            }
    }

    [TestCaseSource(nameof(Levels))]
    public void Every_dense_operation_has_the_same_bits_with_1_2_and_7_threads(SimdLevel level)
    {
        foreach ((int m, int n, int k) in Few)
        {
            float[][] first = Run(1);
            foreach (int threads in new[] { 2, 7 })
                Assert.That(Run(threads).Zip(first).All(p => p.First.AsSpan().SequenceEqual(p.Second)), $"{threads} threads, {m}×{n}×{k}");

            float[][] Run(int threads)
            {
                using var cpu = new CpuBackend(threads, level);
                Tensor x = Some(cpu, new(m, k), 1), w = Some(cpu, new(n, k), 2), b = Some(cpu, new(n), 3), dy = Some(cpu, new(m, n), 4);
                Tensor y = Poison(cpu, new(m, n)), h = Poison(cpu, new(m, n)), z = Some(cpu, new(m, n), 7);
                Tensor dx = Poison(cpu, new(m, k)), dw = Poison(cpu, new(n, k)), db = Poison(cpu, new(n)), dgamma = Poison(cpu, new(n));
                cpu.LinearGeluForward(y, h, x, w, b);
                cpu.LinearResidualForward(z, x, w, b, z, b, null);
                cpu.LinearBackward(Grad.Write(dx), Grad.Write(dw), Grad.Write(db), dy, x, w);
                cpu.LayerScaleBackward(Grad.Write(dgamma), Grad.Add(dw), Grad.Add(db), w, b, w, b, b);
                cpu.GeluBackward(Grad.Write(dy), dy, h);
                float[][] all = [.. new[] { y, h, z, dx, dw, db, dgamma, dy }.Select(t => t.Host<float>().ToArray())];
                Free(x, w, b, dy, y, h, z, dx, dw, db, dgamma);
                return all;
            }
        }
    }

    [TestCaseSource(nameof(Levels))]
    public void Scaling_of_a_branch_and_its_backward_follow_their_formulas(SimdLevel level)
    {
        using var cpu = new CpuBackend(2, level);
        foreach ((int m, int n) in new[] { (1, 1), (6, 17), (12, 48), (300, 197) })
            for (int variant = 0; variant < 4; variant++)
            {
                int groups = m % 3 == 0 ? 3 : 1;
                Tensor y = Some(cpu, new(m, n), 1), residual = Some(cpu, new(m, n), 2), dy = Some(cpu, new(m, n), 3);
                Tensor gamma = Some(cpu, new(n), 4), scale = Some(cpu, new(groups), 5), branch = Poison(cpu, new(m, n)),
                    scaled = Poison(cpu, new(m, n));
                float[] before = y.Host<float>().ToArray();
                Tensor? g = (variant & 1) != 0 ? gamma : null, s = (variant & 2) != 0 ? scale : null;
                cpu.ScaleAddForward(y, residual, g, s);
                cpu.ScaleAddBackward(branch, scaled, dy, g, s);
                for (int i = 0; i < m * n; i++)
                {
                    double row = s is null ? 1 : scale.Host<float>()[i / n / (m / groups)], col = g is null ? 1
                        : gamma.Host<float>()[i % n];
                    double grad = dy.Host<float>()[i], was = before[i], rest = residual.Host<float>()[i];
                    Close(y.Host<float>()[i], (rest + row * col * was, Math.Abs(rest) + Math.Abs(row * col * was)), 0, $"y at {i}");
                    Close(scaled.Host<float>()[i], (row * grad, Math.Abs(row * grad)), 0, $"scaled at {i}");
                    Close(branch.Host<float>()[i], (row * col * grad, Math.Abs(row * col * grad)), 0, $"branch at {i}");
                }
                cpu.ScaleAddBackward(scaled, null, dy, g, s);
                Assert.That(scaled.Host<float>().SequenceEqual(branch.Host<float>()));
                Free(y, residual, dy, gamma, scale, branch, scaled);
            }
    }

    [TestCaseSource(nameof(Levels))]
    public void LayerScale_gradients_follow_their_formulas_written_and_accumulated(SimdLevel level)
    {
        using var cpu = new CpuBackend(2, level);
        foreach ((int n, int k) in new[] { (1, 1), (5, 16), (40, 67), (96, 768) })
            foreach (bool add in new[] { false, true })
            {
                Tensor raw = Some(cpu, new(n, k), 1), rawBias = Some(cpu, new(n), 2), w = Some(cpu, new(n, k), 3), b = Some(cpu, new(n), 4);
                Tensor gamma = Some(cpu, new(n), 5), dgamma = add ? Some(cpu, new(n), 6) : Poison(cpu, new(n));
                Tensor dw = add ? Some(cpu, new(n, k), 7) : Poison(cpu, new(n, k)), db = add ? Some(cpu, new(n), 8) : Poison(cpu, new(n));
                float[] dgamma0 = dgamma.Host<float>().ToArray(), dw0 = dw.Host<float>().ToArray(), db0 = db.Host<float>().ToArray();
                GradMode mode = add ? GradMode.Accumulate : GradMode.Write;
                cpu.LayerScaleBackward(new Grad(dgamma, mode), new Grad(dw, mode), new Grad(db, mode), raw, rawBias, w, b, gamma);
                for (int i = 0; i < n; i++)
                {
                    double bias = (double)b.Host<float>()[i] * rawBias.Host<float>()[i];
                    (double v, double size) = Sum(k, j => w.Host<float>()[i * k + j], j => raw.Host<float>()[i * k + j], bias);
                    double start = add ? dgamma0[i] : 0;
                    Close(dgamma.Host<float>()[i], (v + start, size + Math.Abs(start)), k + 2, $"dgamma at {i}");
                    Close(db.Host<float>()[i], Sum(1, _ => gamma.Host<float>()[i], _ => rawBias.Host<float>()[i], add ? db0[i] : 0), 1,
                        $"db at {i}");
                }
                for (int i = 0; i < n * k; i++)
                    Close(dw.Host<float>()[i], Sum(1, _ => gamma.Host<float>()[i / k], _ => raw.Host<float>()[i], add ? dw0[i] : 0), 1,
                        $"dw at {i}");
                Free(raw, rawBias, w, b, gamma, dgamma, dw, db);
            }
    }

    [TestCaseSource(nameof(Levels))]
    public void GELU_backward_in_place_equals_the_one_apart_and_the_slope_times_dy(SimdLevel level)
    {
        using var cpu = new CpuBackend(2, level);
        foreach (int n in new[] { 1, 15, 16, 17, 33, 70_001 })
        {
            Tensor x = Some(cpu, new(n), 1), dy = Some(cpu, new(n), 2), dx = Poison(cpu, new(n)), sum = Some(cpu, new(n), 3);
            float[] dy0 = dy.Host<float>().ToArray(), sum0 = sum.Host<float>().ToArray();
            cpu.GeluBackward(Grad.Write(dx), dy, x);
            cpu.GeluBackward(Grad.Add(sum), dy, x);
            cpu.GeluBackward(Grad.Write(dy), dy, x);
            Assert.That(dy.Host<float>().SequenceEqual(dx.Host<float>()), $"n = {n}");
            for (int i = 0; i < n; i++)
            {
                const double step = 1e-5;   // the slope as a difference of the exact function, whose error is below 1e-9 here
                double v = x.Host<float>()[i], slope = (Gelu(v + step) - Gelu(v - step)) / (2 * step);
                Assert.That(dx.Host<float>()[i], Is.EqualTo(dy0[i] * slope).Within(4e-7));
                Assert.That(sum.Host<float>()[i], Is.EqualTo(sum0[i] + dy0[i] * slope).Within(5e-7));
            }
            Free(x, dy, dx, sum);
        }
    }

    private static double Gelu(double x)
    {
        double term = x / Math.Sqrt(2), u = term * term, sum = term;
        for (int i = 1; i < 60; i++) sum += (term *= -u / i) / (2 * i + 1);
        return 0.5 * x * (1 + 2 / Math.Sqrt(Math.PI) * sum);
    }

    [Test]
    public unsafe void A_transposition_moves_every_element()
    {
        foreach ((int rows, int cols) in new[] { (1, 1), (4, 4), (5, 7), (16, 64), (17, 66), (50, 33) })
        {
            float[] x = [.. Enumerable.Range(0, rows * (cols + 1)).Select(i => (float)i)], y = new float[cols * (rows + 2)];
            fixed (float* px = x, py = y) GemmPack.Transpose(py, rows + 2, px, cols + 1, rows, cols);
            for (int i = 0; i < y.Length; i++)
                Assert.That(y[i], Is.EqualTo(i % (rows + 2) < rows ? x[i % (rows + 2) * (cols + 1) + i / (rows + 2)] : 0f));
        }
    }

    [Test]
    public void Shapes_that_do_not_fit_are_refused_with_both_shapes_named()
    {
        using var cpu = new CpuBackend(1);
        Tensor x = Some(cpu, new(4, 5), 1), w = Some(cpu, new(3, 6), 2), y = Some(cpu, new(4, 3), 3);
        Assert.That(() => cpu.LinearForward(y, x, w, null),
            Throws.ArgumentException.With.Message.Contains("(4, 5)").And.Message.Contains("(3, 6)"));
        Free(x, w, y);
    }

    [Test]
    public void A_repeated_product_allocates_nothing_and_its_scratch_does_not_grow()
    {
        using var cpu = new CpuBackend(2);
        Tensor x = Some(cpu, new(300, 192), 1), w = Some(cpu, new(96, 192), 2), y = Some(cpu, new(300, 96), 3),
            dx = Some(cpu, new(300, 192), 4);
        Tensor dw = Some(cpu, new(96, 192), 5), db = Some(cpu, new(96), 6);
        Step();
        long own = cpu.OwnBytes, before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 10; i++) Step();
        Assert.That(GC.GetAllocatedBytesForCurrentThread() - before, Is.Zero);
        Assert.That(cpu.OwnBytes, Is.EqualTo(own));
        Free(x, w, y, dx, dw, db);

        void Step()
        {
            cpu.LinearForward(y, x, w, db);
            cpu.LinearBackward(Grad.Write(dx), Grad.Write(dw), Grad.Write(db), y, x, w);
        }
    }
}
