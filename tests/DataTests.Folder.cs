using MimEngine.Engine.Data;
using MimEngine.Engine.Imaging;
using NUnit.Framework;

namespace MimEngine.Tests;

[TestFixture]
public class DataTestsFolder
{
    private string _folder = "";

    [SetUp]
    public void MakeFolder() => _folder = Directory.CreateTempSubdirectory("mim-folder-").FullName;

    [TearDown]
    public void RemoveFolder() => Directory.Delete(_folder, recursive: true);

    private string At(string name) => Path.Combine(_folder, name);

    private static RgbImage Picture(int seed, int width = 6, int height = 4)
    {
        var picture = new RgbImage(width, height);
        for (int i = 0; i < picture.Bytes.Length; i++) picture.Bytes[i] = (byte)(i * (seed + 3) * 2654435761L >> 11);
        return picture;
    }

    private void Write(string name, int seed = 0)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(At(name))!);
        File.WriteAllBytes(At(name), Png.Encode(Picture(seed)));
    }

    private string Error(Split split = Split.Train)
    {
        string message = Assert.Throws<DataException>(() => Datasets.Open(_folder, split).Dispose())!.Message;
        Assert.That(message, Does.Contain(_folder).And.EndsWith(".").And.Not.Contains("\n"));
        return message;
    }

    private static string[] Listing(IDataset dataset, string folder) =>
        [.. Enumerable.Range(0, dataset.Count).Select(i => $"{Path.GetRelativePath(folder, dataset.PictureName(i))} {dataset.Label(i)}")];

    [Test]
    public void Class_folders_are_labelled_in_ordinal_order()
    {
        Write("zebra/a.png", 1);
        Write("Ant/b.png", 2);
        Write("Ant/B.PNG", 3);
        Write("Ant/deeper/c.png", 4);
        Write("Ant/.hidden.png", 5);
        Write("__MACOSX/x.png", 6);
        Directory.CreateDirectory(At("empty"));
        File.WriteAllText(At("Ant/readme.txt"), "not a picture");
        using IDataset dataset = Datasets.Open(_folder, Split.Train);
        Assert.That(dataset.Classes, Is.EqualTo(new[] { "Ant", "zebra" }));
        Assert.That(Listing(dataset, _folder), Is.EqualTo(new[] { "Ant/B.PNG 0", "Ant/b.png 0", "Ant/deeper/c.png 0", "zebra/a.png 1" }));
        var picture = new RgbImage();
        foreach ((int index, int seed) in new[] { (0, 3), (1, 2), (2, 4), (3, 1) })
        {
            dataset.Read(index, picture);
            Assert.That((picture.Width, picture.Height), Is.EqualTo((6, 4)));
            Assert.That(picture.Bytes.ToArray(), Is.EqualTo(Picture(seed).Bytes.ToArray()));
        }
        Assert.That(Datasets.Has(_folder, Split.Test), Is.False);
        Assert.That(Error(Split.Test), Does.Contain("no test pictures"));
    }

    [TestCase("test")]
    [TestCase("val")]
    [TestCase("Validation")]
    public void Train_and_test_folders_share_their_classes(string test)
    {
        Write("train/b/1.png");
        Write("train/c/2.png");
        Write($"{test}/a/3.png");
        Write($"{test}/c/4.png");
        using IDataset train = Datasets.Open(_folder, Split.Train), tests = Datasets.Open(_folder, Split.Test), all = Datasets.Open(_folder, Split.All);
        Assert.That(train.Classes, Is.EqualTo(new[] { "a", "b", "c" }));
        Assert.That(tests.Classes, Is.EqualTo(train.Classes));
        Assert.That(Listing(train, _folder), Is.EqualTo(new[] { "train/b/1.png 1", "train/c/2.png 2" }));
        Assert.That(Listing(tests, _folder), Is.EqualTo(new[] { $"{test}/a/3.png 0", $"{test}/c/4.png 2" }));
        Assert.That(Listing(all, _folder), Is.EqualTo(Listing(train, _folder).Concat(Listing(tests, _folder))));
    }

    [Test]
    public void Where_test_has_no_labels_the_labelled_validation_folder_is_taken()
    {
        Write("train/b/1.png");
        Write("val/b/2.png");
        Write("test/3.png");
        using IDataset test = Datasets.Open(_folder, Split.Test);
        Assert.That(Listing(test, _folder), Is.EqualTo(new[] { "val/b/2.png 0" }));
    }

    [Test]
    public void A_flat_folder_reads_but_refuses_to_be_probed()
    {
        Write("2.png", 2);
        Write("10.png", 10);
        using IDataset dataset = Datasets.Open(_folder, Split.Train);
        Assert.That(dataset.Classes, Is.Empty);
        Assert.That(Listing(dataset, _folder), Is.EqualTo(new[] { "10.png -1", "2.png -1" }));
        Assert.That(() => dataset.WithLabels("k-NN"), Throws.TypeOf<DataException>().With.Message.Contains("no labels, and k-NN needs them"));
        Write("stray/3.png");
        Assert.That(Error(), Does.Contain("stray").And.Contains("keep one of the two"));
    }

    [Test]
    public void An_unpacked_archives_outer_folder_is_no_class()
    {
        Write("clothing/train/hat/1.png");
        Write("clothing/test/hat/2.png");
        using IDataset dataset = Datasets.Open(_folder, Split.Train);
        Assert.That(dataset.Classes, Is.EqualTo(new[] { "hat" }));
        Assert.That(dataset.Count, Is.EqualTo(1));
    }

    [Test]
    public void Damaged_pictures_say_which_file_and_why()
    {
        Write("a/0.png");
        byte[] good = File.ReadAllBytes(At("a/0.png"));
        File.WriteAllText(At("a/1.png"), "this is text, not a picture");
        File.WriteAllBytes(At("a/2.png"), good[..(good.Length / 2)]);
        File.WriteAllBytes(At("a/3.png"), []);
        File.WriteAllBytes(At("a/4.png"), good[..^1]);
        byte[] flipped = [.. good];
        flipped[good.Length / 2] ^= 16;
        File.WriteAllBytes(At("a/5.png"), flipped);
        Write("a/6.png");
        using IDataset dataset = Datasets.Open(_folder, Split.Train);
        File.Delete(At("a/6.png"));
        var picture = new RgbImage();
        dataset.Read(0, picture);
        for (int i = 1; i <= 6; i++)
        {
            string message = Assert.Throws<DataException>(() => dataset.Read(i, picture), $"{i}.png")!.Message;
            Assert.That(message, Does.Contain($"{i}.png").And.Not.Contains("\n"));
        }
        dataset.Read(0, picture);
        Assert.That(picture.Bytes.ToArray(), Is.EqualTo(Picture(0).Bytes.ToArray()));
    }

    [TestCase(1)]
    [TestCase(3)]
    public void Packing_a_folder_keeps_pictures_labels_and_splits(int threads)
    {
        for (int i = 0; i < 11; i++) Write($"train/{(char)('a' + i % 3)}/{i}.png", i);
        for (int i = 0; i < 4; i++) Write($"test/{(char)('a' + i % 2)}/{i}.png", 20 + i);
        using IDataset train = Datasets.Open(_folder, Split.Train), test = Datasets.Open(_folder, Split.Test);
        var seen = new List<PackProgress>();
        PackReport report = Packer.Run(train, test, At("x.mimpack"), new PackOptions { Threads = threads }, new Recorder(seen));
        Assert.That((report.Train, report.Test, report.LeftOut.Failures), Is.EqualTo((11, 4, 0)));
        Assert.That(report.FileBytes, Is.EqualTo(new FileInfo(At("x.mimpack")).Length));
        Assert.That(seen[^1], Is.EqualTo(new PackProgress(15, 15, 15 * 72)));
        using IDataset all = Datasets.Open(_folder, Split.All), packed = Datasets.Open(At("x.mimpack"), Split.All);
        Assert.That((packed.Count, packed.Classes), Is.EqualTo((15, all.Classes)));
        RgbImage one = new(), two = new();
        for (int i = 0; i < 15; i++)
        {
            all.Read(i, one);
            packed.Read(i, two);
            Assert.That(two.Bytes.ToArray(), Is.EqualTo(one.Bytes.ToArray()));
            Assert.That(packed.Label(i), Is.EqualTo(all.Label(i)));
        }
        using IDataset packedTest = Datasets.Open(At("x.mimpack"), Split.Test);
        Assert.That(packedTest.Count, Is.EqualTo(4));
    }

    [Test]
    public void Packing_reduces_the_shorter_side_and_leaves_small_pictures_alone()
    {
        Directory.CreateDirectory(At("a"));
        File.WriteAllBytes(At("a/0.png"), Png.Encode(Picture(0, 90, 61)));
        File.WriteAllBytes(At("a/1.png"), Png.Encode(Picture(1, 20, 50)));
        File.WriteAllBytes(At("a/2.png"), Png.Encode(Picture(2, 300, 20)));
        using IDataset dataset = Datasets.Open(_folder, Split.Train);
        Packer.Run(dataset, At("x.mimpack"), new PackOptions { ShortSide = 20 });
        using IDataset packed = Datasets.Open(At("x.mimpack"), Split.Train);
        var picture = new RgbImage();
        foreach ((int index, int width, int height) in new[] { (0, 29, 20), (1, 20, 50), (2, 300, 20) })
        {
            packed.Read(index, picture);
            Assert.That((picture.Width, picture.Height), Is.EqualTo((width, height)));
        }
        Assert.That(picture.Bytes.ToArray(), Is.EqualTo(Picture(2, 300, 20).Bytes.ToArray()));
    }

    [Test]
    public void Packing_leaves_out_what_cannot_be_read_up_to_a_limit()
    {
        for (int i = 0; i < 8; i++) Write($"{i}.png", i);
        File.WriteAllText(At("3.png"), "no picture");
        using (IDataset dataset = Datasets.Open(_folder, Split.Train))
        {
            PackReport report = Packer.Run(dataset, At("x.mimpack"), new PackOptions { Threads = 2 });
            Assert.That((report.Train, report.LeftOut.Failures), Is.EqualTo((7, 1)));
            Assert.That(report.LeftOut.Report(), Does.Contain("3.png"));
        }
        byte[] before = File.ReadAllBytes(At("x.mimpack"));
        for (int i = 4; i < 8; i++) File.WriteAllText(At($"{i}.png"), "no picture");
        using IDataset broken = Datasets.Open(_folder, Split.Train);
        Assert.That(() => Packer.Run(broken, At("x.mimpack"), new PackOptions { Threads = 2 }),
            Throws.TypeOf<DataException>().With.Message.Contains("5 of 8 reads failed"));
        using var cancelled = new CancellationTokenSource();
        cancelled.Cancel();
        Assert.That(() => Packer.Run(broken, At("x.mimpack"), new PackOptions(), cancel: cancelled.Token), Throws.TypeOf<OperationCanceledException>());
        Assert.That(File.ReadAllBytes(At("x.mimpack")), Is.EqualTo(before));
        Assert.That(Directory.GetFiles(_folder, "*.partial"), Is.Empty);
    }

    private sealed class Recorder(List<PackProgress> seen) : IProgress<PackProgress>
    {
        public void Report(PackProgress value) => seen.Add(value);
    }
}
