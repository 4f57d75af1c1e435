using MimEngine.Engine.Probing;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;

namespace MimEngine.Bench;

/// <summary>
/// <c>bench probes [ROUNDS [WIDTHS [CLASSES [THREADS [wall|cpu]]]]]</c>: the default linear probe on 10,000 cached features with one learning rate and with
/// eight side by side, alternating: seconds an epoch, 2,000 test features scored after each, and their ratio; then where the time of both goes.
/// </summary>
internal static class ProbeBench
{
    private const int Pictures = 10_000, TestPictures = 2_000, Epochs = 4;

    public static int Run(ReadOnlySpan<string> args)
    {
        int rounds = args.Length > 0 ? int.Parse(args[0]) : 7;
        int[] widths = [.. (args.Length > 1 ? args[1] : "128,384,768").Split(',').Select(int.Parse)];
        int classes = args.Length > 2 ? int.Parse(args[2]) : 10, threads = args.Length > 3 ? int.Parse(args[3]) : 1;
        Clock.CountsProcessorTime = args.Length > 4 && args[4] == "cpu";
        using var cpu = new CpuBackend(threads);
        Console.WriteLine($"{Pictures} features, {classes} classes, batch 256, {threads} thread{(threads == 1 ? "" : "s")}, {rounds} alternating rounds");
        Console.WriteLine("| width | one rate, ms an epoch, best | median | eight, best | median | best/best | median of the rounds' ratios |");
        Console.WriteLine("|---|---|---|---|---|---|---|");
        foreach (int width in widths)
        {
            (FeatureSet train, FeatureSet test) = (Features(Pictures, width, classes, 1), Features(TestPictures, width, classes, 2));
            List<double> one = [], eight = [];
            for (int round = -1; round < rounds; round++)
            {
                double a = Seconds(cpu, train, test, classes, 1), b = Seconds(cpu, train, test, classes, 8);
                if (round < 0) continue;   // compiles
                one.Add(a);
                eight.Add(b);
            }
            double[] ratios = [.. one.Zip(eight, (a, b) => b / a)];
            Console.WriteLine($"| {width} | {1e3 * one.Min():F1} | {1e3 * one.Median():F1} | {1e3 * eight.Min():F1} | {1e3 * eight.Median():F1} | "
                + $"{eight.Min() / one.Min():F2} | {ratios.Median():F2} |");
        }
        foreach (int rates in new[] { 1, 8 })
        {
            var timed = new TimedBackend(cpu);
            (FeatureSet train, FeatureSet test) = (Features(Pictures, widths[^1], classes, 1), Features(TestPictures, widths[^1], classes, 2));
            double whole = 1e3 * Epochs * Seconds(timed, train, test, classes, rates);
            Console.WriteLine($"width {widths[^1]}, {rates} rate(s), {whole:F1} ms: " + string.Join(", ", timed.Times
                .GroupBy(t => t.Cost.Name).OrderByDescending(g => g.Sum(t => t.Seconds)).Take(9).Select(g => $"{g.Key} {1e3 * g.Sum(t => t.Seconds):F1}"))
                + $", outside {whole - 1e3 * timed.Times.Sum(t => t.Seconds):F1}");
        }
        return 0;
    }

    private static double Seconds(Backend backend, FeatureSet train, FeatureSet test, int classes, int rates)
    {
        ProbeConfig config = ProbePresets.Linear() with
        {
            Epochs = Epochs, Rates = rates == 1 ? [] : [.. Enumerable.Range(0, rates).Select(i => 0.4 * Math.Pow(2, i))],
        };
        using var stream = new CachedFeatures(train, config.Batch, classes, config.Seed);
        double start = Clock.Seconds;
        SideBySide.Train(backend, config, new FeatureRow(train.Width), stream, test, classes);
        return (Clock.Seconds - start) / Epochs;
    }

    /// <summary>Classes around random middles: something to learn.</summary>
    private static FeatureSet Features(int count, int width, int classes, ulong seed)
    {
        float[] values = new float[count * width];
        int[] labels = new int[count];
        RngSequence random = new Rng(seed, RandomStream.Test, 0).Start();
        for (int i = 0; i < count; i++)
        {
            labels[i] = random.Below(classes);
            RngSequence middle = new Rng(0, RandomStream.Test, (ulong)(1 + labels[i])).Start();
            for (int k = 0; k < width; k++) values[i * width + k] = random.Uniform(-1f, 1f) + 0.2f * middle.Uniform(-1f, 1f);
        }
        return new FeatureSet(values, labels, width);
    }
}
