using MimEngine.Cli;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>
/// A device that fails while it is used, as a lost one does: from some call to the driver on, every call fails. On the simulator, whose code
/// between an operation and the driver is the GPU's.
/// </summary>
[TestFixture]
public class LostDeviceTests
{
    private const string Illegal = "an illegal memory access was encountered";

    private static readonly string[] s_run =
    [
        "pretrain", "--device", "sim", "--vit", "micro", "--batch", "2", "--seed", "5", "--set", "encoder.depth=1", "--set", "run.logEverySteps=1",
        "--set", "run.checkpointEveryEpochs=0.000001", "--set", "run.healthEveryEpochs=0", "--set", "run.picturesEveryEpochs=0",
    ];

    private string _root = "";

    [OneTimeSetUp]
    public void Need_the_simulator()
    {
        if (BackendLoader.WhyAbsent is { } why) Assert.Ignore(why);
    }

    [SetUp]
    public void MakeFolder() => _root = Directory.CreateTempSubdirectory("mim-lost-").FullName;

    [TearDown]
    public void RemoveFolder() => Directory.Delete(_root, recursive: true);

    private static ITestedDriver Driver => (ITestedDriver)BackendLoader.Provider!;

    [Test]
    public void Whatever_call_the_device_is_lost_at_it_is_one_sentence_and_closing_it_hides_nothing()
    {
        for (int calls = 1; ; calls++)
        {
            Driver.FailNext(calls, Illegal);
            DeviceException? said = null;
            bool over = false;
            try
            {
                using Backend device = Backend.Open("sim");
                Work(device);
                over = true;
            }
            catch (DeviceException e) { said = e; }
            if (said is null && over) break;
            Assert.That(said!.Message, Is.EqualTo($"device 'sim' failed: {Illegal}. Checkpoints already written are intact; --resume continues from the last."),
                $"lost at call {calls}");
            Assert.That(calls, Is.LessThan(200), "it is lost for ever");
        }
    }

    /// <summary>Memory, both kinds of upload, kernels with scratch, a copy, a read-back.</summary>
    private static void Work(Backend device)
    {
        const int rows = 65, cols = 16;
        using Storage large = device.Allocate(UploadRing.Small + 4), small = device.Allocate(cols * 4);
        Tensor all = new(large, 0, new Shape(UploadRing.Small / 4 + 1), DType.F32), bias = new(small, 0, new Shape(cols), DType.F32);
        Tensor dy = all.Slice(0, rows * cols).Reshape(new Shape(rows, cols)), x = all.Slice(0, rows).Reshape(new Shape(rows, 1));
        device.Upload(all, new byte[all.Bytes]);
        device.Upload(bias, new byte[bias.Bytes]);
        device.Copy(bias, all.Slice(0, cols));
        device.LinearBackward(Grad.None, Grad.None, Grad.Write(bias), dy, x, all.Slice(0, cols).Reshape(new Shape(cols, 1)));
        device.Download(new byte[bias.Bytes], bias);
    }

    [Test]
    public void Memory_that_the_driver_refuses_is_not_a_lost_device()
    {
        // The first call of a backend is its own small block.
        Driver.FailNext(3, "out of memory");
        Backend device = Backend.Open("sim");
        device.Synchronize();
        DeviceMemoryException e = Assert.Throws<DeviceMemoryException>(() =>
        {
            for (int i = 0; i < 3; i++) device.Allocate(1000);
        })!;
        Assert.That(e.Message, Does.Match(@"^device 'sim': 1,024 bytes were asked for and it has [\d,]+ in all\. A smaller batch or "));
        Assert.Throws<DeviceException>(device.Dispose);
    }

    [Test]
    public void A_run_whose_device_is_lost_ends_in_one_sentence_and_goes_on_from_its_last_checkpoint()
    {
        string run = Path.Combine(_root, "run");
        (int code, string output, string error) = Mim([.. s_run, "--steps", "2", "--out", run]);
        Assert.That((code, error), Is.EqualTo((0, "")), output);
        long calls = CallsOf([.. s_run, "--steps", "2", "--out", Path.Combine(_root, "counted")]);
        string lost = Path.Combine(_root, "lost");
        // In the second step: after the first step's checkpoint, before the second's.
        Driver.FailNext(calls * 3 / 4, Illegal);
        (code, output, error) = Mim([.. s_run, "--steps", "2", "--out", lost]);
        Assert.That(code, Is.EqualTo(1), output);
        Assert.That(error.TrimEnd(), Is.EqualTo($"mim: device 'sim' failed: {Illegal}. Checkpoints already written are intact; --resume continues from the last."));
        string[] left = [.. Directory.GetFiles(Path.Combine(lost, "checkpoints")).Select(Path.GetFileName)!];
        Assert.That(left, Is.EqualTo(new[] { Checkpoint.FileName(1) }), "the first step's checkpoint, and nothing half written");
        Checkpoint.Open(Path.Combine(lost, "checkpoints", left[0])).Dispose();
        (code, output, error) = Mim("pretrain", "--resume", lost, "--device", "sim");
        Assert.That((code, error), Is.EqualTo((0, "")), output);
        Assert.That(File.ReadAllBytes(Path.Combine(lost, "checkpoints", Checkpoint.FileName(2))),
            Is.EqualTo(File.ReadAllBytes(Path.Combine(run, "checkpoints", Checkpoint.FileName(2)))));
    }

    private static long CallsOf(string[] args)
    {
        Driver.FailNext(long.MaxValue, "");
        Assert.That(Mim(args).Code, Is.Zero);
        return Driver.CallsOfLast;
    }

    private static (int Code, string Out, string Error) Mim(params string[] args)
    {
        StringWriter output = new(), error = new();
        using StopSignal stop = new();
        int code = Program.Run(args, new Terminal(output, error, Live: false, stop));
        return (code, output.ToString(), error.ToString());
    }
}
