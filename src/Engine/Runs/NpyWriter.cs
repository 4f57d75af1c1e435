using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;

namespace MimEngine.Engine.Runs;

/// <summary>Writes float32 rows as NumPy's <c>.npy</c>, version 1.0, row by row, so that none is held in memory.</summary>
public sealed class NpyWriter : IDisposable
{
    private const int Alignment = 64;
    private readonly FileStream _file;
    private readonly string _path;
    private readonly int _columns;
    private long _missing;

    /// <param name="path">Made or replaced once all rows are written.</param>
    /// <param name="row">Extents of one row: (rows, C), or (rows, T, C).</param>
    public NpyWriter(string path, long rows, params ReadOnlySpan<int> row)
    {
        (_path, _columns, _missing) = (path, 1, rows);
        string extents = rows.ToString(CultureInfo.InvariantCulture);
        foreach (int extent in row)
        {
            _columns = checked(_columns * extent);
            extents += ", " + extent.ToString(CultureInfo.InvariantCulture);
        }
        string shape = $"{{'descr': '<f4', 'fortran_order': False, 'shape': ({extents}), }}";
        int length = (10 + shape.Length + 1 + Alignment - 1) / Alignment * Alignment - 10;
        _file = new FileStream(Temporary, FileMode.Create, FileAccess.Write, FileShare.Read, bufferSize: 1 << 16);
        _file.Write([0x93, .. "NUMPY"u8, 1, 0, (byte)length, (byte)(length >> 8)]);
        _file.Write(Encoding.ASCII.GetBytes(shape.PadRight(length - 1) + "\n"));
    }

    private string Temporary => _path + ".tmp";

    /// <summary>Appends rows.</summary>
    /// <exception cref="ArgumentException">No whole number of rows, or more than were announced.</exception>
    public void Write(ReadOnlySpan<float> rows)
    {
        if (rows.Length % _columns != 0 || (_missing -= rows.Length / _columns) < 0)
            throw new ArgumentException($"{rows.Length} numbers are no rows of {_columns}, or too many.", nameof(rows));
        _file.Write(MemoryMarshal.AsBytes(rows));
    }

    /// <summary>Ends the file and gives it its name.</summary>
    /// <exception cref="InvalidOperationException">Rows are missing.</exception>
    public void Complete()
    {
        if (_missing != 0) throw new InvalidOperationException($"{_missing} rows are missing.");
        _file.Flush(flushToDisk: true);
        _file.Dispose();
        File.Move(Temporary, _path, overwrite: true);
    }

    /// <summary>Removes an incomplete file.</summary>
    public void Dispose()
    {
        _file.Dispose();
        File.Delete(Temporary);
    }
}
