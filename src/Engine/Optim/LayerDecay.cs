namespace MimEngine.Engine.Optim;

/// <summary>
/// Layer-wise rates of fine-tuning (Clark et al. 2020; BEiT, MAE, SimMIM): what lies nearer the pixels moves more slowly.
/// </summary>
/// <remarks>MAE util/lr_decay.py, SimMIM optimizer.py; SPEC B.5, C.4; golden 03_mae/vit_finetune.</remarks>
public static class LayerDecay
{
    /// <summary>0 for tokens, positions and the patch embedding, i + 1 for block i, depth + 1 for all above the blocks.</summary>
    public static int LayerOf(string name, int depth)
    {
        if (name is "cls_token" or "mask_token" or "pos_embed" || name.StartsWith("patch_embed.", StringComparison.Ordinal)) return 0;
        const string stack = "blocks.";
        if (!name.StartsWith(stack, StringComparison.Ordinal)) return depth + 1;
        int end = name.IndexOf('.', stack.Length);
        return int.Parse(name.AsSpan(stack.Length, end - stack.Length), System.Globalization.CultureInfo.InvariantCulture) + 1;
    }

    /// <summary>decay^(depth + 1 − layer): 1 at the head.</summary>
    public static float ScaleOf(string name, int depth, float decay) => (float)Math.Pow(decay, depth + 1 - LayerOf(name, depth));
}
