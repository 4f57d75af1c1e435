using MimEngine.Engine.Data;
using MimEngine.Engine.Imaging;
using NUnit.Framework;

namespace MimEngine.Tests;

[TestFixture]
public class DataTestsPack
{
    private string _folder = "";

    [SetUp]
    public void MakeFolder() => _folder = Directory.CreateTempSubdirectory("mim-pack-").FullName;

    [TearDown]
    public void RemoveFolder() => Directory.Delete(_folder, recursive: true);

    private string At(string name) => Path.Combine(_folder, name);

    private static RgbImage Picture(int seed, int width, int height)
    {
        var picture = new RgbImage(width, height);
        for (int i = 0; i < picture.Bytes.Length; i++) picture.Bytes[i] = (byte)((i + 7) * (seed + 3) * 2654435761L >> 11);
        return picture;
    }

    private string Write(string name)
    {
        using var writer = new PackWriter(At(name), "mixed", ["cat", "Hündin"]);
        writer.Add(Picture(0, 5, 7), 1, Split.Train);
        writer.Add(Picture(1, 16, 2), -1, Split.Train);
        writer.Add(Picture(2, 1, 1), 0, Split.Test);
        Assert.That(() => writer.Add(Picture(3, 2, 2), 0, Split.Train), Throws.InvalidOperationException);
        Assert.That(() => writer.Add(Picture(3, 2, 2), 2, Split.Test), Throws.TypeOf<ArgumentOutOfRangeException>());
        writer.Complete();
        return At(name);
    }

    // Throws.TypeOf formats a stack trace, which is most of a second for a hundred exceptions.
    private static string Refusal(string path)
    {
        try
        {
            Datasets.Open(path, Split.Train).Dispose();
            return "";
        }
        catch (DataException e)
        {
            return e.Message;
        }
    }

    [Test]
    public void A_pack_gives_back_sizes_pixels_labels_names_and_splits()
    {
        string path = Write("a.mimpack");
        using IDataset train = Datasets.Open(path, Split.Train), test = Datasets.Open(path, Split.Test), all = Datasets.Open(path, Split.All);
        Assert.That((train.Count, test.Count, all.Count), Is.EqualTo((2, 1, 3)));
        Assert.That(train.Classes, Is.EqualTo(new[] { "cat", "Hündin" }));
        Assert.That(Enumerable.Range(0, 3).Select(all.Label), Is.EqualTo(new[] { 1, -1, 0 }));
        var picture = new RgbImage();
        foreach ((int index, RgbImage expected) in new[] { (0, Picture(0, 5, 7)), (1, Picture(1, 16, 2)), (2, Picture(2, 1, 1)) })
        {
            all.Read(index, picture);
            Assert.That((picture.Width, picture.Height), Is.EqualTo((expected.Width, expected.Height)));
            Assert.That(picture.Bytes.ToArray(), Is.EqualTo(expected.Bytes.ToArray()));
        }
        Assert.That(Directory.GetFiles(_folder), Is.EqualTo(new[] { path }), "nothing partial is left");
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 100; i++)
        {
            train.Read(i & 1, picture);
            train.Label(i & 1);
        }
        Assert.That(GC.GetAllocatedBytesForCurrentThread() - before, Is.Zero);
    }

    [Test]
    public void A_pack_without_a_test_split_says_so()
    {
        using (var writer = new PackWriter(At("a.mimpack"), "x", []))
        {
            writer.Add(Picture(0, 5, 7), -1, Split.Train);
            writer.Complete();
        }
        Assert.That(Datasets.Has(At("a.mimpack"), Split.Test), Is.False);
        Assert.That(() => Datasets.Open(At("a.mimpack"), Split.Test), Throws.TypeOf<DataException>().With.Message.Contains("no test pictures"));
    }

    [Test]
    public void A_truncated_pack_is_refused_at_every_length()
    {
        byte[] good = File.ReadAllBytes(Write("a.mimpack"));
        for (int length = 0; length < good.Length; length++)
        {
            File.WriteAllBytes(At("b.mimpack"), good[..length]);
            Assert.That(Refusal(At("b.mimpack")), Does.Contain("b.mimpack"), $"{length}");
        }
        File.WriteAllBytes(At("b.mimpack"), [.. good, 0]);
        Assert.That(() => Datasets.Open(At("b.mimpack"), Split.Train), Throws.TypeOf<DataException>().With.Message.Contains("pack it again"));
    }

    [Test]
    public void Every_flipped_bit_is_noticed_in_the_header_at_opening_and_in_a_picture_at_reading()
    {
        byte[] good = File.ReadAllBytes(Write("a.mimpack"));
        int pixels = 3 * (5 * 7 + 16 * 2 + 1);
        var picture = new RgbImage();
        for (int bit = 0; bit < good.Length * 8; bit += bit < 64 * 8 ? 1 : 9)  // all of the header, one of each byte behind it
        {
            byte[] bad = [.. good];
            bad[bit / 8] ^= (byte)(1 << bit % 8);
            File.WriteAllBytes(At("b.mimpack"), bad);
            if (bit / 8 < 64 || bit / 8 >= 64 + pixels)
            {
                Assert.That(Refusal(At("b.mimpack")), Does.Contain("b.mimpack"), $"bit {bit}");
                continue;
            }
            using IDataset all = Datasets.Open(At("b.mimpack"), Split.All);
            int failed = 0;
            for (int i = 0; i < 3; i++)
            {
                try
                {
                    all.Read(i, picture);
                }
                catch (DataException e)
                {
                    Assert.That(e.Message, Does.Contain("checksum"));
                    failed++;
                }
            }
            Assert.That(failed, Is.EqualTo(1), $"bit {bit}");
        }
    }

    [Test]
    public void A_pack_that_is_not_completed_leaves_the_old_file_and_nothing_else()
    {
        string path = Write("a.mimpack");
        byte[] before = File.ReadAllBytes(path);
        using (var writer = new PackWriter(path, "x", []))
            writer.Add(Picture(0, 50, 70), -1, Split.Train);
        Assert.That(File.ReadAllBytes(path), Is.EqualTo(before));
        Assert.That(Directory.GetFiles(_folder), Is.EqualTo(new[] { path }));
        using (var empty = new PackWriter(At("c.mimpack"), "x", []))
            Assert.That(empty.Complete, Throws.TypeOf<DataException>().With.Message.Contains("no picture"));
        Assert.That(Directory.GetFiles(_folder), Is.EqualTo(new[] { path }));
        Assert.That(() => new PackWriter(At("nowhere/a.mimpack"), "x", []), Throws.TypeOf<DataException>().With.Message.Contains("cannot be written"));
    }

    [Test]
    public void Checksums_are_crc_32c()
    {
        Assert.That(PackFormat.Checksum(0, "123456789"u8), Is.EqualTo(0xE3069283u));
        Assert.That(PackFormat.Checksum(PackFormat.Checksum(0, "1234"u8), "56789"u8), Is.EqualTo(0xE3069283u));
    }
}
