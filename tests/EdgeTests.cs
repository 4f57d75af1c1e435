using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>
/// Every operation at every length of its last axis, its operands first against a forbidden page behind them, then against one before
/// them. A stray byte ends the process; the crash report's stack names the kernel.
/// </summary>
[TestFixture]
public class EdgeTests
{
    private readonly List<GuardedMemory> _guarded = [];

    [OneTimeTearDown]
    public void Free() => _guarded.ForEach(g => g.Dispose());

    [Test]
    public void Every_length_is_right_and_touches_no_byte_outside([ValueSource(typeof(OpCases), nameof(OpCases.Edges))] object family,
        [Values] SimdLevel level)
    {
        if (GuardedMemory.WhyAbsent is { } reason) Assert.Ignore(reason);
        CpuBackend cpu = Cpu.Open(level);
        var edge = (OpCases.Edge)family;
        using var oracle = new OracleBackend();
        for (int n = 1; n <= edge.Longest; n++)
            foreach (OpCall call in edge.Case(n).Calls())
                foreach (GradModes modes in call.Modes().Take(2))
                {
                    Results atEnd = call.Execute(cpu, modes, AtEnd), atStart = call.Execute(cpu, modes, AtStart);
                    Agreement.Check(call, modes, atEnd, call.Execute(oracle, modes), $"{level}");
                    foreach (Slot slot in call.Slots)
                        Assert.That(atStart.Bytes(slot.Name).AsSpan().SequenceEqual(atEnd.Bytes(slot.Name)),
                            $"{call.Name} on {level}, {modes}: {slot.Name} {slot.Shape} depends on its address.");
                }
    }

    [Test]
    public unsafe void Guarded_memory_can_be_used_to_both_ends()
    {
        if (GuardedMemory.WhyAbsent is { } reason) Assert.Ignore(reason);
        using var memory = new GuardedMemory(5000);
        byte* first = (byte*)memory.Address;
        (first[0], first[memory.Bytes - 1]) = (1, 2);
        Assert.That((first[0], first[memory.Bytes - 1]), Is.EqualTo(((byte)1, (byte)2)));
        Assert.That(memory.Bytes, Is.GreaterThanOrEqualTo(5000));
    }

    private (Storage, long) AtEnd(int index, long bytes)
    {
        GuardedMemory memory = Guarded(index, bytes);
        return (memory, memory.Bytes - bytes);
    }

    private (Storage, long) AtStart(int index, long bytes) => (Guarded(index, bytes), 0);

    private GuardedMemory Guarded(int index, long bytes)
    {
        while (_guarded.Count <= index) _guarded.Add(new GuardedMemory(1 << 16));
        if (_guarded[index].Bytes < bytes)
        {
            _guarded[index].Dispose();
            _guarded[index] = new GuardedMemory(2 * bytes);
        }
        return _guarded[index];
    }
}
