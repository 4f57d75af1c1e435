using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;

namespace MimEngine.Engine.Pretraining;

/// <summary>Floating-point operations of training on one picture; a multiply-add is two.</summary>
/// <param name="Forward">Patches, blocks and heads, once.</param>
/// <param name="Backward">Gradients of weights and inputs, and what <see cref="Recompute"/> computes again.</param>
/// <remarks>
/// Products only (they are 96 % and more). N tokens that the blocks see, L patches, C width, H hidden, P patch pixels, multiply-adds:
/// patches L·3P²·C; a block N·C·(4C + 2H) + 2·N²·C; heads as they say. Backward is twice that, but the patches need no input gradient, and
/// attention recomputes its probabilities: five products for two (in heads it counts as two for one).
/// </remarks>
public readonly record struct StepCost(double Forward, double Backward)
{
    public double Total => Forward + Backward;

    public static StepCost Of(PretrainConfig config)
    {
        VitConfig e = config.Encoder;
        ViewsConfig views = config.Views;
        int seen = e.Corruption == Corruption.Drop ? 1 + config.Masking.Visible(e.Grid, e.PatchPixels) : e.Tokens, small = views.LocalPixels / e.PatchPixels;
        double head = config.Terms.Sum(t => t.Head.MultiplyAdds(config, t, seen));
        StepCost cost = Crop(config, e.Tokens - 1, seen, head) * views.Global;
        // On a local crop, terms on [cls] see one token.
        double clsHead = config.Terms.Where(t => t.On == TokenChoice.Cls).Sum(t => t.Head.MultiplyAdds(config with { Terms = [t] }, t, 1));
        if (views.Local > 0) cost += Crop(config, small * small, 1 + small * small, clsHead) * views.Local;
        if (config.Teacher is null) return cost;
        double taught = config.Terms.Where(t => t.Target is TeacherTokens).Sum(t => t.Head.MultiplyAdds(config, t, e.Tokens));
        return cost + new StepCost(Crop(config, e.Tokens - 1, e.Tokens, taught).Forward * views.Global, 0);
    }

    public static StepCost operator +(StepCost a, StepCost b) => new(a.Forward + b.Forward, a.Backward + b.Backward);

    public static StepCost operator *(StepCost a, int crops) => new(a.Forward * crops, a.Backward * crops);

    private static StepCost Crop(PretrainConfig config, double l, double n, double head)
    {
        VitConfig e = config.Encoder;
        double c = e.Width, pixels = 3.0 * e.PatchPixels * e.PatchPixels, patches = l * pixels * c;
        double products = e.Depth * n * c * (4 * c + 2 * e.Hidden), attention = e.Depth * 2 * n * n * c;
        double again = config.Run.Recompute == Recompute.None ? 0 : products + attention;
        return new(2 * (patches + products + attention + head), 2 * (patches + 2 * products + 2.5 * attention + 2 * head + again));
    }
}
