using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Runs;

namespace MimEngine.Engine.Experiments;

/// <summary>What an export wrote.</summary>
/// <param name="LeftOut">Parameters that the exported architecture has no place for.</param>
public sealed record ExportReport(string Folder, string Architecture, int Tensors, long Bytes, IReadOnlyList<string> LeftOut,
    IReadOnlyList<string> Notes);

/// <summary>
/// A run's encoder → <c>model.safetensors</c> and <c>config.json</c>, under timm's names and shapes: those of its ViT, or of its BEiT where
/// there are relative position biases (which is SimMIM's architecture).
/// </summary>
public static class ExportRun
{
    private static readonly JsonSerializerOptions s_json = new() { WriteIndented = true };

    /// <param name="output">A folder; made where it does not exist.</param>
    /// <exception cref="RunException">No such run, or the folder cannot be written.</exception>
    /// <exception cref="WeightFileException">The checkpoint is damaged, or has something that timm's architectures lack.</exception>
    public static ExportReport Execute(string run, string output)
    {
        using TrainedRun trained = TrainedRun.Open(run);
        VitConfig vit = trained.Config.Encoder;
        Dictionary<string, float[]> values = trained.EncoderValues();
        List<string> leftOut = [.. values.Keys.Where(name => name == "mask_token")];   // no classifier reads it
        foreach (string name in leftOut) values.Remove(name);
        List<NamedTensor> tensors = [.. Named(vit, values)];
        JsonObject config = ExportedModel.Config(vit, trained.Config.Recipe, trained.Checkpoint.Header.Step, leftOut);
        string weights = Path.Combine(output, ExportedModel.WeightsName), temporary = weights + ".tmp";
        try
        {
            if (File.Exists(weights)) throw new RunException($"{weights}: exists already; name another folder with --out.");
            Directory.CreateDirectory(output);
            using (FileStream file = new(temporary, FileMode.Create, FileAccess.Write))
            {
                SafeTensorsWriter.Write(file, tensors, new Dictionary<string, string> { ["format"] = "pt" });
                file.Flush(flushToDisk: true);
            }
            DiskFiles.Replace(DiskFiles.Instance, Path.Combine(output, ExportedModel.ConfigName),
                Encoding.UTF8.GetBytes(config.ToJsonString(s_json) + "\n"));
            File.Move(temporary, weights);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new RunException($"{output}: the export was not written ({e.Message.TrimEnd('.')}).", e);
        }
        return new ExportReport(output, (string)config["architecture"]!, tensors.Count, new FileInfo(weights).Length, leftOut, trained.Notes);
    }

    private static IEnumerable<NamedTensor> Named(VitConfig vit, Dictionary<string, float[]> values)
    {
        if (vit.RelativeBias == RelativeBias.None)
            return values.Select(v => NamedTensor.From(v.Key, v.Value, Shape(vit, v.Key, v.Value.Length)));
        const string Prefix = "encoder.";
        return WeightNames.ToSimMim(values).Select(v => (Name: v.Key[Prefix.Length..], v.Value))
            .Select(v => NamedTensor.From(v.Name, v.Value, Shape(vit, v.Name, v.Value.Length)));
    }

    private static long[] Shape(VitConfig vit, string name, int count) => name switch
    {
        "cls_token" => [1, 1, vit.Width],
        "pos_embed" => [1, vit.Tokens, vit.Width],
        "patch_embed.proj.weight" => [vit.Width, 3, vit.PatchPixels, vit.PatchPixels],
        _ when name.EndsWith("relative_position_bias_table", StringComparison.Ordinal) => [count / vit.Heads, vit.Heads],
        _ when name.EndsWith("mlp.fc2.weight", StringComparison.Ordinal) => [vit.Width, vit.Hidden],
        _ when name.EndsWith("qkv.weight", StringComparison.Ordinal) || name.EndsWith("attn.proj.weight", StringComparison.Ordinal)
            || name.EndsWith("mlp.fc1.weight", StringComparison.Ordinal) => [count / vit.Width, vit.Width],
        _ => [count],
    };
}
