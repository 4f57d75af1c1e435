using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;

namespace MimEngine.Bench;

/// <summary>
/// <c>bench gpu [DEVICE [BATCH [RECIPE]]]</c>: products at the shapes of ViT-B, whole training steps at 192 px, attention, and operations that move
/// memory as a share of a copy measured in the same run; in bf16, then in float32. Every line is printed when it is known, and nothing takes long on a
/// slow device: calls, rounds and steps are as many as fit a time.
/// </summary>
internal static class GpuBench
{
    private const int Tokens = 145, Width = 768, Heads = 12, MostCalls = 20, Rounds = 3, MostSteps = 12, ColdSteps = 2;

    /// <summary>Seconds that the rounds of one operation, and the steps of one precision, may take.</summary>
    private const double EnoughCalls = 0.6, EnoughSteps = 15;

    private static readonly (int N, int K)[] s_shapes = [(3 * Width, Width), (Width, Width), (4 * Width, Width), (Width, 4 * Width)];

    public static int Run(ReadOnlySpan<string> args)
    {
        string device = args.Length > 0 ? args[0] : "cuda";
        int batch = args.Length > 1 ? int.Parse(args[1], CultureInfo.InvariantCulture) : 256;
        string recipe = args.Length > 2 ? args[2] : "kamim";
        int code = 0;
        foreach (Precision precision in new[] { Precision.BF16, Precision.F32 })
        {
            using Backend backend = Backend.Open(device, precision: precision);
            Console.WriteLine($"\n## {precision}: {backend.Description}\n");
            double roof = 0;
            Part(() => roof = Products(backend, batch * Tokens));
            Part(() => Step(backend, device, precision, batch, recipe, roof));
            Part(() => Attention(backend, batch));
            Part(() => Moves(backend, batch * Tokens));
        }
        return code;

        // What the memory is too small for is left out and said; a device that is lost ends it all.
        void Part(Action part)
        {
            try { part(); }
            catch (DeviceMemoryException e)
            {
                Console.Error.WriteLine(e.Message);
                code = 1;
            }
        }
    }

    /// <summary>The best product's GFLOP/s.</summary>
    private static double Products(Backend backend, int rows)
    {
        Console.WriteLine($"Products of {rows} rows, TFLOP/s\n\n| N×K | forward | with GELU | with residual | input gradient | with slope of GELU "
            + "| weight gradient |\n|---|---|---|---|---|---|---|");
        double best = 0;
        foreach ((int n, int k) in s_shapes)
        {
            using var at = new Memory(backend);
            Tensor x = at.Half(rows, k), w = at.Half(n, k), dy = at.Half(rows, n), y = at.Half(rows, n), h = at.Half(rows, n), dx = at.Half(rows, k),
                wide = at.Float(rows, n), dw = at.Float(n, k), b = at.Float(n);
            double[] speeds =
            [
                Speed(backend, () => backend.LinearForward(y, x, w, b)), Speed(backend, () => backend.LinearGeluForward(y, h, x, w, b)),
                Speed(backend, () => backend.LinearResidualForward(wide, x, w, b, wide, null, null)),
                Speed(backend, () => backend.LinearBackward(Grad.Write(dx), Grad.None, Grad.None, dy, x, w)),
                Speed(backend, () => backend.LinearGeluBackward(dx, dy, w, x)),
                Speed(backend, () => backend.LinearBackward(Grad.None, Grad.Write(dw), Grad.None, dy, x, w)),
            ];
            Console.WriteLine($"| {n}×{k} | {string.Join(" | ", speeds.Select(s => Invariant(s / 1e3)))} |");
            best = Math.Max(best, speeds.Max());

            double Speed(Backend on, Action call) => 2.0 * rows * n * k / Seconds(on, call) / 1e9;
        }
        return best;
    }

    private static void Attention(Backend backend, int batch)
    {
        using var at = new Memory(backend);
        Tensor qkv = at.Half(batch, Tokens, 3 * Width), y = at.Half(batch, Tokens, Width), dy = at.Half(batch, Tokens, Width),
            dqkv = at.Half(batch, Tokens, 3 * Width), lse = at.Float(batch, Heads, Tokens), bias = at.Float(Heads, Tokens, Tokens),
            dbias = at.Float(Heads, Tokens, Tokens);
        double flops = 4.0 * batch * Tokens * Tokens * Width;
        Console.WriteLine("\nAttention of 12 heads, 145 tokens\n\n| bias | forward, µs | TFLOP/s | backward, µs | TFLOP/s |\n|---|---|---|---|---|");
        foreach (bool has in new[] { false, true })
        {
            Tensor? b = has ? bias : null;
            double forward = Seconds(backend, () => backend.AttentionForward(y, lse, qkv, Heads, b));
            double backward = Seconds(backend, () => backend.AttentionBackward(Grad.Write(dqkv), has ? Grad.Write(dbias) : Grad.None, dy, y, lse, qkv, Heads, b));
            Console.WriteLine($"| {(has ? "yes" : "no")} | {Invariant(forward * 1e6)} | {Invariant(flops / forward / 1e12)} | {Invariant(backward * 1e6)} | "
                + $"{Invariant(2.5 * flops / backward / 1e12)} |");
        }
    }

    /// <summary>Operations that mostly move memory: bytes read once and written once over the time, beside a large copy.</summary>
    private static void Moves(Backend backend, int rows)
    {
        using var at = new Memory(backend);
        Tensor a = at.Float(rows, 4 * Width), c = at.Float(rows, 4 * Width);
        double roof = 2.0 * a.Bytes / Seconds(backend, () => backend.Copy(c, a));
        Tensor x = at.Float(rows, Width), dx = at.Float(rows, Width), narrow = at.Half(rows, Width), h = at.Half(rows, 4 * Width),
            dh = at.Half(rows, 4 * Width), mean = at.Float(rows), rstd = at.Float(rows), gamma = at.Float(Width), beta = at.Float(Width),
            dgamma = at.Float(Width), dbeta = at.Float(Width);
        const int parameters = 86_000_000;
        Tensor p = at.Float(parameters), m = at.Float(parameters), v = at.Float(parameters), g = at.Float(parameters);
        Tensor? copy = backend.Branch == DType.BF16 ? at.Half(parameters) : null;
        UpdateSegment[] all = [new UpdateSegment(0, parameters, 1e-4f, 0.05f, 1)];
        Console.WriteLine($"\nCopy: {Invariant(roof / 1e9)} GB/s\n\n| operation | GB/s | of the copy |\n|---|---|---|");
        Row("Cast to bfloat16", x.Bytes + narrow.Bytes, () => backend.Cast(narrow, x));
        Row("AddScaled", 3 * x.Bytes, () => backend.AddScaled(dx, x, 1f, 1f));
        Row("LayerNorm", x.Bytes + narrow.Bytes, () => backend.LayerNormForward(narrow, mean, rstd, x, gamma, beta, 1e-6f));
        Row("LayerNorm, backward", narrow.Bytes + 3 * x.Bytes,
            () => backend.LayerNormBackward(Grad.Add(dx), Grad.Write(dgamma), Grad.Write(dbeta), narrow, x, mean, rstd, gamma));
        Row("LayerScale, backward", x.Bytes + narrow.Bytes, () => backend.ScaleAddBackward(narrow, null, x, gamma, null));
        Row("GELU, backward", 3 * h.Bytes, () => backend.GeluBackward(Grad.Write(dh), dh, h));
        Row("AdamW", 7 * p.Bytes + (copy?.Bytes ?? 0), () => backend.AdamWStep(p, m, v, copy, g, null, all, 0.9f, 0.999f, 1e-8f));

        void Row(string name, double bytes, Action call)
        {
            double speed = bytes / Seconds(backend, call);
            Console.WriteLine($"| {name} | {Invariant(speed / 1e9)} | {Invariant(100 * speed / roof)} % |");
        }
    }

    private static void Step(Backend backend, string device, Precision precision, int batch, string recipe, double roof)
    {
        PretrainConfig config = Recipes.AtPixels(Recipes.Named(recipe), 192);
        config = config with
        {
            Encoder = config.Encoder with { Width = Width, Heads = Heads, PatchPixels = 16 },
            Run = config.Run with { Batch = batch, Accumulate = 1, Precision = precision },
        };
        MemoryPlan plan = MemoryPlan.Of(config, device);
        using var pretrainer = new Pretrainer(backend, config, plan.ArenaBytes);
        byte[] pixels = new byte[batch * 3 * 192 * 192];
        for (int i = 0; i < pixels.Length; i++) pixels[i] = (byte)((uint)(i / 8) * 2654435761u >> 24);
        List<double> seconds = [];
        long allocated = long.MaxValue, began = Stopwatch.GetTimestamp();
        for (int step = 0; step < MostSteps && (seconds.Count == 0 || Stopwatch.GetElapsedTime(began).TotalSeconds < EnoughSteps); step++)
        {
            backend.Synchronize();
            long before = GC.GetAllocatedBytesForCurrentThread(), start = Stopwatch.GetTimestamp();
            pretrainer.Pass(pixels, step, firstPass: true);
            pretrainer.Update(1e-4);
            backend.Synchronize();
            if (step < ColdSteps) continue;   // kernels are compiled and scratch grows
            seconds.Add(Stopwatch.GetElapsedTime(start).TotalSeconds);
            allocated = Math.Min(allocated, GC.GetAllocatedBytesForCurrentThread() - before);
        }
        // In a row, as a run goes: the next batch travels while the present one computes.
        double median = seconds.Median();
        int row = Math.Clamp((int)(EnoughSteps / 3 / median), 1, MostSteps);
        long first = Stopwatch.GetTimestamp();
        for (int step = 0; step < row; step++)
        {
            pretrainer.Pass(pixels, MostSteps + step, firstPass: true);
            pretrainer.Update(1e-4);
        }
        backend.Synchronize();
        double inARow = batch * row / Stopwatch.GetElapsedTime(first).TotalSeconds, speed = StepCost.Of(config).Total * batch / median / 1e9;
        Console.WriteLine($"\nStep of {recipe}, ViT-B, 192 px, batch {batch}: {Invariant(batch / seconds.Min())} img/s at best, {Invariant(batch / median)} median, {Invariant(inARow)} in a row, "
            + $"{Invariant(speed / 1e3)} TFLOP/s of the model, {Invariant(100 * speed / roof)} % of the best product above, {seconds.Count} steps; "
            + $"{Invariant((backend.AllocatedBytes + backend.OwnBytes) / 1e9)} GB on the device, {allocated} managed bytes a step.");
    }

    /// <summary>Best of some rounds; calls in a row, so that the start of all but the first is hidden.</summary>
    private static double Seconds(Backend backend, Action call)
    {
        call();
        double best = Round(1);
        int calls = (int)Math.Clamp(EnoughCalls / Rounds / best, 1, MostCalls);
        for (int round = 0; round < Rounds && (round == 0 || (round + 1) * calls * best < EnoughCalls); round++) best = Math.Min(best, Round(calls));
        return best;

        double Round(int times)
        {
            backend.Synchronize();
            long start = Stopwatch.GetTimestamp();
            for (int i = 0; i < times; i++) call();
            backend.Synchronize();
            return Stopwatch.GetElapsedTime(start).TotalSeconds / times;
        }
    }

    private static string Invariant(double v) => v.ToString(v >= 100 ? "0" : v >= 10 ? "0.0" : "0.00", CultureInfo.InvariantCulture);

    /// <summary>Tensors of ordinary numbers (zeros would be multiplied faster than data is), freed together.</summary>
    private sealed class Memory(Backend backend) : IDisposable
    {
        /// <summary>Numbers that are made; odd, so that rows of a matrix are not alike.</summary>
        private const int Pattern = 1_000_003;

        private readonly List<Storage> _all = [];

        public Tensor Float(int d0, int d1 = 1, int d2 = 1) => Make(new Shape(d0, d1, d2), DType.F32);

        /// <summary>Of the backend's type between products.</summary>
        public Tensor Half(int d0, int d1 = 1, int d2 = 1) => Make(new Shape(d0, d1, d2), backend.Branch);

        private Tensor Make(Shape shape, DType dtype)
        {
            Storage storage = backend.Allocate(shape.Count * dtype.Size());
            _all.Add(storage);
            var tensor = new Tensor(storage, 0, shape.D2 > 1 ? shape : shape.D1 > 1 ? new Shape(shape.D0, shape.D1) : new Shape(shape.D0), dtype);
            int count = (int)Math.Min(tensor.Count, Pattern), size = dtype.Size();
            byte[] bytes = new byte[count * size];
            Span<ushort> halves = MemoryMarshal.Cast<byte, ushort>(bytes.AsSpan());
            uint seed = (uint)_all.Count;
            int step = size / 2;
            for (int i = step - 1; i < halves.Length; i += step)
            {
                seed = seed * 1664525 + 1013904223;
                halves[i] = (ushort)(seed >> 16 & 0x807F | 0x3F00);
            }
            Tensor Run(long first, int length) => new(storage, first * size, new Shape(length), dtype);
            backend.Upload(Run(0, count), bytes);
            // The host would make numbers for longer than the device works with them: it makes some, the device repeats them.
            for (long at = count, left; (left = tensor.Count - at) > 0; at += count)
                backend.Copy(Run(at, (int)Math.Min(count, left)), Run(0, (int)Math.Min(count, left)));
            return tensor;
        }

        public void Dispose() => _all.ForEach(s => s.Dispose());
    }
}
