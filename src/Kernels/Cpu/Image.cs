using System.Numerics;
using System.Numerics.Tensors;
using System.Runtime.CompilerServices;

namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    private const int PixelGrain = 16_384;   // bytes in a chunk: in and out stay in L1 and L2
    private const int BandRows = 96;         // a band computes two rows twice: 2 %; a 192-pixel crop is two bands
    private const int ImageScratch = 0;      // slot of the rows of FAST values

    /// <inheritdoc/>
    public override void NormalizeImages(Tensor y, Tensor x, ReadOnlySpan<float> mean, ReadOnlySpan<float> std)
    {
        int plane = x.Shape.D2 * x.Shape.D3, planes = x.Shape.D0 * 3, cut = Math.Min(plane, PixelGrain);
        if (plane == 0) return;
        int pieces = Rows.Chunks(plane, cut);
        // (x/255 − mean)/std as one multiply-add; the two constants are rounded once, from double.
        float* scale = stackalloc float[3], shift = stackalloc float[3];
        for (int c = 0; c < 3; c++) (scale[c], shift[c]) = ((float)(1.0 / (255.0 * std[c])), (float)(-(double)mean[c] / std[c]));
        switch (Level)
        {
            case SimdLevel.Vector512:
                _rows.For(planes * pieces, 1, new NormalizeRows<Lanes16>(y.F32, x.U8, plane, pieces, cut, scale, shift)); break;
            case SimdLevel.Vector256:
                _rows.For(planes * pieces, 1, new NormalizeRows<Lanes8>(y.F32, x.U8, plane, pieces, cut, scale, shift)); break;
            default:
                _rows.For(planes * pieces, 1, new NormalizeRows<Lanes1>(y.F32, x.U8, plane, pieces, cut, scale, shift)); break;
        }
    }

    private readonly struct NormalizeRows<TV>(float* y, byte* x, int plane, int pieces, int cut, float* scale, float* shift)
        : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            byte* rest = stackalloc byte[16];
            for (int unit = first; unit < last; unit++)
            {
                int p = unit / pieces, from = unit % pieces * cut, n = Math.Min(cut, plane - from);
                TV a = TV.All(scale[p % 3]), b = TV.All(shift[p % 3]);
                byte* source = x + (nint)p * plane + from;
                float* target = y + (nint)p * plane + from;
                int i = 0;
                for (; i <= n - TV.Count; i += TV.Count) TV.MulAdd(TV.LoadBytes(source + i), a, b).Store(target + i);
                if (i == n) continue;
                for (int k = 0; k < n - i; k++) rest[k] = source[i + k];
                TV.MulAdd(TV.LoadBytes(rest), a, b).StoreFirst(target + i, n - i);
            }
        }
    }

    /// <inheritdoc/>
    public override void Luma(Tensor gray, Tensor images, LumaWeights weights)
    {
        int plane = images.Shape.D2 * images.Shape.D3, count = images.Shape.D0, pieces = Rows.Chunks(plane, PixelGrain);
        bool small = (weights.R | weights.G | weights.B) is >= 0 and <= short.MaxValue;   // fits the 16-bit products of the vector forms
        switch (small ? Level : SimdLevel.Scalar)
        {
            case SimdLevel.Vector512: _rows.For(count * pieces, 1, new LumaRows<Bytes64>(gray.U8, images.U8, plane, pieces, weights)); break;
            case SimdLevel.Vector256: _rows.For(count * pieces, 1, new LumaRows<Bytes32>(gray.U8, images.U8, plane, pieces, weights)); break;
            default: _rows.For(count * pieces, 1, new LumaRows<Bytes1>(gray.U8, images.U8, plane, pieces, weights)); break;
        }
    }

    private readonly struct LumaRows<TB>(byte* gray, byte* images, int plane, int pieces, LumaWeights weights)
        : IRowKernel where TB : struct, IByteLanes<TB>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (int unit = first; unit < last; unit++)
            {
                int image = unit / pieces, i = unit % pieces * PixelGrain, end = Math.Min(plane, i + PixelGrain);
                byte* to = gray + (nint)image * plane;
                byte* r = images + (nint)image * 3 * plane, g = r + plane, b = g + plane;
                for (; i <= end - TB.Count; i += TB.Count) TB.Luma(to + i, r + i, g + i, b + i, weights);
                for (; i < end; i++) Bytes1.Luma(to + i, r + i, g + i, b + i, weights);
            }
        }
    }

    /// <inheritdoc/>
    public override void FastKeypoints(Tensor keypoints, Tensor gray, int threshold, FastType type, bool suppress)
    {
        System.Diagnostics.Debug.Assert(threshold is >= 0 and <= 254);
        switch (type)
        {
            case FastType.Type9_16: FastOver<Fast.Circle16>(keypoints, gray, (byte)threshold, suppress); break;
            case FastType.Type7_12: FastOver<Fast.Circle12>(keypoints, gray, (byte)threshold, suppress); break;
            default: FastOver<Fast.Circle8>(keypoints, gray, (byte)threshold, suppress); break;
        }
    }

    private void FastOver<TCircle>(Tensor keypoints, Tensor gray, byte threshold, bool suppress) where TCircle : struct, Fast.ICircle
    {
        // The widest vector that fits between the borders: a row's last vector overlaps the one before it, so one must fit.
        int inner = gray.Shape.D2 - 2 * Fast.Border;
        if (Level == SimdLevel.Vector512 && inner >= 64) FastOver<Bytes64, TCircle>(keypoints, gray, threshold, suppress);
        else if (Level >= SimdLevel.Vector256 && inner >= 32) FastOver<Bytes32, TCircle>(keypoints, gray, threshold, suppress);
        else if (Level >= SimdLevel.Vector256 && inner >= 16) FastOver<Bytes16, TCircle>(keypoints, gray, threshold, suppress);
        else FastOver<Bytes1, TCircle>(keypoints, gray, threshold, suppress);
    }

    private void FastOver<TB, TCircle>(Tensor keypoints, Tensor gray, byte threshold, bool suppress)
        where TB : struct, IByteLanes<TB> where TCircle : struct, Fast.ICircle
    {
        int count = gray.Shape.D0, height = gray.Shape.D1, width = gray.Shape.D2, bands = Rows.Chunks(height, BandRows);
        byte* rows = Scratch(ImageScratch, (long)count * bands * Fast.BandBytes(width, TB.Count));
        _rows.For(count * bands, 1,
            new FastBands<TB, TCircle>(keypoints.U8, gray.U8, rows, height, width, BandRows, bands, threshold, suppress));
    }

    /// <inheritdoc/>
    public override void MarkKeypoints(Tensor marks, Tensor keypoints, Mark mark)
    {
        int count = keypoints.Shape.D0, height = keypoints.Shape.D1, width = keypoints.Shape.D2, bands = Rows.Chunks(height, BandRows);
        _rows.For(count * bands, 1, new MarkBands(marks.U8, keypoints.U8, height, width, bands, mark));
    }

    /// <summary>
    /// A band clears its own rows, looks for keypoints up to four rows around them and paints what falls inside. Keypoints are few (one
    /// pixel in forty on photographs), so painting each one costs less than dilating every row.
    /// </summary>
    private readonly struct MarkBands(byte* marks, byte* keypoints, int height, int width, int bands, Mark mark) : IRowKernel
    {
        // Rows −4…+4 of the ring, least significant bit = dx −4 (SPEC A.4.1; the shape is symmetric).
        private static ReadOnlySpan<ushort> Ring => [0x038, 0x07C, 0x0FE, 0x1C7, 0x1C7, 0x1C7, 0x0FE, 0x07C, 0x038];

        // The same rows as bytes of 0 and 1 for dx −4…+3; dx +4 is painted in the three middle rows only.
        private static ReadOnlySpan<ulong> RingBytes =>
        [
            0x0000_0101_0100_0000, 0x0001_0101_0101_0000, 0x0101_0101_0101_0100,
            0x0101_0000_0001_0101, 0x0101_0000_0001_0101, 0x0101_0000_0001_0101,
            0x0101_0101_0101_0100, 0x0001_0101_0101_0000, 0x0000_0101_0100_0000,
        ];

        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int reach = mark == Mark.Ring ? 4 : 0;
            for (int unit = first; unit < last; unit++)
            {
                nint image = (nint)(unit / bands) * height * width;
                int top = unit % bands * BandRows, bottom = Math.Min(height, top + BandRows);
                byte* target = marks + image;
                Unsafe.InitBlockUnaligned(target + (nint)top * width, 0, (uint)((bottom - top) * width));
                for (int y = Math.Max(0, top - reach); y < Math.Min(height, bottom + reach); y++)
                    Scan(target, keypoints + image + (nint)y * width, y, top, bottom);
            }
        }

        private void Scan(byte* target, byte* row, int y, int top, int bottom)
        {
            int x = 0;
            for (; x <= width - 8; x += 8)
            {
                ulong eight = Unsafe.ReadUnaligned<ulong>(row + x);
                while (eight != 0)
                {
                    int k = BitOperations.TrailingZeroCount(eight) >> 3;
                    Paint(target, x + k, y, top, bottom);
                    eight &= ~(0xFFUL << (8 * k));
                }
            }
            for (; x < width; x++)
                if (row[x] != 0) Paint(target, x, y, top, bottom);
        }

        private void Paint(byte* target, int x, int y, int top, int bottom)
        {
            if (mark == Mark.Point)
            {
                target[(nint)y * width + x] = 1;
                return;
            }
            int from = Math.Max(top, y - 4), to = Math.Min(bottom - 1, y + 4);
            bool inside = x >= 4 && x < width - 4;
            for (int row = from; row <= to; row++)
            {
                byte* line = target + (nint)row * width;
                int dy = row - y + 4;
                if (inside)
                {
                    byte* eight = line + x - 4;
                    Unsafe.WriteUnaligned(eight, Unsafe.ReadUnaligned<ulong>(eight) | RingBytes[dy]);
                    eight[8] |= (byte)(Ring[dy] >> 8);
                }
                else
                {
                    for (int dx = Math.Max(-4, -x); dx <= Math.Min(4, width - 1 - x); dx++)
                        line[x + dx] |= (byte)(Ring[dy] >> (dx + 4) & 1);
                }
            }
        }
    }

    /// <inheritdoc/>
    public override void BoxDensity(Tensor density, Tensor marks, int cell)
    {
        int tasks = density.Shape.D0 * density.Shape.D1;
        if (Level == SimdLevel.Vector512) _rows.For(tasks, 8, new BoxRows<Bytes64>(density.F32, marks.U8, marks.Shape, density.Shape, cell));
        else if (Level == SimdLevel.Vector256) _rows.For(tasks, 8, new BoxRows<Bytes32>(density.F32, marks.U8, marks.Shape, density.Shape, cell));
        else _rows.For(tasks, 8, new BoxRows<Bytes1>(density.F32, marks.U8, marks.Shape, density.Shape, cell));
    }

    /// <summary>
    /// Cells whose side is a multiple of 8 are sums of columns of 8 bytes, which one instruction makes, over all rows of the cell; others
    /// are counted one by one. Sums are whole numbers, so their order does not matter.
    /// </summary>
    private readonly struct BoxRows<TB>(float* density, byte* marks, Shape picture, Shape cells, int cell)
        : IRowKernel where TB : struct, IByteLanes<TB>
    {
        private const int Columns = 512;   // bytes of a row that are summed at once: 64 sums of 8

        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int rows = cells.D1, cols = cells.D2, width = picture.D2;
            ulong* sums = stackalloc ulong[Columns / 8];
            int atOnce = cell % 8 == 0 && cell <= Columns ? Columns / cell : 1;   // cells
            float area = (float)((long)cell * cell);
            for (int r = first; r < last; r++)
            {
                byte* source = marks + ((nint)(r / rows) * picture.D1 + (nint)(r % rows) * cell) * width;
                float* to = density + (nint)r * cols;
                for (int c = 0; c < cols; c += atOnce)
                {
                    int n = Math.Min(atOnce, cols - c);
                    byte* line = source + (nint)c * cell;
                    if (cell % 8 != 0 || cell > Columns)
                    {
                        to[c] = Count(line, width) / area;
                        continue;
                    }
                    int x = 0, bytes = n * cell;
                    for (; x <= bytes - Math.Max(8, TB.Count); x += Math.Max(8, TB.Count)) TB.Eights(sums + x / 8, line + x, width, cell);
                    for (; x < bytes; x += 8) Bytes1.Eights(sums + x / 8, line + x, width, cell);
                    int eights = cell / 8;
                    for (int k = 0; k < n; k++)
                    {
                        ulong sum = 0;
                        for (int e = 0; e < eights; e++) sum += sums[k * eights + e];
                        to[c + k] = (int)sum / area;
                    }
                }
            }
        }

        private int Count(byte* line, int width)
        {
            int sum = 0;
            for (int y = 0; y < cell; y++, line += width)
                for (int x = 0; x < cell; x++) sum += line[x];
            return sum;
        }
    }

    /// <inheritdoc/>
    public override void KeypointWeights(Tensor weights, Tensor density, float temperature)
        => _rows.For(density.Shape.D0, 1, new WeightRows(weights.F32, density.F32, density.Shape.D1 * density.Shape.D2, temperature));

    private readonly struct WeightRows(float* weights, float* density, int cells, float temperature) : IRowKernel
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (int image = first; image < last; image++)
            {
                Span<float> w = new(weights + (nint)image * cells, cells);
                if (cells == 0) return;
                TensorPrimitives.Divide(new ReadOnlySpan<float>(density + (nint)image * cells, cells), temperature, w);
                TensorPrimitives.Clamp(w, -20f, 20f, w);
                TensorPrimitives.Exp(w, w);
                TensorPrimitives.Divide(w, TensorPrimitives.Min<float>(w), w);
            }
        }
    }
}
