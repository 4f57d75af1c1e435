using System.Diagnostics;
using System.Text;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;

namespace MimEngine.Bench;

/// <summary>
/// <c>fast [picture.pgm [list.txt]]</c>: FAST 9_16 with suppression on one thread. Without a picture, block noise of 1920 × 1080.
/// <c>bench/opencv_fast.py</c> runs it beside OpenCV and compares the keypoints. The last lines are the mean of marks in 8 × 8 cells.
/// </summary>
internal static class FastBench
{
    private const int Rounds = 200;

    public static int Run(ReadOnlySpan<string> args)
    {
        (byte[] gray, int width, int height) = args.Length > 0 ? ReadPgm(args[0]) : (BlockNoise(1920, 1080, 8), 1920, 1080);
        foreach (SimdLevel level in Enum.GetValues<SimdLevel>().Where(l => l <= Simd.Best))
        {
            using CpuBackend backend = new(threads: 1, level);
            using Storage source = backend.Allocate(gray.Length), found = backend.Allocate(gray.Length);
            Tensor input = new(source, 0, new Shape(1, height, width), DType.U8), output = input with { Storage = found };
            gray.CopyTo(input.Host<byte>());
            Time(backend, output, input, FastType.Type9_16, false, level == SimdLevel.Scalar ? Rounds / 20 : Rounds);
            Time(backend, output, input, FastType.Type9_16, true, level == SimdLevel.Scalar ? Rounds / 20 : Rounds);
            Density(backend, input);
            if (args.Length > 1 && level == Simd.Best) WriteLists(backend, output, input, args[1]);
        }
        return 0;
    }

    private static void Time(CpuBackend backend, Tensor output, Tensor input, FastType type, bool suppress, int rounds)
    {
        double[] ms = new double[rounds];
        for (int i = -rounds / 10; i < rounds; i++)
        {
            long start = Stopwatch.GetTimestamp();
            backend.FastKeypoints(output, input, 10, type, suppress);
            if (i >= 0) ms[i] = Stopwatch.GetElapsedTime(start).TotalMilliseconds;
        }
        Array.Sort(ms);
        int count = input.Host<byte>().Length - output.Host<byte>().Count((byte)0);
        Console.WriteLine($"{backend.Level,-9} {(suppress ? "suppressed" : "raw"),-10} best {ms[0]:F3} ms  median {ms[rounds / 2]:F3} ms  {count} keypoints");
    }

    private static void Density(CpuBackend backend, Tensor gray)
    {
        (int height, int width) = (gray.Shape.D1, gray.Shape.D2);
        var cells = new Shape(1, height / 8, width / 8);
        using Storage marked = backend.Allocate(gray.Count), mean = backend.Allocate(4 * cells.Count);
        Tensor marks = gray with { Storage = marked }, density = new(mean, 0, cells, DType.F32);
        for (int i = 0; i < gray.Count; i++) marks.Host<byte>()[i] = (byte)(gray.Host<byte>()[i] & 1);
        double best = double.MaxValue;
        for (int i = 0; i < Rounds; i++)
        {
            long start = Stopwatch.GetTimestamp();
            backend.BoxDensity(density, marks, 8);
            best = Math.Min(best, Stopwatch.GetElapsedTime(start).TotalMicroseconds);
        }
        Console.WriteLine($"{backend.Level,-9} density 8x8 best {best:F1} us");
    }

    private static void WriteLists(CpuBackend backend, Tensor output, Tensor input, string path)
    {
        StringBuilder text = new();
        foreach (FastType type in Enum.GetValues<FastType>())
            foreach (bool suppress in new[] { false, true })
            {
                backend.FastKeypoints(output, input, 10, type, suppress);
                ReadOnlySpan<byte> values = output.Host<byte>();
                for (int i = 0; i < values.Length; i++)
                    if (values[i] != 0) text.Append($"{type} {(suppress ? 1 : 0)} {i % input.Shape.Cols} {i / input.Shape.Cols} {values[i] - 1}\n");
            }
        File.WriteAllText(path, text.ToString());
    }

    /// <summary>Binary PGM with 8 bits and without comments, as opencv_fast.py writes it.</summary>
    private static (byte[] Gray, int Width, int Height) ReadPgm(string path)
    {
        byte[] file = File.ReadAllBytes(path);
        string[] words = Encoding.ASCII.GetString(file, 0, Math.Min(64, file.Length)).Split((char[])[' ', '\n'], 5);
        int width = int.Parse(words[1]), height = int.Parse(words[2]);
        return words[0] == "P5" && words[3] == "255" ? (file[^(width * height)..], width, height)
            : throw new InvalidDataException($"{path}: a binary 8-bit PGM was expected.");
    }

    /// <summary>Hashed blocks, smoothed by a 5×5 mean: corners on a third of all pixels, the hard case.</summary>
    private static byte[] BlockNoise(int width, int height, int block)
    {
        byte[] raw = new byte[width * height], smooth = new byte[width * height];
        for (int i = 0; i < raw.Length; i++)
        {
            uint h = unchecked((uint)(i / width / block * width + i % width / block) * 2654435761u);
            h = unchecked((h ^ h >> 15) * 2246822519u);
            raw[i] = (byte)(h ^ h >> 13);
        }
        for (int i = 0; i < raw.Length; i++)
        {
            int sum = 0, x = i % width, y = i / width;
            for (int k = 0; k < 25; k++) sum += raw[Math.Clamp(y + k / 5 - 2, 0, height - 1) * width + Math.Clamp(x + k % 5 - 2, 0, width - 1)];
            smooth[i] = (byte)(sum / 25);
        }
        return smooth;
    }
}
