using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using MimEngine.Kernels;

namespace MimEngine.Engine.Pretraining;

/// <summary>
/// Experiments as JSON: written whole, read strictly. A recipe file may hold only what differs; a setting may be given as
/// "terms.0.weighting.temperature=0.5". Unknown keys and kinds are errors.
/// </summary>
public static class ConfigJson
{
    private static readonly JsonSerializerOptions s_options = new()
    {
        WriteIndented = true,
        PropertyNamingPolicy = JsonNamingPolicy.CamelCase,
        UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow,
        AllowOutOfOrderMetadataProperties = true,
        AllowDuplicateProperties = false,
        RespectNullableAnnotations = true,
        Converters = { new JsonStringEnumConverter(JsonNamingPolicy.KebabCaseLower, allowIntegerValues: false) },
    };

    /// <summary>A choice as settings write it: "mean-patches".</summary>
    public static string Word<T>(T choice) where T : struct, Enum => JsonNamingPolicy.KebabCaseLower.ConvertName(choice.ToString());

    /// <summary>The choice that settings write like this, or none.</summary>
    public static T? Choice<T>(string word) where T : struct, Enum
        => Array.Find(Enum.GetValues<T>(), choice => Word(choice) == word) is var found && Word(found) == word ? found : null;

    /// <summary>The whole experiment, indented.</summary>
    public static string Write<T>(T config) => JsonSerializer.Serialize(config, s_options) + "\n";

    /// <summary>Reads a whole experiment.</summary>
    /// <exception cref="ConfigException">Malformed JSON, an unknown key or kind, a value of the wrong type.</exception>
    public static T Read<T>(string json, string source)
    {
        try
        {
            return JsonSerializer.Deserialize<T>(json, s_options) ?? throw new ConfigException($"{source}: the file holds null.");
        }
        catch (JsonException e)
        {
            throw Explain(e, source);
        }
        catch (NotSupportedException e)
        {
            throw WithoutKind(e, source);
        }
    }

    /// <summary>The experiment with the keys of a JSON object laid over it.</summary>
    /// <exception cref="ConfigException">As <see cref="Read"/>.</exception>
    public static T Overlay<T>(T config, string json, string source)
    {
        JsonNode? over;
        try
        {
            over = JsonNode.Parse(json, documentOptions: new JsonDocumentOptions { AllowDuplicateProperties = false });
        }
        catch (JsonException e)
        {
            throw Explain(e, source);
        }
        if (over is not JsonObject changes) throw new ConfigException($"{source}: a recipe is a JSON object, {{ … }}.");
        JsonNode root = Node(config);
        Merge((JsonObject)root, changes, source, "");
        return Parse<T>(root, source);
    }

    /// <summary>The experiment with one setting changed.</summary>
    /// <param name="path">Keys joined by dots, indices of lists among them: "terms.0.weighting.temperature".</param>
    /// <param name="value">JSON, or a bare word for text and kinds.</param>
    /// <exception cref="ConfigException">No such setting, or a value of the wrong type.</exception>
    public static T Set<T>(T config, string path, string value)
    {
        JsonNode root = Node(config);
        string[] keys = path.Split('.');
        JsonNode parent = root;
        for (int i = 0; i < keys.Length - 1; i++)
            parent = Child(parent, keys[i], path) ?? throw new ConfigException($"--set {path}: '{keys[i]}' is null here; set it as a whole.");
        string last = keys[^1];
        _ = Child(parent, last, path);
        JsonNode? parsed = ParseValue(value);
        if (parent is JsonArray list) list[int.Parse(last)] = parsed;
        else parent[last] = parsed;
        return Parse<T>(root, $"--set {path}={value}");
    }

    private static JsonNode Node<T>(T config) => JsonSerializer.SerializeToNode(config, s_options)!;

    private static T Parse<T>(JsonNode root, string source)
    {
        try
        {
            return root.Deserialize<T>(s_options)!;
        }
        catch (JsonException e)
        {
            throw Explain(e, source);
        }
        catch (NotSupportedException e)
        {
            throw WithoutKind(e, source);
        }
    }

    private static JsonNode? ParseValue(string value)
    {
        try
        {
            return JsonNode.Parse(value);
        }
        catch (JsonException)
        {
            return JsonValue.Create(value);
        }
    }

    private static JsonNode? Child(JsonNode parent, string key, string path)
    {
        if (parent is JsonArray list)
        {
            return int.TryParse(key, out int index) && index >= 0 && index < list.Count ? list[index]
                : throw new ConfigException($"--set {path}: '{key}' is no index of a list of {list.Count}.");
        }
        if (parent is JsonObject map)
        {
            if (map.TryGetPropertyValue(key, out JsonNode? child)) return child;
            throw new ConfigException($"--set {path}: there is no '{key}' here{Suggestion(key, map)}");
        }
        throw new ConfigException($"--set {path}: '{key}' lies inside a plain value.");
    }

    private static void Merge(JsonObject into, JsonObject changes, string source, string path)
    {
        foreach ((string key, JsonNode? value) in changes)
        {
            string here = path.Length == 0 ? key : path + "." + key;
            if (!into.TryGetPropertyValue(key, out JsonNode? old))
                throw new ConfigException($"{source}: there is no '{here}'{Suggestion(key, into)}");
            bool sameKind = old is JsonObject o && value is JsonObject v
                && (v["kind"] is null || o["kind"]?.ToString() == v["kind"]!.ToString());
            if (sameKind) Merge((JsonObject)old!, (JsonObject)value!, source, here);
            else into[key] = value?.DeepClone();
        }
    }

    /// <summary>The nearest key in spelling, or the list of them.</summary>
    private static string Suggestion(string key, JsonObject map)
    {
        (string? best, int distance) = (null, int.MaxValue);
        foreach ((string candidate, _) in map)
        {
            int d = Distance(key.ToLowerInvariant(), candidate.ToLowerInvariant());
            if (d < distance) (best, distance) = (candidate, d);
        }
        return best is not null && distance <= 1 + key.Length / 3
            ? $"; did you mean '{best}'?"
            : $"; known are {string.Join(", ", map.Select(p => p.Key))}.";
    }

    private static int Distance(string a, string b)
    {
        int[] row = [.. Enumerable.Range(0, b.Length + 1)];
        for (int i = 1; i <= a.Length; i++)
        {
            int diagonal = row[0];
            row[0] = i;
            for (int j = 1; j <= b.Length; j++)
            {
                int cost = Math.Min(Math.Min(row[j], row[j - 1]) + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1));
                (diagonal, row[j]) = (row[j], cost);
            }
        }
        return row[^1];
    }

    private static ConfigException Explain(JsonException e, string source)
    {
        string what = e.Message;
        int cut = what.IndexOf(" Path:", StringComparison.Ordinal);
        if (cut > 0) what = what[..cut];
        const string Misfit = "The JSON value could not be converted to ";
        if (what.StartsWith(Misfit, StringComparison.Ordinal)) what = Wanted(what[Misfit.Length..].TrimEnd('.')) ?? what;
        string where = e.Path is { Length: > 1 } path ? $" at {path.TrimStart('$', '.')}" : "";
        string line = e.LineNumber is { } n && source.EndsWith(".json", StringComparison.Ordinal) ? $", line {n + 1}" : "";
        return new ConfigException($"{source}{where}{line}: {what}", e);
    }

    /// <summary>What the reader throws, of all things, where an object of several kinds does not name its own.</summary>
    private static ConfigException WithoutKind(NotSupportedException e, string source)
    {
        string path = e.Message.Split("Path: $.", 2) is [_, var rest] ? " at " + rest.Split(' ')[0] : "";
        return new ConfigException($"{source}{path}: the object does not say its \"kind\"; add it, or set its parts one by one.", e);
    }

    /// <summary>What a setting of that type takes, for people; none where the type says nothing to them.</summary>
    private static string? Wanted(string type) => type switch
    {
        "System.Boolean" => "true or false is expected.",
        "System.Int32" or "System.Int64" or "System.UInt64" => "a whole number is expected.",
        "System.Single" or "System.Double" => "a number is expected.",
        _ when (typeof(ConfigJson).Assembly.GetType(type) ?? typeof(Tensor).Assembly.GetType(type)) is { IsEnum: true } choices
            => $"known are {string.Join(", ", Enum.GetNames(choices).Select(JsonNamingPolicy.KebabCaseLower.ConvertName))}.",
        _ => null,
    };
}
