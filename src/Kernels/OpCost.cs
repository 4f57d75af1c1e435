namespace MimEngine.Kernels;

/// <summary>
/// What one call of an operation costs at least: flops of its formula (a multiply-add is two; an exponential, a division or a root
/// counts as one) and bytes that must move if every operand passes the memory bus once. Time below either roof is impossible, so a
/// measured time gives a share of the roof.
/// </summary>
/// <param name="Name">The operation of <see cref="Backend"/>.</param>
/// <param name="Flops">Floating-point operations; integer work counts as none.</param>
/// <param name="Bytes">Read plus written.</param>
/// <remarks>
/// Optional sizes are bytes of an element of an operand that may be float32 or bfloat16, in the operand's name or for all of them (size);
/// copy is that of the optimiser's second destination, 0 without one.
/// M rows, N outputs, K inputs of a linear layer; B images, T tokens, C width, H heads; optional operands as flags.
/// </remarks>
public readonly record struct OpCost(string Name, double Flops, double Bytes)
{
    private const double Float = sizeof(float);

    /// <summary>Two operations in turn.</summary>
    public static OpCost operator +(OpCost a, OpCost b) => new($"{a.Name} + {b.Name}", a.Flops + b.Flops, a.Bytes + b.Bytes);

    private static OpCost Of(string name, double flops, double floats, double bytes = 0) => new(name, flops, floats * Float + bytes);

    // Memory
    public static OpCost Fill(long n) => Of(nameof(Backend.Fill), 0, n);
    public static OpCost Copy(long n) => Of(nameof(Backend.Copy), 0, 2.0 * n);
    public static OpCost Cast(double n, double y, double x) => Of(nameof(Backend.Cast), 0, 0, n * (y + x));

    /// <summary>y = a·x + b·y reads y unless b is 0.</summary>
    public static OpCost AddScaled(long n, bool keeps = true)
        => Of(nameof(Backend.AddScaled), keeps ? 3.0 * n : n, keeps ? 3.0 * n : 2.0 * n);

    // Dense
    public static OpCost LinearForward(double m, double n, double k, double x = Float, double w = Float, double y = Float)
        => Of(nameof(Backend.LinearForward), 2 * m * n * k + m * n, n, m * k * x + n * k * w + m * n * y);

    /// <summary>Any of the three gradients; 2·M·N·K for each product.</summary>
    public static OpCost LinearBackward(double m, double n, double k, bool input = true, bool weight = true, bool bias = true,
        double dx = Float, double dy = Float, double x = Float, double w = Float)
    {
        double flops = (input ? 2 * m * n * k : 0) + (weight ? 2 * m * n * k : 0) + (bias ? m * n : 0);
        return Of(nameof(Backend.LinearBackward), flops, (weight ? n * k : 0) + (bias ? n : 0),
            m * n * dy + (input ? n * k * w + m * k * dx : 0) + (weight ? m * k * x : 0));
    }

    public static OpCost LinearGeluForward(double m, double n, double k, double x = Float, double w = Float, double y = Float)
        => Of(nameof(Backend.LinearGeluForward), 2 * m * n * k + m * n + GeluFlops * m * n, n, m * k * x + n * k * w + 2 * m * n * y);

    public static OpCost LinearGeluBackward(double m, double n, double k, double dy = Float, double w = Float, double h = Float)
        => Of(nameof(Backend.LinearGeluBackward), 2 * m * n * k + GeluSlopeFlops * m * k, 0, m * n * dy + n * k * w + 2 * m * k * h);

    public static OpCost LinearResidualForward(double m, double n, double k, double x = Float, double w = Float)
        => Of(nameof(Backend.LinearResidualForward), 2 * m * n * k + 4 * m * n, 2 * n + 2 * m * n, m * k * x + n * k * w);

    private const double GeluFlops = 32;        // an exponential of 11, a polynomial of 15, a division, 5 more
    private const double GeluSlopeFlops = 36;

    public static OpCost GeluForward(double n, double size = Float) => Of(nameof(Backend.GeluForward), GeluFlops * n, 0, 2 * n * size);
    public static OpCost GeluBackward(double n, double size = Float) => Of(nameof(Backend.GeluBackward), GeluSlopeFlops * n, 0, 3 * n * size);
    public static OpCost ScaleAddForward(double m, double n) => Of(nameof(Backend.ScaleAddForward), 3 * m * n, 3 * m * n);
    public static OpCost ScaleAddBackward(double m, double n, bool scaled = true, double branch = Float)
        => Of(nameof(Backend.ScaleAddBackward), 2 * m * n, m * n, (scaled ? 2 : 1) * m * n * branch);
    public static OpCost LayerScaleBackward(double n, double k) => Of(nameof(Backend.LayerScaleBackward), 3 * n * k, 3 * n * k);

    // Norm
    /// <summary>Mean, squared deviations, scale and shift: 8 a number.</summary>
    public static OpCost LayerNormForward(double m, double c, double y = Float)
        => Of(nameof(Backend.LayerNormForward), 8 * m * c, m * c + 2 * m + 2 * c, m * c * y);
    public static OpCost LayerNormBackward(double m, double c, double dy = Float)
        => Of(nameof(Backend.LayerNormBackward), 14 * m * c, 2 * m * c + 2 * m + 3 * c, m * c * dy);
    public static OpCost SoftmaxForward(double m, double c) => Of(nameof(Backend.SoftmaxForward), 5 * m * c, 2 * m * c);
    public static OpCost SoftmaxBackward(double m, double c) => Of(nameof(Backend.SoftmaxBackward), 4 * m * c, 3 * m * c);
    public static OpCost ActivateForward(double n) => Of(nameof(Backend.ActivateForward), 4 * n, 2 * n);
    public static OpCost ActivateBackward(double n) => Of(nameof(Backend.ActivateBackward), 3 * n, 3 * n);
    public static OpCost BatchNormForward(double m, double c) => Of(nameof(Backend.BatchNormForward), 6 * m * c, 2 * m * c + 6 * c);
    public static OpCost BatchNormBackward(double m, double c) => Of(nameof(Backend.BatchNormBackward), 9 * m * c, 3 * m * c + 2 * c);

    // Attention
    /// <summary>Two products of T² · C multiply-adds an image, and a softmax of 5 a logit.</summary>
    public static OpCost AttentionForward(double b, double t, double c, double heads, double size = Float)
        => Of(nameof(Backend.AttentionForward), b * (4 * t * t * c + 5 * heads * t * t), b * t * heads, b * t * 4 * c * size);

    /// <summary>Five products of T² · C multiply-adds an image: the logits again, dv, dp, dq, dk.</summary>
    public static OpCost AttentionBackward(double b, double t, double c, double heads, double size = Float)
        => Of(nameof(Backend.AttentionBackward), b * (10 * t * t * c + 5 * heads * t * t), b * t * heads, b * t * 8 * c * size);

    public static OpCost RelativePositionBiasForward(double t, double heads) => Of(nameof(Backend.RelativePositionBiasForward), 0,
        heads * t * t);
    public static OpCost RelativePositionBiasBackward(double t, double heads)
        => Of(nameof(Backend.RelativePositionBiasBackward), heads * t * t, heads * t * t);

    // Tokens
    public static OpCost AttentionProbabilities(double b, double t, double c, double heads)
        => Of(nameof(Backend.AttentionProbabilities), 2 * b * t * t * c + 5 * b * heads * t * t, 2 * b * t * c + b * heads * t * t);
    public static OpCost ClsAttention(double b, double t, double c, double heads)
        => Of(nameof(Backend.ClsAttention), 2 * b * t * c + 6 * b * heads * t, b * (t + 1) * c + b * t);
    public static OpCost MixAttentionForward(double b, double t, double heads)
        => Of(nameof(Backend.MixAttentionForward), 2 * b * heads * t * t, b * heads * (t * t + t) + b * t);
    public static OpCost MixAttentionBackward(double b, double t, double heads)
        => Of(nameof(Backend.MixAttentionBackward), b * heads * t * t, b * heads * (t * t + t) + 2 * b * t);

    /// <summary>Sixteen rows of a table of <paramref name="from"/> for each of <paramref name="to"/>.</summary>
    public static OpCost ResizePositionsForward(double from, double to, double c)
        => Of(nameof(Backend.ResizePositionsForward), 32 * to * c, (from + to) * c);
    public static OpCost ResizePositionsBackward(double from, double to, double c)
        => Of(nameof(Backend.ResizePositionsBackward), 32 * to * c, (from + to) * c);

    public static OpCost Patchify(double b, double pixels) => Of(nameof(Backend.Patchify), 0, 2 * b * 3 * pixels);
    public static OpCost Unpatchify(double b, double pixels) => Of(nameof(Backend.Unpatchify), 0, 2 * b * 3 * pixels);

    /// <summary>Hidden patches are not read; positions are read once, as they stay in the caches.</summary>
    public static OpCost AssembleTokensForward(double b, double t, double c, double hiddenShare)
        => Of(nameof(Backend.AssembleTokensForward), b * t * c, b * t * c * (2 - hiddenShare) + t * c, b * t);
    public static OpCost AssembleTokensBackward(double b, double t, double c)
        => Of(nameof(Backend.AssembleTokensBackward), b * t * c, 2 * b * t * c + t * c, b * t);
    public static OpCost SliceTokensForward(double b, double n, double c) => Of(nameof(Backend.SliceTokensForward), 0, 2 * b * n * c);
    public static OpCost SliceTokensBackward(double b, double t, double n, double c)
        => Of(nameof(Backend.SliceTokensBackward), 0, b * n * c + b * t * c);
    /// <summary>T tokens of which L − V are left out: hiddenShare of them.</summary>
    public static OpCost GatherVisibleForward(double b, double t, double c, double hiddenShare)
        => Of(nameof(Backend.GatherVisibleForward), 0, 2 * b * t * c * (1 - hiddenShare), b * t);
    public static OpCost GatherVisibleBackward(double b, double t, double c, double hiddenShare)
        => Of(nameof(Backend.GatherVisibleBackward), 0, b * t * c * (2 - hiddenShare), b * t);
    public static OpCost ScatterVisibleForward(double b, double t, double c, double hiddenShare)
        => Of(nameof(Backend.ScatterVisibleForward), 0, b * t * c * (2 - hiddenShare), b * t);
    public static OpCost ScatterVisibleBackward(double b, double t, double c, double hiddenShare)
        => Of(nameof(Backend.ScatterVisibleBackward), b * t * c * hiddenShare, b * t * c * (2 - hiddenShare), b * t);
    public static OpCost PoolTokensForward(double b, double t, double c) => Of(nameof(Backend.PoolTokensForward), 2 * b * t * c,
        b * t * c + b * t + b * c);
    public static OpCost PoolTokensBackward(double b, double t, double c) => Of(nameof(Backend.PoolTokensBackward), 3 * b * t * c,
        2 * b * t * c + 2 * b * t + b * c);
    public static OpCost MeanTokensForward(double b, double t, double c) => Of(nameof(Backend.MeanTokensForward), b * t * c,
        b * t * c + b * c);
    public static OpCost MeanTokensBackward(double b, double t, double c) => Of(nameof(Backend.MeanTokensBackward), b * c,
        b * t * c + b * c);

    // Loss
    /// <summary>Loss and gradient; visible patches are only zeroed, so the hidden share of prediction and picture is read.</summary>
    public static OpCost MaskedPixelLoss(double b, double pixels, double hiddenShare)
        => Of(nameof(Backend.MaskedPixelLoss), 5 * b * 3 * pixels * hiddenShare, b * 3 * pixels * (1 + 2 * hiddenShare));
    public static OpCost CrossEntropyLoss(double b, double classes) => Of(nameof(Backend.CrossEntropyLoss), 8 * b * classes,
        3 * b * classes);

    // Distillation
    public static OpCost L2NormalizeForward(double m, double c) => Of(nameof(Backend.L2NormalizeForward), 3 * m * c, 2 * m * c + 2 * m);
    public static OpCost L2NormalizeBackward(double m, double c) => Of(nameof(Backend.L2NormalizeBackward), 6 * m * c, 3 * m * c + 3 * m);
    public static OpCost ScaleShiftForward(double m, double c) => Of(nameof(Backend.ScaleShiftForward), 2 * m * c, 2 * m * c + 2 * c);
    public static OpCost ScaleShiftBackward(double m, double c) => Of(nameof(Backend.ScaleShiftBackward), 4 * m * c, 3 * m * c + 3 * c);
    public static OpCost TeacherTargets(double m, double k) => Of(nameof(Backend.TeacherTargets), 7 * m * k, 2 * m * k + k);

    /// <summary>The student's rows and their gradient, and the teacher's rows once.</summary>
    public static OpCost DistillLoss(double rows, double targets, double k) => Of(nameof(Backend.DistillLoss), 9 * rows * k,
        (2 * rows + targets) * k);
    public static OpCost UpdateCenter(double m, double k) => Of(nameof(Backend.UpdateCenter), m * k, m * k + 2 * k);

    // Optim
    public static OpCost SquaredNorms(double n) => Of(nameof(Backend.SquaredNorms), 2 * n, n);
    public static OpCost ClipScales(double segments) => Of(nameof(Backend.ClipScales), 4 * segments, 2 * segments);

    /// <summary>Reads p, m, v, g; writes p, m, v.</summary>
    public static OpCost AdamWStep(double n, double copy = 0) => Of(nameof(Backend.AdamWStep), 15 * n, 7 * n, n * copy);
    public static OpCost LarsStep(double n, double copy = 0) => Of(nameof(Backend.LarsStep), 11 * n, 5 * n, n * copy);
    public static OpCost SgdStep(double n, double copy = 0) => Of(nameof(Backend.SgdStep), 6 * n, 5 * n, n * copy);

    // Image
    public static OpCost NormalizeImages(double b, double pixels) => Of(nameof(Backend.NormalizeImages), 2 * b * 3 * pixels,
        b * 3 * pixels, b * 3 * pixels);
    public static OpCost NormalizePatches(double b, double pixels) => Of(nameof(Backend.NormalizePatches), 6 * b * 3 * pixels,
        2 * b * 3 * pixels);
    public static OpCost Luma(double b, double pixels) => Of(nameof(Backend.Luma), 0, 0, 4 * b * pixels);
    public static OpCost FastKeypoints(double b, double pixels) => Of(nameof(Backend.FastKeypoints), 0, 0, 2 * b * pixels);
    public static OpCost MarkKeypoints(double b, double pixels) => Of(nameof(Backend.MarkKeypoints), 0, 0, 2 * b * pixels);
    public static OpCost BoxDensity(double b, double pixels, double cell)
        => Of(nameof(Backend.BoxDensity), b * pixels / (cell * cell), b * pixels / (cell * cell), b * pixels);
    public static OpCost KeypointWeights(double b, double cells) => Of(nameof(Backend.KeypointWeights), 4 * b * cells, 2 * b * cells);
}
