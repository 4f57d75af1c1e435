using System.Globalization;
using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.RegularExpressions;

namespace MimEngine.Engine.Runs;

/// <summary>What a checkpoint says about itself beside its tensors.</summary>
/// <param name="Step">Optimiser updates done; with the seed it is all the state there is besides the slabs.</param>
/// <param name="ConfigHash">Hash of the run's config.json, so that weights are not continued under another configuration.</param>
/// <param name="Notes">Further strings, kept as they are.</param>
public sealed record CheckpointHeader(long Step, string ConfigHash, IReadOnlyDictionary<string, string>? Notes = null);

/// <summary>A written checkpoint.</summary>
/// <param name="Warnings">Sentences about older files that could not be removed.</param>
public sealed record SavedCheckpoint(string File, long Bytes, IReadOnlyList<string> Warnings);

/// <summary>
/// One training state: a safetensors file <c>step-00000123.safetensors</c>, written atomically and verified whole.
/// </summary>
/// <remarks>
/// Writing: <c>….tmp</c> → fsync → rename → fsync of the folder → prune. Nothing points at the latest: it is the newest that verifies.
/// Checksum: the header starts with <c>{"__metadata__":{"crc32c":"XXXXXXXX"</c>, where X are the hexadecimal digits of the CRC-32C of the
/// whole file (length, header, data) computed with eight zeros in their place; so it covers every byte, and the file stays plain
/// safetensors, which any reader opens.
/// </remarks>
public sealed partial class Checkpoint : IDisposable
{
    /// <summary>Value of the metadata key "format".</summary>
    public const string Format = "mim-checkpoint-1";

    private const string Digits = "00000000";
    private static readonly byte[] s_start = Encoding.ASCII.GetBytes("{\"__metadata__\":{\"crc32c\":\"");
    private static readonly int s_digitsAt = 8 + s_start.Length;

    private Checkpoint(string file, CheckpointHeader header, SafeTensors tensors) => (File, Header, Tensors) = (file, header, tensors);

    /// <summary>Path of the file.</summary>
    public string File { get; }

    public CheckpointHeader Header { get; }

    /// <summary>The tensors, open for reading until <see cref="Dispose"/>.</summary>
    public SafeTensors Tensors { get; }

    public void Dispose() => Tensors.Dispose();

    /// <summary>File name of a step.</summary>
    public static string FileName(long step) => $"step-{step.ToString("00000000", CultureInfo.InvariantCulture)}.safetensors";

    /// <summary>Writes a checkpoint and removes all but the newest <paramref name="keep"/> up to its step.</summary>
    /// <param name="tensors">Asked for their bytes piece by piece; float32 ones are checked to be finite on the way.</param>
    /// <exception cref="RunException">A tensor holds NaN or infinity; nothing was changed.</exception>
    /// <exception cref="SaveException">The disk is full, or refuses; earlier checkpoints are intact.</exception>
    public static SavedCheckpoint Save(string folder, CheckpointHeader header, IReadOnlyList<NamedTensor> tensors, int keep = 2)
        => Save(folder, header, tensors, keep, DiskFiles.Instance);

    internal static SavedCheckpoint Save(string folder, CheckpointHeader header, IReadOnlyList<NamedTensor> tensors, int keep, IFiles files)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(keep, 1);
        string path = Path.Combine(folder, FileName(header.Step));
        try
        {
            RemoveLeftovers(folder, files);
            long bytes;
            try { bytes = Write(path, header, tensors, files); }
            catch (IOException e) when (DiskFiles.IsFull(e) && MakeRoom(folder, files)) { bytes = Write(path, header, tensors, files); }
            files.SyncFolder(folder);
            return new(path, bytes, Prune(folder, header.Step, keep, files));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new SaveException($"{path}: the checkpoint of step {header.Step} was not saved ({e.Message.TrimEnd('.')}); "
                + "those before it are intact.", e);
        }
    }

    /// <summary>Opens one checkpoint and verifies every byte of it.</summary>
    /// <exception cref="WeightFileException">It is damaged, or no checkpoint of this program.</exception>
    public static Checkpoint Open(string path)
    {
        SafeTensors tensors = SafeTensors.Open(path);
        try
        {
            Verify(tensors);
            Dictionary<string, string> notes = new(tensors.Metadata);
            if (!notes.Remove("format", out string? format) || format != Format)
                throw new WeightFileException($"{path}: its format is '{format}', this program reads '{Format}'.");
            if (!notes.Remove("step", out string? text)
                || !long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out long step))
                throw new WeightFileException($"{path}: it does not say its step.");
            notes.Remove("config_hash", out string? hash);
            notes.Remove("crc32c");
            return new(path, new(step, hash ?? "", notes), tensors);
        }
        catch (Exception e)
        {
            tensors.Dispose();
            if (e is IOException) throw new WeightFileException($"{path}: cannot be read ({e.Message.TrimEnd('.')}).", e);
            throw;
        }
    }

    /// <summary>The newest checkpoint of a folder that verifies, and the newer ones that do not; null when there are none.</summary>
    /// <exception cref="RunException">There are checkpoints, but none verifies: a run never starts over silently.</exception>
    public static (Checkpoint? Newest, IReadOnlyList<(string File, string Reason)> Skipped) Latest(string folder)
    {
        List<(string File, string Reason)> skipped = [];
        foreach ((string file, long step) in List(folder))
            try
            {
                Checkpoint checkpoint = Open(file);
                if (checkpoint.Header.Step == step) return (checkpoint, skipped);
                checkpoint.Dispose();
                skipped.Add((file, $"{file}: holds step {checkpoint.Header.Step}, not {step}: it was renamed."));
            }
            catch (WeightFileException e) { skipped.Add((file, e.Message)); }
        if (skipped.Count == 0) return (null, skipped);
        throw new RunException($"{folder}: none of its {skipped.Count} checkpoints can be used (newest: {skipped[0].Reason.TrimEnd('.')}); "
            + "restore one from a copy, or start a new run with another --out.");
    }

    /// <summary>All checkpoints of a folder by name, newest first, unverified.</summary>
    public static IReadOnlyList<(string File, long Step)> List(string folder)
    {
        if (!Directory.Exists(folder)) return [];
        return [.. Directory.EnumerateFiles(folder, "step-*.safetensors")
            .Select(file => (file, Name: NamePattern().Match(Path.GetFileName(file))))
            .Where(f => f.Name.Success)
            .Select(f => (f.file, Step: long.Parse(f.Name.Groups[1].ValueSpan, NumberStyles.None, CultureInfo.InvariantCulture)))
            .OrderByDescending(f => f.Step)];
    }

    private static long Write(string path, CheckpointHeader header, IReadOnlyList<NamedTensor> tensors, IFiles files)
    {
        IEnumerable<KeyValuePair<string, string>> metadata =
        [
            new("crc32c", Digits), new("format", Format), new("step", header.Step.ToString(CultureInfo.InvariantCulture)),
            new("config_hash", header.ConfigHash), .. header.Notes ?? new Dictionary<string, string>(),
        ];
        string temporary = path + ".tmp";
        uint crc = 0;
        long written = 0;
        try
        {
            using (Stream file = files.Create(temporary))
            {
                SafeTensorsWriter.Write(tensors, metadata, (piece, tensor) =>
                {
                    if (tensor is { DType: "F32" } && !TensorPrimitives.IsFiniteAll(MemoryMarshal.Cast<byte, float>(piece.Span)))
                        throw new RunException($"'{tensor.Name}' holds NaN or infinity at step {header.Step}: the checkpoint was not "
                            + "written; those before it are intact.");
                    file.Write(piece.Span);
                    crc = Crc32C.Append(crc, piece.Span);
                    written += piece.Length;
                });
                file.Position = s_digitsAt;
                file.Write(Encoding.ASCII.GetBytes(crc.ToString("x8", CultureInfo.InvariantCulture)));
                files.Sync(file);
            }
            files.Rename(temporary, path);
            return written;
        }
        catch
        {
            TryDelete(temporary, files);
            throw;
        }
    }

    private static void Verify(SafeTensors tensors)
    {
        byte[] piece = new byte[(int)Math.Min(tensors.FileBytes, SafeTensorsWriter.PieceBytes)];
        uint crc = 0;
        string wanted = "";
        for (long at = 0; at < tensors.FileBytes; at += piece.Length)
        {
            Span<byte> bytes = piece.AsSpan(0, (int)Math.Min(piece.Length, tensors.FileBytes - at));
            tensors.ReadAt(at, bytes);
            if (at == 0)
            {
                if (bytes.Length < s_digitsAt + 8 || !bytes[8..s_digitsAt].SequenceEqual(s_start))
                    throw new WeightFileException($"{tensors.File}: its header does not start with a checksum: no checkpoint, or damaged.");
                wanted = Encoding.ASCII.GetString(bytes.Slice(s_digitsAt, 8));
                Encoding.ASCII.GetBytes(Digits, bytes.Slice(s_digitsAt, 8));
            }
            crc = Crc32C.Append(crc, bytes);
        }
        if (crc.ToString("x8", CultureInfo.InvariantCulture) is var found && found != wanted)
            throw new WeightFileException($"{tensors.File}: its checksum is {found}, its header says {wanted}: the file is damaged.");
    }

    // Only files up to this step count: newer ones did not verify when the run resumed, or it would have resumed from them.
    private static List<string> Prune(string folder, long step, int keep, IFiles files)
    {
        List<string> warnings = [];
        foreach ((string file, _) in List(folder).Where(f => f.Step <= step).Skip(keep))
            if (TryDelete(file, files) is { } e)
                warnings.Add($"{file}: an old checkpoint could not be removed ({e.Message.TrimEnd('.')}).");
        return warnings;
    }

    // A full disk: give up older checkpoints, but only while a newer one is known to be whole.
    private static bool MakeRoom(string folder, IFiles files)
    {
        IReadOnlyList<(string File, long Step)> all = List(folder);
        int whole = 0;
        while (whole < all.Count && !IsWhole(all[whole].File)) whole++;
        bool any = false;
        foreach ((string file, _) in all.Skip(whole + 1)) any |= TryDelete(file, files) is null;
        return any;
    }

    private static bool IsWhole(string file)
    {
        try
        {
            Open(file).Dispose();
            return true;
        }
        catch (WeightFileException) { return false; }
    }

    private static void RemoveLeftovers(string folder, IFiles files)
    {
        foreach (string file in Directory.EnumerateFiles(folder, "step-*.safetensors.tmp")) TryDelete(file, files);
    }

    private static Exception? TryDelete(string path, IFiles files)
    {
        try
        {
            files.Delete(path);
            return null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException) { return e; }
    }

    [GeneratedRegex(@"^step-([0-9]{8,18})\.safetensors$", RegexOptions.CultureInvariant)]
    private static partial Regex NamePattern();
}
