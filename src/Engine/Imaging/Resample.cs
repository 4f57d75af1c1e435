using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace MimEngine.Engine.Imaging;

/// <summary>How pixels between pixels are made.</summary>
public enum Interpolation : byte
{
    /// <summary>Triangle: two neighbours an axis.</summary>
    Bilinear,

    /// <summary>Cubic convolution: four neighbours an axis; a = −0.5 with antialias (Pillow), −0.75 without (PyTorch).</summary>
    Bicubic,
}

/// <summary>A rectangle of pixels.</summary>
public readonly record struct CropBox(int Left, int Top, int Width, int Height)
{
    /// <summary>A whole picture.</summary>
    public static CropBox Of(RgbImage image) => new(0, 0, image.Width, image.Height);
}

/// <summary>
/// Cuts a box out of a picture and resizes it, half-pixel centres, in one pass over the rows that matter. Two families, as the papers'
/// pipelines used them: with antialias, Pillow's resize bit for bit (filter widened when shrinking, 22-bit fixed point, rounded to bytes
/// after the horizontal pass); without, PyTorch's interpolate on float32, rounded half to even (SPEC A.1, J.3).
/// </summary>
/// <remarks>One per thread: it owns the rows in flight and allocates nothing once they fit the largest picture.</remarks>
public sealed class Resampler
{
    private readonly ResampleTable _across = new(), _down = new();
    private float[] _floats = [];    // rows in flight, R G B 0 per pixel
    private uint[] _bytes = [];      // the same as bytes
    private uint[] _line = [];       // one output row, R G B 0 in a word
    private int[] _held = [];        // source row in each slot, −1 = none

    /// <summary>A square crop, resized to size × size.</summary>
    /// <param name="planar">(3, size, size), written.</param>
    /// <param name="mirror">Left and right exchanged.</param>
    /// <param name="flip">Top and bottom exchanged.</param>
    public void Crop(RgbImage from, CropBox box, int size, Interpolation interpolation, bool antialias, Span<byte> planar,
        bool mirror = false, bool flip = false)
        => Crop(from, box, size, size, new CropBox(0, 0, size, size), interpolation, antialias, planar, mirror, flip);

    /// <summary>Resizes a box to width × height and writes a window of the result.</summary>
    /// <param name="window">Inside width × height.</param>
    /// <param name="planar">(3, window.Height, window.Width), written.</param>
    /// <exception cref="ArgumentOutOfRangeException">A box outside the picture, a window outside the result, or too little room.</exception>
    public void Crop(RgbImage from, CropBox box, int width, int height, CropBox window, Interpolation interpolation, bool antialias,
        Span<byte> planar, bool mirror = false, bool flip = false)
    {
        Check(from, box, width, height, window, planar);
        _across.Fill(box.Width, width, window.Left, window.Width, interpolation, antialias);
        _down.Fill(box.Height, height, window.Top, window.Height, interpolation, antialias);
        // Rows are padded to whole vectors of 8 pixels; the last slot is the row that one more output line may need.
        int padded = (window.Width + 7) & ~7, slots = _down.Taps;
        if (_line.Length < padded) _line = new uint[padded];
        if (_held.Length < slots) _held = new int[slots];
        _held.AsSpan(0, slots).Fill(-1);
        if (antialias && _bytes.Length < slots * padded) _bytes = new uint[slots * padded];
        if (!antialias && _floats.Length < slots * padded * 4) _floats = new float[slots * padded * 4];

        for (int y = 0; y < window.Height; y++)
        {
            int first = _down.First[y];
            for (int k = 0; k < _down.Count[y]; k++) Load(from, box, first + k, slots, padded, window.Width, antialias);
            if (antialias) BlendBytes(y, slots, padded);
            else BlendFloats(y, slots, padded);
            Split(_line.AsSpan(0, window.Width), planar, window, flip ? window.Height - 1 - y : y, mirror);
        }
    }

    private static void Check(RgbImage from, CropBox box, int width, int height, CropBox window, ReadOnlySpan<byte> planar)
    {
        static bool Inside(CropBox b, int w, int h) => b.Left >= 0 && b.Top >= 0 && b.Width > 0 && b.Height > 0
            && (long)b.Left + b.Width <= w && (long)b.Top + b.Height <= h;
        if (!Inside(box, from.Width, from.Height))
            throw new ArgumentOutOfRangeException(nameof(box), $"Crop: {box} does not lie in a picture of {from.Width} × {from.Height}.");
        if (!Inside(window, width, height))
            throw new ArgumentOutOfRangeException(nameof(window), $"Crop: {window} does not lie in a result of {width} × {height}.");
        if (planar.Length < 3L * window.Width * window.Height)
            throw new ArgumentOutOfRangeException(nameof(planar), $"Crop: {planar.Length} bytes for 3 × {window.Height} × {window.Width}.");
    }

    /// <summary>Makes sure that source row <paramref name="row"/> of the box, resized horizontally, is in its slot.</summary>
    private void Load(RgbImage from, CropBox box, int row, int slots, int padded, int width, bool antialias)
    {
        int slot = row % slots;   // consecutive rows, at most as many as slots
        if (_held[slot] == row) return;
        _held[slot] = row;
        ReadOnlySpan<byte> source = from.Row(box.Top + row).Slice(box.Left * 3, box.Width * 3);
        if (antialias) AcrossBytes(source, _bytes.AsSpan(slot * padded, width));
        else AcrossFloats(source, _floats.AsSpan(slot * padded * 4, width * 4));
    }

    /// <summary>Pillow's horizontal pass: out = clip8((2²¹ + Σ k·x) &gt;&gt; 22).</summary>
    private void AcrossBytes(ReadOnlySpan<byte> source, Span<uint> row)
    {
        ref byte start = ref MemoryMarshal.GetReference(source);
        ReadOnlySpan<int> weights = _across.Fixed;
        for (int x = 0; x < row.Length; x++)
        {
            int first = _across.First[x], count = _across.Count[x];
            Vector128<int> sum = Vector128.Create(1 << (ResampleTable.Bits - 1));
            ReadOnlySpan<int> w = weights.Slice(x * _across.Taps, count);
            for (int k = 0; k < w.Length; k++) sum += Pixel(ref start, first + k, source.Length) * Vector128.Create(w[k]);
            sum = Vector128.Clamp(sum >> ResampleTable.Bits, Vector128<int>.Zero, Vector128.Create(255));
            row[x] = (uint)(sum[0] | sum[1] << 8 | sum[2] << 16);
        }
    }

    private void AcrossFloats(ReadOnlySpan<byte> source, Span<float> row)
    {
        ref byte start = ref MemoryMarshal.GetReference(source);
        int taps = _across.Taps;
        for (int x = 0; x < row.Length / 4; x++)
        {
            int first = _across.First[x];
            ReadOnlySpan<float> w = _across.Float.Slice(x * taps, _across.Count[x]);
            Vector128<float> sum = Vector128<float>.Zero;
            for (int k = 0; k < w.Length; k++)
                sum += Vector128.ConvertToSingle(Pixel(ref start, first + k, source.Length)) * Vector128.Create(w[k]);
            sum.StoreUnsafe(ref row[4 * x]);
        }
    }

    /// <summary>R, G, B and anything, as integers. The fourth byte belongs to the next pixel, so the last pixel is put together.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<int> Pixel(ref byte row, int x, int length)
    {
        ref byte at = ref Unsafe.Add(ref row, x * 3);
        uint word = x * 3 + 4 <= length ? Unsafe.ReadUnaligned<uint>(ref at)
            : (uint)(at | Unsafe.Add(ref at, 1) << 8 | Unsafe.Add(ref at, 2) << 16);
        return Vector128.WidenLower(Vector128.WidenLower(Vector128.CreateScalar(word).AsByte())).AsInt32();
    }

    private void BlendBytes(int y, int slots, int padded)
    {
        int first = _down.First[y];
        ReadOnlySpan<int> weights = _down.Fixed.Slice(y * _down.Taps, _down.Count[y]);
        for (int x = 0; x < padded; x += 8)
        {
            Vector256<int> a = Vector256.Create(1 << (ResampleTable.Bits - 1)), b = a, c = a, d = a;
            for (int k = 0; k < weights.Length; k++)
            {
                Vector256<int> w = Vector256.Create(weights[k]);
                Vector256<byte> pixels = Vector256.LoadUnsafe(ref _bytes[(first + k) % slots * padded + x]).AsByte();
                (Vector256<ushort> low, Vector256<ushort> high) = Vector256.Widen(pixels);
                a += Vector256.WidenLower(low).AsInt32() * w;
                b += Vector256.WidenUpper(low).AsInt32() * w;
                c += Vector256.WidenLower(high).AsInt32() * w;
                d += Vector256.WidenUpper(high).AsInt32() * w;
            }
            Pack(a >> ResampleTable.Bits, b >> ResampleTable.Bits, c >> ResampleTable.Bits, d >> ResampleTable.Bits)
                .AsUInt32().StoreUnsafe(ref _line[x]);
        }
    }

    private void BlendFloats(int y, int slots, int padded)
    {
        int first = _down.First[y];
        ReadOnlySpan<float> weights = _down.Float.Slice(y * _down.Taps, _down.Count[y]);
        for (int x = 0; x < padded; x += 8)
        {
            Vector256<float> a = Vector256<float>.Zero, b = a, c = a, d = a;
            for (int k = 0; k < weights.Length; k++)
            {
                Vector256<float> w = Vector256.Create(weights[k]);
                ref float at = ref _floats[((first + k) % slots * padded + x) * 4];
                a += Vector256.LoadUnsafe(ref at) * w;
                b += Vector256.LoadUnsafe(ref at, 8) * w;
                c += Vector256.LoadUnsafe(ref at, 16) * w;
                d += Vector256.LoadUnsafe(ref at, 24) * w;
            }
            Pack(Nearest(a), Nearest(b), Nearest(c), Nearest(d)).AsUInt32().StoreUnsafe(ref _line[x]);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<int> Nearest(Vector256<float> v) => Vector256.ConvertToInt32(Vector256.Round(v, MidpointRounding.ToEven));

    /// <summary>Four vectors of integers to one of bytes, clipped to 0…255, in order.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<byte> Pack(Vector256<int> a, Vector256<int> b, Vector256<int> c, Vector256<int> d)
    {
        Vector256<int> zero = Vector256<int>.Zero, most = Vector256.Create(255);
        Vector256<short> low = Vector256.Narrow(Vector256.Clamp(a, zero, most), Vector256.Clamp(b, zero, most));
        Vector256<short> high = Vector256.Narrow(Vector256.Clamp(c, zero, most), Vector256.Clamp(d, zero, most));
        return Vector256.Narrow(low.AsUInt16(), high.AsUInt16());
    }

    private static void Split(ReadOnlySpan<uint> line, Span<byte> planar, CropBox window, int y, bool mirror)
    {
        int plane = window.Width * window.Height;
        Span<byte> r = planar.Slice(y * window.Width, window.Width), g = planar.Slice(plane + y * window.Width, window.Width);
        Span<byte> b = planar.Slice(2 * plane + y * window.Width, window.Width);
        int x = 0;
        for (; x <= line.Length - 32; x += 32)
        {
            ref uint at = ref Unsafe.AsRef(in line[x]);
            Vector256<uint> p = Vector256.LoadUnsafe(ref at), q = Vector256.LoadUnsafe(ref at, 8);
            Vector256<uint> s = Vector256.LoadUnsafe(ref at, 16), t = Vector256.LoadUnsafe(ref at, 24);
            Channel(p, q, s, t, 0).StoreUnsafe(ref r[x]);
            Channel(p, q, s, t, 8).StoreUnsafe(ref g[x]);
            Channel(p, q, s, t, 16).StoreUnsafe(ref b[x]);
        }
        for (; x < line.Length; x++) (r[x], g[x], b[x]) = ((byte)line[x], (byte)(line[x] >> 8), (byte)(line[x] >> 16));
        if (!mirror) return;
        r.Reverse();
        g.Reverse();
        b.Reverse();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<byte> Channel(Vector256<uint> p, Vector256<uint> q, Vector256<uint> s, Vector256<uint> t, int shift)
    {
        Vector256<uint> one = Vector256.Create(255u);
        return Vector256.Narrow(Vector256.Narrow(p >>> shift & one, q >>> shift & one), Vector256.Narrow(s >>> shift & one, t >>> shift & one));
    }
}
