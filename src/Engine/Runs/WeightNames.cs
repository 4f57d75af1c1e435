using System.Text.RegularExpressions;

namespace MimEngine.Engine.Runs;

/// <summary>Whose names the encoder's parameters have in a file.</summary>
public enum NameLayout : byte
{
    /// <summary>timm's ViT, which MAE, iBOT, DINO and this program share.</summary>
    Timm,

    /// <summary>Hugging Face's ViT: KAMIM.</summary>
    HuggingFace,

    /// <summary>BEiT's, with relative position biases and no key bias: SimMIM.</summary>
    Beit,
}

/// <summary>
/// Parameter names of published checkpoints ↔ ours (timm's and MAE's). Strict both ways: a name nobody knows is an error, never skipped.
/// Values keep their order in memory: a convolution (D, 3, P, P) is our matrix (D, 3·P·P), a 1×1 one (O, D, 1, 1) is (O, D).
/// </summary>
/// <remarks>
/// KAMIM: HuggingFace's ViT, SPEC.md section A.7.1. SimMIM: the authors' VisionTransformer, section B.3; timm's BEiT has the same names without
/// the prefix. MAE, iBOT, DINO and DINOv2 have timm's.
/// </remarks>
public static partial class WeightNames
{
    private static readonly (string Theirs, string Ours)[] s_kamim =
    [
        ("vit.embeddings.cls_token", "cls_token"),
        ("vit.embeddings.mask_token", "mask_token"),
        ("vit.embeddings.position_embeddings", "pos_embed"),
        ("vit.embeddings.patch_embeddings.projection.*", "patch_embed.proj.*"),
        ("vit.encoder.layer.N.layernorm_before.*", "blocks.N.norm1.*"),
        ("vit.encoder.layer.N.layernorm_after.*", "blocks.N.norm2.*"),
        ("vit.encoder.layer.N.attention.attention.query.*", "blocks.N.attn.q.*"),
        ("vit.encoder.layer.N.attention.attention.key.*", "blocks.N.attn.k.*"),
        ("vit.encoder.layer.N.attention.attention.value.*", "blocks.N.attn.v.*"),
        ("vit.encoder.layer.N.attention.output.dense.*", "blocks.N.attn.proj.*"),
        ("vit.encoder.layer.N.intermediate.dense.*", "blocks.N.mlp.fc1.*"),
        ("vit.encoder.layer.N.output.dense.*", "blocks.N.mlp.fc2.*"),
        ("vit.layernorm.*", "norm.*"),
        ("decoder.0.*", "decoder.*"),
    ];

    private static readonly (string Theirs, string Ours)[] s_simMim =
    [
        ("encoder.cls_token", "cls_token"),
        ("encoder.mask_token", "mask_token"),
        ("encoder.pos_embed", "pos_embed"),
        ("encoder.patch_embed.proj.*", "patch_embed.proj.*"),
        ("encoder.rel_pos_bias.relative_position_bias_table", "rel_pos_bias.relative_position_bias_table"),
        ("encoder.blocks.N.attn.relative_position_bias_table", "blocks.N.attn.rel_pos_bias.relative_position_bias_table"),
        ("encoder.blocks.N.norm1.*", "blocks.N.norm1.*"),
        ("encoder.blocks.N.norm2.*", "blocks.N.norm2.*"),
        ("encoder.blocks.N.attn.qkv.weight", "blocks.N.attn.qkv.weight"),
        ("encoder.blocks.N.attn.q_bias", "blocks.N.attn.q.bias"),
        ("encoder.blocks.N.attn.v_bias", "blocks.N.attn.v.bias"),
        ("encoder.blocks.N.attn.proj.*", "blocks.N.attn.proj.*"),
        ("encoder.blocks.N.gamma_1", "blocks.N.ls1.gamma"),
        ("encoder.blocks.N.gamma_2", "blocks.N.ls2.gamma"),
        ("encoder.blocks.N.mlp.fc1.*", "blocks.N.mlp.fc1.*"),
        ("encoder.blocks.N.mlp.fc2.*", "blocks.N.mlp.fc2.*"),
        ("encoder.norm.*", "norm.*"),
        ("encoder.fc_norm.*", "fc_norm.*"),
        ("decoder.0.*", "decoder.*"),
    ];

    private static readonly (string Theirs, string Ours)[] s_timm =
    [
        ("cls_token", "cls_token"),
        ("mask_token", "mask_token"),
        ("masked_embed", "mask_token"),
        ("pos_embed", "pos_embed"),
        ("patch_embed.proj.*", "patch_embed.proj.*"),
        ("blocks.N.norm1.*", "blocks.N.norm1.*"),
        ("blocks.N.norm2.*", "blocks.N.norm2.*"),
        ("blocks.N.attn.qkv.*", "blocks.N.attn.qkv.*"),
        ("blocks.N.attn.proj.*", "blocks.N.attn.proj.*"),
        ("blocks.N.ls1.gamma", "blocks.N.ls1.gamma"),
        ("blocks.N.ls2.gamma", "blocks.N.ls2.gamma"),
        ("blocks.N.mlp.fc1.*", "blocks.N.mlp.fc1.*"),
        ("blocks.N.mlp.fc2.*", "blocks.N.mlp.fc2.*"),
        ("norm.*", "norm.*"),
    ];

    /// <summary>KAMIM's names to ours; query, key and value become one (3·C, C) matrix and one (3·C) vector.</summary>
    /// <exception cref="WeightFileException">An unknown name, or a query, key and value of which one is missing.</exception>
    public static Dictionary<string, float[]> FromKamim(IReadOnlyDictionary<string, float[]> theirs)
        => Fuse(Rename(theirs, s_kamim, fromTheirs: true, "KAMIM"), zeroKeyBias: false);

    /// <summary>SimMIM's names to ours; <c>q_bias</c>, zeros (its keys have none) and <c>v_bias</c> become one qkv bias (3·C).</summary>
    /// <exception cref="WeightFileException">An unknown name, or one of the two biases without the other.</exception>
    public static Dictionary<string, float[]> FromSimMim(IReadOnlyDictionary<string, float[]> theirs)
        => Fuse(Rename(theirs, s_simMim, fromTheirs: true, "SimMIM"), zeroKeyBias: true);

    /// <summary>Our name of one parameter in another's layout, or null where nobody knows it. Parts of a qkv keep names of their own.</summary>
    /// <param name="layout">Whose names they are; prefixes before the encoder's names are gone already.</param>
    public static string? Ours(NameLayout layout, string theirs) => layout switch
    {
        NameLayout.HuggingFace => To("vit." + theirs, s_kamim, fromTheirs: true),
        NameLayout.Beit => To("encoder." + theirs, s_simMim, fromTheirs: true),
        _ => To(theirs, s_timm, fromTheirs: true),
    };

    /// <summary>Parts of a qkv to one matrix and one vector; the key bias that BEiT's layout lacks is zeros.</summary>
    /// <exception cref="WeightFileException">A part without the others.</exception>
    public static Dictionary<string, float[]> Fused(NameLayout layout, Dictionary<string, float[]> values)
        => Fuse(values, zeroKeyBias: layout == NameLayout.Beit);

    /// <summary>Our names to KAMIM's; the inverse of <see cref="FromKamim"/>.</summary>
    public static Dictionary<string, float[]> ToKamim(IReadOnlyDictionary<string, float[]> ours)
        => Rename(Split(ours, ["weight", "bias"], "qkv"), s_kamim, fromTheirs: false, "KAMIM");

    /// <summary>Our names to SimMIM's; the inverse of <see cref="FromSimMim"/>.</summary>
    /// <exception cref="WeightFileException">An unknown name, or a key bias that is not zero, for which SimMIM has no place.</exception>
    public static Dictionary<string, float[]> ToSimMim(IReadOnlyDictionary<string, float[]> ours)
        => Rename(Split(ours, ["bias"], "qv"), s_simMim, fromTheirs: false, "SimMIM");

    /// <summary>All float tensors of a file whose name starts with <paramref name="prefix"/>, the prefix removed.</summary>
    public static Dictionary<string, float[]> Read(SafeTensors file, string prefix = "")
        => file.Entries.Where(e => e.Name.StartsWith(prefix, StringComparison.Ordinal))
            .ToDictionary(e => e.Name[prefix.Length..], e => file.Floats(e.Name));

    private static Dictionary<string, float[]> Rename(IReadOnlyDictionary<string, float[]> values, (string Theirs, string Ours)[] rules,
        bool fromTheirs, string who)
    {
        Dictionary<string, float[]> renamed = [];
        foreach ((string name, float[] value) in values)
        {
            string to = To(name, rules, fromTheirs)
                ?? throw new WeightFileException($"'{name}' is no parameter of {(fromTheirs ? who : "ours that " + who + " has")}; "
                    + "nothing was loaded.");
            renamed.Add(to, value);
        }
        return renamed;
    }

    private static string? To(string name, (string Theirs, string Ours)[] rules, bool fromTheirs)
    {
        // "blocks.7.mlp.fc1.weight" → "blocks.N.mlp.fc1.*", number 7, ending "weight".
        Match number = BlockNumber().Match(name);
        string pattern = number.Success ? $"{name[..number.Index]}.N.{name[(number.Index + number.Length)..]}" : name;
        string? to = Find(pattern);
        if (to is null && Ending(name) is { } ending && Find(pattern[..^ending.Length] + "*") is { } starred)
            to = starred[..^1] + ending;
        return number.Success ? to?.Replace(".N.", number.Value) : to;

        string? Find(string pattern)
        {
            foreach ((string theirs, string ours) in rules)
                if ((fromTheirs ? theirs : ours) == pattern) return fromTheirs ? ours : theirs;
            return null;
        }
    }

    private static string? Ending(string name)
        => name.EndsWith(".weight", StringComparison.Ordinal) ? "weight" : name.EndsWith(".bias", StringComparison.Ordinal) ? "bias" : null;

    private static Dictionary<string, float[]> Fuse(Dictionary<string, float[]> values, bool zeroKeyBias)
    {
        foreach (string q in values.Keys.Where(name => PartOfQkv().IsMatch(name)).ToArray())
        {
            Match part = PartOfQkv().Match(q);
            string Name(string which) => $"{part.Groups[1].Value}{which}.{part.Groups[2].Value}";
            if (values.ContainsKey(Name("qkv"))) continue;   // another part of it was here first
            float[]? Part(string which) => values.GetValueOrDefault(Name(which));
            float[]? query = Part("q"), value = Part("v"), key = zeroKeyBias && value is not null ? new float[value.Length] : Part("k");
            if (query is null || key is null || value is null || query.Length != key.Length || key.Length != value.Length)
                throw new WeightFileException($"'{Name("q")}', its key and its value must be there together and of one length; nothing was "
                    + "loaded.");
            values.Add(Name("qkv"), [.. query, .. key, .. value]);
        }
        foreach (string name in values.Keys.Where(name => PartOfQkv().IsMatch(name)).ToArray()) values.Remove(name);
        return values;
    }

    private static Dictionary<string, float[]> Split(IReadOnlyDictionary<string, float[]> ours, string[] endings, string parts)
    {
        Dictionary<string, float[]> split = [];
        foreach ((string name, float[] value) in ours)
        {
            string? ending = endings.FirstOrDefault(e => name.EndsWith(".attn.qkv." + e, StringComparison.Ordinal));
            if (ending is null)
            {
                split.Add(name, value);
                continue;
            }
            int third = value.Length / 3;
            for (int i = 0; i < 3; i++)
                if (parts.Contains("qkv"[i])) split.Add(name.Replace(".qkv.", $".{"qkv"[i]}."), value[(i * third)..((i + 1) * third)]);
                else if (value.AsSpan(i * third, third).ContainsAnyExcept(0f))
                    throw new WeightFileException($"'{name}' has a key bias that is not zero; this format has no place for it.");
        }
        return split;
    }

    [GeneratedRegex(@"(?<=\b(layer|blocks))\.[0-9]+\.", RegexOptions.CultureInvariant)]
    private static partial Regex BlockNumber();

    [GeneratedRegex(@"^(blocks\.[0-9]+\.attn\.)[qkv]\.(weight|bias)$", RegexOptions.CultureInvariant)]
    private static partial Regex PartOfQkv();
}
