using System.CommandLine;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;

namespace MimEngine.Cli;

/// <summary>The options that make a <see cref="PretrainConfig"/>; pretrain, plan and show-masks share them.</summary>
internal sealed class ExperimentOptions
{
    private readonly Option<string?> _recipe = Options.Text("--recipe", "NAME",
        $"What to train: {string.Join(", ", Recipes.ByName.Keys)}, or a .json file that changes one of them. [kamim]");
    private readonly Option<string?> _vit = Options.Text("--vit", "SIZE",
        $"Size of the encoder: {string.Join(", ", VitConfig.Sizes.Keys)}. [base; mini for the embedded pictures]");
    private readonly Option<long?> _pixels = Options.Number("--pixels", "N",
        "Side of the crops; patches and mask cells follow. [the recipe's; 32 for the embedded pictures]", least: 16);
    private readonly Option<long?> _epochs = Options.Number("--epochs", "N",
        "Passes over the pictures; the schedule spans them, with rates for short runs. [the recipe's; 30 for the embedded pictures]",
        least: 1);
    private readonly Option<long?> _batch = Options.Number("--batch", "N",
        "Pictures of one pass through the network. [the recipe's; 64 for the embedded pictures]", least: 1);
    private readonly Option<long?> _steps = Options.Number("--steps", "N", "Updates, whatever the epochs say.", least: 1);
    private readonly Option<long?> _seed = Options.Number("--seed", "N",
        "Names every random number; the same seed gives the same bits. [0]");
    private readonly Option<string?> _precision = Options.Text("--precision", "f32|bf16",
        "What matrix products multiply: float32, or bfloat16 (faster where the processor or GPU has units for it; sums stay float32). [f32]");
    private readonly Option<string[]> _set = Options.Set("--set terms.0.weighting.temperature=0.5. A run's config.json shows them all");

    public Option<string?> DataPath { get; } = Options.Data(
        "Pictures: a folder (classes in sub-folders, or flat), a .mimpack file, CIFAR .bin or idx files. [embedded Fashion-MNIST]");

    private Option[] All => [_recipe, DataPath, _vit, _pixels, _epochs, _batch, _steps, _seed, _precision, _set];

    public void AddTo(Command command)
    {
        foreach (Option option in All) command.Add(option);
    }

    /// <summary>The names of options given that <see cref="Resolve"/> would read; for --resume, which takes none of them.</summary>
    public IEnumerable<string> Given(ParseResult parsed)
        => All.Where(o => parsed.GetResult(o) is { Implicit: false }).Select(o => o.Name);

    /// <summary>The experiment: recipe, then sizes, then length, then each --set in order. Validated.</summary>
    /// <exception cref="ConfigException">Whatever is unknown or makes no sense.</exception>
    public PretrainConfig Resolve(ParseResult parsed)
    {
        int? batch = parsed.GetValue(_batch) is { } pictures ? (int)Math.Min(pictures, 1 << 20) : null;
        double? epochs = parsed.GetValue(_epochs);
        string? data = parsed.GetValue(DataPath);
        PretrainConfig config = FromRecipe(parsed.GetValue(_recipe) ?? "kamim", data is not null, batch, epochs);
        // The full path, so that the run can be continued from any folder.
        if (data is not null) config = config with { Data = Path.GetFullPath(data) };
        if (parsed.GetValue(_vit) is { } size) config = config with { Encoder = Sized(config.Encoder, size) };
        if (parsed.GetValue(_pixels) is { } pixels) config = Recipes.AtPixels(config, (int)Math.Min(pixels, 65536));
        config = config with
        {
            Run = config.Run with
            {
                Batch = batch ?? config.Run.Batch,
                Epochs = epochs ?? config.Run.Epochs,
                Steps = parsed.GetValue(_steps) ?? config.Run.Steps,
                Seed = (ulong?)parsed.GetValue(_seed) ?? config.Run.Seed,
            },
        };
        if (parsed.GetValue(_precision) is { } precision && precision is not ("f32" or "bf16"))
            throw new ConfigException($"--precision {precision}: there is f32 and bf16.");
        if (parsed.GetValue(_precision) is { } known) config = ConfigJson.Set(config, "run.precision", known);
        config = Options.Apply(config, parsed.GetValue(_set));
        config.Validate();
        return config;
    }

    /// <summary>The recipe with the length asked for; without other pictures, its preset for the embedded ones. A file's keys go on top.</summary>
    private static PretrainConfig FromRecipe(string recipe, bool hasData, int? batch, double? epochs)
    {
        if (!recipe.EndsWith(".json", StringComparison.OrdinalIgnoreCase))
            return Recipes.ByName.TryGetValue(recipe, out Func<PretrainConfig>? make)
                ? Fitted(make())
                : throw new ConfigException($"--recipe {recipe}: there is no such recipe"
                    + UsageError.OrKnown(recipe, Recipes.ByName.Keys));
        if (!File.Exists(recipe)) throw new ConfigException($"--recipe {recipe}: no such file.");
        string json = File.ReadAllText(recipe);
        PretrainConfig named = Recipes.Named(BaseOf(json, recipe));
        hasData |= ConfigJson.Overlay(named, json, recipe).Data is not null;
        return ConfigJson.Overlay(Fitted(named), json, recipe);

        PretrainConfig Fitted(PretrainConfig start) => !hasData ? Recipes.Embedded(start, epochs ?? 30, batch ?? 64)
            : epochs is { } passes ? Recipes.Short(start, passes, batch ?? start.Run.Batch)
            : start;
    }

    // A recipe file names the recipe it changes by its own key "recipe".
    private static string BaseOf(string json, string file)
    {
        try
        {
            return System.Text.Json.Nodes.JsonNode.Parse(json)?["recipe"]?.GetValue<string>() is { Length: > 0 } name ? name
                : throw new ConfigException($"{file}: lacks the key \"recipe\", which names the recipe that it changes.");
        }
        catch (Exception e) when (e is System.Text.Json.JsonException or InvalidOperationException)
        {
            throw new ConfigException($"{file}: is not a JSON object with a key \"recipe\" ({e.Message.TrimEnd('.')}).", e);
        }
    }

    private static VitConfig Sized(VitConfig vit, string size) => VitConfig.Sizes.ContainsKey(size) ? vit.WithSize(size)
        : throw new ConfigException($"--vit {size}: there is no such size"
            + UsageError.OrKnown(size, VitConfig.Sizes.Keys));
}
