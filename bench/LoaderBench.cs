using System.Diagnostics;
using MimEngine.Engine.Data;
using MimEngine.Engine.Experiments;
using MimEngine.Engine.Imaging;

namespace MimEngine.Bench;

/// <summary>
/// <c>bench loader [PATH [PIXELS [BATCH]]]</c>: pictures a second that the loader hands out with KAMIM's augmentation and with plain
/// squashing, by threads, and the bytes it allocates.
/// </summary>
internal static class LoaderBench
{
    private const int Rounds = 5;

    public static int Run(ReadOnlySpan<string> args)
    {
        string? path = args.Length > 0 ? args[0] : null;
        int pixels = args.Length > 1 ? int.Parse(args[1]) : 32, batch = args.Length > 2 ? int.Parse(args[2]) : 128;
        using IDataset dataset = Datasets.Open(path, Split.Train);
        Console.WriteLine($"{dataset.Name}: {dataset.Count} pictures, {pixels} px, batch {batch}, best and median of {Rounds} interleaved rounds");
        var kamim = new AugmentConfig { Antialias = false, HorizontalFlip = 0.5f, VerticalFlip = 0.5f };
        (string Name, AugmentConfig Views, int Threads)[] cases =
            [.. new[] { 1, 2, 4 }.SelectMany(t => new[] { ("squash", AugmentConfig.Resize, t), ("crop and flips", kamim, t) })];
        Loader[] loaders = [.. cases.Select(c => new Loader(new LoaderConfig(dataset, new AugmentedViews(c.Views, pixels), batch) { Threads = c.Threads }))];
        var rates = cases.Select(_ => new List<double>()).ToArray();
        var allocated = new long[cases.Length];
        for (int round = -1; round < Rounds; round++)
            for (int i = 0; i < cases.Length; i++)
            {
                Drain(loaders[i], 4);  // what was read ahead while others were timed
                long bytes = GC.GetTotalAllocatedBytes(precise: true), from = Stopwatch.GetTimestamp();
                int batches = 0;
                for (; Stopwatch.GetElapsedTime(from).TotalSeconds < 0.3; batches++) Drain(loaders[i], 1);
                double seconds = Stopwatch.GetElapsedTime(from).TotalSeconds;
                allocated[i] = GC.GetTotalAllocatedBytes(precise: true) - bytes;
                if (round >= 0) rates[i].Add(batches * batch / seconds);
            }
        foreach (Loader loader in loaders) loader.Dispose();
        Console.WriteLine($"{"views",-16}{"threads",8}{"best img/s",12}{"median",10}{"bytes/round",13}");
        for (int i = 0; i < cases.Length; i++)
        {
            rates[i].Sort();
            Console.WriteLine($"{cases[i].Name,-16}{cases[i].Threads,8}{rates[i][^1],12:N0}{rates[i][Rounds / 2],10:N0}{allocated[i],13:N0}");
        }
        return 0;
    }

    private static void Drain(Loader loader, int batches)
    {
        for (int i = 0; i < batches; i++) loader.Return(loader.Next());
    }
}
