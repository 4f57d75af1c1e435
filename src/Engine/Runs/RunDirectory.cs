using System.Globalization;
using System.Text;
using System.Text.Json;

namespace MimEngine.Engine.Runs;

/// <summary>Where and how a run was started; the program fills it, since the engine reads neither the clock nor the machine.</summary>
/// <param name="Threads">Threads of the CPU backend.</param>
/// <param name="SimdLevel">Vector width used; results of different widths agree in norm, not in bits.</param>
/// <param name="StartTime">ISO 8601, UTC.</param>
/// <param name="Step">Updates done when this start happened: 0 for a new run.</param>
public sealed record EnvironmentRecord(string Version, string Runtime, string OperatingSystem, string Cpu, string Device, int Threads,
    string SimdLevel, string CommandLine, string StartTime, long Step = 0);

/// <summary>
/// The folder of one run, locked while this process works in it: <c>config.json</c>, <c>environment.json</c> (one entry a start),
/// <c>metrics.jsonl</c>, <c>events.out.tfevents.…</c>, <c>checkpoints/</c>, <c>pictures/</c>.
/// </summary>
public sealed class RunDirectory : IDisposable
{
    private const string ConfigName = "config.json", LockName = "run.lock";

    private readonly FileStream _lock;

    private RunDirectory(string path, FileStream held)
    {
        (Path, _lock) = (path, held);
        Directory.CreateDirectory(Checkpoints);
        Directory.CreateDirectory(Pictures);
    }

    /// <summary>The folder as the user would type it.</summary>
    public string Path { get; }

    public string Checkpoints => System.IO.Path.Combine(Path, "checkpoints");

    public string Pictures => System.IO.Path.Combine(Path, "pictures");

    public string Metrics => System.IO.Path.Combine(Path, "metrics.jsonl");

    public string ConfigFile => System.IO.Path.Combine(Path, ConfigName);

    private string EnvironmentFile => System.IO.Path.Combine(Path, "environment.json");

    /// <summary>Makes <c>root/stem-NNN</c> with the first free number.</summary>
    /// <exception cref="RunException">The folder cannot be made or written.</exception>
    public static RunDirectory CreateNumbered(string root, string stem, string configJson) => Guard(root, () =>
    {
        Directory.CreateDirectory(root);
        int last = 0;
        foreach (string folder in Directory.EnumerateDirectories(root, stem + "-*"))
        {
            ReadOnlySpan<char> number = System.IO.Path.GetFileName(folder.AsSpan())[(stem.Length + 1)..];
            if (int.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out int n)) last = Math.Max(last, n);
        }
        for (int number = last + 1; ; number++)
        {
            string path = System.IO.Path.Combine(root, $"{stem}-{number:000}");
            Directory.CreateDirectory(path);
            // Two runs started together take two numbers: the lock and an empty folder decide, not the listing above.
            FileStream? held = TryLock(path);
            if (held is not null && IsFresh(path)) return Begin(path, held, configJson);
            held?.Dispose();
        }
    });

    /// <summary>Makes the folder <paramref name="path"/>, which must be absent or empty.</summary>
    /// <exception cref="RunException">It holds something already, is in use, or cannot be written.</exception>
    public static RunDirectory Create(string path, string configJson) => Guard(path, () =>
    {
        if (File.Exists(path)) throw new RunException($"{path}: is a file, a run needs a folder; name another one with --out.");
        Directory.CreateDirectory(path);
        if (File.Exists(System.IO.Path.Combine(path, ConfigName)))
            throw new RunException($"{path}: holds a run already; continue it with --resume {path}, or name another folder with --out.");
        if (!IsFresh(path)) throw new RunException($"{path}: is not empty and no run of this program; name another folder with --out.");
        return Begin(path, Lock(path), configJson);
    });

    /// <summary>Opens an existing run to continue it.</summary>
    /// <exception cref="RunException">It is no run, is in use, or cannot be written.</exception>
    public static RunDirectory Resume(string path) => Guard(path, () =>
    {
        RequireRun(path);
        return new RunDirectory(path, Lock(path));
    });

    /// <summary>The run's config.json; for readers, without a lock.</summary>
    /// <exception cref="RunException">It is no run.</exception>
    public static string ReadConfig(string path) => Guard(path, () =>
    {
        RequireRun(path);
        return File.ReadAllText(System.IO.Path.Combine(path, ConfigName));
    });

    /// <summary>Adds a start to environment.json.</summary>
    public void AddEnvironment(EnvironmentRecord record) => Guard(Path, () =>
    {
        List<EnvironmentRecord> starts = [];
        if (File.Exists(EnvironmentFile))
            try { starts = JsonSerializer.Deserialize<List<EnvironmentRecord>>(File.ReadAllBytes(EnvironmentFile), s_json) ?? []; }
            catch (JsonException)
            {
                File.Move(EnvironmentFile, EnvironmentFile + ".unreadable", overwrite: true);   // a note, never a reason to stop
            }
        starts.Add(record);
        DiskFiles.Replace(DiskFiles.Instance, EnvironmentFile, JsonSerializer.SerializeToUtf8Bytes(starts, s_json));
        return true;
    });

    /// <summary>Releases the lock.</summary>
    public void Dispose() => _lock.Dispose();

    private static readonly JsonSerializerOptions s_json = new()
    {
        WriteIndented = true,
        PropertyNamingPolicy = JsonNamingPolicy.CamelCase,
        Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    private static RunDirectory Begin(string path, FileStream held, string configJson)
    {
        try
        {
            RunDirectory run = new(path, held);
            DiskFiles.Replace(DiskFiles.Instance, run.ConfigFile, Encoding.UTF8.GetBytes(configJson));
            return run;
        }
        catch
        {
            held.Dispose();
            throw;
        }
    }

    private static void RequireRun(string path)
    {
        if (!Directory.Exists(path)) throw new RunException($"{path}: no such run folder.");
        if (!File.Exists(System.IO.Path.Combine(path, ConfigName)))
            throw new RunException($"{path}: has no {ConfigName}, so it is no run of this program.");
    }

    private static bool IsFresh(string path)
        => !Directory.EnumerateFileSystemEntries(path).Any(entry => System.IO.Path.GetFileName(entry) != LockName);

    private static FileStream Lock(string path)
        => TryLock(path) ?? throw new RunException($"{path}: another process is working in this run; wait for it, or stop it first.");

    // The operating system releases it when the process ends, however it ends.
    private static FileStream? TryLock(string path)
    {
        string file = System.IO.Path.Combine(path, LockName);
        try { return new FileStream(file, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None, bufferSize: 0); }
        catch (IOException e) when (File.Exists(file) && !DiskFiles.IsFull(e)) { return null; }
    }

    private static T Guard<T>(string path, Func<T> body)
    {
        try { return body(); }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or NotSupportedException or ArgumentException)
        {
            throw new RunException($"{path}: the run folder cannot be used ({e.Message.TrimEnd('.')}).", e);
        }
    }
}
