using MimEngine.Engine.Runs;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>The pictures, a plain rewriting of the definition, and the tensors of KAMIM's chain.</summary>
public partial class ImageKernelTests
{
    /// <summary>The definition, pixel by pixel: largest t such that an arc is all ≥ t brighter or all ≥ t darker.</summary>
    private static byte[] Definition(byte[] gray, int count, int height, int width, int threshold, FastType type, bool suppress)
    {
        (int X, int Y)[] circle = type switch
        {
            FastType.Type9_16 => [(0, 3), (1, 3), (2, 2), (3, 1), (3, 0), (3, -1), (2, -2), (1, -3),
                (0, -3), (-1, -3), (-2, -2), (-3, -1), (-3, 0), (-3, 1), (-2, 2), (-1, 3)],
            FastType.Type7_12 => [(0, 2), (1, 2), (2, 1), (2, 0), (2, -1), (1, -2), (0, -2), (-1, -2), (-2, -1), (-2, 0), (-2, 1), (-1, 2)],
            _ => [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)],
        };
        byte[] values = new byte[gray.Length], kept = new byte[gray.Length];
        for (int i = 0; i < gray.Length; i++)
        {
            int x = i % width, y = i / width % height, best = 0;
            if (x < 3 || x > width - 4 || y < 3 || y > height - 4) continue;
            for (int start = 0; start < circle.Length; start++)
            {
                int least = 255, most = -255;
                for (int k = 0; k <= circle.Length / 2; k++)
                {
                    (int dx, int dy) = circle[(start + k) % circle.Length];
                    int d = gray[i] - gray[i + dy * width + dx];
                    (least, most) = (Math.Min(least, d), Math.Max(most, d));
                }
                if (OpenCvAgrees(+1)) best = Math.Max(best, least);
                if (OpenCvAgrees(-1)) best = Math.Max(best, -most);
            }
            values[i] = (byte)(best > threshold ? best : 0);

            bool OpenCvAgrees(int sign)
            {
                bool all = true;
                for (int k = 0; k < 8; k++) all &= Differs(k) || Differs((k + 8) % circle.Length);
                return all;
                bool Differs(int k) => sign * (gray[i] - gray[i + circle[k].Y * width + circle[k].X]) > threshold;
            }
        }
        if (!suppress) return values;
        for (int i = 0; i < gray.Length; i++)
        {
            if (values[i] == 0) continue;   // a corner is never at the border, so all neighbours exist
            bool largest = true;
            for (int k = 0; k < 9; k++) largest &= k == 4 || values[i] > values[i + (k / 3 - 1) * width + k % 3 - 1];
            if (largest) kept[i] = values[i];
        }
        return kept;
    }

    private static bool InRing(int dx, int dy)
    {
        ReadOnlySpan<int> outer = [4, 4, 4, 3, 1];   // largest |dx| for |dy| of 0…4, where 3 and 4 reach less
        (dx, dy) = (Math.Abs(dx), Math.Abs(dy));
        if (dy > 4) return false;
        int reach = dy == 3 ? 2 : dy == 2 ? 3 : outer[dy];
        return dx <= reach && (dy > 1 || dx > 1);
    }

    private static void Smooth(byte[] pixels, int width)
    {
        for (int i = pixels.Length - 1; i > width; i--) pixels[i] = (byte)((pixels[i] + pixels[i - 1] + pixels[i - width] * 2) / 4);
    }

    /// <summary>SPEC A.4.3, P6: hashed blocks, then a 5×5 mean with edge replication and integer division.</summary>
    private static Func<int, int, int, int> BlockNoise(int width, int height, int block)
    {
        byte[] raw = new byte[width * height * 3];
        for (int i = 0; i < raw.Length; i++)
        {
            int c = i % 3, x = i / 3 % width, y = i / 3 / width;
            uint h = unchecked((uint)((y / block * 192 + x / block) * 3 + c) * 2654435761u);
            h = unchecked((h ^ h >> 15) * 2246822519u);
            raw[i] = (byte)(h ^ h >> 13);
        }
        return (x, y, c) =>
        {
            int sum = 0;
            for (int k = 0; k < 25; k++)
                sum += raw[(Math.Clamp(y + k / 5 - 2, 0, height - 1) * width + Math.Clamp(x + k % 5 - 2, 0, width - 1)) * 3 + c];
            return sum / 25;
        };
    }

    private static byte[] Ring(int width, int height, params (int X, int Y)[] keypoints) => Painted(width, height, Mark.Ring, keypoints);

    private static byte[] Painted(int width, int height, Mark mark, params (int X, int Y)[] keypoints)
    {
        using CpuBackend backend = new(2);
        using Device points = new(backend, new Shape(1, height, width), DType.U8), marks = new(backend, new Shape(1, height, width), DType.U8);
        foreach ((int x, int y) in keypoints) points.Tensor.Host<byte>()[y * width + x] = 9;
        marks.Tensor.Host<byte>().Fill(0xEE);
        backend.MarkKeypoints(marks.Tensor, points.Tensor, mark);
        return marks.Tensor.Host<byte>().ToArray();
    }

    private static byte[] Signs(ReadOnlySpan<byte> drawn)
    {
        byte[] signs = new byte[drawn.Length];
        for (int i = 0; i < signs.Length; i++) signs[i] = (byte)(drawn[i] > 0 ? 1 : 0);
        return signs;
    }

    private static void AssertRelative(ReadOnlySpan<float> actual, ReadOnlySpan<float> expected, double tolerance, string what)
    {
        Assert.That(actual.Length, Is.EqualTo(expected.Length), what);
        for (int i = 0; i < actual.Length; i++)
            Assert.That(actual[i], Is.EqualTo(expected[i]).Within(expected[i] * tolerance), $"{what}, element {i}");
    }

    private sealed class Device(Backend backend, Shape shape, DType dtype) : IDisposable
    {
        private readonly Storage _storage = backend.Allocate(shape.Count * dtype.Size());
        public Tensor Tensor => new(_storage, 0, shape, dtype);
        public void Dispose() => _storage.Dispose();
    }

    /// <summary>One picture on a backend, with the tensors of KAMIM's chain.</summary>
    private sealed class Picture : IDisposable
    {
        private readonly Device _rgb, _gray, _keypoints, _marks;
        private readonly int _width, _height;
        public readonly CpuBackend Backend;

        public Picture(SimdLevel level, int width, int height, Func<int, int, int, int> pixel, int threads = 2)
        {
            (_width, _height, Backend) = (width, height, new CpuBackend(threads, level));
            _rgb = new Device(Backend, new Shape(1, 3, height, width), DType.U8);
            _gray = new Device(Backend, new Shape(1, height, width), DType.U8);
            _keypoints = new Device(Backend, new Shape(1, height, width), DType.U8);
            _marks = new Device(Backend, new Shape(1, height, width), DType.U8);
            Span<byte> planar = Rgb.Host<byte>();
            for (int i = 0; i < planar.Length; i++)
                planar[i] = (byte)pixel(i % width, i / width % height, i / width / height);
        }

        public Picture(SimdLevel level, SafeTensors golden, string name)
            : this(level, (int)golden[name].Shape[1], (int)golden[name].Shape[0], Interleaved(golden.Bytes(name), (int)golden[name].Shape[1])) { }

        public Tensor Rgb => _rgb.Tensor;
        public Tensor Gray => _gray.Tensor;
        public Tensor Keypoints => _keypoints.Tensor;
        public Tensor Marks => _marks.Tensor;
        public int GraySum => Sum(Gray);
        public int ResponseSum => Sum(Keypoints) - Count();

        /// <summary>(x, y, response) of every keypoint, in raster order.</summary>
        public float[] List()
        {
            List<float> list = [];
            ReadOnlySpan<byte> k = Keypoints.Host<byte>();
            for (int i = 0; i < k.Length; i++)
                if (k[i] != 0) list.AddRange([i % _width, i / _width, k[i] - 1]);
            return [.. list];
        }

        public byte[] Bitmap() => Signs(Keypoints.Host<byte>());

        public int Detect()
        {
            Backend.Luma(Gray, Rgb, LumaWeights.KamimCompat);
            Backend.FastKeypoints(Keypoints, Gray, 10, FastType.Type9_16, suppress: true);
            return Count();
        }

        public int RawCorners()
        {
            Backend.FastKeypoints(Keypoints, Gray, 10, FastType.Type9_16, suppress: false);
            return Count();
        }

        public int MarkSum()
        {
            Backend.MarkKeypoints(Marks, Keypoints, Mark.Ring);
            return Sum(Marks);
        }

        public float[] Weights(int cell, float temperature)
        {
            using Device density = new(Backend, new Shape(1, _height / cell, _width / cell), DType.F32);
            using Device weights = new(Backend, density.Tensor.Shape, DType.F32);
            Backend.BoxDensity(density.Tensor, Marks, cell);
            Backend.KeypointWeights(weights.Tensor, density.Tensor, temperature);
            return weights.Tensor.Host<float>().ToArray();
        }

        public void Dispose()
        {
            _rgb.Dispose();
            _gray.Dispose();
            _keypoints.Dispose();
            _marks.Dispose();
            Backend.Dispose();
        }

        private int Count() => Keypoints.Host<byte>().Length - Keypoints.Host<byte>().Count((byte)0);

        private static int Sum(Tensor bytes)
        {
            int sum = 0;
            foreach (byte v in bytes.Host<byte>()) sum += v;
            return sum;
        }

        private static Func<int, int, int, int> Interleaved(byte[] pixels, int width) => (x, y, c) => pixels[(y * width + x) * 3 + c];
    }
}
