namespace MimEngine.Engine.Runs;

/// <summary>One tensor on its way from a file to a parameter.</summary>
/// <param name="Source">Its name in the file; of several that were joined, the first.</param>
/// <param name="Shape">As in the file; of a joined query, key and value, that of the whole.</param>
public sealed record ForeignTensor(string Source, long[] Shape, float[] Values);

/// <summary>
/// The encoder in a file that somebody else's program wrote, under our names. The place (<c>model</c>, <c>teacher</c>, …) and the prefix
/// (<c>module.backbone.</c>, …) are those before the patch embedding; whatever lies elsewhere is left aside, and said so.
/// </summary>
public sealed class ForeignWeights
{
    // In order of preference; "" is the top level. A teacher is what iBOT and DINO evaluate.
    private static readonly string[] s_places =
        ["teacher", "model", "model_state_dict", "state_dict", "module", "params", "student", "model_ema", ""];

    /// <summary>The patch embedding's weight in each layout: what tells where the encoder is.</summary>
    private static readonly (string Name, NameLayout Layout)[] s_anchors =
        [("patch_embed.proj.weight", NameLayout.Timm), ("embeddings.patch_embeddings.projection.weight", NameLayout.HuggingFace)];

    private readonly Dictionary<string, ForeignTensor> _tensors = new(StringComparer.Ordinal);
    private readonly List<string> _leftAside = [], _unexpected = [];

    private ForeignWeights(WeightFile file, string place, string prefix, NameLayout layout)
        => (File, Place, Prefix, Layout) = (file.File, place, prefix, layout);

    public string File { get; }

    /// <summary>Key of the file's dictionary under which the encoder lies; empty = the top level.</summary>
    public string Place { get; }

    /// <summary>What stood before every name of the encoder.</summary>
    public string Prefix { get; }

    public NameLayout Layout { get; }

    /// <summary>The encoder's tensors by our names.</summary>
    public IReadOnlyDictionary<string, ForeignTensor> Tensors => _tensors;

    /// <summary>Tensors of other parts: heads, decoders, optimisers, second networks.</summary>
    public IReadOnlyList<string> LeftAside => _leftAside;

    /// <summary>Tensors among the encoder's that no parameter of ours takes.</summary>
    public IReadOnlyList<string> Unexpected => _unexpected;

    /// <summary>Reads the encoder out of a file.</summary>
    /// <param name="place">Where to look, or null for the first known place that has an encoder.</param>
    /// <exception cref="WeightFileException">There is no encoder, or there are several; one sentence.</exception>
    public static ForeignWeights Read(WeightFile file, string? place = null)
    {
        (string found, string prefix, NameLayout layout) = Locate(file, place);
        string start = found.Length == 0 ? prefix : $"{found}/{prefix}";
        string[] names = [.. file.Entries.Where(e => e.Name.StartsWith(start, StringComparison.Ordinal)).Select(e => e.Name[start.Length..])];
        if (layout == NameLayout.Timm && names.Any(n => n.EndsWith(".q_bias", StringComparison.Ordinal)
            || n.EndsWith("relative_position_bias_table", StringComparison.Ordinal) || n.EndsWith(".gamma_1", StringComparison.Ordinal)))
            layout = NameLayout.Beit;
        var weights = new ForeignWeights(file, found, prefix, layout);
        weights.Take(file, start);
        return weights;
    }

    private void Take(WeightFile file, string start)
    {
        bool decoder = file.Contains(start + "decoder_embed.weight");   // MAE's mask token is its decoder's
        Dictionary<string, float[]> values = [];
        Dictionary<string, (string Source, long[] Shape)> origins = [];
        foreach (TensorEntry entry in file.Entries)
        {
            if (!entry.Name.StartsWith(start, StringComparison.Ordinal) || IsOfHead(entry.Name[start.Length..], decoder))
            {
                _leftAside.Add(entry.Name);
                continue;
            }
            string name = entry.Name[start.Length..];
            if (WeightNames.Ours(Layout, name) is not { } ours)
            {
                _unexpected.Add(entry.Name);
                continue;
            }
            if (!values.TryAdd(ours, Floats(file, entry)))
                throw new WeightFileException($"{File}: '{entry.Name}' and '{origins[ours].Source}' are one parameter, '{ours}'; which is meant?");
            origins.Add(ours, (entry.Name, entry.Shape));
        }
        Dictionary<string, float[]> fused;
        try { fused = WeightNames.Fused(Layout, values); }
        catch (WeightFileException e) { throw new WeightFileException($"{File}: {e.Message}", e); }
        foreach ((string name, float[] value) in fused)
        {
            bool whole = origins.TryGetValue(name, out (string Source, long[] Shape) origin);
            if (!whole)
            {
                origin = origins[name.Replace(".qkv.", ".q.")];
                origin.Shape = [3 * origin.Shape[0], .. origin.Shape[1..]];
            }
            _tensors.Add(name, new ForeignTensor(origin.Source, origin.Shape, value));
        }
    }

    private static float[] Floats(WeightFile file, TensorEntry entry)
        => entry.DType == "F64" ? Array.ConvertAll(file.Doubles(entry.Name), d => (float)d) : file.Floats(entry.Name);

    private static (string Place, string Prefix, NameLayout Layout) Locate(WeightFile file, string? place)
    {
        List<(string Place, string Prefix, NameLayout Layout)> found = [];
        foreach (TensorEntry entry in file.Entries)
            foreach ((string anchor, NameLayout layout) in s_anchors)
                if (entry.Name.EndsWith(anchor, StringComparison.Ordinal))
                {
                    string before = entry.Name[..^anchor.Length];
                    int slash = before.LastIndexOf('/');
                    found.Add((slash < 0 ? "" : before[..slash], before[(slash + 1)..], layout));
                }
        string all = string.Join(", ", found.Select(f => $"'{Shown(f.Place, f.Prefix)}'").Order(StringComparer.Ordinal));
        if (place is not null)
        {
            found = [.. found.Where(f => f.Place == place || Shown(f.Place, f.Prefix).Trim('.', '/') == place.Trim('.', '/'))];
            if (found.Count == 0)
                throw new WeightFileException($"{file.File}: there is no encoder under '{place}'"
                    + (all.Length > 0 ? $"; the file has one under {all}." : ", nor anywhere else in it."));
        }
        else if (found.Count > 1)
            found = [.. found.Where(f => f.Place == s_places.FirstOrDefault(p => found.Any(g => g.Place == p), found[0].Place))];
        if (found.Count > 1)
            found = found.Where(f => f.Prefix.Contains("base_encoder", StringComparison.Ordinal)).ToList() is { Count: 1 } base1 ? base1
                : found.Where(f => f.Prefix.Contains("teacher", StringComparison.Ordinal)).ToList() is { Count: 1 } teacher ? teacher : found;
        return found.Count switch
        {
            1 => found[0],
            0 => throw new WeightFileException($"{file.File}: none of its {file.Entries.Count} tensors is a ViT's patch embedding "
                + $"(patch_embed.proj.weight){Example(file)}."),
            _ => throw new WeightFileException($"{file.File}: it holds several encoders, under {all}; name one of them with --key."),
        };
    }

    private static string Shown(string place, string prefix) => place.Length > 0 && prefix.Length > 0 ? $"{place}/{prefix}" : place + prefix;

    private static string Example(WeightFile file) => file switch
    {
        TorchFile { Entries.Count: 0, Skipped: [(_, string type), ..] } => $"; it holds a '{type}' whole, and that cannot be read without "
            + "running its code: save its state_dict() instead",
        { Entries.Count: > 0 } => $"; the first is '{file.Entries[0].Name}'",
        _ => "",
    };

    /// <summary>Parts beside the encoder's blocks that published files have under the same prefix, and buffers that follow from the size.</summary>
    private static bool IsOfHead(string name, bool maeDecoder)
        => (maeDecoder && name == "mask_token") || name.EndsWith("relative_position_index", StringComparison.Ordinal)
            || name.EndsWith("attn_mask", StringComparison.Ordinal)
            || s_headStarts.Any(start => name.StartsWith(start, StringComparison.Ordinal));

    private static readonly string[] s_headStarts =
    [
        "head.", "heads.", "head_dist.", "fc_norm.", "fc.", "decoder.", "decoder_", "pre_logits.", "pooler.", "predictor.", "projector.",
        "classifier.", "lm_head.", "oracle.",
    ];
}
