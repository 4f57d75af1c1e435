using System.Text.RegularExpressions;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>
/// The GPU backend on ILGPU's simulator, against the CPU, with the table's cases that are small enough for it (a barrier of its 16
/// threads costs 0.2 ms); and every kernel as text. Skipped, with the reason, where the build has no GPU backend.
/// </summary>
[TestFixture]
public class IlgpuTests
{
    /// <summary>Numbers that a case may read and write in all.</summary>
    private const int Largest = 20_000;

    private Backend _device = null!;

    [OneTimeSetUp]
    public void Open_the_simulator()
    {
        if (BackendLoader.WhyAbsent is { } why) Assert.Ignore(why);
        _device = Backend.Open("sim");
    }

    [OneTimeTearDown]
    public void Close_the_simulator() => _device?.Dispose();

    [TestCase("fill|copy|cast|add-scaled")]
    [TestCase("linear|gelu|scale-add|layer-scale")]
    [TestCase("layer-norm|softmax|batch-norm|Tanh|Relu")]
    [TestCase("attention|relative|mix|cls|resize")]
    [TestCase("patchify|unpatchify|assemble|slice|mean|gather|scatter|pool")]
    [TestCase("pixel|cross-entropy")]
    [TestCase("l2-normalize|scale-shift|teacher|distill|center")]
    [TestCase("squared|clip|AdamW|LARS|SGD")]
    [TestCase("normalize|normalised|luma|FAST|marks|box|keypoint")]
    public void The_simulator_agrees_with_the_cpu_on_these_operations(string operations)
    {
        CpuBackend cpu = Cpu.Open(Simd.Best);
        OpCase[] cases = [.. OpCases.All.Where(c => Regex.IsMatch(c.Name, $"^({operations})") && Small(c))];
        Assert.That(cases, Is.Not.Empty);
        List<string> failures = [];
        foreach (OpCase c in cases)
            foreach (OpCall call in c.Calls())
                foreach (GradModes modes in call.Modes())
                {
                    using var isolated = new NUnit.Framework.Internal.TestExecutionContext.IsolatedContext();
                    try { Agreement.Check(call, modes, call.Execute(_device, modes), call.Execute(cpu, modes), "sim"); }
                    catch (AssertionException e) { failures.Add(e.Message); }
                }
        Assert.That(failures, Is.Empty);
    }

    [Test]
    public void Every_case_of_the_table_belongs_to_a_test_above()
    {
        string[] groups = [.. typeof(IlgpuTests).GetMethod(nameof(The_simulator_agrees_with_the_cpu_on_these_operations))!
            .GetCustomAttributes(typeof(TestCaseAttribute), false).Select(a => (string)((TestCaseAttribute)a).Arguments[0]!)];
        Assert.That(OpCases.All.Select(c => c.Name).Where(n => groups.Count(g => Regex.IsMatch(n, $"^({g})")) != 1), Is.Empty);
    }

    [Test]
    public void Memory_that_is_not_there_is_one_sentence_and_what_is_handed_out_is_counted()
    {
        long before = _device.AllocatedBytes;
        DeviceMemoryException e = Assert.Throws<DeviceMemoryException>(() => _device.Allocate(1L << 60))!;
        Assert.That(e.Message, Does.StartWith("device 'sim': 1,152,921,504,606,846,976 bytes were asked for"));
        using (_device.Allocate(1000)) Assert.That(_device.AllocatedBytes - before, Is.EqualTo(1000));
        Assert.That(_device.AllocatedBytes, Is.EqualTo(before));
        Assert.Throws<DeviceException>(() => Backend.Open("cuda:99"));
    }

    [Test]
    public void Every_kernel_emits_for_both_kinds_of_gpu_with_nothing_external_and_no_double()
    {
        EmittedKernel[] all = [.. BackendLoader.Provider!.Emit()];
        Assert.That(all.Select(k => (k.Kernel, k.Language)), Is.Unique);
        Assert.That(all.Count(k => k.Language == "PTX"), Is.EqualTo(all.Count(k => k.Language == "OpenCL C")).And.GreaterThan(40));
        foreach (EmittedKernel k in all)
        {
            string text = Regex.Replace(k.Text, "//.*", "");
            if (k.Language == "PTX")
            {
                Assert.That(text, Does.Contain(".target sm_80"), k.Kernel);
                Assert.That(text, Does.Not.Match(@"\.f64|\.extern|\bcall\b|\.local"), k.Kernel);
                int shared = Regex.Matches(text, @"\.shared \.align \d+ \.b8 \w+\[(\d+)\]").Sum(m => int.Parse(m.Groups[1].Value));
                Assert.That(shared, Is.AtMost(48 << 10), $"{k.Kernel}: bytes of shared memory");
            }
            else if (k.Language == "PTX by hand")
            {
                Assert.That(text, Does.Contain(".target sm_80").And.Not.Match(@"\.f64|\bcall\b|\.local"), k.Kernel);
                // What one group may have on every GPU of compute capability 8.0 and newer.
                Assert.That(int.Parse(Regex.Match(k.Text, @"// shared (\d+) bytes").Groups[1].Value), Is.AtMost(99 << 10), $"{k.Kernel}: bytes of shared memory");
            }
            else Assert.That(text, Does.Not.Match(@"\bdouble\b|\bextern\b|\batom"), k.Kernel);
        }
    }

    /// <summary>
    /// The host writes the padding at the end of a struct within a kernel's struct, the compiled kernel does not count it: whatever follows
    /// must begin at a multiple of 8 by itself, or nothing may follow.
    /// </summary>
    [Test]
    public void No_field_of_a_kernel_follows_the_padding_of_a_struct()
    {
        Type[] kernels = [.. BackendLoader.Provider!.GetType().Assembly.GetTypes()
            .Where(t => t.IsValueType && t.GetInterfaces().Any(i => i.Name == "IKernel"))];
        Assert.That(kernels, Has.Length.GreaterThan(40));
        Assert.That(kernels.SelectMany(k => Followers(k).Select(f => $"{k.Name}: {f}")), Is.Empty);
        // A struct that ends in a 4-byte number beside views, with another number behind it, is what the rule is about.
        Assert.That(Followers(typeof((ValueTuple<long, int>, int))), Is.EqualTo(new[] { "Item2 follows Item1" }));

        static IEnumerable<string> Followers(Type type)
        {
            System.Reflection.FieldInfo[] fields = Fields(type);
            for (int i = 0; i < fields.Length; i++)
            {
                (int size, int alignment) = Layout(fields[i].FieldType, out bool padded);
                if (padded && i + 1 < fields.Length && Layout(fields[i + 1].FieldType, out _).Alignment < alignment) yield return $"{fields[i + 1].Name} follows {fields[i].Name}";
                if (IsStruct(fields[i].FieldType))
                    foreach (string inner in Followers(fields[i].FieldType)) yield return $"{fields[i].Name}.{inner}";
            }
        }

        static (int Size, int Alignment) Layout(Type t, out bool padded)
        {
            padded = t.IsGenericParameter;
            if (padded) return (8, 8);
            if (t.Name == "ArrayView`1") return (16, 8);
            if (!IsStruct(t)) return t == typeof(byte) ? (1, 1) : t == typeof(long) || t == typeof(ulong) ? (8, 8) : (4, 4);
            int end = 0, alignment = 1;
            foreach (System.Reflection.FieldInfo f in Fields(t))
            {
                (int size, int own) = Layout(f.FieldType, out _);
                end = (end + own - 1) / own * own + size;
                alignment = Math.Max(alignment, own);
            }
            padded = end % alignment != 0;
            return ((end + alignment - 1) / alignment * alignment, alignment);
        }

        static bool IsStruct(Type t) => t.IsValueType && !t.IsPrimitive && t.Name != "ArrayView`1";

        static System.Reflection.FieldInfo[] Fields(Type t) => [.. t.GetFields(System.Reflection.BindingFlags.Instance | System.Reflection.BindingFlags.Public
            | System.Reflection.BindingFlags.NonPublic).OrderBy(f => f.MetadataToken)];
    }

    private static bool Small(OpCase c) => c.Slots.Sum(s => s.Shape.Count) <= Largest;
}
