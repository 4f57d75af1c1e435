using MimEngine.Kernels;

namespace MimEngine.Tests;

/// <summary>
/// Cases of the sizes and layouts that tensor cores take (extents that are multiples of 8, heads of 32, 64 and 128), for devices that have
/// them; too large for the simulator and the oracle's whole table.
/// </summary>
internal static class TensorCoreCases
{
    public static IEnumerable<OpCase> All => [.. Products(), .. Attentions()];

    private static IEnumerable<OpCase> Products()
    {
        foreach ((int m, int k, int n) in new[] { (145, 192, 576), (1160, 768, 768), (2320, 256, 72), (37, 8, 8), (4640, 64, 136) })
        {
            yield return OpCases.Linear(new(m, k), n, true).Halves("x", "w", "y", "dx", "dy");
            yield return OpCases.Linear(new(m, k), n, false).Halves("x", "w", "dx");
            yield return OpCases.LinearGeluBackward(m, k, n).Halves("dh", "dy", "w", "h");
            yield return OpCases.LinearGelu(m, k, n, true).Halves("x", "w", "y", "h", "dx", "dy", "dh");
        }
        // LayerScale's gradient reads the master, which is float32.
        yield return OpCases.LinearResidual(8, 145, 192, 768, true, true, true).Halves("x", "dx", "branch", "scaled");
        yield return OpCases.LinearResidual(8, 145, 768, 192, true, false, false).Halves("x", "w", "dx", "branch", "scaled");
    }

    private static IEnumerable<OpCase> Attentions()
    {
        foreach ((int tokens, int heads, int width) in new[] { (145, 3, 64), (37, 2, 32), (197, 2, 128), (64, 1, 64) })
            foreach (bool bias in new[] { false, true })
                yield return OpCases.Attend(3, tokens, heads, width, bias, 1).Halves("qkv", "y", "dqkv", "dy");
    }
}
