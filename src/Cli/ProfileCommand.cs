using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Serialization;
using MimEngine.Engine.Experiments;
using MimEngine.Engine.Runs;

namespace MimEngine.Cli;

/// <summary><c>mim profile</c>: where the time of an update goes, operation by operation, beside what the machine could do.</summary>
internal static class ProfileCommand
{
    private static readonly JsonSerializerOptions s_json = new()
    {
        WriteIndented = true, PropertyNamingPolicy = JsonNamingPolicy.CamelCase,
        Converters = { new JsonStringEnumConverter(JsonNamingPolicy.KebabCaseLower) },
    };

    public static Command Build(Terminal terminal)
    {
        ExperimentOptions experiment = new();
        Option<string?> device = Options.Device();
        Option<string?> output = Options.Text("--out", "FILE", "Also writes everything as JSON to this file; replaced if it exists.");
        Option<long?> threads = Options.Threads(), loaders = Options.LoaderThreads(), updates = Options.Number("--updates", "N",
            "Updates to measure, after two that only warm up. [5]", least: 1), rows = Options.Number("--rows", "N", "Longest rows to print. [24]", least: 1);
        Command command = new("profile",
            "Trains for a few updates with a stopwatch around every operation and prints time, calls, GFLOP/s, GB/s and the share of the roof "
            + "measured in the same run. Takes the options of 'mim pretrain'; nothing is saved.");
        experiment.AddTo(command);
        foreach (Option option in new Option[] { device, threads, loaders, updates, rows, output }) command.Add(option);
        command.SetAction(parsed => Run(terminal.Display(), new ProfileOptions
        {
            Config = experiment.Resolve(parsed),
            Device = parsed.GetValue(device) ?? "cpu",
            Threads = (int)(parsed.GetValue(threads) ?? 0),
            LoaderThreads = (int)(parsed.GetValue(loaders) ?? 1),
            Updates = (int)Math.Min(parsed.GetValue(updates) ?? 5, 1_000_000),
        }, (int)Math.Min(parsed.GetValue(rows) ?? 24, 1000), parsed.GetValue(output)));
        return command;
    }

    private static int Run(IDisplay display, ProfileOptions options, int rows, string? output)
    {
        ProfileReport r = ProfileRun.Execute(options);
        display.Line($"{r.Recipe}, batch {r.Batch}, on {r.Device}: {Number(r.MillisecondsAnUpdate)} ms an update, {Number(r.ImagesPerSecond)} img/s, "
            + $"{Number(r.ModelGigaFlops)} GFLOP/s of the model's products.");
        if (r.Roofs is { GigaFlops: { } fma, GigaBytes: { } copy })
            display.Line($"Roofs measured in this run: {Number(fma)} GFLOP/s float32 multiply-adds, "
                + (r.Roofs.Bf16GigaFlops is { } half ? $"{Number(half)} GFLOP/s bf16 products, " : "") + $"{Number(copy)} GB/s copy.");
        var shown = r.Rows.Take(rows).Select(row => new[]
        {
            row.Operation, row.Shape, Number(row.Calls), Number(row.Milliseconds), Number(row.BestMilliseconds), Percent(row.Share),
            Number(row.GigaFlops), Number(row.GigaBytes), row.OfRoof is { } share ? Percent(share) : "-",
        }).ToList();
        double rest = r.Rows.Skip(rows).Sum(row => row.Milliseconds);
        if (rest > 0) shown.Add(["(shorter rows)", "", "", Number(rest), "", Percent(rest / r.MillisecondsAnUpdate), "", "", ""]);
        shown.Add(["(host: masks, tape)", "", "", Number(r.HostMilliseconds), "", Percent(r.HostMilliseconds / r.MillisecondsAnUpdate), "", "", ""]);
        shown.Add(["(data wait)", "", "", Number(r.DataWaitMilliseconds), "", Percent(r.DataWaitMilliseconds / r.MillisecondsAnUpdate), "", "", ""]);
        display.Table($"One update, mean of {r.Updates}",
            ["operation", "shape", "calls", "ms", "at best", "share", "GFLOP/s", "GB/s", "of roof"], shown);
        if (output is null) return 0;
        try
        {
            File.WriteAllText(output, JsonSerializer.Serialize(r, s_json) + "\n");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new RunException($"{output}: the profile was not written ({e.Message.TrimEnd('.')}).", e);
        }
        display.Line($"{output}: all rows as JSON.");
        return 0;
    }

    private static string Number(double v) => v.ToString(v >= 100 ? "0" : v >= 10 ? "0.0" : "0.00", CultureInfo.InvariantCulture);

    private static string Percent(double v) => (v * 100).ToString("0.0", CultureInfo.InvariantCulture) + " %";
}
