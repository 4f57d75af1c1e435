using MimEngine.Engine.Runs;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Keypoints, marks and weights against the authors' tensors, a plain rewriting of the definition, and each other.</summary>
[TestFixture]
public partial class ImageKernelTests
{
    private static readonly SimdLevel[] Levels = [.. Enum.GetValues<SimdLevel>().Where(l => l <= Simd.Best)];
    private static readonly string[] Pictures =
        ["astronaut_192", "chelsea_144", "coffee_96", "rocket_128", "china_128x176", "astronaut_suit_208", "coins_64"];
    private static readonly (string Name, FastType Type)[] Types =
        [("t58", FastType.Type5_8), ("t712", FastType.Type7_12), ("t916", FastType.Type9_16)];

    private static SafeTensors Golden(string name)
        => SafeTensors.Open(Path.Combine(TestContext.CurrentContext.TestDirectory, "Goldens", "02_kamim_weights", name + ".safetensors"));

    [Test]
    public void Photographs_give_the_authors_gray_values_keypoints_rings_densities_and_weights(
        [ValueSource(nameof(Pictures))] string name, [ValueSource(nameof(Levels))] SimdLevel level)
    {
        using SafeTensors golden = Golden(name);
        using Picture p = new(level, golden, "in.image_u8");
        p.Backend.Luma(p.Gray, p.Rgb, LumaWeights.KamimCompat);
        Assert.That(p.Gray.Host<byte>().ToArray(), Is.EqualTo(golden.Bytes("mid.gray_u8_as_opencv_sees_it")));

        p.Backend.FastKeypoints(p.Keypoints, p.Gray, 10, FastType.Type9_16, suppress: true);
        Assert.That(p.List(), Is.EqualTo(golden.Floats("kp.fast_default")));
        p.Backend.MarkKeypoints(p.Marks, p.Keypoints, Mark.Ring);
        Assert.That(p.Marks.Host<byte>().ToArray(), Is.EqualTo(golden.Bytes("mid.fast.feat01")));

        foreach (TensorEntry entry in golden.Entries.Where(e => e.Name.StartsWith("mid.fast.density.w", StringComparison.Ordinal)))
        {
            int cell = int.Parse(entry.Name["mid.fast.density.w".Length..]);
            using Device density = new(p.Backend, new Shape(1, (int)entry.Shape[0], (int)entry.Shape[1]), DType.F32);
            using Device weights = new(p.Backend, density.Tensor.Shape, DType.F32);
            p.Backend.BoxDensity(density.Tensor, p.Marks, cell);
            Assert.That(density.Tensor.Host<float>().ToArray(), Is.EqualTo(golden.Floats(entry.Name)).Within(1e-6f), entry.Name);
            string prefix = $"out.fast.W.w{cell}.T";
            foreach (TensorEntry w in golden.Entries.Where(e => e.Name.StartsWith(prefix, StringComparison.Ordinal)))
            {
                p.Backend.KeypointWeights(weights.Tensor, density.Tensor, float.Parse(w.Name[prefix.Length..]));
                AssertRelative(weights.Tensor.Host<float>(), golden.Floats(w.Name), 2e-5, w.Name);
            }
        }
    }

    [Test]
    public void Every_circle_and_threshold_gives_the_corners_of_opencv(
        [Values("coffee_96", "coins_64")] string name, [ValueSource(nameof(Levels))] SimdLevel level)
    {
        using SafeTensors golden = Golden(name);
        using Picture p = new(level, golden, "in.image_u8");
        p.Backend.Luma(p.Gray, p.Rgb, LumaWeights.KamimCompat);
        foreach ((string label, FastType type) in Types)
            foreach (int threshold in new[] { 10, 20, 40 })
            {
                string key = $"kp.fast.{label}.thr{threshold}";
                p.Backend.FastKeypoints(p.Keypoints, p.Gray, threshold, type, suppress: true);
                Assert.That(p.List(), Is.EqualTo(golden.Floats(key + ".nms")), key);
                p.Backend.FastKeypoints(p.Keypoints, p.Gray, threshold, type, suppress: false);
                Assert.That(p.Bitmap(), Is.EqualTo(golden.Bytes(key + ".nonms_bitmap")), key);
            }
    }

    [Test]
    public void Edge_pictures_give_the_authors_keypoints_and_weights(
        [Values("constant", "noise", "dot", "checker", "seven", "six", "gradient", "square", "plateau")] string name,
        [ValueSource(nameof(Levels))] SimdLevel level)
    {
        using SafeTensors golden = Golden("edge_images");
        using Picture p = new(level, golden, "in." + name);
        p.Backend.Luma(p.Gray, p.Rgb, LumaWeights.KamimCompat);
        foreach (int threshold in new[] { 1, 10, 60 })
        {
            p.Backend.FastKeypoints(p.Keypoints, p.Gray, threshold, FastType.Type9_16, suppress: true);
            Assert.That(p.List(), Is.EqualTo(golden.Floats($"kp.{name}.thr{threshold}")), $"threshold {threshold}");
        }
        p.Backend.FastKeypoints(p.Keypoints, p.Gray, 10, FastType.Type9_16, suppress: false);
        Assert.That(p.Bitmap(), Is.EqualTo(golden.Bytes($"kp.{name}.nonms_bitmap")));
        p.Backend.FastKeypoints(p.Keypoints, p.Gray, 10, FastType.Type9_16, suppress: true);
        p.Backend.MarkKeypoints(p.Marks, p.Keypoints, Mark.Ring);
        Assert.That(p.Marks.Host<byte>().ToArray(), Is.EqualTo(golden.Bytes($"mid.{name}.feat01")));
        foreach (string t in new[] { "0.01", "0.25" })
            if (golden.Contains($"out.{name}.W.w8.T{t}"))
                AssertRelative(p.Weights(8, float.Parse(t)), golden.Floats($"out.{name}.W.w8.T{t}"), 2e-5, t);
    }

    [Test]
    public void Rings_at_the_border_are_those_that_opencv_draws()
    {
        using SafeTensors golden = Golden("drawkeypoints_stamp");
        float[] at = golden.Floats("in.border_xy"), overlap = golden.Floats("in.overlap_xy");
        byte[] drawn = golden.Bytes("out.border_drawn");
        const int side = 21, area = side * side;
        // FAST finds nothing closer to the border than 3, and only there OpenCV's clipping of line segments differs from ours of pixels.
        int[] reachable = [.. Enumerable.Range(0, at.Length / 2).Where(i => at[2 * i] is >= 3 and < side - 3 && at[2 * i + 1] is >= 3 and < side - 3)];
        Assert.That(reachable, Is.Not.Empty);
        foreach (int i in reachable)
            Assert.That(Ring(side, side, ((int)at[2 * i], (int)at[2 * i + 1])), Is.EqualTo(Signs(drawn.AsSpan(i * area, area))), $"ring {i}");
        Assert.That(Ring(side, side, (10, 10)), Is.EqualTo(Signs(golden.Bytes("out.stamp_center"))));
        (int, int)[] three = [.. Enumerable.Range(0, 3).Select(i => ((int)overlap[2 * i], (int)overlap[2 * i + 1]))];
        Assert.That(Ring(side, side, three), Is.EqualTo(Signs(golden.Bytes("out.overlap_drawn"))));
    }

    [Test]
    public void A_ring_has_48_pixels_inside_and_fewer_at_the_border()
    {
        Assert.That(Ring(40, 40, (20, 20)).Sum(v => v), Is.EqualTo(48));
        Assert.That(Ring(40, 40, (3, 20)).Sum(v => v), Is.EqualTo(45));
        Assert.That(Ring(40, 40, (3, 3)).Sum(v => v), Is.EqualTo(42));
        Assert.That(Ring(40, 40, (36, 36)).Sum(v => v), Is.EqualTo(42));
        Assert.That(Ring(40, 40, (20, 20))[20 * 40 + 20], Is.Zero, "the keypoint itself stays empty");
    }

    [Test]
    public void Rings_do_not_depend_on_where_bands_are_cut()
    {
        // 300 rows are four bands; a keypoint next to every cut, at both ends of the row and in the middle.
        foreach (int y in new[] { 0, 1, 92, 95, 96, 99, 100, 191, 192, 295, 299 })
            foreach (int x in new[] { 0, 3, 4, 11, 15, 16, 19 })
            {
                byte[] marks = Ring(20, 300, (x, y));
                for (int i = 0; i < marks.Length; i++)
                    Assert.That(marks[i], Is.EqualTo(InRing(i % 20 - x, i / 20 - y) ? 1 : 0), $"({x}, {y}) at {i}");
            }
    }

    [Test]
    public void A_point_is_its_own_pixel()
    {
        byte[] marks = Painted(30, 200, Mark.Point, (0, 0), (29, 96), (7, 199));
        Assert.That(marks.Sum(v => v), Is.EqualTo(3));
        Assert.That(marks[0] + marks[96 * 30 + 29] + marks[199 * 30 + 7], Is.EqualTo(3));
    }

    [Test]
    public void Synthetic_pattern_P1_gives_the_reference_numbers([ValueSource(nameof(Levels))] SimdLevel level)
    {
        using Picture p = new(level, 192, 192, (x, y, c) => 7 * x + 13 * y + 5 * (x * y ^ x + 3 * y) + 61 * c & 255);
        p.Detect();
        Assert.That(p.GraySum, Is.EqualTo(4_696_878));
        Assert.That(p.RawCorners(), Is.EqualTo(9557));
        Assert.That(p.Detect(), Is.EqualTo(3482));
        Assert.That(p.ResponseSum, Is.EqualTo(127_901));
        Assert.That(p.List()[..15], Is.EqualTo(new float[] { 6, 3, 82, 8, 3, 14, 17, 3, 18, 23, 3, 28, 25, 3, 47 }));
        Assert.That(p.MarkSum(), Is.EqualTo(36_544));
        float[] weights = p.Weights(8, 0.25f);
        Assert.That(weights.Sum(w => (double)w), Is.EqualTo(2356.8806).Within(2e-3));
        Assert.That(weights.Max(), Is.EqualTo(4.2102f).Within(1e-4f));
    }

    [Test]
    public void Flat_pattern_P3_loses_all_corners_to_suppression([ValueSource(nameof(Levels))] SimdLevel level)
    {
        using Picture p = new(level, 192, 192, (x, y, c) => (37 * (x / 5) + 91 * (y / 7) + 23 * c) % 256);
        Assert.That(p.Detect(), Is.Zero);
        Assert.That(p.GraySum, Is.EqualTo(4_672_951));
        Assert.That(p.RawCorners(), Is.EqualTo(10_801));
        p.Detect();
        Assert.That(p.MarkSum(), Is.Zero);
        Assert.That(p.Weights(8, 0.25f), Is.All.EqualTo(1f));
    }

    [TestCase(3, 4_668_477, 11_716, 1396, 33_874, 32_983)]
    [TestCase(8, 4_603_095, 10_179, 663, 16_191, 21_559)]
    [TestCase(16, 4_668_327, 2501, 227, 5512, 9319)]
    public void Block_noise_P6_gives_the_reference_counts(int block, int gray, int raw, int kept, int responses, int marks)
    {
        foreach (SimdLevel level in Levels)
        {
            using Picture p = new(level, 192, 192, BlockNoise(192, 192, block));
            Assert.That(p.Detect(), Is.EqualTo(kept));
            Assert.That(p.GraySum, Is.EqualTo(gray));
            Assert.That(p.ResponseSum, Is.EqualTo(responses));
            Assert.That(p.MarkSum(), Is.EqualTo(marks));
            float[] list = p.List();
            if (block == 3)
            {
                Assert.That(list[..12], Is.EqualTo(new float[] { 3, 3, 20, 11, 3, 22, 15, 3, 23, 25, 3, 10 }));
                Assert.That(list[^6..], Is.EqualTo(new float[] { 180, 188, 20, 185, 188, 17 }));
            }
            Assert.That(p.RawCorners(), Is.EqualTo(raw));
        }
    }

    [TestCase(8, 8, 0.25f, 9798.2163, 54.5981)]
    [TestCase(8, 16, 0.25f, 1697.3230, 35.8063)]
    [TestCase(8, 32, 0.25f, 118.7904, 6.8874)]
    [TestCase(8, 8, 1f, 1073.8826, 0)]
    [TestCase(16, 8, 0.25f, 2451.0523, 13.8046)]
    [TestCase(16, 16, 0.25f, 479.9010, 10.9203)]
    [TestCase(16, 32, 0.25f, 72.2334, 0)]
    public void Block_noise_P6_gives_the_reference_weights(int block, int cell, float temperature, double sum, double max)
    {
        using Picture p = new(Simd.Best, 192, 192, BlockNoise(192, 192, block));
        p.Detect();
        p.MarkSum();
        float[] weights = p.Weights(cell, temperature);
        Assert.That(weights.Sum(w => (double)w), Is.EqualTo(sum).Within(sum * 1e-6));
        if (max > 0) Assert.That(weights.Max(), Is.EqualTo(max).Within(1e-4));
        if ((block, cell, temperature) != (8, 8, 0.25f)) return;
        Assert.That(weights[0], Is.EqualTo(8.91290f).Within(1e-4f));
        Assert.That(weights[12 * 24 + 12], Is.EqualTo(31.10909f).Within(1e-4f));
    }

    [Test]
    public void A_full_a_half_full_and_an_empty_cell_weigh_e4_e2_and_1()
    {
        using CpuBackend backend = new(1);
        using Device marks = new(backend, new Shape(1, 16, 16), DType.U8), density = new(backend, new Shape(1, 2, 2), DType.F32);
        using Device weights = new(backend, new Shape(1, 2, 2), DType.F32);
        for (int y = 0; y < 12; y++) marks.Tensor.Host<byte>().Slice(y * 16, 8).Fill(1);
        backend.BoxDensity(density.Tensor, marks.Tensor, 8);
        backend.KeypointWeights(weights.Tensor, density.Tensor, 0.25f);
        AssertRelative(weights.Tensor.Host<float>(), [54.59815f, 1f, 7.389056f, 1f], 1e-6, "weights");
        Assert.That(weights.Tensor.Host<float>()[1], Is.EqualTo(1f), "the least dense cell is exactly 1");
    }

    [Test]
    public void Every_size_circle_and_threshold_is_the_definition_on_memory_that_faults_outside()
    {
        RngSequence random = new Rng(11, RandomStream.Test, 0).Start();
        int[] widths = [1, 2, 6, 7, 8, 15, 21, 22, 23, 37, 38, 39, 69, 70, 71, 101, 102, 133, 134, 135, 197, 198, 199];
        foreach (int width in widths)
            foreach ((int height, int count) in new[] { (1, 2), (6, 1), (7, 1), (9, 2), (97, 1) })
            {
                int n = count * height * width, levels = 1 + random.Below(12);
                byte[] source = new byte[n];
                for (int i = 0; i < n; i++) source[i] = (byte)(random.Below(levels + 1) * 255 / levels);
                if (random.Below(3) == 0) Smooth(source, width);
                FastType type = (FastType)random.Below(3);
                int threshold = random.Below(4) == 0 ? random.Below(255) : random.Below(40);
                bool suppress = random.Below(2) == 0;
                byte[] expected = Definition(source, count, height, width, threshold, type, suppress);
                foreach (SimdLevel level in Levels)
                    foreach (bool atEnd in new[] { false, true })
                    {
                        using CpuBackend backend = new(2, level);
                        using GuardedStorage gray = new(n, atEnd), keypoints = new(n, atEnd);
                        Tensor input = new(gray, 0, new Shape(count, height, width), DType.U8);
                        Tensor output = new(keypoints, 0, input.Shape, DType.U8);
                        source.CopyTo(input.Host<byte>());
                        output.Host<byte>().Fill(0xEE);
                        backend.FastKeypoints(output, input, threshold, type, suppress);
                        Assert.That(output.Host<byte>().SequenceEqual(expected), $"{level} {count}×{height}×{width} {type} {threshold} {suppress}");
                    }
            }
    }

    [Test]
    public void Rows_of_few_and_of_many_corners_in_turn_are_the_definition([Values(70, 518, 583)] int width)
    {
        const int height = 41;
        RngSequence random = new Rng(13, RandomStream.Test, 0).Start();
        byte[] source = new byte[height * width];
        for (int i = 0; i < source.Length; i++)
        {
            int x = i % width, y = i / width;
            source[i] = (y / 6 % 5) switch   // slanted edges with a little noise, flat, white noise, only 0 and 255, a slope
            {
                0 => (byte)((x * 3 + y * 5) % 97 / 48 * 90 + 60 + random.Below(5)),
                1 => 128,
                2 => (byte)random.Word(),
                3 => (byte)(random.Below(8) == 0 ? 0 : 255),
                _ => (byte)(x / 3 + y),
            };
        }
        foreach (int threshold in new[] { 0, 1, 10, 60, 127, 128, 253, 254 })
            foreach (bool suppress in new[] { false, true })
            {
                byte[] expected = Definition(source, 1, height, width, threshold, FastType.Type9_16, suppress), host = new byte[source.Length];
                foreach (SimdLevel level in Levels)
                {
                    using CpuBackend backend = new(2, level);
                    using Device gray = new(backend, new Shape(1, height, width), DType.U8), found = new(backend, gray.Tensor.Shape, DType.U8);
                    source.CopyTo(gray.Tensor.Host<byte>());
                    backend.FastKeypoints(found.Tensor, gray.Tensor, threshold, FastType.Type9_16, suppress);
                    Assert.That(found.Tensor.Host<byte>().SequenceEqual(expected), $"{level} {threshold} {suppress}");
                }
                if (!suppress) continue;
                HostFast.Find(host, source, height, width, threshold, new byte[HostFast.ScratchBytes(width)]);
                Assert.That(host, Is.EqualTo(expected), $"host {threshold}");
            }
    }

    /// <summary>An arc of 8 holds no opposite pair, one of 9 does, wherever it begins.</summary>
    [Test]
    public void Nine_pixels_in_a_row_are_a_corner_and_eight_are_none([ValueSource(nameof(Levels))] SimdLevel level)
    {
        (int X, int Y)[] circle = [(0, 3), (1, 3), (2, 2), (3, 1), (3, 0), (3, -1), (2, -2), (1, -3),
            (0, -3), (-1, -3), (-2, -2), (-3, -1), (-3, 0), (-3, 1), (-2, 2), (-1, 3)];
        const int cell = 9, width = 16 * cell, height = 4 * cell, threshold = 20;
        using CpuBackend backend = new(1, level);
        using Device gray = new(backend, new Shape(1, height, width), DType.U8), found = new(backend, new Shape(1, height, width), DType.U8);
        gray.Tensor.Host<byte>().Fill(100);
        for (int kind = 0; kind < 4; kind++)
            for (int start = 0; start < 16; start++)
                for (int k = 0; k < 8 + kind % 2; k++)
                {
                    (int dx, int dy) = circle[(start + k) % 16];
                    gray.Tensor.Host<byte>()[(kind * cell + 4 + dy) * width + start * cell + 4 + dx] = (byte)(kind < 2 ? 121 : 79);
                }
        backend.FastKeypoints(found.Tensor, gray.Tensor, threshold, FastType.Type9_16, suppress: false);
        for (int kind = 0; kind < 4; kind++)
            for (int start = 0; start < 16; start++)
            {
                int center = (kind * cell + 4) * width + start * cell + 4;
                Assert.That(found.Tensor.Host<byte>()[center], Is.EqualTo(kind % 2 == 0 ? 0 : 21), $"{kind} {start}");
            }
        byte[] expected = Definition(gray.Tensor.Host<byte>().ToArray(), 1, height, width, threshold, FastType.Type9_16, false);
        Assert.That(found.Tensor.Host<byte>().SequenceEqual(expected));
    }

    [Test]
    public void Luma_marks_and_densities_of_every_size_stay_inside_their_operands()
    {
        RngSequence random = new Rng(12, RandomStream.Test, 0).Start();
        for (int width = 1; width <= 140; width += width < 20 ? 1 : 7)
        {
            int height = 1 + random.Below(20), n = 2 * height * width, cell = 1 + random.Below(Math.Min(12, Math.Min(height, width)));
            byte[] rgb = new byte[3 * n];
            for (int i = 0; i < rgb.Length; i++) rgb[i] = (byte)random.Word();
            foreach (SimdLevel level in Levels)
            {
                using CpuBackend backend = new(2, level);
                bool atEnd = random.Below(2) == 0;
                using GuardedStorage images = new(3 * n, atEnd), gray = new(n, atEnd), keypoints = new(n, atEnd), marks = new(n, atEnd);
                using GuardedStorage density = new(8 * (height / cell) * (width / cell), atEnd), floats = new(12 * n, atEnd);
                Tensor x = new(images, 0, new Shape(2, 3, height, width), DType.U8), g = new(gray, 0, new Shape(2, height, width), DType.U8);
                rgb.CopyTo(x.Host<byte>());
                backend.Luma(g, x, LumaWeights.Rgb);
                for (int i = 0; i < n; i++)
                {
                    int at = i / (height * width) * 3 * height * width + i % (height * width);
                    int expected = 9798 * rgb[at] + 19235 * rgb[at + height * width] + 3735 * rgb[at + 2 * height * width] + 16384 >> 15;
                    Assert.That(g.Host<byte>()[i], Is.EqualTo(expected), $"{level}, pixel {i} of width {width}");
                }
                Tensor k = g with { Storage = keypoints }, m = g with { Storage = marks };
                for (int i = 0; i < n; i++) k.Host<byte>()[i] = (byte)(random.Below(9) == 0 ? 200 : 0);
                backend.MarkKeypoints(m, k, Mark.Ring);
                for (int i = 0; i < n; i++)
                {
                    bool painted = false;
                    for (int j = i / (height * width) * height * width; j < (i / (height * width) + 1) * height * width && !painted; j++)
                        painted = k.Host<byte>()[j] != 0 && InRing(i % width - j % width, i / width - j / width);
                    Assert.That(m.Host<byte>()[i], Is.EqualTo(painted ? 1 : 0), $"{level}, mark {i} of width {width}");
                }
                Tensor d = new(density, 0, new Shape(2, height / cell, width / cell), DType.F32);
                d.Host<float>().Fill(float.NaN);
                backend.BoxDensity(d, m, cell);
                for (int i = 0; i < d.Count; i++)
                {
                    int image = i / (d.Shape.D1 * d.Shape.D2), row = i / d.Shape.D2 % d.Shape.D1, col = i % d.Shape.D2, sum = 0;
                    for (int j = 0; j < cell * cell; j++)
                        sum += m.Host<byte>()[(image * height + row * cell + j / cell) * width + col * cell + j % cell];
                    Assert.That(d.Host<float>()[i], Is.EqualTo(sum / (double)(cell * cell)).Within(1e-7), $"cell {cell}, {i}");
                }
                Tensor y = new(floats, 0, x.Shape, DType.F32);
                y.Host<float>().Fill(float.NaN);
                float[] mean = [0.485f, 0.456f, 0.406f], std = [0.229f, 0.224f, 0.225f];
                backend.NormalizeImages(y, x, mean, std);
                for (int i = 0; i < 3 * n; i++)
                {
                    int c = i / (height * width) % 3;
                    Assert.That(y.Host<float>()[i], Is.EqualTo((rgb[i] / 255.0 - mean[c]) / std[c]).Within(5e-7), $"{level}, {i}");
                }
            }
        }
    }

    [Test]
    public void One_thread_and_seven_give_the_same_bytes_and_no_call_allocates()
    {
        Func<int, int, int, int> noise = BlockNoise(250, 250, 8);
        using Picture one = new(Simd.Best, 250, 250, noise, threads: 1), seven = new(Simd.Best, 250, 250, noise, threads: 7);
        foreach (Picture p in new[] { one, seven }) { p.Detect(); p.MarkSum(); p.Weights(8, 0.25f); }
        Assert.That(seven.Keypoints.Host<byte>().SequenceEqual(one.Keypoints.Host<byte>()));
        Assert.That(seven.Marks.Host<byte>().SequenceEqual(one.Marks.Host<byte>()));

        Backend backend = one.Backend;
        using Device floats = new(backend, one.Rgb.Shape, DType.F32), density = new(backend, new Shape(1, 31, 31), DType.F32);
        using Device weights = new(backend, density.Tensor.Shape, DType.F32);
        float[] mean = [0.5f, 0.5f, 0.5f];
        void All()
        {
            backend.NormalizeImages(floats.Tensor, one.Rgb, mean, mean);
            backend.Luma(one.Gray, one.Rgb, LumaWeights.KamimCompat);
            backend.FastKeypoints(one.Keypoints, one.Gray, 10, FastType.Type9_16, suppress: true);
            backend.MarkKeypoints(one.Marks, one.Keypoints, Mark.Ring);
            backend.BoxDensity(density.Tensor, one.Marks, 8);
            backend.KeypointWeights(weights.Tensor, density.Tensor, 0.25f);
        }
        All();
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 10; i++) All();
        Assert.That(GC.GetAllocatedBytesForCurrentThread() - before, Is.Zero);
    }
}
