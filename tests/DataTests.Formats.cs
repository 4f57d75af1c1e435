using System.Buffers.Binary;
using System.IO.Compression;
using MimEngine.Engine.Data;
using MimEngine.Engine.Imaging;
using NUnit.Framework;

namespace MimEngine.Tests;

[TestFixture]
public class DataTestsFormats
{
    private string _folder = "";

    [SetUp]
    public void MakeFolder() => _folder = Directory.CreateTempSubdirectory("mim-data-").FullName;

    [TearDown]
    public void RemoveFolder() => Directory.Delete(_folder, recursive: true);

    private string At(string name) => Path.Combine(_folder, name);

    private static byte[] Bytes(int seed, int count)
    {
        byte[] bytes = new byte[count];
        for (int i = 0; i < count; i++) bytes[i] = (byte)((i + 1) * (seed * 2 + 3) * 2654435761L >> 13);
        return bytes;
    }

    private static byte[] Idx(int magic, params int[] extents)
    {
        byte[] header = new byte[4 + 4 * extents.Length];
        BinaryPrimitives.WriteInt32BigEndian(header, magic);
        for (int i = 0; i < extents.Length; i++) BinaryPrimitives.WriteInt32BigEndian(header.AsSpan(4 + 4 * i), extents[i]);
        return header;
    }

    private static byte[] Gzip(byte[] bytes)
    {
        using var stream = new MemoryStream();
        using (var gzip = new GZipStream(stream, CompressionLevel.Fastest)) gzip.Write(bytes);
        return stream.ToArray();
    }

    private static byte[] Read(IDataset dataset, int index, int width, int height)
    {
        var picture = new RgbImage(50, 50);
        dataset.Read(index, picture);
        Assert.That((picture.Width, picture.Height), Is.EqualTo((width, height)));
        return picture.Bytes.ToArray();
    }

    private string Error(Split split = Split.Train, string? path = null)
    {
        string message = Assert.Throws<DataException>(() => Datasets.Open(path ?? _folder, split).Dispose())!.Message;
        Assert.That(message, Does.Contain(path ?? _folder).And.EndsWith("."));
        Assert.That(message, Does.Not.Contain("\n"));
        return message;
    }

    [Test]
    public void The_embedded_dataset_is_balanced_and_reads_without_allocating()
    {
        using IDataset train = Datasets.Open(null, Split.Train), test = Datasets.Open(null, Split.Test), all = Datasets.Open(null, Split.All);
        Assert.That((train.Count, test.Count, all.Count), Is.EqualTo((6000, 2000, 8000)));
        Assert.That(train.Classes, Has.Count.EqualTo(10));
        Assert.That(train.Classes[9], Is.EqualTo("Ankle boot"));
        foreach ((IDataset dataset, int each) in new[] { (train, 600), (test, 200) })
            Assert.That(Enumerable.Range(0, dataset.Count).GroupBy(dataset.Label).Select(g => g.Count()), Is.EqualTo(Enumerable.Repeat(each, 10)));
        // The first pictures of Fashion-MNIST: labels 9, 0, 0, 3 in training, 9, 2, 1, 1 in test.
        Assert.That(Enumerable.Range(0, 4).Select(train.Label), Is.EqualTo(new[] { 9, 0, 0, 3 }));
        Assert.That(Enumerable.Range(0, 4).Select(test.Label), Is.EqualTo(new[] { 9, 2, 1, 1 }));
        Assert.That(all.Label(6001), Is.EqualTo(test.Label(1)));
        byte[] picture = Read(train, 0, 28, 28);
        Assert.That(picture, Is.EqualTo(Read(all, 0, 28, 28)));
        Assert.That(Read(all, 7999, 28, 28), Is.EqualTo(Read(test, 1999, 28, 28)));
        for (int i = 0; i < picture.Length; i += 3) Assert.That(picture[i] == picture[i + 1] && picture[i] == picture[i + 2]);
        Assert.That(picture.Average(b => b), Is.EqualTo(97.25).Within(0.01), "the mean grey value of Fashion-MNIST's first picture");
        var reused = new RgbImage(28, 28);
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 1000; i++) train.Read(i, reused);
        Assert.That(GC.GetAllocatedBytesForCurrentThread() - before, Is.Zero);
    }

    [TestCase(false)]
    [TestCase(true)]
    public void An_idx_folder_reads_plain_or_gzipped(bool gzip)
    {
        byte[] pixels = Bytes(1, 4 * 6 * 5), labels = [2, 0, 1, 2];
        void Write(string name, byte[] bytes) => File.WriteAllBytes(At(name + (gzip ? ".gz" : "")), gzip ? Gzip(bytes) : bytes);
        Write("train-images-idx3-ubyte", [.. Idx(0x803, 4, 6, 5), .. pixels]);
        Write("train-labels-idx1-ubyte", [.. Idx(0x801, 4), .. labels]);
        Write("t10k-images-idx3-ubyte", [.. Idx(0x803, 1, 6, 5), .. Bytes(2, 30)]);
        Write("t10k-labels-idx1-ubyte", [.. Idx(0x801, 1), 3]);
        using IDataset train = Datasets.Open(_folder, Split.Train), test = Datasets.Open(_folder, Split.Test);
        Assert.That((train.Count, test.Count), Is.EqualTo((4, 1)));
        Assert.That(train.Classes, Is.EqualTo(new[] { "0", "1", "2", "3" }), "both splits have the classes of both");
        Assert.That(test.Classes, Is.EqualTo(train.Classes));
        Assert.That(Enumerable.Range(0, 4).Select(train.Label), Is.EqualTo(new[] { 2, 0, 1, 2 }));
        for (int i = 0; i < 4; i++) Assert.That(Read(train, i, 5, 6), Is.EqualTo(pixels[(i * 30)..(i * 30 + 30)].SelectMany(b => new[] { b, b, b })));
        Assert.That(Read(test, 0, 5, 6)[3], Is.EqualTo(Bytes(2, 30)[1]));
    }

    [Test]
    public void An_idx_folder_without_labels_reads_but_refuses_to_be_probed()
    {
        File.WriteAllBytes(At("train-images-idx3-ubyte"), [.. Idx(0x803, 2, 2, 2), .. Bytes(1, 8)]);
        using IDataset dataset = Datasets.Open(_folder, Split.Train);
        Assert.That(dataset.Label(1), Is.EqualTo(-1));
        Assert.That(() => dataset.WithLabels("a linear probe"), Throws.TypeOf<DataException>().With.Message.Contains("a linear probe needs them"));
        Assert.That(Error(Split.Test), Does.Contain("no test pictures"));
    }

    [Test]
    public void A_bad_idx_file_is_refused_in_a_sentence()
    {
        byte[] pixels = Bytes(1, 3 * 4 * 4), images = [.. Idx(0x803, 3, 4, 4), .. pixels], labels = [.. Idx(0x801, 3), 0, 1, 2];
        void Images(byte[] bytes) => File.WriteAllBytes(At("train-images-idx3-ubyte"), bytes);
        void Labels(byte[] bytes) => File.WriteAllBytes(At("train-labels-idx1-ubyte"), bytes);
        Labels(labels);
        Images(images[..^5]);
        Assert.That(Error(), Does.Contain("43 of the 48 bytes").And.Contain("truncated"));
        Images(images[..9]);
        Assert.That(Error(), Does.Contain("16-byte header"));
        Images([]);
        Assert.That(Error(), Does.Contain("16-byte header"));
        Images([.. images, 0]);
        Assert.That(Error(), Does.Contain("goes on after the 48 bytes"));
        Images([.. Idx(0x801, 3, 4, 4), .. pixels]);
        Assert.That(Error(), Does.Contain("0x00000801").And.Contain("0x00000803"));
        Images(Idx(0x803, int.MaxValue, int.MaxValue, int.MaxValue));
        Assert.That(Error(), Does.Contain("header is damaged"));
        Images(Idx(0x803, -1, 4, 4));
        Assert.That(Error(), Does.Contain("header is damaged"));
        Images(Idx(0x803, 0, 4, 4));
        Assert.That(Error(), Does.Contain("0 pictures"));
        Images([.. Idx(0x803, 2_000_000, 32, 32), .. pixels]);
        long before = GC.GetAllocatedBytesForCurrentThread();
        Assert.That(Error(), Does.Contain("truncated"));
        Assert.That(GC.GetAllocatedBytesForCurrentThread() - before, Is.LessThan(4 << 20), "the header's claim must not be allocated");
        Images(images);
        Labels([.. Idx(0x801, 2), 0, 1]);
        Assert.That(Error(), Does.Contain("3 pictures but 2 labels"));
        Labels(labels[..^1]);
        Assert.That(Error(), Does.Contain("train-labels").And.Contain("2 of the 3 bytes"));
        Labels(labels);
        File.WriteAllText(At("classes.txt"), "one\ntwo\n");
        Assert.That(Error(), Does.Contain("2 names for 3 classes"));
    }

    [Test]
    public void A_bad_gzipped_idx_file_is_refused_in_a_sentence()
    {
        byte[] good = Gzip([.. Idx(0x803, 30, 40, 40), .. Bytes(1, 48_000)]);
        string path = At("train-images-idx3-ubyte.gz");
        foreach (int length in new[] { 0, 1, 9, 10, 11, 100, good.Length / 2, good.Length - 40 })
        {
            File.WriteAllBytes(path, good[..length]);
            Assert.That(Error(), Does.Contain("train-images"), $"cut to {length}");
        }
        File.WriteAllText(path, "this is no gzip file");
        Assert.That(Error(), Does.Contain("gzip"));
        good[good.Length / 2] ^= 4;
        File.WriteAllBytes(path, good);
        Assert.That(Error(), Does.Contain("train-images"));
    }

    private void WriteCifar(string name, int records, int seed, int classes, int labelBytes)
    {
        byte[] bytes = Bytes(seed, records * (labelBytes + 3072));
        for (int i = 0; i < records; i++)
        {
            bytes[i * (labelBytes + 3072)] = (byte)(i % 20);
            bytes[i * (labelBytes + 3072) + labelBytes - 1] = (byte)((i + seed) % classes);
        }
        File.WriteAllBytes(At(name), bytes);
    }

    [Test]
    public void Cifar_ten_reads_across_its_files()
    {
        for (int i = 1; i <= 5; i++) WriteCifar($"data_batch_{i}.bin", i, i, 10, 1);
        WriteCifar("test_batch.bin", 2, 9, 10, 1);
        File.WriteAllLines(At("batches.meta.txt"), ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck", ""]);
        using IDataset train = Datasets.Open(_folder, Split.Train), test = Datasets.Open(_folder, Split.Test), all = Datasets.Open(_folder, Split.All);
        Assert.That((train.Count, test.Count, all.Count), Is.EqualTo((15, 2, 17)));
        Assert.That(train.Classes[3], Is.EqualTo("cat"));
        int index = 0;
        for (int file = 1; file <= 5; file++)
        {
            byte[] bytes = File.ReadAllBytes(At($"data_batch_{file}.bin"));
            for (int i = 0; i < file; i++, index++)
            {
                Assert.That(train.Label(index), Is.EqualTo(bytes[i * 3073]));
                byte[] rgb = Read(train, index, 32, 32);
                for (int p = 0; p < 1024; p++)
                    for (int c = 0; c < 3; c++)
                        if (rgb[3 * p + c] != bytes[i * 3073 + 1 + c * 1024 + p]) Assert.Fail($"file {file}, record {i}, pixel {p}, channel {c}");
            }
        }
    }

    [Test]
    public void Cifar_hundred_uses_its_fine_labels()
    {
        WriteCifar("train.bin", 4, 97, 100, 2);
        WriteCifar("test.bin", 1, 5, 100, 2);
        using IDataset train = Datasets.Open(_folder, Split.Train), test = Datasets.Open(_folder, Split.Test);
        Assert.That(Enumerable.Range(0, 4).Select(train.Label), Is.EqualTo(new[] { 97, 98, 99, 0 }));
        Assert.That(test.Label(0), Is.EqualTo(5));
        Assert.That(train.Classes, Has.Count.EqualTo(100));
        Assert.That(Read(train, 1, 32, 32)[1], Is.EqualTo(File.ReadAllBytes(At("train.bin"))[3074 + 2 + 1024]));
    }

    [Test]
    public void A_bad_cifar_folder_is_refused_in_a_sentence()
    {
        for (int i = 1; i <= 5; i++) WriteCifar($"data_batch_{i}.bin", 3, i, 10, 1);
        Assert.That(Error(Split.Test), Does.Contain("no test pictures"));
        File.WriteAllBytes(At("data_batch_2.bin"), Bytes(1, 3073 * 2 - 1));
        Assert.That(Error(), Does.Contain("data_batch_2.bin").And.Contain("6145 bytes").And.Contain("3073"));
        File.WriteAllBytes(At("data_batch_2.bin"), []);
        Assert.That(Error(), Does.Contain("0 bytes"));
        WriteCifar("data_batch_2.bin", 3, 1, 10, 1);
        File.Delete(At("data_batch_4.bin"));
        Assert.That(Error(), Does.Contain("data_batch_4.bin is missing"));
        byte[] wrong = File.ReadAllBytes(At("data_batch_5.bin"));
        wrong[3073] = 10;
        File.WriteAllBytes(At("data_batch_4.bin"), wrong);
        Assert.That(Error(), Does.Contain("record 1 has label 10"));
        File.Copy(At("data_batch_5.bin"), At("data_batch_4.bin"), overwrite: true);
        File.WriteAllText(At("batches.meta.txt"), "airplane\n");
        Assert.That(Error(), Does.Contain("1 names for 10 classes"));
    }

    [Test]
    public void What_is_nothing_we_know_is_refused_in_a_sentence()
    {
        Assert.That(Error(path: At("missing")), Does.Contain("no such file or folder"));
        Assert.That(Error(), Does.Contain("holds no pictures"));
        Directory.CreateDirectory(At("a/b/c"));
        Assert.That(Error(), Does.Contain("holds no pictures"));
        File.WriteAllText(At("notes.txt"), "hello");
        Assert.That(Error(), Does.Contain("holds no pictures"));
        Assert.That(Error(path: At("notes.txt")), Does.Contain("not a .mimpack"));
        File.WriteAllBytes(At("data.zip"), [0x50, 0x4B, 3, 4]);
        Assert.That(Error(path: At("data.zip")), Does.Contain("archive"));
        Assert.That(() => Datasets.Has(At("missing"), Split.Train), Throws.TypeOf<DataException>());
    }

    [Test]
    public void A_folder_that_holds_only_one_folder_stands_for_it()
    {
        Directory.CreateDirectory(At("outer/cifar-10-batches-bin"));
        WriteCifar("outer/cifar-10-batches-bin/test_batch.bin", 2, 9, 10, 1);
        using IDataset dataset = Datasets.Open(_folder, Split.Test);
        Assert.That(dataset.Count, Is.EqualTo(2));
        Assert.That(Datasets.Has(_folder, Split.Train), Is.False);
        Assert.That(Error(), Does.Contain("only test pictures"));
    }
}
