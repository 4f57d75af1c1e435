using System.Security.Cryptography;
using System.Text;
using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Runs;

namespace MimEngine.Engine.Experiments;

/// <summary>What a user asks of an import.</summary>
public sealed record ImportOptions
{
    /// <summary>A .pth or .safetensors file, or a folder with model.safetensors and config.json.</summary>
    public required string Weights { get; init; }

    /// <summary>The run folder to make; absent or empty.</summary>
    public required string Out { get; init; }

    /// <summary>Key of the file's dictionary where the encoder lies; none = the first known one.</summary>
    public string? Key { get; init; }

    public EncoderWish Wish { get; init; } = new();

    /// <summary>Leave tensors aside that no parameter takes, instead of refusing the file.</summary>
    public bool Lenient { get; init; }

    /// <summary>Pictures that a probe of the import reads when it is told nothing else.</summary>
    public string? Data { get; init; }
}

/// <summary>
/// A foreign encoder → a run folder of step 0, which <c>mim probe</c>, <c>embed</c> and <c>export</c> read like any other. Strict: all or nothing.
/// </summary>
public static class ImportRun
{
    /// <exception cref="WeightFileException">The file cannot be read, or its encoder is none that this program has.</exception>
    /// <exception cref="RunException">The folder cannot be made.</exception>
    public static ImportReport Execute(ImportOptions options)
    {
        (string path, EncoderWish wish) = ExportedModel.Locate(options.Weights, options.Wish);
        using WeightFile file = WeightFile.Open(path);
        ForeignWeights weights = ForeignWeights.Read(file, options.Key);
        VitConfig theirs = EncoderShape.Of(weights, wish), config = EncoderShape.Resized(theirs, wish, path);
        (ImportReport report, List<NamedTensor> tensors) = Match(file, weights, theirs, config, options.Lenient);
        PretrainConfig run = Experiment(config, options.Data);
        string json = ConfigJson.Write(run);
        using RunDirectory folder = RunDirectory.Create(options.Out, json);
        Checkpoint.Save(folder.Checkpoints, new CheckpointHeader(0, Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(json))),
            new Dictionary<string, string> { ["imported_from"] = report.File, ["imported_place"] = report.Place }), tensors);
        DiskFiles.Replace(DiskFiles.Instance, Path.Combine(folder.Path, "import.json"), Encoding.UTF8.GetBytes(ConfigJson.Write(report)));
        return report;
    }

    private static (ImportReport Report, List<NamedTensor> Tensors) Match(WeightFile file, ForeignWeights weights, VitConfig theirs,
        VitConfig config, bool lenient)
    {
        using var declared = new ParamSet();
        _ = new VisionTransformer(declared, config);
        Dictionary<string, string> matched = [];
        List<string> missing = [], misfits = [], resized = [], unexpected = [.. weights.Unexpected];
        List<FreshTensor> fresh = [];
        List<NamedTensor> tensors = [];
        int matrices = 0, freshMatrices = 0;
        foreach (Param p in declared.Params)
        {
            if (!weights.Tensors.TryGetValue(p.Name, out ForeignTensor? tensor))
            {
                if (p.Name != "mask_token") misfits.Add($"there is no {p.Name}");
                missing.Add(p.Name);
                tensors.Add(Named(p, new float[p.DeclaredShape.Count]));
                continue;
            }
            (tensor, string? how) = Fitted(p.Name, tensor, theirs, config);
            if (how is not null) resized.Add(how);
            if (Misfit.Of(p.Name, tensor.Shape, p.DeclaredShape, config) is { } clause)
            {
                misfits.Add(clause);
                continue;
            }
            if (tensor.Values.Any(v => !float.IsFinite(v)))
                throw new WeightFileException($"{weights.File}: '{tensor.Source}' holds NaN or infinity.");
            matched.Add(p.Name, tensor.Source);
            tensors.Add(Named(p, tensor.Values));
            string? look = FreshLook.Of(tensor.Values, tensor.Shape);
            if (look is not null) fresh.Add(new FreshTensor(p.Name, look));
            if (!p.Name.EndsWith(".weight", StringComparison.Ordinal) || p.DeclaredShape.Rank != 2) continue;
            matrices++;
            if (look is not null) freshMatrices++;
        }
        unexpected.AddRange(weights.Tensors.Where(t => !declared.Contains(t.Key)).Select(t => t.Value.Source));
        if (misfits.Count > 0)
            throw new WeightFileException($"{weights.File}: its encoder does not fit: {string.Join("; ", misfits.Take(4))}"
                + (misfits.Count > 4 ? $"; and {misfits.Count - 4} more." : "."));
        if (unexpected.Count > 0 && !lenient)
            throw new WeightFileException($"{weights.File}: no parameter takes {string.Join(", ", unexpected.Take(4).Select(n => $"'{n}'"))}"
                + (unexpected.Count > 4 ? $" and {unexpected.Count - 4} more" : "") + "; the encoder may compute something else than ours; "
                + "--lenient leaves them aside.");
        return (new ImportReport
        {
            File = Path.GetFileName(weights.File),
            Place = weights.Place + (weights.Place.Length > 0 && weights.Prefix.Length > 0 ? "/" : "") + weights.Prefix,
            Layout = weights.Layout,
            Encoder = config,
            Matched = matched,
            Missing = missing,
            Unexpected = unexpected,
            Resized = resized,
            LeftAside = weights.LeftAside,
            Skipped = file is TorchFile torch ? [.. torch.Skipped.Select(s => $"{s.Path}: {s.Class}")] : [],
            LooksFresh = fresh,
            Matrices = matrices,
            FreshMatrices = freshMatrices,
        }, tensors);
    }

    /// <summary>The tensor at the size of our encoder, and how it came to it.</summary>
    private static (ForeignTensor Tensor, string? How) Fitted(string name, ForeignTensor tensor, VitConfig theirs, VitConfig ours)
    {
        (int from, int to) = (theirs.Grid, ours.Grid);
        if (from == to) return (tensor, null);
        string grids = $"{name}: {from} × {from} → {to} × {to} patches";
        if (name == "pos_embed")
            return (tensor with { Values = PositionTable.Resize(tensor.Values, ours.Width, from, to), Shape = [1, 1 + to * to, ours.Width] },
                grids + ", bicubic");
        if (!name.EndsWith("relative_position_bias_table", StringComparison.Ordinal)) return (tensor, null);
        float[] values = RelativeBiasTable.Resize(tensor.Values, ours.Heads, from, to);
        return (tensor with { Values = values, Shape = [values.Length / ours.Heads, ours.Heads] },
            grids + ", bicubic spline over a geometric progression");
    }

    private static NamedTensor Named(Param p, float[] values)
        => NamedTensor.From("params/" + p.Name, values, [.. Enumerable.Range(0, p.DeclaredShape.Rank).Select(axis => (long)p.DeclaredShape[axis])]);

    /// <summary>
    /// A configuration that says what the encoder is, and of the methods here the one that masks as it does; how it was trained is not known.
    /// </summary>
    private static PretrainConfig Experiment(VitConfig config, string? data)
    {
        int cell = config.Grid >= 4 && config.Grid % 2 == 0 ? 2 * config.PatchPixels : config.PatchPixels;
        PretrainConfig method = config.Corruption == Corruption.Drop ? Recipes.Mae()
            : (config.RelativeBias == RelativeBias.None ? Recipes.KamimBaseline() : Recipes.SimMim()) with
            {
                Masking = new RandomCells(0.6f, cell),
            };
        return method with { Recipe = "imported", Data = data, Encoder = config };
    }
}
