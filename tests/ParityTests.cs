using System.Collections.Concurrent;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using MimEngine.Kernels.Cpu.Emitted;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Every operation of the CPU against the float64 oracle, at every SIMD level and with every way to ask for gradients.</summary>
[TestFixture]
public class ParityTests
{
    private static readonly ConcurrentDictionary<OpCase, OpCall[]> s_calls = new();
    private static readonly ConcurrentDictionary<(OpCall, GradModes), Results> s_expected = new();

    [Test]
    public void The_cpu_agrees_with_the_oracle([ValueSource(typeof(OpCases), nameof(OpCases.All))] object line, [Values] SimdLevel level)
    {
        CpuBackend cpu = Cpu.Open(level);
        using var oracle = new OracleBackend();
        foreach (OpCall call in Calls(line))
            foreach (GradModes modes in call.Modes())
            {
                Results expected = s_expected.GetOrAdd((call, modes), _ => call.Execute(oracle, modes));
                Agreement.Check(call, modes, call.Execute(cpu, modes), expected, $"{level}");
            }
    }

    [Test]
    public void Three_threads_give_the_bits_of_one([ValueSource(typeof(OpCases), nameof(OpCases.All))] object line)
    {
        CpuBackend one = Cpu.Open(Simd.Best), three = Cpu.Open(Simd.Best, threads: 3);
        foreach (OpCall call in Calls(line))
            foreach (GradModes modes in call.Modes().Take(2))
            {
                Results single = call.Execute(one, modes), several = call.Execute(three, modes);
                foreach (Slot slot in call.Slots)
                    Assert.That(several.Bytes(slot.Name).AsSpan().SequenceEqual(single.Bytes(slot.Name)),
                        $"{call.Name}, {modes}: {slot.Name} {slot.Shape} depends on the thread count.");
            }
    }

    /// <summary>Cases with operands in bfloat16: those whose products a CPU of that precision computes in it.</summary>
    private static IEnumerable<object> Halves => OpCases.All.Where(c => c.HasHalves);

    [Test]
    public void The_cpu_in_bf16_agrees_with_the_oracle_within_its_rounding([ValueSource(nameof(Halves))] object line, [Values] Bf16Unit unit,
        [Values(1, 3)] int threads)
    {
        CpuBackend cpu = Cpu.Open(unit, threads);
        using var oracle = new OracleBackend();
        foreach (OpCall call in Calls(line))
            foreach (GradModes modes in call.Modes())
            {
                Results expected = s_expected.GetOrAdd((call, modes), _ => call.Execute(oracle, modes)), got = call.Execute(cpu, modes);
                Agreement.Check(call with { Tolerance = Math.Max(1e-2, call.Tolerance) }, modes, got, expected, $"{unit}");
                if (threads == 1) continue;
                Results one = call.Execute(Cpu.Open(unit, 1), modes);
                foreach (Slot slot in call.Slots)
                    Assert.That(got.Bytes(slot.Name).AsSpan().SequenceEqual(one.Bytes(slot.Name)),
                        $"{call.Name}, {modes}: {slot.Name} on {threads} threads.");
            }
    }

    [Test]
    public void Case_names_are_unique()
        => Assert.That(OpCases.All.GroupBy(c => c.Name).Where(g => g.Count() > 1).Select(g => g.Key), Is.Empty);

    private static OpCall[] Calls(object line) => s_calls.GetOrAdd((OpCase)line, c => [.. c.Calls()]);
}
