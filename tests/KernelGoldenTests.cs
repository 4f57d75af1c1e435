using MimEngine.Engine.Runs;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>PyTorch 1.13's numbers for single operations and ten optimiser steps (goldens 06_ops), at the manifest's tolerances.</summary>
[TestFixture]
public class KernelGoldenTests
{
    private readonly List<Storage> _storages = [];
    private readonly CpuBackend _cpu = new(2);

    [TearDown]
    public void Free()
    {
        _storages.ForEach(s => s.Dispose());
        _storages.Clear();
    }

    [OneTimeTearDown]
    public void Close() => _cpu.Dispose();

    private static SafeTensors Open(string name)
        => SafeTensors.Open(Path.Combine(TestContext.CurrentContext.TestDirectory, "Goldens", "06_ops", name + ".safetensors"));

    private Tensor Put(Shape shape, float[] values)
    {
        Tensor t = Empty(shape);
        values.CopyTo(t.Host<float>());
        return t;
    }

    private Tensor Empty(Shape shape)
    {
        Storage storage = _cpu.Allocate(shape.Count * 4);
        _storages.Add(storage);
        Tensor t = new(storage, 0, shape, DType.F32);
        t.Host<float>().Fill(float.NaN);
        return t;
    }

    /// <summary>max|a − b| ≤ 2e-5·max|b| + atol and ‖a − b‖ ≤ 1e-5·‖b‖ + atol·√n, the manifest's metric.</summary>
    private static void AssertClose(ReadOnlySpan<float> got, float[] expected, double atol, string what)
    {
        double difference = 0, norm = 0, largest = 0, worst = 0;
        for (int i = 0; i < expected.Length; i++)
        {
            double d = Math.Abs((double)got[i] - expected[i]);
            Assert.That(d, Is.Not.NaN, $"{what}[{i}]");
            (difference, norm) = (difference + d * d, norm + (double)expected[i] * expected[i]);
            (largest, worst) = (Math.Max(largest, Math.Abs(expected[i])), Math.Max(worst, d));
        }
        Assert.That(got.Length, Is.EqualTo(expected.Length), what);
        Assert.That(worst, Is.LessThanOrEqualTo(2e-5 * largest + atol), what);
        Assert.That(Math.Sqrt(difference), Is.LessThanOrEqualTo(1e-5 * Math.Sqrt(norm) + atol * Math.Sqrt(expected.Length)), what);
    }

    private const double OutAtol = 2.2530555725097656e-05, GradAtol = 2.600251566065026e-06;

    [TestCase("1e-06", 1e-6f)]
    [TestCase("1e-05", 1e-5f)]
    [TestCase("1e-12", 1e-12f)]
    public void LayerNorm_is_PyTorchs_also_on_constant_and_tiny_rows(string name, float eps)
    {
        using SafeTensors golden = Open("elementary");
        Tensor x = Put(new(6, 20), golden.Floats("in.ln_x")), y = Empty(new(6, 20)), dx = Empty(new(6, 20));
        Tensor w = Put(new(20), golden.Floats("in.ln_w")), b = Put(new(20), golden.Floats("in.ln_b"));
        Tensor mean = Empty(new(6)), rstd = Empty(new(6)), dw = Empty(new(20)), db = Empty(new(20));
        float[] exact = golden.Floats("in.ln_b"), upstream = golden.Floats("in.ln_upstream");
        _cpu.LayerNormForward(y, mean, rstd, x, w, b, eps);
        AssertRows(y.Host<float>(), golden.Floats($"out.ln.eps{name}"), "y");
        _cpu.LayerNormBackward(Grad.Write(dx), Grad.Write(dw), Grad.Write(db), Put(new(6, 20), upstream), x, mean, rstd, w);
        AssertRows(dx.Host<float>(), golden.Floats($"grad.ln.eps{name}.x"), "dx");
        AssertClose(db.Host<float>(), golden.Floats($"grad.ln.eps{name}.b"), GradAtol, "db");
        // Row 3 is constant: x̂ = 0, so y = β and dx = (g − mean(g))/√eps. PyTorch itself is off there (2e-4 in y at eps 1e-6, which the
        // manifest gives as its noise floor, and 0.4 % in dx at 1e-12), so the row is held to the formula instead.
        double[] g = [.. upstream.Skip(60).Take(20).Zip(golden.Floats("in.ln_w"), (d, s) => (double)d * s)];
        for (int i = 0; i < 20; i++)
        {
            Assert.That(y.Host<float>()[60 + i], Is.EqualTo(exact[i]), $"y of the constant row, {i}");
            double expectedDx = (g[i] - g.Average()) / Math.Sqrt(eps);
            Assert.That(dx.Host<float>()[60 + i], Is.EqualTo(expectedDx).Within(1e-5 * g.Max(Math.Abs) / Math.Sqrt(eps)));
        }
        // dγ sums the badly conditioned row 4 in: one row for the manifest, with that row's looseness.
        float[] expected = golden.Floats($"grad.ln.eps{name}.w");
        for (int i = 0; i < expected.Length; i++)
            Assert.That(dw.Host<float>()[i], Is.EqualTo(expected[i]).Within(0.1 * expected.Max(Math.Abs)), $"dw[{i}]");
    }

    /// <summary>Per row: max|a − b| ≤ 1e-4·max|b| + 1e-6; row 4 (offset 100, deviation 1e-4) cancels in float32: 10 %.</summary>
    private static void AssertRows(ReadOnlySpan<float> got, float[] expected, string what)
    {
        for (int row = 0; row < 6; row++)
        {
            if (row == 3) continue;   // constant: see above
            float largest = expected.AsSpan(20 * row, 20).ToArray().Max(Math.Abs);
            for (int i = 20 * row; i < 20 * row + 20; i++)
                Assert.That(got[i], Is.EqualTo(expected[i]).Within((row == 4 ? 0.1 : 1e-4) * largest + 1e-6), $"{what}, row {row}");
        }
    }

    [Test]
    public void Softmax_is_PyTorchs_with_large_and_infinite_logits()
    {
        using SafeTensors golden = Open("elementary");
        Tensor y = Empty(new(5, 12)), dx = Empty(new(5, 12));
        _cpu.SoftmaxForward(y, Put(new(5, 12), golden.Floats("in.softmax_x")));
        AssertClose(y.Host<float>(), golden.Floats("out.softmax"), OutAtol, "y");
        _cpu.SoftmaxBackward(Grad.Write(dx), Put(new(5, 12), golden.Floats("in.softmax_upstream")), y);
        AssertClose(dx.Host<float>(), golden.Floats("grad.softmax"), GradAtol, "dx");
    }

    [Test]
    public void Attention_is_PyTorchs()
    {
        const int images = 2, heads = 3, tokens = 7, depth = 8, width = heads * depth;
        using SafeTensors golden = Open("elementary");
        float[] Rows(string name) => Merge(golden.Floats(name));
        float[] q = Rows("in.attn_q"), k = Rows("in.attn_k"), v = Rows("in.attn_v"), qkv = new float[3 * q.Length];
        for (int row = 0; row < images * tokens; row++)
        {
            q.AsSpan(row * width, width).CopyTo(qkv.AsSpan(3 * row * width));
            k.AsSpan(row * width, width).CopyTo(qkv.AsSpan((3 * row + 1) * width));
            v.AsSpan(row * width, width).CopyTo(qkv.AsSpan((3 * row + 2) * width));
        }
        Tensor x = Put(new(images, tokens, 3 * width), qkv), y = Empty(new(images, tokens, width)), lse = Empty(new(images, heads, tokens));
        Tensor dx = Empty(new(images, tokens, 3 * width)), dy = Put(new(images, tokens, width), Rows("in.attn_upstream"));
        _cpu.AttentionForward(y, lse, x, heads, null);
        AssertClose(y.Host<float>(), Rows("out.attention"), OutAtol, "y");
        _cpu.AttentionBackward(Grad.Write(dx), Grad.None, dy, y, lse, x, heads, null);
        for (int part = 0; part < 3; part++)
        {
            float[] got = new float[q.Length];
            for (int row = 0; row < images * tokens; row++)
                dx.Host<float>().Slice((3 * row + part) * width, width).CopyTo(got.AsSpan(row * width));
            AssertClose(got, Rows($"grad.attention.{"qkv"[part]}"), GradAtol, $"d{"qkv"[part]}");
        }

        static float[] Merge(float[] x)   // (B, H, N, D) → (B, N, H·D)
        {
            float[] y = new float[x.Length];
            for (int i = 0; i < x.Length; i++)
            {
                int d = i % depth, n = i / depth % tokens, h = i / depth / tokens % heads, b = i / depth / tokens / heads;
                y[((b * tokens + n) * heads + h) * depth + d] = x[i];
            }
            return y;
        }
    }

    [Test]
    public void BatchNorm_is_PyTorchs_in_training_and_evaluation()
    {
        using SafeTensors golden = Open("elementary");
        Tensor x = Put(new(10, 6), golden.Floats("in.bn_x")), y = Empty(new(10, 6)), dx = Empty(new(10, 6));
        Tensor mean = Empty(new(6)), rstd = Empty(new(6));
        Tensor runningMean = Put(new(6), new float[6]), runningVariance = Put(new(6), [1, 1, 1, 1, 1, 1]);
        _cpu.BatchNormForward(y, mean, rstd, runningMean, runningVariance, x, BatchNormEps, 0.1f, training: true);
        AssertClose(y.Host<float>(), golden.Floats("out.bn"), OutAtol, "y");
        AssertClose(runningMean.Host<float>(), golden.Floats("out.bn_running_mean"), OutAtol, "running mean");
        AssertClose(runningVariance.Host<float>(), golden.Floats("out.bn_running_var"), OutAtol, "running variance");
        _cpu.BatchNormBackward(Grad.Write(dx), Put(new(10, 6), golden.Floats("in.bn_upstream")), x, mean, rstd, training: true);
        AssertClose(dx.Host<float>(), golden.Floats("grad.bn"), GradAtol, "dx");
        _cpu.BatchNormForward(y, mean, rstd, runningMean, runningVariance, x, BatchNormEps, 0.1f, training: false);
        AssertClose(y.Host<float>(), golden.Floats("out.bn_eval"), OutAtol, "y in evaluation");
    }

    private const float BatchNormEps = 1e-6f;   // MAE's linear probe

    [TestCase("ce")]
    [TestCase("label_smoothing_0.1")]
    [TestCase("soft_target")]
    public void Cross_entropy_is_timms_for_hard_smoothed_and_soft_targets(string name)
    {
        using SafeTensors golden = Open("losses");
        float[] targets = golden.Floats("in.soft_target");
        if (name != "soft_target")
        {
            long[] labels = golden.Longs("in.label");
            float smoothing = name == "ce" ? 0f : 0.1f;
            for (int i = 0; i < targets.Length; i++) targets[i] = smoothing / 9 + (labels[i / 9] == i % 9 ? 1 - smoothing : 0);
        }
        Tensor loss = Empty(new(1)), d = Empty(new(7, 9));
        _cpu.CrossEntropyLoss(loss, d, Put(new(7, 9), golden.Floats("in.logits")), Put(new(7, 9), targets), 1f);
        AssertClose(loss.Host<float>(), golden.Floats($"out.{name}"), 6.788154824910464e-07, "loss");
        AssertClose(d.Host<float>(), golden.Floats($"grad.{name}"), 3.694617570215719e-08, "gradient");
    }

    private static readonly string[] s_decayed = ["blk.weight", "mask_token", "table", "head.weight"];

    private static readonly float[] s_ibotRates =
    [
        0.0005f, 0.0004877641290737884f, 0.0004522542485937369f, 0.0003969463130731183f, 0.00032725424859373687f, 0.00025f,
        0.00017274575140626317f, 0.00010305368692688174f, 4.7745751406263163e-05f, 1.2235870926211617e-05f,
    ];

    [TestCase("adamw_simmim", 0.999f, 5f)]
    [TestCase("adamw_mae", 0.95f, 0f)]
    [TestCase("adamw_ibot_wd_schedule", 0.999f, 0f)]
    public void Ten_AdamW_steps_are_PyTorchs(string name, float beta2, float clip)
    {
        using SafeTensors golden = Open(name);
        const string Prefix = "in.param.";
        string[] names = [.. golden.Entries.Select(e => e.Name).Where(n => n.StartsWith(Prefix)).Select(n => n[Prefix.Length..]).Order()];
        int[] lengths = [.. names.Select(n => (int)golden[$"in.param.{n}"].Count)], steps = new int[names.Length];
        int total = lengths.Sum();
        Tensor p = Empty(new(total)), m = Put(new(total), new float[total]), v = Put(new(total), new float[total]), g = Empty(new(total));
        for (int i = 0, at = 0; i < names.Length; at += lengths[i++]) golden.Floats($"in.param.{names[i]}").CopyTo(p.Host<float>()[at..]);
        for (int step = 0; step < 10; step++)
        {
            List<UpdateSegment> segments = [];
            for (int i = 0, at = 0; i < names.Length; at += lengths[i++])
            {
                string gradient = $"in.grad.{names[i]}.step{step}";
                if (!golden.Contains(gradient)) continue;
                golden.Floats(gradient).CopyTo(g.Host<float>()[at..]);
                float rate = name switch
                {
                    "adamw_simmim" => MathF.Min(1e-3f, 2e-4f * (step + 1)),
                    "adamw_mae" => 0.0015f,
                    _ => s_ibotRates[step],
                };
                float decay = !s_decayed.Contains(names[i]) ? 0f : name.Contains("ibot") ? 0.04f + 0.036f * step : 0.05f;
                segments.Add(new(at, lengths[i], rate, decay, ++steps[i]));
            }
            UpdateSegment[] list = [.. segments];
            Tensor scales = Empty(new(list.Length)), norms = Empty(new(list.Length)), norm = Empty(new(1));
            _cpu.SquaredNorms(norms, g, list);
            _cpu.ClipScales(scales, norm, norms, clip, perSegment: false);
            _cpu.AdamWStep(p, m, v, null, g, scales, list, 0.9f, beta2, 1e-8f);
            for (int i = 0, at = 0; i < names.Length; at += lengths[i++])
            {
                float[] expected = golden.Floats($"out.param.{names[i]}.step{step}");
                AssertElements(p.Host<float>().Slice(at, lengths[i]), expected, $"{names[i]} at {step}");
            }
        }
        for (int i = 0, at = 0; i < names.Length; at += lengths[i++])
        {
            AssertElements(m.Host<float>().Slice(at, lengths[i]), golden.Floats($"out.exp_avg.{names[i]}"), $"m of {names[i]}");
            AssertElements(v.Host<float>().Slice(at, lengths[i]), golden.Floats($"out.exp_avg_sq.{names[i]}"), $"v of {names[i]}");
        }
    }

    /// <summary>|a − b| ≤ 1e-7 + 2e-5·|b|, the manifest's tolerance for optimisers.</summary>
    private static void AssertElements(ReadOnlySpan<float> got, float[] expected, string what)
    {
        for (int i = 0; i < expected.Length; i++)
            Assert.That(got[i], Is.EqualTo(expected[i]).Within(1e-7 + 2e-5 * Math.Abs(expected[i])), $"{what}[{i}]");
    }
}
