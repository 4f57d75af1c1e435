using System.Diagnostics;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;

namespace MimEngine.Bench;

/// <summary>
/// <c>bench step [ROUNDS]</c>: whole pretraining steps (forward, backward, AdamW): images a second, share of the multiply-add roof that the
/// same round measured, bytes of memory and managed bytes a step.
/// </summary>
internal static class StepBench
{
    private static readonly (string Name, Func<PretrainConfig> Config)[] s_cases =
    [
        ("kamim, embedded preset, 64", () => Recipes.Embedded(Recipes.Kamim())),
        ("kamim-baseline, embedded preset, 64", () => Recipes.Embedded(Recipes.KamimBaseline())),
        ("kamim, ViT 192×12, 32 px patch 4, 64", () => Sized(Recipes.AtPixels(Recipes.Kamim(), 32), "tiny", 64)),
        ("kamim, ViT-Ti/16 192 px, 16", () => Sized(Recipes.Kamim(), "tiny", 16)),
        ("kamim, ViT-S/16 192 px, 16", () => Sized(Recipes.Kamim(), "small", 16)),
        ("kamim-baseline, ViT-S/16 192 px, 16", () => Sized(Recipes.KamimBaseline(), "small", 16)),
    ];

    public static int Run(ReadOnlySpan<string> args)
    {
        int rounds = args.Length > 0 ? int.Parse(args[0]) : 7;
        Console.WriteLine("| step | threads | img/s best | median | share of the roof, median | MiB | managed bytes a step |");
        Console.WriteLine("|---|---|---|---|---|---|---|");
        foreach ((string name, Func<PretrainConfig> make) in s_cases)
            foreach (int threads in new[] { 1, 2 })
                Measure(name, make(), threads, rounds);
        return 0;
    }

    private static PretrainConfig Sized(PretrainConfig recipe, string size, int batch) => recipe with
    {
        Encoder = recipe.Encoder.WithSize(size),
        Run = recipe.Run with { Batch = batch, Accumulate = 1 },
    };

    private static void Measure(string name, PretrainConfig config, int threads, int rounds)
    {
        MemoryPlan plan = MemoryPlan.Of(config, threads: threads);
        using var cpu = new CpuBackend(threads);
        using var roof = new Roof(threads, 1 << 20);
        using var pretrainer = new Pretrainer(cpu, config, plan.ArenaBytes);
        byte[] pixels = Noise(config.Run.Batch, config.Encoder.ImagePixels);
        double flops = StepCost.Of(config).Total * config.Run.Batch;
        int steps = Math.Max(1, (int)(1.5e11 * threads / flops)), number = 0;
        var rates = new List<double>();
        var shares = new List<double>();
        long allocated = long.MaxValue;
        for (int round = -1; round < rounds; round++)
        {
            double best = Math.Max(roof.Fma(), roof.Fma());
            long bytes = GC.GetTotalAllocatedBytes(precise: true), start = Stopwatch.GetTimestamp();
            for (int i = 0; i < steps; i++, number++)
            {
                pretrainer.Pass(pixels, number, firstPass: true);
                pretrainer.Update(1e-4);
            }
            double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
            if (round < 0) continue;
            allocated = Math.Min(allocated, (GC.GetTotalAllocatedBytes(precise: true) - bytes) / steps);
            rates.Add(steps * config.Run.Batch / seconds);
            shares.Add(flops * steps / seconds / 1e9 / best);
        }
        rates.Sort();
        shares.Sort();
        Console.WriteLine(FormattableString.Invariant($"| {name} | {threads} | {rates[^1]:0.0} | {rates[rates.Count / 2]:0.0} | {shares[shares.Count / 2]:P0} | ")
            + FormattableString.Invariant($"{(cpu.AllocatedBytes + cpu.OwnBytes) / 1048576.0:0.0} | {allocated} |"));
    }

    /// <summary>Block noise: corners for FAST, and the same picture every time.</summary>
    private static byte[] Noise(int batch, int side)
    {
        byte[] pixels = new byte[batch * 3 * side * side];
        for (int i = 0; i < pixels.Length; i++)
        {
            int x = i % side / 8, y = i / side % side / 8, plane = i / (side * side);
            pixels[i] = (byte)new Rng(1, RandomStream.Test, (ulong)plane).Word((ulong)(y * side + x));
        }
        return pixels;
    }
}
