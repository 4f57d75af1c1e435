using MimEngine.Kernels;

namespace MimEngine.Bench;

internal static partial class OpTable
{
    private const int FewPrototypes = 8192, ManyPrototypes = 65536, DistilledImages = 16;

    /// <summary>What prototype heads and teachers add: iBOT's patches with 8,192 prototypes, DINO's [cls] with 65,536.</summary>
    private static IEnumerable<OpBenchCase> Distillation(BenchModel v)
    {
        int bottleneck = 256, tokens = v.Batch * v.Patches;
        OpBenchCase Case(OpCost cost, Func<Backend, Operands, Action> setup, string label = "") => new(v, label, cost, setup);

        yield return Case(OpCost.L2NormalizeForward(ManyPrototypes, bottleneck), (x, o) =>
        {
            (Tensor y, Tensor w, Tensor norms) = (o.New(ManyPrototypes, bottleneck), o.New(ManyPrototypes, bottleneck), o.New(new Shape(ManyPrototypes), 1));
            return () => x.L2NormalizeForward(y, norms, w, null, 1e-12f);
        });
        yield return Case(OpCost.L2NormalizeBackward(ManyPrototypes, bottleneck), (x, o) =>
        {
            (Tensor dx, Tensor dy, Tensor w) = (o.New(ManyPrototypes, bottleneck), o.New(ManyPrototypes, bottleneck), o.New(ManyPrototypes, bottleneck));
            Tensor norms = o.Filled(new Shape(ManyPrototypes), 1f);
            return () => x.L2NormalizeBackward(Grad.Write(dx), Grad.None, dy, w, norms, null, 1e-12f);
        });
        yield return Case(OpCost.ScaleShiftForward(tokens, 2048), (x, o) =>
        {
            (Tensor y, Tensor a, Tensor g) = (o.New(tokens, 2048), o.New(tokens, 2048), o.New(new Shape(2048), 1));
            return () => x.ScaleShiftForward(y, a, g, g);
        });
        yield return Case(OpCost.ScaleShiftBackward(tokens, 2048), (x, o) =>
        {
            (Tensor dx, Tensor dy, Tensor a, Tensor g) = (o.New(tokens, 2048), o.New(tokens, 2048), o.New(tokens, 2048), o.New(new Shape(2048), 1));
            (Tensor dg, Tensor db) = (o.New(new Shape(2048), 1), o.New(new Shape(2048), 1));
            return () => x.ScaleShiftBackward(Grad.Write(dx), Grad.Write(dg), Grad.Write(db), dy, a, g);
        });
        foreach ((int rows, int k, int views, string label) in new[] { (tokens, FewPrototypes, 1, "patches"), (2 * DistilledImages, ManyPrototypes, 2, "[cls]") })
        {
            yield return Case(OpCost.TeacherTargets(rows, k), (x, o) =>
            {
                (Tensor p, Tensor z, Tensor center, Tensor entropy) = (o.New(rows, k), o.New(rows, k), o.New(new Shape(k), 1), o.New(new Shape(1), 1));
                return () => x.TeacherTargets(p, entropy, z, center, null, 0.07f);
            }, label);
            yield return Case(OpCost.DistillLoss(rows, rows, k), (x, o) =>
            {
                (Tensor loss, Tensor d, Tensor s, Tensor p) = (o.New(new Shape(1), 1), o.New(rows, k), o.New(rows, k), o.Filled(new Shape(rows, k), 1f / k));
                return () => x.DistillLoss(loss, d, s, p, null, rows / views, 0, views == 1 ? ViewPairing.Same : ViewPairing.Cross, 0.1f, 1f);
            }, label);
            yield return Case(OpCost.UpdateCenter(rows, k), (x, o) =>
            {
                (Tensor center, Tensor z) = (o.New(new Shape(k), 1), o.New(rows, k));
                return () => x.UpdateCenter(center, z, 0.9f);
            }, label);
        }
    }
}
