using System.Buffers.Binary;
using System.Text;
using System.Text.Json;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Files of torch.save: those written by PyTorch, and those made to harm.</summary>
[TestFixture]
public class TorchFileTests
{
    private static readonly string s_folder = Path.Combine(TestContext.CurrentContext.TestDirectory, "Goldens", "07_checkpoints");

    private static IEnumerable<TestCaseData> Cases(params string[] kinds)
        => JsonDocument.Parse(File.ReadAllText(Path.Combine(s_folder, "manifest.json"))).RootElement.GetProperty("cases").EnumerateArray()
            .Where(c => kinds.Contains(c.GetProperty("kind").GetString()))
            .Select(c => new TestCaseData(Name(c.GetProperty("file").GetString()!), c.TryGetProperty("expected", out JsonElement e)
                ? Name(e.GetString()!) : "legacy_nonzip.expected.safetensors").SetArgDisplayNames(Name(c.GetProperty("file").GetString()!)));

    private static string Name(string path) => Path.GetFileName(path);

    private static IEnumerable<TestCaseData> Valid => Cases("valid", "valid_alt");

    private static IEnumerable<TestCaseData> Bad => Cases("corrupt", "malicious");

    [TestCaseSource(nameof(Valid))]
    public void A_file_of_PyTorch_gives_its_tensors_bit_for_bit(string name, string expected)
    {
        using WeightFile file = WeightFile.Open(Path.Combine(s_folder, name));
        using SafeTensors truth = SafeTensors.Open(Path.Combine(s_folder, expected));
        Assert.That(file, Is.TypeOf<TorchFile>());
        Assert.That(truth.Entries, Is.Not.Empty);
        foreach (TensorEntry e in truth.Entries)
        {
            TensorEntry found = file[e.Name];
            long[] shape = found.Shape.Length == 0 ? [1] : found.Shape;   // the reference writes scalars as (1)
            Assert.That(shape, Is.EqualTo(e.Shape), e.Name);
            byte[] raw = found.DType switch
            {
                "I8" or "I16" => [.. file.Longs(e.Name).SelectMany(BitConverter.GetBytes)],   // the reference widens those
                _ => file.Raw(e.Name),
            };
            Assert.That(found.DType is "I8" or "I16" ? "I64" : found.DType == "BOOL" ? "U8" : found.DType, Is.EqualTo(e.DType), e.Name);
            Assert.That(raw, Is.EqualTo(truth.Raw(e.Name)), e.Name);
            if (found.Count < 3) continue;
            byte[] part = new byte[2 * SafeTensors.ElementSize(found.DType)];
            file.ReadBytes(found, part.Length / 2, part);
            Assert.That(part, Is.EqualTo(file.Raw(e.Name).AsSpan(part.Length / 2, part.Length).ToArray()), $"{e.Name}, a part of it");
        }
    }

    [TestCaseSource(nameof(Bad))]
    public void A_damaged_or_hostile_file_is_refused_in_one_sentence_and_little_memory(string name, string _)
    {
        string path = Path.Combine(s_folder, name);
        long before = GC.GetAllocatedBytesForCurrentThread();
        WeightFileException e = Assert.Throws<WeightFileException>(() => WeightFile.Open(path).Dispose())!;
        long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
        Assert.That(e.Message, Does.StartWith(path + ": ").And.EndsWith(".").And.Not.Contain("\n"));
        Assert.That(e.Message[path.Length..], Does.Not.Contain("...").And.Not.Contain(". "), "one sentence");
        Assert.That(allocated, Is.LessThan(1_000_000 + 40 * new FileInfo(path).Length));
        Assert.That(File.Exists("mim-golden-pwned") || File.Exists(Path.Combine(s_folder, "mim-golden-pwned")), Is.False, "nothing was run");
    }

    [TestCase("malicious_os_system.pth", "os.system")]
    [TestCase("malicious_posix.pth", "posix.system")]
    [TestCase("malicious_eval.pth", "builtins.eval")]
    [TestCase("malicious_subprocess.pth", "subprocess.Popen")]
    [TestCase("malicious_build_setstate.pth", "os.system")]
    [TestCase("flipped_data_byte.pth", "checksum of record 'archive/data/")]
    [TestCase("flipped_pickle_byte.pth", "checksum of record 'archive/data.pkl'")]
    [TestCase("missing_storage.pth", "no record 'data/0'")]
    [TestCase("missing_pickle.pth", "0 records data.pkl")]
    [TestCase("short_storage.pth", "has 30 bytes, but should hold 15 elements of F32")]
    [TestCase("truncated_99.pth", "truncated")]
    [TestCase("legacy_truncated_97.pth", "truncated")]
    [TestCase("empty_file.pth", "is empty")]
    [TestCase("random_bytes.pth", "neither safetensors nor a PyTorch file")]
    [TestCase("oob_size.pth", "shape (3, 3), strides (3, 1) and offset 0 reaches beyond the 6 elements")]
    [TestCase("negative_stride.pth", "negative stride")]
    [TestCase("overflow_size.pth", "more elements than a number can count")]
    [TestCase("huge_numel.pth", "has 24 bytes, but should hold 1099511627776 elements")]
    [TestCase("path_traversal.pth", "there is no record 'data/../")]
    [TestCase("unknown_storage.pth", "torch.EvilStorage")]
    [TestCase("huge_unicode_len.pth", "2147483648 bytes is announced")]
    [TestCase("bad_memo_get.pth", "value 99, which was never kept")]
    [TestCase("stack_underflow.pth", "empty stack")]
    [TestCase("unknown_opcode.pth", "no operation 0xfe")]
    [TestCase("deep_nesting.pth", "nested deeper than 64")]
    public void The_sentence_names_the_fault(string name, string fault)
        => Assert.That(Assert.Throws<WeightFileException>(() => WeightFile.Open(Path.Combine(s_folder, name)).Dispose())!.Message, Does.Contain(fault));

    [Test]
    public void Objects_that_are_no_tensors_are_skipped_by_name()
    {
        Assert.That(Skipped("mae_checkpoint-3.pth"), Does.Contain(("args", "argparse.Namespace")));
        Assert.That(Skipped("simmim_ckpt_epoch_7.pth"), Does.Contain(("config", "yacs.config.CfgNode")));
        Assert.That(Skipped("numpy_scalars.pth"), Is.EquivalentTo(new[]
            { ("acc", "numpy.core.multiarray.scalar"), ("hist", "numpy.core.multiarray._reconstruct") }));
        Assert.That(Skipped("innocent_unknown_global.pth"), Is.EqualTo(new[] { ("extra", "collections.Counter") }));
        static IReadOnlyList<(string, string)> Skipped(string name)
        {
            using TorchFile file = TorchFile.Open(Path.Combine(s_folder, name));
            return file.Skipped;
        }
    }

    [Test]
    public void A_compressed_archive_is_told_how_to_become_readable()
        => Assert.That(Assert.Throws<WeightFileException>(() => WeightFile.Open(Path.Combine(s_folder, "rezipped_deflate.pth")))!.Message,
            Does.Contain("is compressed, which torch.save never does"));

    [Test]
    public void A_checksum_of_nine_digits_is_the_known_one()
    {
        Assert.That(Crc32.Append(0, "123456789"u8), Is.EqualTo(0xCBF43926));
        Assert.That(Crc32.Append(Crc32.Append(0, "12345678901"u8), "23456789"u8), Is.EqualTo(Crc32.Append(0, "1234567890123456789"u8)));
    }

    // Pickles made here, in the stream format: PROTO, then the operations, then STOP.
    private static IEnumerable<TestCaseData> Attacks()
    {
        // ten levels of ten references to the level before: 10^10 paths out of 300 bytes
        StringBuilder laughs = new("]q\0K\u0001a0");
        for (int level = 1; level <= 10; level++)
        {
            laughs.Append("](");
            for (int i = 0; i < 10; i++) laughs.Append($"h{(char)(level - 1)}");
            laughs.Append($"eq{(char)level}{(level < 10 ? "0" : "")}");
        }
        yield return Attack("a list of lists of lists", laughs + ".", "repeated in more places|nested deeper");
        yield return Attack("a list that holds itself", "]q\0h\0a.", "nested deeper than 64");
        string pairs = "](" + string.Concat(Enumerable.Repeat("K\x1K\x2\u0086", 40)) + "eq\x1";
        yield return Attack("one list copied into many dictionaries", pairs + "0(" + string.Concat(Enumerable.Repeat("ccollections\nOrderedDict\nh\x1\u0085R", 40)) + "l.",
            "copies one list again and again");
        yield return Attack("a name without an end", "c" + new string('a', 9000), "name has no end");
        yield return Attack("a function nobody knows", "ctorch.hub\nload\n)R.", "torch.hub.load");
        yield return Attack("a call of an attribute", "cbuiltins\ngetattr\n(ccollections\nOrderedDict\nX\x3\0\0\0poptR)R.", "calls what has no name");
        yield return Attack("a function of an innocent class", "ccollections\nOrderedDict.fromkeys\n)R.", "collections.OrderedDict.fromkeys");
        yield return Attack("a call of a number", "K\x1)R.", "calls what has no name");
        yield return Attack("arguments that are none", "ccollections\nOrderedDict\nK\x1R.", "arguments of a call are no tuple");
        yield return Attack("a mark across a value", "K\x1(0.", "empty stack");
        yield return Attack("two values at the end", "K\x1K\x2.", "2 values on the stack");
        yield return Attack("an older protocol", "I1\n.", "no operation 0x49");
        yield return Attack("a storage of negative size", "((X\x7\0\0\0storagectorch\nFloatStorage\nX\x1\0\0\00X\x3\0\0\0cpuJ\u00ff\u00ff\u00ff\u00fftQ.", "malformed");
    }

    private static TestCaseData Attack(string what, string pickle, string says) => new TestCaseData(pickle, says).SetArgDisplayNames(what);

    [TestCaseSource(nameof(Attacks))]
    public void A_crafted_pickle_is_refused_before_it_costs_memory(string pickle, string says)
    {
        byte[] bytes = Stream(pickle);
        long before = GC.GetAllocatedBytesForCurrentThread();
        WeightFileException e = Assert.Throws<WeightFileException>(() => TorchFile.Read(bytes, "crafted").Dispose())!;
        Assert.That(e.Message, Does.Match(says).And.StartWith("crafted: "));
        Assert.That(GC.GetAllocatedBytesForCurrentThread() - before, Is.LessThan(4_000_000));
    }

    [Test]
    public void A_view_that_repeats_one_number_a_billion_times_is_refused()
    {
        byte[] file = File.ReadAllBytes(Path.Combine(s_folder, "legacy_nonzip.pth"));
        string storage = "X\x1\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x7\0\0\0storagectorch\nFloatStorage\nX\x1\0\0\00X\x3\0\0\0cpuK\x1tQK\0J\0\0\0\x40\u0085K\0\u0085\u0089)tR";
        byte[] bytes = Stream("}" + storage + "s.", "](X\x1\0\0\00e.", BitConverter.GetBytes(1L), BitConverter.GetBytes(1f));
        Assert.That(Assert.Throws<WeightFileException>(() => TorchFile.Read(bytes, "crafted"))!.Message, Does.Contain("(1073741824)").And.Contain("repeats its storage"));
        byte[] small = Stream("}" + storage.Replace("J\0\0\0\x40", "K\x5") + "s.", "](X\x1\0\0\00e.", BitConverter.GetBytes(1L), BitConverter.GetBytes(2.5f));
        using TorchFile read = TorchFile.Read(small, "expanded");
        Assert.That(read.Floats("w"), Is.EqualTo(new[] { 2.5f, 2.5f, 2.5f, 2.5f, 2.5f }));
        Assert.That(file.AsSpan(0, s_start.Length).ToArray(), Is.EqualTo(s_start), "the same beginning as PyTorch's");
    }

    private static readonly byte[] s_start =
        [0x80, 2, 0x8A, 10, 0x6C, 0xFC, 0x9C, 0x46, 0xF9, 0x20, 0x6A, 0xA8, 0x50, 0x19, (byte)'.', 0x80, 2, (byte)'M', 0xE9, 3, (byte)'.'];

    /// <summary>The stream format around an object's pickle; characters are bytes.</summary>
    private static byte[] Stream(string pickle, string keys = "].", params byte[][] data)
        => [.. s_start, 0x80, 2, .. "}."u8, 0x80, 2, .. Encoding.Latin1.GetBytes(pickle), 0x80, 2, .. Encoding.Latin1.GetBytes(keys), .. data.SelectMany(d => d)];

    [Test]
    public void Two_hundred_thousand_mutated_files_throw_nothing_but_the_sentence()
    {
        string[] seeds = ["protocol4.pth", "legacy_nonzip.pth", "views_shared_legacy.pth", "handmade_ok.pth", "numpy_scalars.pth"];
        byte[][] originals = [.. seeds.Select(name => File.ReadAllBytes(Path.Combine(s_folder, name)))];
        // Mutations inside an archive would all end at the checksum, so pickles of archives go into streams as well.
        byte[] pickle = originals[4].AsSpan(PickleIn(originals[4]), 706).ToArray();
        originals = [.. originals, [.. s_start, 0x80, 2, .. "}."u8, .. pickle, 0x80, 2, .. "]."u8]];
        RngSequence random = new Rng(7, RandomStream.Init, 1).Start();
        int read = 0, refused = 0;
        for (int i = 0; i < 200_000; i++)
        {
            byte[] bytes = [.. originals[i % originals.Length]];
            int changes = 1 + (int)(random.Word() % 4);
            for (int k = 0; k < changes; k++) bytes[random.Word() % (uint)bytes.Length] = (byte)random.Word();
            if (random.Word() % 8 == 0) bytes = bytes[..(int)(random.Word() % (uint)bytes.Length)];
            try
            {
                using TorchFile file = TorchFile.Read(bytes, "mutated");
                foreach (TensorEntry entry in file.Entries) _ = file.Raw(entry.Name);
                read++;
            }
            catch (WeightFileException) { refused++; }
        }
        Assert.That(read, Is.GreaterThan(1000), "some changes hit numbers only");
        Assert.That(refused, Is.GreaterThan(10_000));
    }

    private static int PickleIn(byte[] archive)
    {
        int name = BinaryPrimitives.ReadUInt16LittleEndian(archive.AsSpan(26)), extra = BinaryPrimitives.ReadUInt16LittleEndian(archive.AsSpan(28));
        return 30 + name + extra;
    }
}
