using System.Diagnostics;
using MimEngine.Kernels.Cpu;

namespace MimEngine.Bench;

/// <summary>
/// <c>bench rows [TEXT [ROUNDS [THREADS [memory|cache|both]]]]</c>: the operations that walk along rows. Beyond the caches each stands beside a stream
/// of the same mixture of reads and writes through the same operands that computes nothing; in L2 beside TensorPrimitives where it has the same.
/// In every round everything runs once, and the multiply-add roof: where that falls, a neighbour has a share of the core; <c>bench/pytorch_rows.py</c> prints PyTorch's times of the same shapes.
/// </summary>
internal static class RowBench
{
    private const int LargeRows = 21_888, SmallRows = 64;   // × 768 floats: 64 MiB and 192 KiB an operand

    private sealed class Lane(RowCase of, RowWork work, Action? primitives, int calls)
    {
        public RowCase Of => of;
        public List<double> Own { get; } = [];
        public List<double> Plain { get; } = [];
        public List<double> Past { get; } = [];
        public List<double> Primitives { get; } = [];
        public List<double> Fma { get; } = [];

        public void Round(bool counts, StreamRoof? roof, CpuRoof core)
        {
            long n = of.Floats(LargeRows);
            double plain = roof?.Seconds(work.Streams, n, of.Mix, past: false) ?? 0, past = roof?.Seconds(work.Streams, n, of.Mix, past: true) ?? 0;
            double own = Time(work.Run, calls), theirs = primitives == null ? 0 : Time(primitives, calls);
            double fma = Math.Max(core.Fma(), core.Fma());   // the first wakes the threads
            if (!counts) return;
            Fma.Add(fma);
            Own.Add(own);
            Plain.Add(plain);
            Past.Add(past);
            if (primitives != null) Primitives.Add(theirs);
        }

        private static double Time(Action run, int calls)
        {
            long start = Stopwatch.GetTimestamp();
            for (int i = 0; i < calls; i++) run();
            return Stopwatch.GetElapsedTime(start).TotalSeconds / calls;
        }
    }

    public static int Run(ReadOnlySpan<string> args)
    {
        string only = args.Length > 0 ? args[0] : "", where = args.Length > 3 ? args[3] : "both";
        int rounds = args.Length > 1 ? int.Parse(args[1]) : 9, threads = args.Length > 2 ? int.Parse(args[2]) : 1;
        RowCase[] cases = [.. RowCase.All.Where(c => c.Name.Contains(only, StringComparison.OrdinalIgnoreCase))];
        using var backend = new CpuBackend(threads);
        if (where != "cache") Memory(backend, cases, rounds);
        if (where != "memory") Cache(backend, cases, rounds);
        return 0;
    }

    private static void Memory(CpuBackend backend, RowCase[] cases, int rounds)
    {
        using var roof = new StreamRoof(backend.Threads);
        using var core = new CpuRoof(backend.Threads, 1 << 20);
        Console.WriteLine($"{backend.Threads} threads, {backend.Level}, operands of 64 MiB; bytes are those read, written, and read since they will be written");
        Console.WriteLine("| operation | MB | ms best | median | GB/s best | stream of the same mix | non-temporal | share, best/best | median ratio | multiply-adds, GFLOP/s |");
        Console.WriteLine("|---|---|---|---|---|---|---|---|---|---|");
        foreach (RowCase c in cases)
        {
            using var memory = new Operands(backend);
            var lane = new Lane(c, c.Setup(backend, memory, LargeRows), null, 1);
            for (int r = -2; r < rounds; r++) lane.Round(r >= 0, roof, core);
            double bytes = c.Floats(LargeRows) * c.Mix.Bytes(past: false), plain = bytes / lane.Plain.Min() / 1e9,
                past = c.Floats(LargeRows) * c.Mix.Bytes(past: true) / lane.Past.Min() / 1e9;
            double[] ratios = [.. lane.Own.Zip(lane.Plain, (own, top) => top / own)];
            string times = $"{lane.Own.Min() * 1e3:F2} | {lane.Own.Median() * 1e3:F2}", beyond = c.Mix.Writes > 0 ? $"{past:F1}" : "";
            Console.WriteLine($"| {c.Name} | {bytes / 1e6:F0} | {times} | {bytes / lane.Own.Min() / 1e9:F1} | {plain:F1} | {beyond} | "
                + $"{lane.Plain.Min() / lane.Own.Min():P1} | {ratios.Median():P1} | {lane.Fma.Median():F0} |");
        }
    }

    private static void Cache(CpuBackend backend, RowCase[] cases, int rounds)
    {
        Console.WriteLine($"{backend.Threads} threads, {backend.Level}, operands of 192 KiB");
        using var core = new CpuRoof(backend.Threads, 1 << 20);
        Console.WriteLine("| operation | us best | median | ns a number | TensorPrimitives, us best | median | multiply-adds, GFLOP/s |");
        Console.WriteLine("|---|---|---|---|---|---|---|");
        foreach (RowCase c in cases)
        {
            using var memory = new Operands(backend);
            using var theirs = new Operands(backend);
            var lane = new Lane(c, c.Setup(backend, memory, SmallRows), c.Primitives?.Invoke(theirs, SmallRows), 200);
            for (int r = -3; r < rounds; r++) lane.Round(r >= 0, null, core);
            string primitives = lane.Primitives.Count > 0 ? $"{lane.Primitives.Min() * 1e6:F1} | {lane.Primitives.Median() * 1e6:F1}" : " | ";
            string own = $"{lane.Own.Min() * 1e6:F1} | {lane.Own.Median() * 1e6:F1} | {lane.Own.Min() * 1e9 / c.Floats(SmallRows):F3}";
            Console.WriteLine($"| {c.Name} | {own} | {primitives} | {lane.Fma.Median():F0} |");
        }
    }
}
