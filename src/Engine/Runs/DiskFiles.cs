using System.Runtime.InteropServices;

namespace MimEngine.Engine.Runs;

/// <summary>The file operations that a save consists of, so that tests can make each of them fail.</summary>
internal interface IFiles
{
    /// <summary>A new or emptied file, unbuffered.</summary>
    Stream Create(string path);

    /// <summary>Returns when the file's bytes are on the disk.</summary>
    void Sync(Stream file);

    /// <summary>Atomic; replaces <paramref name="to"/>.</summary>
    void Rename(string from, string to);

    /// <summary>Returns when the folder's entries (renames in it) are on the disk.</summary>
    void SyncFolder(string folder);

    void Delete(string path);
}

/// <summary>The real ones.</summary>
internal sealed partial class DiskFiles : IFiles
{
    public static readonly DiskFiles Instance = new();

    public Stream Create(string path) => new FileStream(path, FileMode.Create, FileAccess.ReadWrite, FileShare.Read, bufferSize: 0);

    public void Sync(Stream file) => ((FileStream)file).Flush(flushToDisk: true);

    public void Rename(string from, string to) => File.Move(from, to, overwrite: true);

    public void Delete(string path) => File.Delete(path);

    public void SyncFolder(string folder)
    {
        if (OperatingSystem.IsWindows()) return;   // NTFS journals renames itself and has no such call
        int handle = OpenFolder(folder, 0);        // O_RDONLY, which every system numbers 0
        if (handle < 0) throw Failed(folder);
        try
        {
            // EINVAL: a file system without this notion (some network ones); there is nothing better to do there.
            if (Fsync(handle) != 0 && Marshal.GetLastPInvokeError() != 22) throw Failed(folder);
        }
        finally { _ = Close(handle); }
    }

    /// <summary>Replaces a small file: other readers see the old content or the new, never a part.</summary>
    public static void Replace(IFiles files, string path, ReadOnlySpan<byte> content)
    {
        string temporary = path + ".tmp";
        using (Stream file = files.Create(temporary))
        {
            file.Write(content);
            files.Sync(file);
        }
        files.Rename(temporary, path);
        files.SyncFolder(Path.GetDirectoryName(Path.GetFullPath(path))!);
    }

    /// <summary>True for "no space left on device", "disk quota exceeded" and "file too large".</summary>
    public static bool IsFull(IOException e) => e.HResult is 28 or 122 or 69 or 27 || (e.HResult & 0xFFFF) is 0x70 or 0x27;

    private static IOException Failed(string folder)
    {
        int errno = Marshal.GetLastPInvokeError();
        return new IOException($"{Marshal.GetPInvokeErrorMessage(errno)} : '{folder}'", errno);
    }

    [LibraryImport("libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int OpenFolder(string path, int flags);

    [LibraryImport("libc", EntryPoint = "fsync", SetLastError = true)]
    private static partial int Fsync(int handle);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int Close(int handle);
}
