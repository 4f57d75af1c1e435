using System.Diagnostics;
using System.Globalization;
using Spectre.Console;

namespace MimEngine.Cli;

/// <summary>Where a command line reads and writes.</summary>
/// <param name="Live">Output is a terminal: progress may move and have colour.</param>
public sealed record Terminal(TextWriter Out, TextWriter Error, bool Live, StopSignal Stop)
{
    /// <summary>Whether this process writes to a terminal that can move its cursor.</summary>
    internal static bool IsLive => !Console.IsOutputRedirected && Environment.GetEnvironmentVariable("TERM") != "dumb";

    internal IDisplay Display() => Live ? new LiveDisplay(Out) : new PlainDisplay(Out, Error);
}

/// <summary>How far a long command is.</summary>
/// <param name="Done">Of <paramref name="Total"/> units.</param>
/// <param name="Remaining">Time to the end, where it can be told.</param>
/// <param name="Numbers">Names and values to show, as "loss 0.512".</param>
internal readonly record struct Progress(long Done, long Total, TimeSpan? Remaining, string Numbers)
{
    /// <summary>"step 20/100  loss 0.512  left 12 s".</summary>
    public string Line(string unit)
        => $"{unit} {Done}/{Total}  {Numbers}{(Remaining is { } left ? $"  left {Words.Duration(left)}" : "")}".TrimStart();
}

/// <summary>What commands show to people.</summary>
internal interface IDisplay
{
    void Line(string text);

    /// <summary>A sentence that must not be missed.</summary>
    void Warn(string text);

    /// <summary>Rows under headings; a column of numbers is aligned at its right.</summary>
    void Table(string title, string[] columns, IReadOnlyList<string[]> rows);

    /// <summary>Runs <paramref name="body"/> while showing how far it is.</summary>
    /// <param name="unit">What is counted: "step", "picture".</param>
    void Follow(string unit, Action<Action<Progress>> body);
}

/// <summary>Lines, for files and pipes.</summary>
internal sealed class PlainDisplay(TextWriter output, TextWriter error) : IDisplay
{
    public void Line(string text) => output.WriteLine(text);

    public void Warn(string text) => error.WriteLine($"mim: {text}");

    public void Table(string title, string[] columns, IReadOnlyList<string[]> rows)
    {
        output.WriteLine(title);
        int[] widths = [.. columns.Select((c, i) => rows.Select(r => r[i].Length).Append(c.Length).Max())];
        foreach (string[] row in rows.Prepend(columns))
            output.WriteLine("  " + string.Join("  ", row.Select((cell, i)
                => Words.IsNumeric(rows, i) ? cell.PadLeft(widths[i]) : cell.PadRight(widths[i]))).TrimEnd());
    }

    public void Follow(string unit, Action<Action<Progress>> body)
    {
        long last = 0;
        body(p =>
        {
            // A log wants a line every few seconds, not one an update; the first and the last always.
            if (last != 0 && p.Done < p.Total && Stopwatch.GetElapsedTime(last) < s_lineEvery) return;
            last = Stopwatch.GetTimestamp();
            output.WriteLine(p.Line(unit));
            output.Flush();
        });
    }

    private static readonly TimeSpan s_lineEvery = TimeSpan.FromSeconds(2);
}

/// <summary>Colour and movement, for terminals.</summary>
internal sealed class LiveDisplay : IDisplay
{
    private readonly IAnsiConsole _console;

    public LiveDisplay(TextWriter output) => _console = AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(output) });

    public void Line(string text) => _console.WriteLine(text);

    public void Warn(string text) => _console.MarkupLineInterpolated($"[yellow]{text}[/]");

    public void Table(string title, string[] columns, IReadOnlyList<string[]> rows)
    {
        Table table = new() { Title = new TableTitle(Markup.Escape(title)), Border = TableBorder.Rounded };
        for (int i = 0; i < columns.Length; i++)
        {
            Justify side = Words.IsNumeric(rows, i) ? Justify.Right : Justify.Left;
            table.AddColumn(new TableColumn(Markup.Escape(columns[i])) { Alignment = side });
        }
        foreach (string[] row in rows) table.AddRow([.. row.Select(Markup.Escape)]);
        _console.Write(table);
    }

    public void Follow(string unit, Action<Action<Progress>> body) => _console.Live(new Text("")).Start(live => body(p =>
    {
        live.UpdateTarget(new Rows(new Markup(Bar(p, unit)), new Text(p.Numbers)));
        live.Refresh();
    }));

    private static string Bar(Progress p, string unit)
    {
        const int Cells = 30;
        int full = p.Total > 0 ? (int)(Cells * Math.Clamp((double)p.Done / p.Total, 0, 1)) : 0;
        return $"[green]{new string('━', full)}[/][grey]{new string('━', Cells - full)}[/] "
            + Markup.Escape($"{unit} {p.Done}/{p.Total}".TrimStart() + (p.Remaining is { } left ? $"  left {Words.Duration(left)}" : ""));
    }
}

/// <summary>Numbers as people read them.</summary>
internal static class Words
{
    public static string Duration(TimeSpan t) => t.TotalSeconds switch
    {
        < 0 => "?",
        < 100 => FormattableString.Invariant($"{t.TotalSeconds:0} s"),
        < 6000 => FormattableString.Invariant($"{(int)t.TotalMinutes} min {t.Seconds:00} s"),
        _ => FormattableString.Invariant($"{(int)t.TotalHours} h {t.Minutes:00} min"),
    };

    public static string Bytes(double bytes) => Scaled(bytes, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]);

    /// <summary>"86.1 M", "1.24 T".</summary>
    public static string Count(double count) => Scaled(count, 1000, ["", "k", "M", "G", "T", "P"]).TrimEnd();

    /// <summary>Three significant figures, "0.512" or "1.00e-04".</summary>
    public static string Short(double value) => value == 0 || Math.Abs(value) is >= 1e-3 and < 1e5
        ? value.ToString(Math.Abs(value) switch { >= 100 => "0", >= 10 => "0.0", >= 1 => "0.00", _ => "0.0000" },
            CultureInfo.InvariantCulture)
        : value.ToString("0.00e+00", CultureInfo.InvariantCulture);

    /// <summary>Whether every cell of a column starts like a number.</summary>
    internal static bool IsNumeric(IReadOnlyList<string[]> rows, int column)
        => rows.Count > 0 && rows.All(r => r[column].Length > 0 && (char.IsAsciiDigit(r[column][0]) || r[column] == "–"
            || (r[column].Length > 1 && r[column][0] is '-' or '+')));

    private static string Scaled(double value, int step, string[] units)
    {
        int unit = 0;
        for (; Math.Abs(value) >= step && unit < units.Length - 1; unit++) value /= step;
        return value.ToString(unit == 0 || Math.Abs(value) >= 100 ? "0" : Math.Abs(value) >= 10 ? "0.0" : "0.00",
            CultureInfo.InvariantCulture) + " " + units[unit];
    }
}
