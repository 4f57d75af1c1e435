using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;

namespace MimEngine.Engine.Probing;

/// <summary>What became of a pretrained encoder's tensors in a network to be fine-tuned; kept with the result.</summary>
/// <param name="Matched">Parameters that took a tensor's values, resized ones among them.</param>
/// <param name="Resized">"pos_embed: 8 × 8 → 12 × 12 patches, bicubic".</param>
/// <param name="Fresh">Parameters that start anew.</param>
/// <param name="LeftAside">Tensors that the network has no use for.</param>
public sealed record FinetuneLoaded(int Matched, IReadOnlyList<string> Resized, IReadOnlyList<string> Fresh, IReadOnlyList<string> LeftAside)
{
    /// <summary>One sentence for people.</summary>
    public override string ToString() => $"{Matched} parameters of the encoder loaded"
        + (Resized.Count > 0 ? $" ({string.Join("; ", Resized)})" : "") + $", fresh: {string.Join(", ", Fresh)}"
        + (LeftAside.Count > 0 ? $", left aside: {string.Join(", ", LeftAside)}" : "") + ".";
}

/// <summary>Puts a pretrained encoder into a network to be fine-tuned. Strict: every parameter of the encoder must find its tensor.</summary>
public static class FinetuneWeights
{
    private const string BlockTable = ".attn.rel_pos_bias.relative_position_bias_table", SharedTable = "rel_pos_bias.relative_position_bias_table";

    /// <summary>
    /// Loads them: position tables are resized bicubically (MAE util/pos_embed.py), a shared table of relative biases becomes one of each block,
    /// resized over a geometric progression (SimMIM utils.py), all else must fit as it is.
    /// </summary>
    /// <param name="values">The run's encoder by our names.</param>
    /// <exception cref="WeightFileException">A tensor is missing or does not fit; nothing was loaded.</exception>
    public static FinetuneLoaded Put(Backend backend, FinetuneModel model, VitConfig run, IReadOnlyDictionary<string, float[]> values)
    {
        VitConfig own = model.Encoder.Config;
        List<string> resized = [], fresh = [];
        List<(Param Param, float[] Values)> found = [];
        HashSet<string> used = [];
        for (int i = 0; i < model.Params.Params.Count; i++)
        {
            Param p = model.Params.Params[i];
            if (i >= model.EncoderParams)
            {
                fresh.Add(p.Name);
                continue;
            }
            string source = values.ContainsKey(p.Name) || !p.Name.EndsWith(BlockTable, StringComparison.Ordinal) ? p.Name : SharedTable;
            if (!values.TryGetValue(source, out float[]? v))
                throw new WeightFileException($"The pretrained encoder has no '{p.Name}'"
                    + (p.Name.StartsWith("norm.", StringComparison.Ordinal)
                        ? ": it ends without a LayerNorm; --set encoder.finalNorm=false puts a fresh one after pooling." : "."));
            used.Add(source);
            (v, string? how) = Fitted(p.Name, v, run, own);
            if (how is not null && !resized.Contains(how)) resized.Add(how);
            if (v.Length != p.DeclaredShape.Count)
                throw new WeightFileException($"'{p.Name}' has {v.Length} numbers in the pretrained encoder, its parameter is {p.DeclaredShape}: "
                    + "width, depth, heads and patch size must be the run's.");
            found.Add((p, v));
        }
        foreach ((Param p, float[] v) in found) ParamSet.Set(backend, p, v);
        return new FinetuneLoaded(found.Count, resized, fresh, [.. values.Keys.Where(name => !used.Contains(name))]);
    }

    private static (float[] Values, string? How) Fitted(string name, float[] values, VitConfig run, VitConfig own)
    {
        (int from, int to) = (run.Grid, own.Grid);
        if (from == to) return (values, null);
        string grids = $"{from} × {from} → {to} × {to} patches";
        if (name == "pos_embed") return (PositionTable.Resize(values, own.Width, from, to), $"pos_embed: {grids}, bicubic");
        return name.EndsWith(BlockTable, StringComparison.Ordinal)
            ? (RelativeBiasTable.Resize(values, own.Heads, from, to), $"relative biases: {grids}, bicubic spline over a geometric progression")
            : (values, null);
    }
}
