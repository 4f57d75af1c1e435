using MimEngine.Kernels;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>The oracle's backward against finite differences of the oracle's forward, in float64.</summary>
[TestFixture]
public class GradientTests
{
    private const double Tolerance = 1e-7;
    private const long MostElements = 2_500;   // four forward calls an element: larger cases prove nothing more

    // Fourth-order central differences. Truncation: Step⁴/30 · f⁽⁵⁾ ≈ 1e-14 · f⁽⁵⁾; rounding: 1e-16/Step ≈ 1e-12.
    private const double Step = 3e-4;

    public static IEnumerable<object> Differentiable => OpCases.All
        .Where(c => !c.HasHalves && (c.Backward is not null || c.OwnGradient is not null) && c.Differentiable.Sum(s => s.Shape.Count) <= MostElements
            && c.Differentiable.All(s => s.Values.All(v => Math.Abs(v) < 50)));

    [Test]
    public void The_backward_is_the_derivative_of_the_forward([ValueSource(nameof(Differentiable))] object line)
    {
        var made = (OpCase)line;
        if (made.OwnGradient is { } own) CheckLoss(made, own.Loss, own.Gradient, own.Of);
        else CheckBackward(made);
    }

    private static void CheckBackward(OpCase made)
    {
        OpCall backward = made.BackwardCall();
        using var oracle = new OracleBackend();
        // BackwardCall hands over what forward wrote rounded to float32; for the derivative it must be exact.
        Results forward = made.ForwardCall().Execute(oracle, new GradModes(GradMode.Write, null));
        OpCall exact = backward with
        {
            Slots = [.. backward.Slots.Select(s => made.Slots.Any(o => o.Name == s.Name && o.Role != Role.Input) && s.Role == Role.Input
                ? s with { Values = forward.Values(s.Name) } : s)],
        };
        Results results = exact.Execute(oracle, new GradModes(GradMode.Write, null));
        double[] upstream = exact.Slots.First(s => s.Name == "d" + made.Primary.Name).Values;
        foreach (Slot input in made.Differentiable)
        {
            double[] numeric = Differences(made, input, made.Primary.Name, upstream);
            double floor = exact.Slots.First(s => s.Name == "d" + input.Name).Floor;
            string? difference = Agreement.Difference(results.Values("d" + input.Name), numeric, Tolerance, floor);
            if (difference is not null) Assert.Fail($"{made.Name}: d{input.Name} {input.Shape} {difference}");
        }
    }

    private static void CheckLoss(OpCase made, string loss, string gradient, string of)
    {
        using var oracle = new OracleBackend();
        Results results = made.ForwardCall().Execute(oracle, new GradModes(GradMode.Write, null));
        double[] numeric = Differences(made, made.Slots.First(s => s.Name == of), loss, [1]);
        string? difference = Agreement.Difference(results.Values(gradient), numeric, Tolerance);
        if (difference is not null) Assert.Fail($"{made.Name}: {gradient} {difference}");
    }

    /// <summary>Σ upstream·∂output/∂input for every element of one input.</summary>
    private static double[] Differences(OpCase made, Slot input, string output, double[] upstream)
    {
        using var oracle = new OracleBackend();
        Dictionary<string, Tensor> tensors = [];
        foreach (Slot slot in made.Slots)
        {
            DType dtype = slot.DType == DType.U8 ? DType.U8 : DType.F64;
            Tensor tensor = tensors[slot.Name] = new Tensor(oracle.Allocate(slot.Shape.Count * dtype.Size()), 0, slot.Shape, dtype);
            oracle.Upload(tensor, OpExecution.Encode(slot, dtype, slot.Role == Role.Output));
        }
        var operands = new Operands(tensors, new GradModes(GradMode.None, null));
        Tensor x = tensors[input.Name], y = tensors[output];
        double[] numeric = new double[input.Shape.Count];
        for (int i = 0; i < numeric.Length; i++)
        {
            double near = At(i, Step) - At(i, -Step), far = At(i, 2 * Step) - At(i, -2 * Step);
            numeric[i] = (8 * near - far) / (12 * Step);
        }
        foreach (Tensor t in tensors.Values) t.Storage.Dispose();
        return numeric;

        double At(int i, double by)
        {
            Span<double> values = x.Host<double>();
            double kept = values[i];
            values[i] = kept + by;
            made.Forward!(oracle, operands);
            values[i] = kept;
            return System.Numerics.Tensors.TensorPrimitives.Dot<double>(y.Host<double>(), upstream);
        }
    }
}
