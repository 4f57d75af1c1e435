using System.Globalization;
using MimEngine.Kernels;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Compares what two backends left in the operands of one call.</summary>
internal static class Agreement
{
    /// <summary>Of a result rounded to bfloat16: half a step of 2^−8, and some more for a result that passes through another.</summary>
    private const double HalfTolerance = 4e-3;

    /// <summary>
    /// Norm of the difference at most tolerance × norm of the expected, operand by operand; bytes must be equal; not-a-numbers and
    /// infinities must be at the same places.
    /// </summary>
    public static void Check(OpCall call, GradModes modes, Results actual, Results expected, string where)
    {
        foreach (Slot slot in call.Slots)
        {
            if (slot.Role == Role.Input)
            {
                if (!actual.Bytes(slot.Name).AsSpan().SequenceEqual(OpExecution.Encode(slot, slot.DType, false)))
                    Assert.Fail($"{call.Name} on {where}, {modes}: the input {slot.Name} was changed.");
                continue;
            }
            if (slot.Role == Role.Gradient && modes[slot.Name] == GradMode.None) continue;
            double tolerance = slot.DType switch
            {
                DType.U8 => 0,
                DType.BF16 => Math.Max(HalfTolerance, call.Tolerance),
                _ => call.Tolerance,
            };
            string? difference = Difference(actual.Values(slot.Name), expected.Values(slot.Name), tolerance, slot.Floor);
            if (difference is not null) Assert.Fail($"{call.Name} on {where}, {modes}: {slot.Name} {slot.Shape} {difference}");
        }
    }

    /// <summary>None, or one clause with the relative error, the first bad index and both values.</summary>
    public static string? Difference(double[] actual, double[] expected, double tolerance, double floor = 0)
    {
        double difference = 0, norm = 0;
        for (int i = 0; i < expected.Length; i++)
        {
            if (!double.IsFinite(expected[i]) || !double.IsFinite(actual[i]))
            {
                if (!actual[i].Equals(expected[i])) return Tell(i, "is not the same kind of number");
                continue;
            }
            difference += (actual[i] - expected[i]) * (actual[i] - expected[i]);
            norm += expected[i] * expected[i];
        }
        double bound = tolerance * Math.Max(Math.Sqrt(norm), floor * Math.Sqrt(expected.Length));
        if (Math.Sqrt(difference) <= bound) return null;
        // The first element that alone exceeds its share of the bound; there is one, or the sum would be within it.
        double share = bound / Math.Sqrt(expected.Length);
        int first = Enumerable.Range(0, expected.Length)
            .First(i => double.IsFinite(expected[i]) && Math.Abs(actual[i] - expected[i]) > share);
        return Tell(first, string.Create(CultureInfo.InvariantCulture,
            $"differs by {Math.Sqrt(difference):g3} of norm {Math.Sqrt(norm):g3}, more than {tolerance:g3}"));

        string Tell(int i, string what)
            => string.Create(CultureInfo.InvariantCulture, $"{what}; first at {i}: {actual[i]:g9} instead of {expected[i]:g9}.");
    }
}
