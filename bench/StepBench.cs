using System.Diagnostics;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;

namespace MimEngine.Bench;

/// <summary>
/// <c>bench step [RECIPE [ROUNDS [PRECISION [MODEL [THREADS]]]]]</c>: whole training steps (masks, forward, loss, backward, clip, AdamW) on
/// pictures in memory, models interleaved: images/s, GFLOP/s by <see cref="StepCost"/>, share of the roof of multiply-adds in that precision,
/// bytes held, bytes planned, managed bytes allocated, pages first touched. Before every step the roof is measured once. With one line only, the
/// peak of resident memory above what the runtime takes is printed too.
/// </summary>
internal static class StepBench
{
    private sealed record Case(string Name, int Width, int Heads, int Pixels, int Patch, int Batch);

    private static readonly Case[] s_cases =
        [new("ViT-Ti 32 px", 192, 3, 32, 4, 64), new("ViT-Ti", 192, 3, 192, 16, 16), new("ViT-S", 384, 6, 192, 16, 16),
            new("ViT-B", 768, 12, 192, 16, 8), new("ViT-B 224 px", 768, 12, 224, 16, 8)];   // the last only by name: MAE's

    private sealed record Row(Case Case, Precision Precision)
    {
        public List<double> Seconds { get; } = [];
        public List<double> Roofs { get; } = [];
        public string Line { get; set; } = "";
    }

    public static int Run(ReadOnlySpan<string> args)
    {
        string recipe = args.Length > 0 ? args[0] : "kamim-baseline";
        int rounds = args.Length > 1 ? int.Parse(args[1]) : 5;
        Precision[] precisions = args.Length > 2 && args[2] != "both" ? [Enum.Parse<Precision>(args[2], ignoreCase: true)]
            : [Precision.F32, Precision.BF16];
        string model = args.Length > 3 ? args[3] : "";
        int threads = args.Length > 4 ? int.Parse(args[4]) : 0;
        Row[] rows = [.. (model.Length == 0 ? s_cases[..^1] : s_cases.Where(c => c.Name == model)).SelectMany(c => precisions.Select(p => new Row(c, p)))];
        if (rounds < 1) throw new ArgumentException($"{rounds} rounds measure nothing; the default is 5.");
        if (rows.Length == 0)
            throw new ArgumentException($"there is no model '{model}'; those are {string.Join(", ", s_cases.Select(c => $"\"{c.Name}\""))}.");
        Console.WriteLine($"{recipe}, best and median of {rounds} interleaved rounds");
        Console.WriteLine("| model | products | batch | img/s best | median | GFLOP/s best | of the roof, best/best | median/median | roof, GFLOP/s best "
            + "| MB held | MB planned | bytes a step | page faults a step |");
        Console.WriteLine("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
        long before = Resident("VmRSS");
        for (int round = 0; round < rounds; round++)
            foreach (Row row in rows) row.Line = Measure(row, recipe, threads);
        foreach (Row row in rows) Console.WriteLine(row.Line);
        if (rows.Length == 1 && rounds == 1)
            Console.WriteLine($"peak of resident memory: {(Resident("VmHWM") - before) / 1024} MiB above the {before / 1024} MiB before the model");
        return 0;
    }

    /// <summary>KiB of this process: VmRSS now, VmHWM at most; 0 where the system does not say.</summary>
    private static long Resident(string key)
    {
        if (!OperatingSystem.IsLinux()) return 0;
        string line = File.ReadLines("/proc/self/status").First(l => l.StartsWith(key, StringComparison.Ordinal));
        return long.Parse(line.AsSpan(key.Length + 1).Trim().TrimEnd(" kB"));
    }

    /// <summary>Pages that were touched for the first time since the start: the tenth field of stat.</summary>
    private static long Faults() => !OperatingSystem.IsLinux() ? 0
        : long.Parse(File.ReadAllText("/proc/self/stat").Split(") ")[1].Split(' ')[7]);

    // The threads of what was measured before look out for work for half a millisecond: they fall asleep first.
    private static readonly TimeSpan Pause = TimeSpan.FromMilliseconds(3);

    /// <summary>
    /// GFLOP/s of multiply-adds in registers over about ten milliseconds, in bf16 of VDPBF16PS where the machine has it: as long as a large operation of a step,
    /// so that interrupts take their share of both. A short turn goes first, since a thread that sleeps takes up to a millisecond to wake.
    /// </summary>
    private static double Roof(CpuRoof roof, Precision precision)
    {
        const int chunks = 1_700, dotChunks = 3_000;
        if (precision == Precision.BF16 && roof.Dot(dotChunks / 5) != null) return roof.Dot(dotChunks)!.Value;
        roof.Fma(chunks / 5);
        return roof.Fma(chunks);
    }

    private static string Measure(Row row, string recipe, int threads)
    {
        (Case c, Precision precision) = row;
        PretrainConfig config = Recipes.Named(recipe);
        config = Recipes.AtPixels(config, c.Pixels);
        config = config with
        {
            Encoder = config.Encoder with { Width = c.Width, Heads = c.Heads, PatchPixels = c.Patch },
            Run = config.Run with { Batch = c.Batch, Accumulate = 1, Precision = precision },
        };
        MemoryPlan plan = MemoryPlan.Of(config, "cpu", threads);
        using var cpu = new CpuBackend(threads, precision: precision);
        using var roof = new CpuRoof(cpu.Threads, 1 << 20);
        using var pretrainer = new Pretrainer(cpu, config, plan.ArenaBytes);
        byte[] pixels = new byte[config.BatchBytes];
        for (int i = 0; i < pixels.Length; i++) pixels[i] = (byte)((uint)(i / 8) * 2654435761u >> 24);
        long allocated = long.MaxValue, faults = long.MaxValue;
        for (int step = 0; step < 6; step++)
        {
            row.Roofs.Add(Roof(roof, precision));
            Thread.Sleep(Pause);
            long touched = Faults(), before = GC.GetAllocatedBytesForCurrentThread(), start = Stopwatch.GetTimestamp();
            pretrainer.Pass(pixels, step, firstPass: true);
            pretrainer.Update(1e-4);
            if (step < 1) continue;   // the first step grows scratch and compiles
            row.Seconds.Add(Stopwatch.GetElapsedTime(start).TotalSeconds);
            allocated = Math.Min(allocated, GC.GetAllocatedBytesForCurrentThread() - before);
            faults = Math.Min(faults, Faults() - touched);
        }
        double best = row.Seconds.Min(), median = row.Seconds.Median(), high = row.Roofs.Max(), flops = StepCost.Of(config).Total * c.Batch / 1e9;
        double held = cpu.AllocatedBytes + cpu.OwnBytes, mega = 1 << 20;
        string speeds = $"{c.Batch / best:F1} | {c.Batch / median:F1} | {flops / best:F0}";
        string shares = $"{flops / best / high:P1} | {flops / median / row.Roofs.Median():P1} | {high:F0}";
        return $"| {c.Name} | {precision} | {c.Batch} | {speeds} | {shares} | {held / mega:F0} | {plan.TotalBytes / mega:F0} | {allocated} | {faults} |";
    }
}
