using System.Buffers.Binary;
using System.Text;
using MimEngine.Engine.Runs;
using NUnit.Framework;

namespace MimEngine.Tests;

[TestFixture]
public class WeightTests
{
    private static byte[] File(string header, int dataBytes, bool pad = true)
    {
        byte[] json = Encoding.UTF8.GetBytes(header);
        int length = pad ? (json.Length + 7) / 8 * 8 : json.Length;
        byte[] file = new byte[8 + length + dataBytes];
        BinaryPrimitives.WriteUInt64LittleEndian(file, (ulong)length);
        file.AsSpan(8, length).Fill((byte)' ');
        json.CopyTo(file, 8);
        for (int i = 0; i < dataBytes; i++) file[8 + length + i] = (byte)i;
        return file;
    }

    private static byte[] Sample()
    {
        using MemoryStream stream = new();
        SafeTensorsWriter.Write(stream,
        [
            new("bytes", "U8", [3], (_, d) => new byte[] { 1, 2, 3 }.CopyTo(d)),
            NamedTensor.From("blocks.0.weight", [1.5f, -2f, 3f, float.Epsilon, float.MaxValue, 0f], 2, 3),
            NamedTensor.From("scalar", [7f]),
            NamedTensor.From("nothing", [], 0, 5),
            new("step", "I64", [1], (_, d) => BinaryPrimitives.WriteInt64LittleEndian(d, long.MaxValue)),
        ], new Dictionary<string, string> { ["format"] = "pt", ["note"] = "é\"\\ü\n" });
        return stream.ToArray();
    }

    [Test]
    public void A_written_file_reads_back_and_is_aligned()
    {
        byte[] bytes = Sample();
        using SafeTensors file = SafeTensors.Read(bytes, "sample");
        Assert.That(file.Floats("blocks.0.weight"), Is.EqualTo(new[] { 1.5f, -2f, 3f, float.Epsilon, float.MaxValue, 0f }));
        Assert.That(file["blocks.0.weight"].Shape, Is.EqualTo(new long[] { 2, 3 }));
        Assert.That(file.Floats("scalar"), Is.EqualTo(new[] { 7f }));
        Assert.That(file["scalar"].Shape, Is.Empty);
        Assert.That(file.Floats("nothing"), Is.Empty);
        Assert.That(file.Longs("step"), Is.EqualTo(new[] { long.MaxValue }));
        Assert.That(file.Bytes("bytes"), Is.EqualTo(new byte[] { 1, 2, 3 }));
        Assert.That(file.Metadata["note"], Is.EqualTo("é\"\\ü\n"));
        Assert.That(BinaryPrimitives.ReadUInt64LittleEndian(bytes) % 8, Is.Zero);
        foreach (TensorEntry entry in file.Entries)
            Assert.That(entry.Offset % SafeTensors.ElementSize(entry.DType), Is.Zero, entry.Name);
        Assert.That(Assert.Throws<WeightFileException>(() => file.Ints("step"))!.Message, Does.Contain("does not fit 32 bits"));
        Assert.That(Assert.Throws<WeightFileException>(() => file.Floats("step"))!.Message, Does.Contain("I64 (1)"));
        Assert.That(Assert.Throws<WeightFileException>(() => file.Floats("absent"))!.Message, Does.Contain("'absent'"));
    }

    [Test]
    public void A_file_on_disk_reads_like_one_in_memory()
    {
        string path = Path.Combine(TestContext.CurrentContext.WorkDirectory, "on-disk.safetensors");
        System.IO.File.WriteAllBytes(path, Sample());
        try
        {
            using SafeTensors disk = SafeTensors.Open(path), memory = SafeTensors.Read(Sample(), "sample");
            foreach (TensorEntry entry in memory.Entries) Assert.That(disk.Raw(entry.Name), Is.EqualTo(memory.Raw(entry.Name)));
            byte[] part = new byte[8];
            disk.ReadBytes(disk["blocks.0.weight"], 4, part);
            Assert.That(BitConverter.ToSingle(part), Is.EqualTo(-2f));
        }
        finally { System.IO.File.Delete(path); }
    }

    [Test]
    public void A_tensor_of_several_pieces_is_written_whole()
    {
        float[] values = [.. Enumerable.Range(0, SafeTensorsWriter.PieceBytes / 4 * 2 + 17).Select(i => i * 0.5f)];
        using MemoryStream stream = new();
        SafeTensorsWriter.Write(stream, [NamedTensor.From("x", values, values.Length)]);
        Assert.That(SafeTensors.Read(stream.ToArray(), "big").Floats("x"), Is.EqualTo(values));
    }

    [Test]
    public void Halves_and_bfloats_widen_exactly()
    {
        byte[] bytes = File(
            """{"h":{"dtype":"F16","shape":[4],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]}}""", 14);
        ushort[] bits = [0x3C00, 0xC000, 0x0001, 0x7C00, 0x3F80, 0xC040, 0x0001];   // 1 -2 2^-24 inf | 1 -3 2^-133
        for (int i = 0; i < 7; i++) BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(bytes.Length - 14 + 2 * i), bits[i]);
        using SafeTensors file = SafeTensors.Read(bytes, "halves");
        Assert.That(file.Floats("h"), Is.EqualTo(new[] { 1f, -2f, MathF.Pow(2, -24), float.PositiveInfinity }));
        Assert.That(file.Floats("b"), Is.EqualTo(new[] { 1f, -3f, MathF.ScaleB(1, -133) }));
        Assert.That(file.Doubles("b")[1], Is.EqualTo(-3.0));
    }

    [TestCase("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}""", 8,
        "Duplicate")]
    [TestCase("""{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}""", 8, "Duplicate")]
    [TestCase("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}""", 12,
        "overlap")]
    [TestCase("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}}""", 16,
        "hole")]
    [TestCase("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}""", 12, "hole")]
    [TestCase("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}""", 12, "4 bytes follow")]
    [TestCase("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}""", 7, "truncated")]
    [TestCase("""{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}""", 8, "12 bytes")]
    [TestCase("""{"a":{"dtype":"U8","shape":[4194305,4194305,211106198978564],"data_offsets":[0,4]}}""", 4, "overflows")]
    [TestCase("""{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}}""", 0, "overflows")]
    [TestCase("""{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}""", 8, "-2")]
    [TestCase("""{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,8]}}""", 8, "1.5")]
    [TestCase("""{"a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,8]}}""", 8, "99999999999999999999")]
    [TestCase("""{"a":{"dtype":"F32","shape":["2"],"data_offsets":[0,8]}}""", 8, "whole number")]
    [TestCase("""{"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}}""", 8, "not an array")]
    [TestCase("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}""", 8, "[start, end]")]
    [TestCase("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}}""", 8, "[start, end]")]
    [TestCase("""{"a":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}}""", 8, "'F31'")]
    [TestCase("""{"a":{"dtype":32,"shape":[2],"data_offsets":[0,8]}}""", 8, "'dtype'")]
    [TestCase("""{"a":{"shape":[2],"data_offsets":[0,8]}}""", 8, "lacks")]
    [TestCase("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}}""", 8, "'x'")]
    [TestCase("""{"a":[1]}""", 0, "not described")]
    [TestCase("""{"__metadata__":{"a":1}}""", 0, "not a string")]
    [TestCase("""{"__metadata__":[]}""", 0, "not an object")]
    [TestCase("""{"__metadata__":{"a":"\ud800"}}""", 0, "not valid JSON")]
    [TestCase(""" {"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}""", 8, "'{'")]
    [TestCase("""[]""", 0, "'{'")]
    [TestCase("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}""", 8, "JSON")]
    [TestCase("""{} x""", 0, "JSON")]
    [TestCase("""{"a":{"dtype":"F32","shape":[[[[[[[[[[[[]]]]]]]]]]]],"data_offsets":[0,8]}}""", 8, "JSON")]
    public void A_bad_file_is_refused_in_one_sentence_that_names_it(string header, int dataBytes, string says)
    {
        string message = Assert.Throws<WeightFileException>(() => SafeTensors.Read(File(header, dataBytes), "bad.safetensors"))!.Message;
        Assert.That(message, Does.StartWith("bad.safetensors: ").And.Contain(says).And.Not.Contain("\n"));
    }

    [Test]
    public void A_length_that_the_file_cannot_have_is_refused_before_any_memory_is_asked()
    {
        foreach (ulong length in new[] { 0ul, 1ul, 100_000_001ul, ulong.MaxValue, (ulong)long.MaxValue, 99_000_000ul })
        {
            byte[] bytes = new byte[64];
            BinaryPrimitives.WriteUInt64LittleEndian(bytes, length);
            long before = GC.GetAllocatedBytesForCurrentThread();
            Assert.Throws<WeightFileException>(() => SafeTensors.Read(bytes, "bad"));
            Assert.That(GC.GetAllocatedBytesForCurrentThread() - before, Is.LessThan(100_000), $"length {length}");
        }
        for (int n = 0; n < 8; n++) Assert.Throws<WeightFileException>(() => SafeTensors.Read(new byte[n], "bad"));
        Assert.Throws<WeightFileException>(() => SafeTensors.Open("no-such-file.safetensors"));
        Assert.Throws<WeightFileException>(() => SafeTensors.Open(TestContext.CurrentContext.WorkDirectory));
    }

    [Test]
    public void Every_truncation_of_a_file_is_refused()
    {
        byte[] bytes = Sample();
        for (int n = 0; n < bytes.Length; n++)
            Assert.Throws<WeightFileException>(() => SafeTensors.Read(bytes.AsMemory(0, n), "short"), $"{n} of {bytes.Length} bytes");
    }

    [Test]
    public void Two_hundred_thousand_mutated_headers_end_in_a_tensor_list_or_a_sentence()
    {
        byte[] original = Sample();
        int header = (int)BinaryPrimitives.ReadUInt64LittleEndian(original);
        byte[] tokens = Encoding.ASCII.GetBytes("{}[]\",:0123456789-eE.\\u nt");
        uint state = 12345;
        int Next(int below) => (int)((state = state * 1664525 + 1013904223) >> 8) % below;
        int read = 0, refused = 0;
        byte[] bytes = new byte[original.Length];
        for (int round = 0; round < 200_000; round++)
        {
            original.CopyTo(bytes, 0);
            int n = original.Length;
            for (int edits = 1 + Next(4); edits > 0; edits--)
                switch (Next(6))
                {
                    case 0: bytes[Next(8 + header)] ^= (byte)(1 << Next(8)); break;
                    case 1: bytes[8 + Next(header)] = (byte)Next(256); break;
                    case 2: n = 1 + Next(n); break;
                    case 3: bytes[Next(3)] = (byte)Next(256); break;
                    case 4:
                        int from = 8 + Next(header), to = 8 + Next(header);
                        int length = Math.Min(Next(24), original.Length - Math.Max(from, to));
                        Buffer.BlockCopy(original, from, bytes, to, length);
                        break;
                    default: bytes[8 + Next(header)] = tokens[Next(tokens.Length)]; break;
                }
            try
            {
                using SafeTensors file = SafeTensors.Read(bytes.AsMemory(0, n), "fuzz");
                foreach (TensorEntry entry in file.Entries) Assert.That(file.Raw(entry.Name).Length, Is.EqualTo(entry.Bytes));
                read++;
            }
            catch (WeightFileException) { refused++; }
        }
        Assert.That(read, Is.GreaterThan(1000), "the mutations are too strong to test reading");
        Assert.That(refused, Is.GreaterThan(50_000), "the mutations are too weak to test refusing");
    }
}
