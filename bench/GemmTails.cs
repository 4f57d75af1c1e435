using System.Diagnostics;
using System.Runtime.InteropServices;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;

namespace MimEngine.Bench;

/// <summary>
/// Products of every extent from 1 to 257, the other two being 256, and all three alike. The curve at an extent is the least time of it and of all that
/// are larger: a shape that takes longer than a larger one is a cliff, and the worst of them is shown.
/// </summary>
internal static class GemmTails
{
    private const int Longest = 257, Others = 256, Passes = 4, Rounds = 4;

    public static int Run(int threads)
    {
        Console.WriteLine("| tiles | extent | product | worst over the curve | at | GFLOP/s there | at 256 |");
        Console.WriteLine("|---|---|---|---|---|---|---|");
        foreach (Precision precision in new[] { Precision.F32, Precision.BF16 })
        {
            using var cpu = new CpuBackend(threads, precision: precision);
            foreach (string extent in new[] { "tokens", "outputs", "inputs", "all" })
            {
                var seconds = new double[LinearProducts.Kinds.Length, Longest + 1];
                foreach (ref double s in MemoryMarshal.CreateSpan(ref seconds[0, 0], seconds.Length)) s = double.PositiveInfinity;
                for (int pass = 0; pass < Passes; pass++)   // the JIT's first versions and a busy moment spoil no extent in every pass
                    for (int n = 1; n <= Longest; n++) Measure(cpu, extent, n, seconds);
                for (int kind = 0; kind < LinearProducts.Kinds.Length; kind++)
                {
                    double curve = double.PositiveInfinity, worst = 0;
                    int at = 0;
                    for (int n = Longest; n > 0; n--)
                    {
                        curve = Math.Min(curve, seconds[kind, n]);
                        if (seconds[kind, n] / curve > worst) (worst, at) = (seconds[kind, n] / curve, n);
                    }
                    string speeds = $"{Flops(extent, at) / seconds[kind, at] / 1e9:F1} | {Flops(extent, 256) / seconds[kind, 256] / 1e9:F1}";
                    Console.WriteLine($"| {(precision == Precision.F32 ? "float32" : "bf16")} | {extent} | {LinearProducts.Kinds[kind]} | {worst:F2} | {at} | {speeds} |");
                }
            }
        }
        return 0;
    }

    private static (int M, int N, int K) Shape(string extent, int n) => extent switch
    {
        "tokens" => (n, Others, Others),
        "outputs" => (Others, n, Others),
        "inputs" => (Others, Others, n),
        _ => (n, n, n),
    };

    private static double Flops(string extent, int n)
    {
        (int m, int o, int k) = Shape(extent, n);
        return 2.0 * m * o * k;
    }

    private static void Measure(CpuBackend cpu, string extent, int at, double[,] seconds)
    {
        (int m, int n, int k) = Shape(extent, at);
        using var memory = new Operands(cpu);
        Action[] products = LinearProducts.Of(cpu, memory, m, n, k);
        int calls = Math.Clamp((int)(2e6 / Flops(extent, at)), 1, 20);
        for (int kind = 0; kind < products.Length; kind++)
        {
            double best = seconds[kind, at];
            for (int r = 0; r < Rounds; r++)
            {
                long start = Stopwatch.GetTimestamp();
                for (int i = 0; i < calls; i++) products[kind]();
                best = Math.Min(best, Stopwatch.GetElapsedTime(start).TotalSeconds / calls);
            }
            seconds[kind, at] = best;
        }
    }
}
