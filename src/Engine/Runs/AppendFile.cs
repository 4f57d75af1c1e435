using System.Buffers;

namespace MimEngine.Engine.Runs;

/// <summary>
/// A file that grows by whole pieces and outlives a full disk: what cannot be written is kept and written before the next piece, and the
/// file never ends in a part of one.
/// </summary>
/// <param name="file">Unbuffered, at its end.</param>
internal sealed class AppendFile(Stream file, string name) : IDisposable
{
    private const int MostKept = 1 << 20;   // a day of metrics; pictures are dropped instead

    private readonly ArrayBufferWriter<byte> _kept = new();
    private long _length = file.Position;

    /// <summary>Why pieces wait, a sentence; none when all is written.</summary>
    public string? Trouble { get; private set; }

    /// <summary>Adds a piece.</summary>
    /// <exception cref="IOException">An error other than a full disk.</exception>
    public void Append(ReadOnlySpan<byte> piece)
    {
        WriteKept();
        if (_kept.WrittenCount == 0 && TryWrite(piece)) Trouble = null;
        else if (_kept.WrittenCount + piece.Length <= MostKept) _kept.Write(piece);
    }

    /// <summary>Returns when everything but what a full disk holds back is on the disk.</summary>
    public void Sync()
    {
        WriteKept();
        try
        {
            if (file is FileStream stream) stream.Flush(flushToDisk: true);
        }
        catch (IOException e) when (DiskFiles.IsFull(e)) { Complain(e); }
    }

    public void Dispose()
    {
        WriteKept();
        file.Dispose();
    }

    private void WriteKept()
    {
        if (_kept.WrittenCount == 0 || !TryWrite(_kept.WrittenSpan)) return;
        _kept.ResetWrittenCount();
        Trouble = null;
    }

    private bool TryWrite(ReadOnlySpan<byte> bytes)
    {
        try
        {
            file.Write(bytes);
            _length += bytes.Length;
            return true;
        }
        catch (IOException e) when (DiskFiles.IsFull(e))
        {
            Complain(e);
            file.SetLength(_length);   // a part of it may have found room
            file.Position = _length;
            return false;
        }
    }

    private void Complain(IOException e) => Trouble = $"{name}: cannot be written now ({e.Message.TrimEnd('.')}); its lines are kept until it can.";
}
