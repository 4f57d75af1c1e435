using System.Diagnostics;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;

namespace MimEngine.Bench;

/// <summary>
/// <c>bench teacher [masks|crops [STEPS [PIXELS [BATCH [THREADS [wall|cpu]]]]]]</c>: whole steps of iBOT on pictures in memory, step by step in turn. masks: AttMask
/// beside random masks of the same shares, everything else equal; then the work that AttMask adds, timed by itself. crops: two global and six
/// local crops beside global crops only, of about as many tokens, in tokens a second.
/// </summary>
internal static class TeacherBench
{
    private sealed class Lane : IDisposable
    {
        private readonly CpuBackend _cpu;
        private readonly Pretrainer _pretrainer;
        private readonly byte[] _pixels;
        private long _step;

        public Lane(string name, PretrainConfig config, int threads)
        {
            (Name, Config, _cpu) = (name, config, new CpuBackend(threads));
            _pretrainer = new Pretrainer(_cpu, config, MemoryPlan.Of(config).ArenaBytes);
            int s = config.Encoder.ImagePixels, l = config.Views.LocalPixels;
            _pixels = new byte[config.Run.Batch * 3 * (config.Views.Global * s * s + config.Views.Local * l * l)];
            for (int i = 0; i < _pixels.Length; i++) _pixels[i] = (byte)((uint)(i / 8) * 2654435761u >> 24);
        }

        public string Name { get; }
        public PretrainConfig Config { get; }
        public List<double> Seconds { get; } = [];

        /// <summary>Tokens that the student sees in a step.</summary>
        public long Tokens
        {
            get
            {
                int patch = Config.Encoder.PatchPixels, g = Config.Encoder.ImagePixels / patch, l = Config.Views.LocalPixels / patch;
                return Config.Run.Batch * ((long)Config.Views.Global * (1 + g * g) + (long)Config.Views.Local * (1 + l * l));
            }
        }

        public double Median => Seconds.Median();

        public void Step(bool counts)
        {
            double start = Clock.Seconds;
            _pretrainer.Pass(_pixels, _step++, firstPass: true);
            _pretrainer.Update(1e-5);
            if (counts) Seconds.Add(Clock.Seconds - start);
        }

        public void Dispose()
        {
            _pretrainer.Dispose();
            _cpu.Dispose();
        }
    }

    public static int Run(ReadOnlySpan<string> args)
    {
        string what = args.Length > 0 ? args[0] : "masks";
        int steps = args.Length > 1 ? int.Parse(args[1]) : 20, pixels = args.Length > 2 ? int.Parse(args[2]) : 64;
        int batch = args.Length > 3 ? int.Parse(args[3]) : 16, threads = args.Length > 4 ? int.Parse(args[4]) : 0;
        Clock.CountsProcessorTime = args.Length > 5 && args[5] == "cpu";
        PretrainConfig ibot = Recipes.AtPixels(Recipes.Ibot(), pixels);
        ibot = ibot with
        {
            Encoder = ibot.Encoder.WithSize("tiny") with { DropPath = 0 },
            Terms = [.. ibot.Terms.Select(t => t.Head is PrototypeHead head ? t with { Head = head with { Prototypes = 1024, HiddenWidth = 512 } } : t)],
            Run = ibot.Run with { Batch = batch, Accumulate = 1 },
        };
        PretrainConfig crops(int global, int local) => ibot with { Views = ibot.Views with { Global = global, Local = local } };
        using var first = what == "masks" ? new Lane("random masks", crops(2, 0) with { Masking = new RandomPatches([0.3f], [0.2f], Probability: 0.5f) }, threads)
            : new Lane("2 global + 6 local", crops(2, 6), threads);
        int alike = (int)Math.Round((double)first.Tokens / first.Config.Run.Batch / (1 + Math.Pow(first.Config.Encoder.ImagePixels / first.Config.Encoder.PatchPixels, 2)));
        using var second = what == "masks" ? new Lane("AttMask-High", crops(2, 0) with { Masking = new AttentionGuided() }, threads)
            : new Lane($"{alike} global", crops(alike, 0), threads);
        for (int step = -2; step < steps; step++)
        {
            // The order turns every step, so that neither lane always follows the other.
            foreach (Lane lane in step % 2 == 0 ? new[] { first, second } : [second, first]) lane.Step(step >= 0);
        }
        Console.WriteLine($"iBOT, ViT-Ti, {pixels} px, patch {ibot.Encoder.PatchPixels}, batch {ibot.Run.Batch}, {steps} steps each, in turn, {(threads == 0 ? "all" : threads)} threads, "
            + (Clock.CountsProcessorTime ? "processor time" : "wall time"));
        Console.WriteLine("| lane | ms a step, median | best | student tokens/s, median |");
        Console.WriteLine("|---|---|---|---|");
        foreach (Lane lane in new[] { first, second })
            Console.WriteLine($"| {lane.Name} | {1e3 * lane.Median:F1} | {1e3 * lane.Seconds.Min():F1} | {lane.Tokens / lane.Median:F0} |");
        if (what == "masks")
        {
            Pairs(first, second);
            Added(second.Config, first.Config.Masking, threads, second.Median);
        }
        else
            Console.WriteLine($"multi-crop over global crops, tokens/s: {first.Tokens / first.Median / (second.Tokens / second.Median):0.0%}");
        return 0;
    }

    /// <summary>Step by step, the second over the first: what other programs do falls on single steps, so the middle counts, not the mean.</summary>
    private static void Pairs(Lane first, Lane second)
    {
        double[] pairs = [.. first.Seconds.Zip(second.Seconds, (a, b) => b / a - 1).Order()];
        double middle = pairs.Median(), spread = 1.4826 * pairs.Select(p => Math.Abs(p - middle)).ToArray().Median();   // σ of a bell curve
        Console.WriteLine($"AttMask over random masks: {second.Median / first.Median - 1:+0.00%;-0.00%} by medians of steps, {middle:+0.00%;-0.00%} ± "
            + $"{1.2533 * spread / Math.Sqrt(pairs.Length):0.00%} by the median of {pairs.Length} pairs");
    }

    /// <summary>What a step with AttMask does and one with random masks does not, in seconds of its own: the op, its way to the host, the ranking.</summary>
    private static void Added(PretrainConfig config, Masking random, int threads, double step)
    {
        const int rounds = 5;
        using var timed = new TimedBackend(new CpuBackend(threads));
        using var pretrainer = new Pretrainer(timed, config, MemoryPlan.Of(config).ArenaBytes);
        byte[] pixels = new byte[config.Run.Batch * 3 * config.Views.Global * config.Encoder.ImagePixels * config.Encoder.ImagePixels];
        for (int i = 0; i < pixels.Length; i++) pixels[i] = (byte)((uint)(i / 8) * 2654435761u >> 24);
        for (int round = 0; round <= rounds; round++)
        {
            if (round == 1) timed.Clear();   // the first compiles
            pretrainer.Pass(pixels, round, firstPass: true);
            pretrainer.Update(1e-5);
        }
        double op = timed.Times.Where(t => t.Cost.Name is nameof(Backend.ClsAttention)).Sum(t => t.Seconds) / rounds;
        double download = timed.Times.Where(t => t.Cost.Name is nameof(Backend.Download)).Sum(t => t.Seconds) / rounds;
        double ranked = Drawing(config, config.Masking), drawn = Drawing(config, random), added = op + download + ranked - drawn;
        Console.WriteLine($"Added by AttMask: [cls] attention {1e6 * op:F0} µs, download {1e6 * download:F0} µs, masks {1e6 * ranked:F0} µs instead of "
            + $"{1e6 * drawn:F0} µs: {1e3 * added:F3} ms, {added / step:0.000%} of a step.");
    }

    /// <summary>Seconds to draw the masks of a step's crops: the median of many.</summary>
    private static double Drawing(PretrainConfig config, Masking masking)
    {
        int grid = config.Encoder.Grid, crops = config.Run.Batch * config.Views.Global;
        float[] attention = [.. Enumerable.Range(0, grid * grid).Select(i => (37 * i + 11) % (grid * grid) / (float)(grid * grid))];
        byte[] hidden = new byte[grid * grid];
        List<double> seconds = [];
        for (int round = 0; round < 200; round++)
        {
            long start = Stopwatch.GetTimestamp();
            for (int i = 0; i < crops; i++)
                masking.Sample(new MaskRequest
                {
                    Grid = grid,
                    PatchPixels = config.Encoder.PatchPixels,
                    Crop = new Rng(0, RandomStream.Mask, (ulong)(round * crops + i)),
                    Step = new Rng(0, RandomStream.MaskStep, (ulong)round),
                    ClsAttention = attention,
                }, hidden);
            seconds.Add(Stopwatch.GetElapsedTime(start).TotalSeconds);
        }
        return seconds.Median();
    }
}
