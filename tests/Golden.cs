using System.IO.Enumeration;
using System.Text.Json;
using MimEngine.Engine.Runs;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>One case of the reference data: tensors of the official implementation and the tolerances of its manifest.</summary>
internal sealed class Golden : IDisposable
{
    private readonly JsonElement _case;

    private Golden(JsonElement @case, SafeTensors tensors) => (_case, Tensors) = (@case, tensors);

    public SafeTensors Tensors { get; }
    public JsonElement Hyper => _case.GetProperty("hyper");
    public JsonElement Values => _case.GetProperty("values");

    public static string Folder => Path.Combine(TestContext.CurrentContext.TestDirectory, "Goldens");

    /// <summary>Opens "group/case".</summary>
    public static Golden Open(string id)
    {
        string[] parts = id.Split('/');
        string folder = Path.Combine(Folder, parts[0]);
        JsonElement manifest = JsonDocument.Parse(File.ReadAllText(Path.Combine(folder, "manifest.json"))).RootElement;
        JsonElement found = manifest.GetProperty("cases").EnumerateArray().Single(c => c.GetProperty("id").GetString() == id);
        return new Golden(found, SafeTensors.Open(Path.Combine(folder, parts[1] + ".safetensors")));
    }

    public int Int(string key) => Hyper.GetProperty(key).GetInt32();
    public float Float(string key) => Hyper.GetProperty(key).GetSingle();
    public bool Bool(string key) => Hyper.GetProperty(key).GetBoolean();

    /// <summary>Compares with a reference tensor by the manifest's rule for it.</summary>
    public void AssertClose(string name, ReadOnlySpan<float> actual) => AssertClose(name, name, actual, Tensors.Floats(name));

    /// <summary>Compares with a reference under the tolerance that the manifest gives for <paramref name="like"/>.</summary>
    public void AssertClose(string like, string what, ReadOnlySpan<float> actual, ReadOnlySpan<float> expected)
    {
        JsonElement rule = Tolerance(like);
        Assert.That(actual.Length, Is.EqualTo(expected.Length), $"{what}: number of elements");
        double largest = 0, worst = 0, difference = 0, norm = 0;
        int at = 0;
        for (int i = 0; i < expected.Length; i++)
        {
            double d = Math.Abs((double)actual[i] - expected[i]);
            if (!(d <= worst)) (worst, at) = (d, i);
            largest = Math.Max(largest, Math.Abs(expected[i]));
            (difference, norm) = (difference + d * d, norm + (double)expected[i] * expected[i]);
        }
        string where = $"{what}: largest difference {worst:g4} at {at} (expected {(expected.Length > 0 ? expected[at] : 0)}, got "
            + $"{(expected.Length > 0 ? actual[at] : 0)})";
        if (rule.TryGetProperty("rel_to_max", out JsonElement relative))
            Assert.That(worst, Is.LessThanOrEqualTo(relative.GetDouble() * largest + Number(rule, "atol")), where);
        else if (rule.TryGetProperty("rel_l2", out _) && !rule.TryGetProperty("rtol", out _))
        {
            if (norm == 0) Assert.That(worst, Is.LessThanOrEqualTo(Number(rule, "atol")), where);   // the bound below is of the norm
        }
        else
        {
            Assert.That(rule.TryGetProperty("atol", out _) || rule.TryGetProperty("rtol", out _), $"{what}: the manifest's rule has no bound");
            for (int i = 0; i < expected.Length; i++)
                if (!(Math.Abs((double)actual[i] - expected[i]) <= Number(rule, "atol") + Number(rule, "rtol") * Math.Abs(expected[i])))
                    Assert.Fail(where);
        }
        if (rule.TryGetProperty("rel_l2", out JsonElement l2) && norm > 0 && largest > Number(rule, "atol"))
            Assert.That(Math.Sqrt(difference / norm), Is.LessThanOrEqualTo(l2.GetDouble()), $"{what}: relative L2 difference");
    }

    private static double Number(JsonElement rule, string key) => rule.TryGetProperty(key, out JsonElement v) ? v.GetDouble() : 0.0;

    /// <summary>The rule whose pattern fits a name; '*' stands for any text.</summary>
    public JsonElement Tolerance(string name)
    {
        JsonElement rules = _case.GetProperty("tolerance");
        foreach (JsonProperty rule in rules.EnumerateObject())
            if (FileSystemName.MatchesSimpleExpression(rule.Name, name, ignoreCase: false))
                return rule.Value;
        throw new InvalidOperationException($"The manifest states no tolerance for '{name}'.");
    }

    public void Dispose() => Tensors.Dispose();
}
