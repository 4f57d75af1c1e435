using Microsoft.Win32.SafeHandles;

namespace MimEngine.Engine.Runs;

/// <summary>The bytes of a file, on disk or in memory, read at any place. Safe for concurrent reads.</summary>
internal sealed class ByteFile : IDisposable
{
    private readonly SafeFileHandle? _handle;
    private readonly ReadOnlyMemory<byte> _memory;

    /// <param name="name">What messages call it.</param>
    public ByteFile(ReadOnlyMemory<byte> memory, string name) => (_memory, Name, Length) = (memory, name, memory.Length);

    private ByteFile(SafeFileHandle handle, string name) => (_handle, Name, Length) = (handle, name, RandomAccess.GetLength(handle));

    public string Name { get; }

    public long Length { get; }

    /// <exception cref="WeightFileException">Missing or unreadable.</exception>
    public static ByteFile Open(string path)
    {
        SafeFileHandle? handle = null;
        try
        {
            handle = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete);
            return new ByteFile(handle, path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or NotSupportedException or ArgumentException)
        {
            handle?.Dispose();
            if (e is FileNotFoundException or DirectoryNotFoundException) throw new WeightFileException($"{path}: no such file.", e);
            throw new WeightFileException($"{path}: cannot be read ({e.Message.TrimEnd('.')}).", e);
        }
    }

    /// <summary>Fills <paramref name="destination"/> from byte <paramref name="position"/> on.</summary>
    /// <exception cref="WeightFileException">The file ends before, or cannot be read.</exception>
    public void ReadAt(long position, Span<byte> destination)
    {
        if (position < 0 || position > Length - destination.Length) throw Ended(position);
        if (_handle is null)
        {
            _memory.Span.Slice((int)position, destination.Length).CopyTo(destination);
            return;
        }
        while (destination.Length > 0)
        {
            int got;
            try { got = RandomAccess.Read(_handle, destination, position); }
            catch (IOException e) { throw new WeightFileException($"{Name}: cannot be read ({e.Message.TrimEnd('.')}).", e); }
            if (got == 0) throw Ended(position);
            position += got;
            destination = destination[got..];
        }
    }

    public void Dispose() => _handle?.Dispose();

    private WeightFileException Ended(long position) => new($"{Name}: the file ended at byte {position} while it was being read.");
}
