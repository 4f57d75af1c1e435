using System.Diagnostics;
using System.Runtime.InteropServices;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;

namespace MimEngine.Bench;

/// <summary>
/// The products that make 96 % of a step, beside the roof of what multiplies them (float32 multiply-adds, or bfloat16 products): every
/// round measures the roof and then every product once, so that a busy machine slows both. Best over best, and the median of the rounds'
/// ratios. Weights are packed in every product; bfloat16 operands are stored as bfloat16, as in a block.
/// </summary>
internal static class GemmTable
{
    private const int RoofChunks = 600;   // of 15 µs: 9 ms, a product's turn

    /// <param name="args">
    /// --rounds N (15), --widths 192,384,768, --tokens 3200,4640, --threads 1,2, --kinds fiw, --clock wall|cpu, --tiles emitted|jit|both|bf16|all (bf16: beside float32; all: the three). The cpu clock (this
    /// thread's processor time; one thread, Linux) does not count what other programs take.
    /// </param>
    public static int Run(string[] args)
    {
        int rounds = int.Parse(Option(args, "--rounds", "15"));
        int[] widths = Numbers(args, "--widths", "192,384,768"), tokens = Numbers(args, "--tokens", "3200,4640"),
            threads = Numbers(args, "--threads", "1,2");
        string kinds = Option(args, "--kinds", "fiw");
        Clock.CountsProcessorTime = Option(args, "--clock", "wall") == "cpu";
        Console.WriteLine("| threads | M × N × K | product | GFLOP/s best | median | roof best | best/best | median ratio |");
        Console.WriteLine("|---|---|---|---|---|---|---|---|");
        foreach (int t in threads)
        {
            string tiles = Option(args, "--tiles", "emitted");
            using CpuBackend emitted = new(t), jit = new(t, emit: false);
            using CpuBackend half = new(t, precision: Precision.BF16);
            CpuBackend[] backends = tiles switch { "jit" => [jit], "both" => [emitted, jit], "bf16" => [emitted, half], "all" => [emitted, jit, half], _ => [emitted] };
            using var roof = new CpuRoof(t, 1 << 20, () => Clock.Seconds);
            var shares = new List<(string Kind, double Best, double Ratio)>();
            foreach (int m in tokens)
                foreach (int c in widths)
                    foreach ((int n, int k) in new[] { (3 * c, c), (c, c), (4 * c, c), (c, 4 * c) })
                        Measure(backends, roof, t, m, n, k, rounds, kinds, shares);
            double[] tile = [.. Enumerable.Range(0, rounds).Select(_ => (roof.Tile() ?? 0) / Math.Max(roof.Fma(), roof.Fma()))];
            Console.WriteLine($"| {t} | 8 × 48 × 128 | the tile alone, in L1 | | | | {tile.Max():P1} | {tile.Median():P1} |");
            foreach (var group in shares.GroupBy(s => s.Kind))
            {
                string least = $"least {group.Min(s => s.Best):P1}, mean {group.Average(s => s.Best):P1} | mean {group.Average(s => s.Ratio):P1}";
                Console.WriteLine($"| {t} | all | {group.Key} | | | | {least} |");
            }
        }
        return 0;
    }

    private static void Measure(CpuBackend[] backends, CpuRoof roof, int threads, int m, int n, int k, int rounds, string kinds,
        List<(string, double, double)> shares)
    {
        using var memory = new Operands(backends[0]);
        var products = new List<(string Kind, string Tiles, Action Run, Func<double> Roof)>();
        foreach (CpuBackend cpu in backends)
        {
            bool half = cpu.Precision == Precision.BF16;
            string which = half ? ", bf16" : cpu == backends[0] ? "" : ", JIT";
            // As long as a product's turn: interrupts take their share of both.
            Func<double> top = half ? () => roof.Dot(1200 * threads) ?? roof.Bf16() ?? roof.Fma(RoofChunks * threads) : () => roof.Fma(RoofChunks * threads);
            foreach ((string kind, Action run) in LinearProducts.Kinds.Zip(LinearProducts.Of(cpu, memory, m, n, k))) products.Add((kind, which, run, top));
        }
        products.RemoveAll(p => !kinds.Contains(p.Kind[0]));
        double flops = 2.0 * m * n * k;
        var speed = new double[products.Count, rounds];
        var roofs = new double[products.Count, rounds];
        for (int r = -2; r < rounds; r++)
            for (int p = 0; p < products.Count; p++)
            {
                double before = Rested(products[p].Roof, () => roof.Fma(1));
                int calls = Math.Max(1, (int)(4e9 * threads / flops / 2));
                double gflops = Rested(() =>
                {
                    double start = Clock.Seconds;
                    for (int i = 0; i < calls; i++) products[p].Run();
                    return flops * calls / (Clock.Seconds - start) / 1e9;
                }, products[p].Run);
                if (r < 0) continue;
                speed[p, r] = gflops;
                roofs[p, r] = Math.Max(before, Rested(products[p].Roof, () => roof.Fma(1)));
            }
        for (int p = 0; p < products.Count; p++)
        {
            double[] s = Row(speed, p), top = Row(roofs, p);
            double share = s.Max() / top.Max(), ratio = s.Zip(top, (a, c) => a / c).ToArray().Median();
            string kind = products[p].Kind + products[p].Tiles;
            shares.Add((kind, share, ratio));
            string speeds = $"{s.Max():F1} | {s.Median():F1} | {top.Max():F1} | {share:P1} | {ratio:P1}";
            Console.WriteLine($"| {threads} | {m} × {n} × {k} | {kind} | {speeds} |");
        }
    }

    /// <summary>
    /// Measures once the threads that were measured before are asleep: they look out for work for half a millisecond, on the processors of those that have some.
    /// </summary>
    private static double Rested(Func<double> measure, Action wake)
    {
        Thread.Sleep(3);
        wake();
        return measure();
    }

    private static double[] Row(double[,] table, int row) => [.. Enumerable.Range(0, table.GetLength(1)).Select(i => table[row, i])];

    private static string Option(string[] args, string name, string otherwise)
    {
        int i = Array.IndexOf(args, name);
        return i >= 0 && i + 1 < args.Length ? args[i + 1] : otherwise;
    }

    private static int[] Numbers(string[] args, string name, string otherwise)
        => [.. Option(args, name, otherwise).Split(',').Select(int.Parse)];
}

/// <summary>Wall time, or the processor time of this thread.</summary>
internal static partial class Clock
{
    public static bool CountsProcessorTime { get; set; }

    public static unsafe double Seconds
    {
        get
        {
            if (!CountsProcessorTime) return Stopwatch.GetTimestamp() / (double)Stopwatch.Frequency;
            long* t = stackalloc long[2];
            _ = ClockGetTime(3 /* CLOCK_THREAD_CPUTIME_ID */, t);
            return t[0] + t[1] * 1e-9;
        }
    }

    [LibraryImport("libc", EntryPoint = "clock_gettime")]
    private static unsafe partial int ClockGetTime(int clock, long* time);
}
