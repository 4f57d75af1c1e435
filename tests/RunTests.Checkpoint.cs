using MimEngine.Engine.Runs;
using NUnit.Framework;

namespace MimEngine.Tests;

[TestFixture]
public class CheckpointTests
{
    private string _folder = "";

    [SetUp]
    public void MakeFolder() => _folder = Directory.CreateTempSubdirectory("mim-checkpoint-").FullName;

    [TearDown]
    public void RemoveFolder() => Directory.Delete(_folder, recursive: true);

    private static NamedTensor[] Weights(long step, int count = 5000)
        => [NamedTensor.From("master", [.. Enumerable.Range(0, count).Select(i => i + step * 0.25f)], count),
            NamedTensor.From("m", [step, -step], 2)];

    private SavedCheckpoint Save(long step, IFiles? files = null, int keep = 2)
        => Checkpoint.Save(_folder, new(step, "abc", new Dictionary<string, string> { ["recipe"] = "kamim" }), Weights(step), keep,
            files ?? DiskFiles.Instance);

    private string[] Names() => [.. Directory.EnumerateFiles(_folder).Select(f => Path.GetFileName(f)).Order()];

    [Test]
    public void A_checkpoint_comes_back_with_its_bits_and_words()
    {
        SavedCheckpoint saved = Save(123);
        using Checkpoint? checkpoint = Checkpoint.Latest(_folder).Newest;
        Assert.That(Path.GetFileName(saved.File), Is.EqualTo("step-00000123.safetensors"));
        Assert.That(saved.Bytes, Is.EqualTo(new FileInfo(saved.File).Length));
        Assert.That(checkpoint!.Header.Step, Is.EqualTo(123));
        Assert.That(checkpoint.Header.ConfigHash, Is.EqualTo("abc"));
        Assert.That(checkpoint.Header.Notes!["recipe"], Is.EqualTo("kamim"));
        Assert.That(checkpoint.Tensors.Floats("master"), Is.EqualTo(Enumerable.Range(0, 5000).Select(i => i + 123 * 0.25f)));
        Assert.That(checkpoint.Tensors.Floats("m"), Is.EqualTo(new[] { 123f, -123f }));
    }

    [Test]
    public void The_same_state_gives_the_same_bytes()
    {
        byte[] first = File.ReadAllBytes(Save(7).File), second = File.ReadAllBytes(Save(7).File);
        Assert.That(second, Is.EqualTo(first));
    }

    [Test]
    public void Only_the_newest_are_kept()
    {
        for (long step = 10; step <= 50; step += 10) Save(step);
        Assert.That(Names(), Is.EqualTo(new[] { "step-00000040.safetensors", "step-00000050.safetensors" }));
    }

    [Test]
    public void An_empty_or_absent_folder_has_no_checkpoint_and_that_is_no_error()
    {
        Assert.That(Checkpoint.Latest(_folder).Newest, Is.Null);
        Assert.That(Checkpoint.Latest(Path.Combine(_folder, "absent")).Newest, Is.Null);
    }

    [Test]
    public void Every_flipped_bit_is_noticed()
    {
        string path = Checkpoint.Save(_folder, new(1, "h"), Weights(1, 16)).File;
        byte[] good = File.ReadAllBytes(path);
        for (int bit = 0; bit < good.Length * 8; bit++)
        {
            byte[] bad = (byte[])good.Clone();
            bad[bit / 8] ^= (byte)(1 << bit % 8);
            File.WriteAllBytes(path, bad);
            Assert.Throws<WeightFileException>(() => Checkpoint.Open(path), $"bit {bit % 8} of byte {bit / 8} of {good.Length}");
        }
    }

    [TestCase("truncated")]
    [TestCase("bit flipped")]
    [TestCase("empty")]
    public void A_damaged_newest_falls_back_to_the_one_before_and_says_so(string damage)
    {
        Save(10);
        string newest = Save(20).File;
        Damage(newest, damage);
        (Checkpoint? found, IReadOnlyList<(string File, string Reason)> skipped) = Checkpoint.Latest(_folder);
        using (found)
        {
            Assert.That(found!.Header.Step, Is.EqualTo(10));
            Assert.That(skipped.Single().File, Is.EqualTo(newest));
            Assert.That(skipped.Single().Reason, Does.StartWith(newest + ": "));
        }
    }

    [Test]
    public void When_all_are_damaged_a_run_refuses_to_start_over()
    {
        Damage(Save(10).File, "bit flipped");
        Damage(Save(20).File, "truncated");
        string message = Assert.Throws<RunException>(() => Checkpoint.Latest(_folder))!.Message;
        Assert.That(message, Does.Contain("none of its 2 checkpoints").And.Contain("--out"));
        Assert.That(Names(), Has.Length.EqualTo(2), "nothing is removed");
    }

    [Test]
    public void A_run_that_fell_back_does_not_give_up_its_good_checkpoint_for_a_damaged_newer_one()
    {
        Save(10);
        Damage(Save(50).File, "bit flipped");
        Save(20);
        Save(30);
        (Checkpoint? found, _) = Checkpoint.Latest(_folder);
        using (found) Assert.That(found!.Header.Step, Is.EqualTo(30));
        Assert.That(Names(), Does.Contain("step-00000020.safetensors"));
    }

    [Test]
    public void A_renamed_checkpoint_is_not_taken_for_another_step()
    {
        Save(10);
        File.Copy(Path.Combine(_folder, Checkpoint.FileName(10)), Path.Combine(_folder, Checkpoint.FileName(99)));
        (Checkpoint? found, IReadOnlyList<(string File, string Reason)> skipped) = Checkpoint.Latest(_folder);
        using (found) Assert.That(found!.Header.Step, Is.EqualTo(10));
        Assert.That(skipped.Single().Reason, Does.Contain("holds step 10, not 99"));
    }

    [TestCase(float.NaN)]
    [TestCase(float.PositiveInfinity)]
    public void Weights_that_are_not_finite_are_never_written(float value)
    {
        Save(10);
        NamedTensor[] tensors = [NamedTensor.From("good", [1f]), NamedTensor.From("blocks.3.mlp.fc1.weight", [0f, value, 1f], 3)];
        RunException e = Assert.Throws<RunException>(() => Checkpoint.Save(_folder, new(20, "h"), tensors))!;
        Assert.That(e.Message, Does.Contain("blocks.3.mlp.fc1.weight").And.Contain("step 20"));
        Assert.That(Names(), Is.EqualTo(new[] { "step-00000010.safetensors" }));
    }

    [Test]
    public void A_full_disk_leaves_the_previous_checkpoint_and_the_next_save_succeeds()
    {
        Save(10);
        FaultyFiles files = new(Fault.Once, 3, errno: 28);
        string message = Assert.Throws<SaveException>(() => Save(20, files))!.Message;
        Assert.That(message, Does.Contain("step-00000020.safetensors").And.Contain("No space left on device"));
        Assert.That(Names(), Is.EqualTo(new[] { "step-00000010.safetensors" }), "no temporary file stays");
        Save(30, files);
        using Checkpoint? newest = Checkpoint.Latest(_folder).Newest;
        Assert.That(newest!.Header.Step, Is.EqualTo(30));
    }

    [Test]
    public void On_a_full_disk_an_older_checkpoint_makes_room_when_a_newer_one_is_whole()
    {
        Save(10);
        Save(20);
        Save(30, new FaultyFiles(Fault.Once, 3, errno: 28));
        Assert.That(Names(), Is.EqualTo(new[] { "step-00000020.safetensors", "step-00000030.safetensors" }));
    }

    [Test]
    public void On_a_full_disk_the_last_good_checkpoint_is_never_given_up()
    {
        Save(10);
        Damage(Save(20).File, "bit flipped");
        Assert.Throws<SaveException>(() => Save(30, new FaultyFiles(Fault.Once, 3, errno: 28)));
        Assert.That(Names(), Is.EqualTo(new[] { "step-00000010.safetensors", "step-00000020.safetensors" }));
    }

    /// <summary>As SQLite tests: an I/O error at the first operation, at the second, … until a whole session of saves meets none.</summary>
    [TestCase(Fault.Once)]
    [TestCase(Fault.Killed)]
    [TestCase(Fault.PowerCut)]
    public void An_error_at_any_operation_leaves_no_bad_checkpoint_and_loses_no_good_one(Fault fault)
    {
        int at = 1, met = 0;
        for (bool hit = true; hit; at++)
        {
            foreach (string file in Directory.EnumerateFiles(_folder)) File.Delete(file);
            FaultyFiles files = new(fault, at, errno: 5);
            long acknowledged = 0;
            for (long step = 10; step <= 50; step += 10)
                try
                {
                    Save(step, files);
                    acknowledged = step;
                }
                catch (SaveException)
                {
                    met++;
                    if (fault != Fault.Once) break;
                }
            hit = files.Hit;
            files.CutPower();

            foreach ((string file, _) in Checkpoint.List(_folder)) Checkpoint.Open(file).Dispose();   // throws for a bad one
            using (Checkpoint? newest = Checkpoint.Latest(_folder).Newest)
            {
                Assert.That(newest?.Header.Step ?? 0, Is.GreaterThanOrEqualTo(acknowledged), $"error at operation {at}");
                if (newest is not null) Assert.That(newest.Tensors.Floats("m")[0], Is.EqualTo((float)newest.Header.Step));
            }
            if (fault == Fault.Once && hit) Assert.That(acknowledged, Is.EqualTo(50).Or.EqualTo(40),
                $"the run goes on after operation {at}");
            Save(60);
            Assert.That(Names().Where(n => n.EndsWith(".tmp")), Is.Empty, "leftovers are removed by the next save");
        }
        Assert.That(met, Is.GreaterThan(30), "the errors were not met");
    }

    private static void Damage(string file, string how)
    {
        byte[] bytes = File.ReadAllBytes(file);
        if (how == "bit flipped") bytes[bytes.Length / 2] ^= 4;
        File.WriteAllBytes(file, how switch { "empty" => [], "truncated" => bytes[..(bytes.Length * 2 / 3)], _ => bytes });
    }

    public enum Fault
    {
        /// <summary>One operation fails, later ones work.</summary>
        Once,

        /// <summary>From that operation on nothing happens any more: the process is gone.</summary>
        Killed,

        /// <summary>As Killed, and what was not synced is lost: half-written files, renames undone.</summary>
        PowerCut,
    }

    /// <summary>Real files whose n-th operation fails.</summary>
    private sealed class FaultyFiles(Fault fault, int failAt, int errno) : IFiles
    {
        private readonly HashSet<string> _unsynced = [];
        private readonly List<(string From, string To)> _renames = [];
        private int _operations;

        public bool Hit => _operations >= failAt;

        public Stream Create(string path)
        {
            Step(path);
            _unsynced.Add(path);
            return new FaultyStream(this, path);
        }

        public void Sync(Stream file)
        {
            Step(((FileStream)file).Name);
            _unsynced.Remove(((FileStream)file).Name);
        }

        public void Rename(string from, string to)
        {
            Step(to);
            File.Move(from, to, overwrite: true);
            _renames.Add((from, to));
        }

        public void SyncFolder(string path)
        {
            Step(path);
            _renames.Clear();
        }

        public void Delete(string path)
        {
            Step(path);
            File.Delete(path);
        }

        public void CutPower()
        {
            if (fault != Fault.PowerCut) return;
            foreach ((string from, string to) in _renames) File.Move(to, from, overwrite: true);
            foreach (string file in _unsynced.Where(File.Exists))
                File.WriteAllBytes(file, File.ReadAllBytes(file)[..(int)(new FileInfo(file).Length / 2)]);
        }

        private void Step(string path)
        {
            _operations++;
            if (_operations == failAt || (fault != Fault.Once && _operations > failAt))
                throw new IOException((errno == 28 ? "No space left on device" : "Input/output error") + $" : '{path}'", errno);
        }

        private sealed class FaultyStream(FaultyFiles files, string path)
            : FileStream(path, FileMode.Create, FileAccess.ReadWrite, FileShare.Read, bufferSize: 0)
        {
            public override void Write(ReadOnlySpan<byte> buffer)
            {
                try { files.Step(Name); }
                catch (IOException)
                {
                    if (files._operations == files.FailAt) base.Write(buffer[..(buffer.Length / 2)]);
                    throw;
                }
                base.Write(buffer);
            }
        }

        private int FailAt => failAt;
    }
}
