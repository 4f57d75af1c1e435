using System.Buffers.Binary;
using System.Diagnostics;
using System.Text;
using System.Text.Json;
using MimEngine.Engine.Runs;
using NUnit.Framework;

namespace MimEngine.Tests;

[TestFixture]
public class RunFolderTests
{
    private string _root = "";

    [SetUp]
    public void MakeFolder() => _root = Directory.CreateTempSubdirectory("mim-run-").FullName;

    [TearDown]
    public void RemoveFolder() => Directory.Delete(_root, recursive: true);

    private string In(string name) => Path.Combine(_root, name);

    private static readonly EnvironmentRecord s_environment = new("0.1.0", ".NET 10", "Debian", "a CPU", "cpu", 2, "Vector512",
        "mim pretrain",
        "2026-01-02T03:04:05Z");

    [Test]
    public void Numbered_runs_take_the_next_free_number()
    {
        using RunDirectory first = RunDirectory.CreateNumbered(_root, "kamim-small", "{}");
        using RunDirectory second = RunDirectory.CreateNumbered(_root, "kamim-small", "{}");
        Directory.CreateDirectory(In("kamim-small-007"));
        Directory.CreateDirectory(In("kamim-small-x"));
        using RunDirectory third = RunDirectory.CreateNumbered(_root, "kamim-small", "{}");
        Assert.That(new[] { first, second, third }.Select(r => Path.GetFileName(r.Path)),
            Is.EqualTo(new[] { "kamim-small-001", "kamim-small-002", "kamim-small-008" }));
        Assert.That(Directory.Exists(third.Checkpoints) && Directory.Exists(third.Pictures));
    }

    [Test]
    public void Twenty_runs_started_together_take_twenty_folders()
    {
        RunDirectory[] runs = new RunDirectory[20];
        Thread[] threads = [.. Enumerable.Range(0, runs.Length)
            .Select(i => new Thread(() => runs[i] = RunDirectory.CreateNumbered(_root, "r", "{}")))];
        foreach (Thread thread in threads) thread.Start();
        foreach (Thread thread in threads) thread.Join();
        Assert.That(runs.Select(r => r.Path).Distinct().Count(), Is.EqualTo(20));
        foreach (RunDirectory run in runs) run.Dispose();
    }

    [Test]
    public void A_run_is_created_then_resumed_and_every_start_is_on_record()
    {
        using (RunDirectory run = RunDirectory.Create(In("r"), "{\"a\":1}")) run.AddEnvironment(s_environment);
        using (RunDirectory run = RunDirectory.Resume(In("r"))) run.AddEnvironment(s_environment with { Step = 500 });
        Assert.That(RunDirectory.ReadConfig(In("r")), Is.EqualTo("{\"a\":1}"));
        using JsonDocument json = JsonDocument.Parse(File.ReadAllText(In("r/environment.json")));
        Assert.That(json.RootElement.EnumerateArray().Select(e => e.GetProperty("step").GetInt64()), Is.EqualTo(new[] { 0L, 500L }));
        Assert.That(json.RootElement[0].GetProperty("simdLevel").GetString(), Is.EqualTo("Vector512"));
    }

    [Test]
    public void A_folder_that_is_no_place_for_a_run_is_refused_in_a_sentence()
    {
        Directory.CreateDirectory(In("photos"));
        File.WriteAllText(In("photos/a.jpg"), "x");
        File.WriteAllText(In("file"), "x");
        RunDirectory.Create(In("run"), "{}").Dispose();
        void Refused(Action action, string says)
            => Assert.That(Assert.Throws<RunException>(() => action())!.Message, Does.Contain(says).And.StartsWith(_root)
                .And.Not.Contain("\n"));
        Refused(() => RunDirectory.Create(In("photos"), "{}"), "is not empty");
        Refused(() => RunDirectory.Create(In("file"), "{}"), "is a file");
        Refused(() => RunDirectory.Create(In("file/below"), "{}"), "cannot be used");
        Refused(() => RunDirectory.Create(In("run"), "{}"), "--resume");
        Refused(() => RunDirectory.Resume(In("absent")), "no such run folder");
        Refused(() => RunDirectory.Resume(In("photos")), "no config.json");
        Assert.That(File.Exists(In("photos/run.lock")), Is.False, "a foreign folder is left as it was");
    }

    [Test]
    public void An_unwritable_place_is_refused_in_a_sentence()
    {
        if (OperatingSystem.IsWindows() || Environment.IsPrivilegedProcess)
        {
            // Root may write anywhere but in the kernel's own tree.
            if (!Directory.Exists("/proc/self")) Assert.Ignore("needs a folder that this user cannot write");
            Assert.That(Assert.Throws<RunException>(() => RunDirectory.Create("/proc/self/run", "{}"))!.Message,
                Does.Contain("cannot be used"));
            return;
        }
        Directory.CreateDirectory(In("locked"), UnixFileMode.UserRead | UnixFileMode.UserExecute);
        Assert.That(Assert.Throws<RunException>(() => RunDirectory.Create(In("locked/run"), "{}"))!.Message,
            Does.Contain("cannot be used"));
    }

    [Test]
    public void A_run_in_use_is_refused_until_its_process_lets_go()
    {
        using (RunDirectory.Create(In("r"), "{}"))
            Assert.That(Assert.Throws<RunException>(() => RunDirectory.Resume(In("r")))!.Message, Does.Contain("another process"));
        RunDirectory.Resume(In("r")).Dispose();
    }

    [Test]
    public void Metrics_are_lines_of_json_in_any_culture()
    {
        using (MetricsLog log = MetricsLog.Open(In("m.jsonl"), 0))
        {
            log.Write(1, [new("loss", 0.5), new("lr", 1e-6), new("bad", double.NaN)]);
            log.Write(2, [new("loss", double.NegativeInfinity)], note: "skipped \"it\"\n");
        }
        string[] lines = File.ReadAllLines(In("m.jsonl"));
        Assert.That(lines, Has.Length.EqualTo(2));
        using JsonDocument first = JsonDocument.Parse(lines[0]), second = JsonDocument.Parse(lines[1]);
        Assert.That(first.RootElement.GetProperty("loss").GetDouble(), Is.EqualTo(0.5));
        Assert.That(first.RootElement.GetProperty("lr").GetDouble(), Is.EqualTo(1e-6));
        Assert.That(first.RootElement.GetProperty("bad").GetString(), Is.EqualTo("NaN"));
        Assert.That(second.RootElement.GetProperty("note").GetString(), Is.EqualTo("skipped \"it\"\n"));
    }

    [TestCase("", 20)]
    [TestCase("{\"step\":30,\"lo", 30)]
    [TestCase("{\"step\":30,\"lo\n", 30)]
    [TestCase("{\"step\":30}", 30)]
    [TestCase("\0\0\0\0\0\0\0", 30)]
    [TestCase("é\uFFFD\n", 30)]
    public void A_resumed_log_never_repeats_a_step_and_loses_a_torn_line(string torn, long resumed)
    {
        using (MetricsLog log = MetricsLog.Open(In("m.jsonl"), 0))
            foreach (long step in new long[] { 10, 20, 30, 40 }.Where(s => torn.Length == 0 || s < 30))
                log.Write(step, [new("loss", step)]);
        File.AppendAllText(In("m.jsonl"), torn);
        using (MetricsLog log = MetricsLog.Open(In("m.jsonl"), resumed)) log.Write(50, [new("loss", 50)]);
        long[] steps = [.. File.ReadAllLines(In("m.jsonl")).Select(l => JsonDocument.Parse(l).RootElement.GetProperty("step").GetInt64())];
        Assert.That(steps, Is.EqualTo(new long[] { 10, 20, 50 }));
    }

    [Test]
    public void A_full_disk_holds_lines_back_until_there_is_room()
    {
        using SmallDisk disk = new() { Room = 40 };
        using MetricsLog log = new(disk, "metrics.jsonl");
        for (int step = 1; step <= 5; step++) log.Write(step, [new("loss", 0.5)]);   // 24 bytes a line
        Assert.That(log.Trouble, Does.Contain("metrics.jsonl").And.Contain("No space left"));
        Assert.That(Encoding.UTF8.GetString(disk.ToArray()), Is.EqualTo("{\"step\":1,\"loss\":0.5}\n"), "no torn line");
        disk.Room = 1000;
        log.Write(6, [new("loss", 0.5)]);
        Assert.That(log.Trouble, Is.Null);
        Assert.That(Encoding.UTF8.GetString(disk.ToArray()),
            Is.EqualTo(string.Concat(Enumerable.Range(1, 6).Select(step => $"{{\"step\":{step},\"loss\":0.5}}\n"))));
    }

    /// <summary>Writes what fits, then says that the disk is full, as a file system does.</summary>
    private sealed class SmallDisk : MemoryStream
    {
        public long Room { get; set; }

        public override void Write(ReadOnlySpan<byte> buffer)
        {
            int fits = (int)Math.Min(buffer.Length, Room - Position);
            base.Write(buffer[..fits]);
            if (fits < buffer.Length) throw new IOException("No space left on device : 'metrics.jsonl'", 28);
        }
    }

    [Test]
    public void TensorBoard_records_read_back_with_valid_checksums()
    {
        byte[] png = [0x89, (byte)'P', (byte)'N', (byte)'G', .. Enumerable.Range(0, 300).Select(i => (byte)i)];
        double time = 1_700_000_000.25;
        using (EventFile events = EventFile.Create(_root, 0, () => time))
        {
            events.Scalar(7, "loss", 0.125);
            events.Scalar(300, "a/é", -1e30);
            events.Picture(300, "reconstruction", 640, 200, png);
        }
        using (EventFile events = EventFile.Create(_root, 250, () => time)) events.Scalar(251, "loss", 1);

        string[] files = [.. Directory.EnumerateFiles(_root).Order(StringComparer.Ordinal)];
        Assert.That(files.Select(Path.GetFileName), Is.EqualTo(new[] { "events.out.tfevents.1700000000.mim",
            "events.out.tfevents.1700000001.mim" }));
        List<Dictionary<int, object>> first = Events(files[0]), second = Events(files[1]);
        Assert.That(File.ReadAllBytes(files[0])[..12], Is.EqualTo(new byte[] { 0x18, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22 }),
            "the start of every such file");
        Assert.That(Encoding.UTF8.GetString((byte[])first[0][3]), Is.EqualTo("brain.Event:2"));
        Assert.That(BitConverter.UInt64BitsToDouble((ulong)first[0][1]), Is.EqualTo(time));

        Dictionary<int, object> loss = Value(first[1]), negative = Value(first[2]), picture = Value(first[3]);
        Assert.That((first[1][2], first[2][2], first[3][2]), Is.EqualTo((7ul, 300ul, 300ul)));
        Assert.That((Encoding.UTF8.GetString((byte[])loss[1]), BitConverter.UInt32BitsToSingle((uint)loss[2])),
            Is.EqualTo(("loss", 0.125f)));
        Assert.That((Encoding.UTF8.GetString((byte[])negative[1]), BitConverter.UInt32BitsToSingle((uint)negative[2])),
            Is.EqualTo(("a/é", -1e30f)));
        Dictionary<int, object> image = Message((byte[])picture[4]);
        Assert.That((image[1], image[2], image[3]), Is.EqualTo((200ul, 640ul, 3ul)));
        Assert.That((byte[])image[4], Is.EqualTo(png));

        Assert.That(second[1][2], Is.EqualTo(251ul), "steps from 251 on are forgotten");
        Assert.That(Message((byte[])second[1][7])[1], Is.EqualTo(1ul), "SessionLog.START");
    }

    [Test]
    public void Crc32C_has_its_published_values()
    {
        Assert.That(Crc32C.Append(0, "123456789"u8), Is.EqualTo(0xE3069283u));
        Assert.That(Crc32C.Append(0, new byte[32]), Is.EqualTo(0x8A9136AAu), "RFC 3720, B.4");
        Assert.That(Crc32C.Append(Crc32C.Append(0, "1234"u8), "56789"u8), Is.EqualTo(0xE3069283u));
    }

    private static Dictionary<int, object> Value(Dictionary<int, object> e) => Message((byte[])Message((byte[])e[5])[1]);

    // A reader of its own: bitwise CRC, no code shared with the writer.
    private static List<Dictionary<int, object>> Events(string file)
    {
        byte[] all = File.ReadAllBytes(file);
        List<Dictionary<int, object>> events = [];
        for (int at = 0; at < all.Length;)
        {
            int length = (int)BinaryPrimitives.ReadUInt64LittleEndian(all.AsSpan(at));
            Assert.That(BinaryPrimitives.ReadUInt32LittleEndian(all.AsSpan(at + 8)), Is.EqualTo(Mask(all.AsSpan(at, 8))));
            Assert.That(BinaryPrimitives.ReadUInt32LittleEndian(all.AsSpan(at + 12 + length)),
                Is.EqualTo(Mask(all.AsSpan(at + 12, length))));
            events.Add(Message(all[(at + 12)..(at + 12 + length)]));
            at += 16 + length;
        }
        return events;
    }

    private static uint Mask(ReadOnlySpan<byte> bytes)
    {
        uint crc = 0xFFFFFFFF;
        foreach (byte b in bytes)
        {
            crc ^= b;
            for (int i = 0; i < 8; i++) crc = (crc & 1) != 0 ? crc >> 1 ^ 0x82F63B78 : crc >> 1;
        }
        crc = ~crc;
        return (crc >> 15 | crc << 17) + 0xA282EAD8;
    }

    private static Dictionary<int, object> Message(byte[] bytes)
    {
        Dictionary<int, object> fields = [];
        int at = 0;
        ulong Varint()
        {
            ulong value = 0;
            for (int shift = 0; ; shift += 7)
            {
                value |= (ulong)(bytes[at] & 0x7F) << shift;
                if (bytes[at++] < 0x80) return value;
            }
        }
        while (at < bytes.Length)
        {
            ulong key = Varint();
            object value;
            switch (key & 7)
            {
                case 0: value = Varint(); break;
                case 1: value = BinaryPrimitives.ReadUInt64LittleEndian(bytes.AsSpan(at)); at += 8; break;
                case 5: value = BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(at)); at += 4; break;
                case 2: int n = (int)Varint(); value = bytes[at..(at + n)]; at += n; break;
                default: throw new UnreachableException($"wire type {key & 7}");
            }
            fields.Add((int)(key >> 3), value);
        }
        return fields;
    }
}
