using System.Buffers;
using System.Text.Json;

namespace MimEngine.Engine.Runs;

/// <summary>A named number of one step.</summary>
public readonly record struct Metric(string Name, double Value);

/// <summary>
/// metrics.jsonl: one JSON object a line, <c>{"step":100,"loss":0.53,…}</c>, in the hands of the operating system when <see cref="Write"/>
/// returns. Steps never go back: a resumed run first cuts off what the lost steps had written.
/// </summary>
public sealed class MetricsLog : IDisposable
{
    private readonly AppendFile _file;
    private readonly ArrayBufferWriter<byte> _line = new(512);
    private readonly Utf8JsonWriter _json;

    internal MetricsLog(Stream file, string name)
    {
        _file = new AppendFile(file, name);
        _json = new Utf8JsonWriter(_line,
            new JsonWriterOptions { Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping });
    }

    /// <summary>Opens the log of a run with <paramref name="step"/> updates done; lines of later steps and a torn last one go.</summary>
    /// <exception cref="RunException">The file cannot be opened.</exception>
    public static MetricsLog Open(string path, long step)
    {
        try
        {
            FileStream file = new(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.ReadWrite, bufferSize: 0);
            file.SetLength(Keep(file, step));
            file.Position = file.Length;
            return new(file, path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new RunException($"{path}: the metrics cannot be written ({e.Message.TrimEnd('.')}).", e);
        }
    }

    /// <summary>Appends one line.</summary>
    /// <param name="step">Updates done.</param>
    /// <param name="note">Text for the key "note", if any: a skipped update, a refused save.</param>
    public void Write(long step, ReadOnlySpan<Metric> metrics, string? note = null)
    {
        _line.ResetWrittenCount();
        _json.Reset();
        _json.WriteStartObject();
        _json.WriteNumber("step"u8, step);
        foreach (Metric metric in metrics)
            if (double.IsFinite(metric.Value)) _json.WriteNumber(metric.Name, metric.Value);
            else _json.WriteString(metric.Name, Word(metric.Value));
        if (note is not null) _json.WriteString("note"u8, note);
        _json.WriteEndObject();
        _json.Flush();
        _line.Write("\n"u8);
        _file.Append(_line.WrittenSpan);
    }

    /// <summary>Why lines wait to be written (a full disk), a sentence; none when all are.</summary>
    public string? Trouble => _file.Trouble;

    /// <summary>Returns when all lines are on the disk; before a checkpoint, so that no saved step lacks its lines.</summary>
    public void Sync() => _file.Sync();

    public void Dispose()
    {
        _json.Dispose();
        _file.Dispose();
    }

    // JSON has no such number.
    private static string Word(double value) => double.IsNaN(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";

    // Lines are in step order, so everything from the first later or unreadable line on goes.
    private static long Keep(FileStream file, long step)
    {
        byte[] all = new byte[file.Length];
        file.ReadExactly(all);
        int keep = 0;
        for (int end; (end = all.AsSpan(keep).IndexOf((byte)'\n')) >= 0; keep += end + 1)
            if (StepOf(all.AsMemory(keep, end)) is not { } written || written > step) break;
        return keep;
    }

    private static long? StepOf(ReadOnlyMemory<byte> line)
    {
        try
        {
            using JsonDocument json = JsonDocument.Parse(line);
            return json.RootElement.ValueKind == JsonValueKind.Object && json.RootElement.TryGetProperty("step", out JsonElement step)
                && step.TryGetInt64(out long value) ? value : null;
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException) { return null; }
    }
}
