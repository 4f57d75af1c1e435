using System.Diagnostics;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels.Cpu;

namespace MimEngine.Bench;

/// <summary>
/// <c>bench teacher [masks|crops [STEPS [PIXELS]]]</c>: whole steps of iBOT on pictures in memory, step by step in turn. masks: AttMask beside
/// random masks of the same shares, everything else equal. crops: two global and six local crops beside global crops only, of about as many
/// tokens, in tokens a second.
/// </summary>
internal static class TeacherBench
{
    private sealed class Lane : IDisposable
    {
        private readonly CpuBackend _cpu = new(0);
        private readonly Pretrainer _pretrainer;
        private readonly byte[] _pixels;
        private long _step;

        public Lane(string name, PretrainConfig config)
        {
            (Name, Config) = (name, config);
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

        public double Median => Seconds.Order().ElementAt(Seconds.Count / 2);

        public void Step(bool counts)
        {
            long start = Stopwatch.GetTimestamp();
            _pretrainer.Pass(_pixels, _step++, firstPass: true);
            _pretrainer.Update(1e-5);
            if (counts) Seconds.Add(Stopwatch.GetElapsedTime(start).TotalSeconds);
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
        PretrainConfig ibot = Recipes.AtPixels(Recipes.Ibot(), pixels);
        ibot = ibot with
        {
            Encoder = ibot.Encoder.WithSize("tiny") with { DropPath = 0 },
            Terms = [.. ibot.Terms.Select(t => t.Head is PrototypeHead head ? t with { Head = head with { Prototypes = 1024, HiddenWidth = 512 } } : t)],
            Run = ibot.Run with { Batch = 16, Accumulate = 1 },
        };
        PretrainConfig crops(int global, int local) => ibot with { Views = ibot.Views with { Global = global, Local = local } };
        using var first = what == "masks" ? new Lane("random masks", crops(2, 0) with { Masking = new RandomPatches([0.3f], [0.2f], Probability: 0.5f) })
            : new Lane("2 global + 6 local", crops(2, 6));
        int alike = (int)Math.Round((double)first.Tokens / first.Config.Run.Batch / (1 + Math.Pow(first.Config.Encoder.ImagePixels / first.Config.Encoder.PatchPixels, 2)));
        using var second = what == "masks" ? new Lane("AttMask-High", crops(2, 0) with { Masking = new AttentionGuided() })
            : new Lane($"{alike} global", crops(alike, 0));
        for (int step = -2; step < steps; step++)
        {
            // The order turns every step, so that neither lane always follows the other.
            foreach (Lane lane in step % 2 == 0 ? new[] { first, second } : [second, first]) lane.Step(step >= 0);
        }
        Console.WriteLine($"iBOT, ViT-Ti, {pixels} px, patch {ibot.Encoder.PatchPixels}, batch {ibot.Run.Batch}, {steps} steps each, in turn");
        Console.WriteLine("| lane | ms a step, median | best | student tokens/s, median |");
        Console.WriteLine("|---|---|---|---|");
        foreach (Lane lane in new[] { first, second })
            Console.WriteLine($"| {lane.Name} | {1e3 * lane.Median:F1} | {1e3 * lane.Seconds.Min():F1} | {lane.Tokens / lane.Median:F0} |");
        double[] pairs = [.. first.Seconds.Zip(second.Seconds, (a, b) => b / a - 1)];
        double mean = pairs.Average(), error = Math.Sqrt(pairs.Sum(p => (p - mean) * (p - mean)) / (pairs.Length - 1) / pairs.Length);
        if (what == "masks")
            Console.WriteLine($"AttMask over random masks: {second.Median / first.Median - 1:+0.00%;-0.00%} by medians, {mean:+0.00%;-0.00%} ± {error:0.00%} by pairs");
        else
            Console.WriteLine($"multi-crop over global crops, tokens/s: {first.Tokens / first.Median / (second.Tokens / second.Median):0.0%}");
        return 0;
    }
}
