using System.CommandLine;
using System.Diagnostics;
using MimEngine.Engine.Data;

namespace MimEngine.Cli;

/// <summary><c>mim pack</c>: any data this program reads → one memory-mapped file of decoded pictures.</summary>
internal static class PackCommand
{
    private static readonly TimeSpan s_reportEvery = TimeSpan.FromSeconds(1);

    public static Command Build(Terminal terminal)
    {
        Option<string?> data = Options.Data("What to pack: a folder of pictures (classes in sub-folders, or train/ and test/), CIFAR .bin "
            + "or idx files. [embedded pictures]");
        Option<string?> output = Options.Text("--out", "FILE", "The .mimpack file to write; replaced if it exists.");
        output.Required = true;
        Option<long?> shortSide = Options.Number("--short-side", "PIXELS",
            "Reduce pictures whose shorter side is longer than this. [keep every size]", least: 1);
        Option<long?> threads = Options.LoaderThreads();
        Command command = new("pack", "Decodes all pictures once and writes them to one .mimpack file, which every command reads without "
            + "decoding: several times faster to train from. The file holds labels, class names and a checksum for each picture.")
            { data, output, shortSide, threads };
        command.SetAction(parsed => Run(terminal, parsed.GetValue(data), parsed.GetValue(output)!, new PackOptions
        {
            ShortSide = (int)Math.Min(parsed.GetValue(shortSide) ?? 0, int.MaxValue),
            Threads = (int)Math.Min(parsed.GetValue(threads) ?? 1, 1024),
        }));
        return command;
    }

    private static int Run(Terminal terminal, string? data, string output, PackOptions options)
    {
        if (!output.EndsWith(".mimpack", StringComparison.OrdinalIgnoreCase))
            throw new UsageException($"--out {output}: the file's name must end in .mimpack.");
        if (data is not null && Path.GetFullPath(data) == Path.GetFullPath(output))
            throw new UsageException($"--out {output}: is what --data names; give another file.");
        IDisplay display = terminal.Display();
        using IDataset? train = Datasets.Has(data, Split.Train) ? Datasets.Open(data, Split.Train) : null;
        using IDataset? test = Datasets.Has(data, Split.Test) ? Datasets.Open(data, Split.Test) : null;
        PackReport packed = null!;
        display.Follow("picture", report => packed = Packer.Run(train, test, output, options, new Follower(report), terminal.Stop.Token));
        if (packed.LeftOut.Failures > 0) display.Warn(packed.LeftOut.Report("left out of the pack"));
        int classes = (train ?? test)!.Classes.Count;
        display.Line($"{output}: {packed.Train + packed.Test} pictures, {classes} classes, "
            + $"{Words.Bytes(packed.FileBytes)}. Use it with --data {output}.");
        return 0;
    }

    private sealed class Follower(Action<Progress> report) : IProgress<PackProgress>
    {
        private readonly long _start = Stopwatch.GetTimestamp();
        private long _last;

        public void Report(PackProgress p)
        {
            if (_last != 0 && Stopwatch.GetElapsedTime(_last) < s_reportEvery && p.Done < p.Total) return;
            _last = Stopwatch.GetTimestamp();
            double rate = p.Done / Math.Max(1e-9, Stopwatch.GetElapsedTime(_start).TotalSeconds);
            report(new(p.Done, p.Total, TimeSpan.FromSeconds((p.Total - p.Done) / Math.Max(rate, 1e-9)),
                $"{Words.Count(rate)} img/s  {Words.Bytes(p.Bytes)}"));
        }
    }
}
