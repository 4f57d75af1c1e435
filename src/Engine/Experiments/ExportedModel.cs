using System.Text.Json;
using System.Text.Json.Nodes;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Runs;

namespace MimEngine.Engine.Experiments;

/// <summary>
/// The folder that Hugging Face's hub and timm read: <c>model.safetensors</c> and <c>config.json</c> with architecture, arguments and how pictures
/// are normalised.
/// </summary>
/// <remarks>timm models/_hub.py: architecture, model_args, pretrained_cfg. Under "mim" stands what timm has no key for.</remarks>
internal static class ExportedModel
{
    public const string WeightsName = "model.safetensors", ConfigName = "config.json";

    /// <summary>The weights that a user's path means, and what a config.json beside them tells; the user's own wishes win.</summary>
    /// <exception cref="WeightFileException">A folder without weights, or a config.json that is no JSON.</exception>
    public static (string File, EncoderWish Wish) Locate(string path, EncoderWish wish)
    {
        string file = path;
        if (Directory.Exists(path))
        {
            file = Path.Combine(path, WeightsName);
            if (Directory.Exists(Path.Combine(path, "checkpoints")) && File.Exists(Path.Combine(path, ConfigName)))
                throw new WeightFileException($"{path}: is a run of this program already; probe, embed and export read it as it is.");
            if (!File.Exists(file)) throw new WeightFileException($"{path}: is a folder without {WeightsName}; name the file itself.");
        }
        string config = Path.Combine(Path.GetDirectoryName(Path.GetFullPath(file))!, ConfigName);
        if (!File.Exists(config)) return (file, wish);
        JsonElement root;
        try
        {
            using JsonDocument json = JsonDocument.Parse(File.ReadAllBytes(config));
            root = json.RootElement.Clone();
        }
        catch (Exception e) when (e is JsonException or IOException or UnauthorizedAccessException)
        {
            throw new WeightFileException($"{config}: cannot be read ({e.Message.TrimEnd('.')}); remove it if it does not belong to the weights.", e);
        }
        return (file, wish with
        {
            Heads = wish.Heads ?? (int?)(Number(root, "model_args", "num_heads") ?? Number(root, "num_attention_heads")),
            LayerNormEps = wish.LayerNormEps ?? (float?)(Number(root, "mim", "layer_norm_eps") ?? Number(root, "layer_norm_eps")),
        });
    }

    /// <summary>config.json of an encoder.</summary>
    public static JsonObject Config(VitConfig vit, string recipe, long step, IEnumerable<string> leftOut)
    {
        bool beit = vit.RelativeBias != RelativeBias.None;
        var arguments = new JsonObject
        {
            ["img_size"] = vit.ImagePixels,
            ["patch_size"] = vit.PatchPixels,
            ["embed_dim"] = vit.Width,
            ["depth"] = vit.Depth,
            ["num_heads"] = vit.Heads,
            ["mlp_ratio"] = vit.MlpRatio,
            ["qkv_bias"] = vit.QkvBias != QkvBias.None,
            ["init_values"] = vit.LayerScale,
            ["num_classes"] = 0,
        };
        if (beit)
        {
            arguments["use_abs_pos_emb"] = vit.Positions != Positions.None;
            arguments["use_rel_pos_bias"] = vit.BlockBias;
            arguments["use_shared_rel_pos_bias"] = vit.SharedBias;
            arguments["global_pool"] = "token";
        }
        else
        {
            arguments["class_token"] = true;
            arguments["global_pool"] = "token";
            if (vit.Positions == Positions.None) arguments["pos_embed"] = "none";
            if (!vit.FinalNorm) arguments["final_norm"] = false;
        }
        string architecture = Architecture(vit, beit);
        return new JsonObject
        {
            ["architecture"] = architecture,
            ["num_classes"] = 0,
            ["num_features"] = vit.Width,
            ["global_pool"] = "token",
            ["model_args"] = arguments,
            ["pretrained_cfg"] = new JsonObject
            {
                ["architecture"] = architecture,
                ["tag"] = "mim",
                ["custom_load"] = false,
                ["input_size"] = new JsonArray(3, vit.ImagePixels, vit.ImagePixels),
                ["fixed_input_size"] = true,
                ["interpolation"] = "bilinear",
                ["crop_pct"] = 1.0,
                ["crop_mode"] = "squash",
                ["mean"] = Floats(Normalization.Mean),
                ["std"] = Floats(Normalization.Std),
                ["num_classes"] = 0,
                ["pool_size"] = null,
                ["first_conv"] = "patch_embed.proj",
                ["classifier"] = "head",
            },
            ["mim"] = new JsonObject
            {
                ["layer_norm_eps"] = vit.LayerNormEps,
                ["recipe"] = recipe,
                ["step"] = step,
                ["left_out"] = new JsonArray([.. leftOut.Select(name => (JsonNode)name)]),
            },
        };
    }

    /// <summary>The nearest of timm's entry points; model_args say the rest.</summary>
    private static string Architecture(VitConfig vit, bool beit)
    {
        string size = vit.Width switch { <= 192 when !beit => "tiny", <= 384 when !beit => "small", >= 1024 => "large", _ => "base" };
        return $"{(beit ? "beit" : "vit")}_{size}_patch16_224";
    }

    // Through decimal, so that 0.485f reads 0.485 and not 0.48500001430511475.
    private static JsonArray Floats(ReadOnlySpan<float> values)
    {
        JsonArray array = [];
        foreach (float value in values) array.Add((decimal)value);
        return array;
    }

    private static double? Number(JsonElement at, params string[] keys)
    {
        foreach (string key in keys)
            if (at.ValueKind != JsonValueKind.Object || !at.TryGetProperty(key, out at)) return null;
        return at.ValueKind == JsonValueKind.Number ? at.GetDouble() : null;
    }
}
