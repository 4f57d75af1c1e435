using MimEngine.Kernels;

namespace MimEngine.Tests;

/// <summary>
/// The table: every operation with and without its optional operands, at odd sizes and at sizes that make several chunks.
/// <see cref="All"/> serves parity, threads and gradients; <see cref="Edges"/> sweeps the length of the last axis.
/// </summary>
internal static partial class OpCases
{
    // First: the tables below are built from it.
    private static readonly bool[] s_noYes = [false, true];

    public static IReadOnlyList<OpCase> All { get; } = [.. Memory(), .. Dense(), .. Norm(), .. Attention(), .. Tokens(), .. Positions(),
        .. Losses(), .. Distillation(), .. Optim(), .. Images()];

    /// <summary>Families of small cases as functions of the last axis's length n, with the lengths where n makes sense.</summary>
    public static IReadOnlyList<Edge> Edges { get; } =
        [.. MemoryEdges(), .. DenseEdges(), .. NormEdges(), .. AttentionEdges(), .. TokenEdges(), .. PositionEdges(), .. LossEdges(),
            .. DistillEdges(), .. OptimEdges(), .. ImageEdges()];

    /// <summary>A family of cases for every length of the last axis.</summary>
    internal sealed record Edge(string Name, Func<int, OpCase> Case, int Longest = 257)
    {
        public override string ToString() => Name;
    }

    private static string With(params (bool There, string What)[] options)
        => string.Concat(options.Where(o => o.There).Select(o => ", " + o.What));

    private static IEnumerable<OpCase> Memory()
    {
        foreach (int n in new[] { 1, 37, 100_003 })
        {
            yield return Fill(n);
            yield return new OpCase($"fill bytes {n}").OutputBytes("y", new(n)).Run((b, o) => b.Fill(o["y"], 7));
            yield return Copy(n);
            yield return Cast(n).Halves("x");
            yield return Cast(n).Halves("y");
            yield return AddScaled(n);
            yield return Overwrite(n);
        }
    }

    private static IEnumerable<Edge> MemoryEdges() =>
        [new("fill", Fill), new("copy", Copy), new("cast to float", n => Cast(n).Halves("x")), new("cast to bf16", n => Cast(n).Halves("y")),
         new("add-scaled", AddScaled), new("add-scaled over NaN", Overwrite)];

    private static OpCase Fill(int n) => new OpCase($"fill {n}").Output("y", new(n)).Run((b, o) => b.Fill(o["y"], -2.5f));

    private static OpCase Copy(int n)
        => new OpCase($"copy {n}").Input("x", new(n)).Output("y", new(n)).Run((b, o) => b.Copy(o["y"], o["x"]));

    private static OpCase Cast(int n)
        => new OpCase($"cast {n}").Input("x", new(n)).Output("y", new(n)).Run((b, o) => b.Cast(o["y"], o["x"]));

    private static OpCase AddScaled(int n) => new OpCase($"add-scaled {n}").Update("y", new(n)).Input("x", new(n))
        .Run((b, o) => b.AddScaled(o["y"], o["x"], 0.75f, -1.5f));

    private static OpCase Overwrite(int n) => new OpCase($"add-scaled over NaN {n}").Output("y", new(n)).Input("x", new(n))
        .Run((b, o) => b.AddScaled(o["y"], o["x"], 0.75f, 0f));
}
