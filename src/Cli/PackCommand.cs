using System.CommandLine;
using System.Diagnostics;
using MimEngine.Engine.Data;
using MimEngine.Engine.Imaging;

namespace MimEngine.Cli;

/// <summary><c>mim pack</c>: any data this program reads → one memory-mapped file of decoded pictures.</summary>
internal static class PackCommand
{
    private static readonly TimeSpan s_reportEvery = TimeSpan.FromSeconds(1);

    public static Command Build(Terminal terminal)
    {
        Option<string?> data = Options.Data("What to pack: a folder of pictures (classes in sub-folders, or train/ and test/), CIFAR .bin or idx files. [embedded pictures]");
        Option<string?> output = Options.Text("--out", "FILE", "The .mimpack file to write; replaced if it exists.");
        output.Required = true;
        Command command = new("pack", "Decodes all pictures once and writes them to one .mimpack file, which every command reads without "
            + "decoding: several times faster to train from. The file holds labels, class names and a checksum for each picture.") { data, output };
        command.SetAction(parsed => Run(terminal, parsed.GetValue(data), parsed.GetValue(output)!));
        return command;
    }

    private static int Run(Terminal terminal, string? data, string output)
    {
        if (!output.EndsWith(".mimpack", StringComparison.OrdinalIgnoreCase)) throw new UsageException($"--out {output}: the file's name must end in .mimpack.");
        if (data is not null && Path.GetFullPath(data) == Path.GetFullPath(output)) throw new UsageException($"--out {output}: is what --data names; give another file.");
        IDisplay display = terminal.Display();
        List<(IDataset Pictures, Split Split)> parts = [];
        try
        {
            foreach (Split split in new[] { Split.Train, Split.Test })
                if (Datasets.Has(data, split)) parts.Add((Datasets.Open(data, split), split));
            IReadOnlyList<string> classes = parts[0].Pictures.Classes;
            if (parts.Count == 2 && !classes.SequenceEqual(parts[1].Pictures.Classes))
                throw new DataException($"{data}: train has {classes.Count} classes and test has {parts[1].Pictures.Classes.Count}, or other names; they must be the same.");
            string name = data is null ? "embedded" : Path.GetFileName(Path.TrimEndingDirectorySeparator(data));
            using PackWriter writer = new(output, name, classes);
            List<string> damaged = [];
            display.Follow("picture", report => Copy(parts, writer, damaged, report, terminal.Stop.Token));
            writer.Complete();
            foreach (string sentence in damaged.Take(3)) display.Warn(sentence);
            if (damaged.Count > 0) display.Warn($"{damaged.Count} pictures could not be read and are not in the pack.");
            display.Line($"{output}: {writer.Count} pictures, {classes.Count} classes, {Words.Bytes(writer.Bytes)}. Use it with --data {output}.");
            return 0;
        }
        finally
        {
            foreach ((IDataset pictures, _) in parts) pictures.Dispose();
        }
    }

    private static void Copy(List<(IDataset Pictures, Split Split)> parts, PackWriter writer, List<string> damaged, Action<Progress> report, CancellationToken stop)
    {
        long total = parts.Sum(p => (long)p.Pictures.Count), done = 0;
        long start = Stopwatch.GetTimestamp(), last = start;
        RgbImage picture = new();
        foreach ((IDataset pictures, Split split) in parts)
            for (int i = 0; i < pictures.Count; i++)
            {
                stop.ThrowIfCancellationRequested();
                try
                {
                    pictures.Read(i, picture);
                    writer.Add(picture, pictures.Label(i), split);
                }
                catch (Exception e) when (e is DataException or ImageFormatException) { damaged.Add(e.Message); }
                done++;
                if (Stopwatch.GetElapsedTime(last) < s_reportEvery && done < total) continue;
                last = Stopwatch.GetTimestamp();
                double rate = done / Math.Max(1e-9, Stopwatch.GetElapsedTime(start).TotalSeconds);
                report(new(done, total, TimeSpan.FromSeconds((total - done) / rate), $"{Words.Count(rate)} img/s  {Words.Bytes(writer.Bytes)}"));
            }
    }
}
