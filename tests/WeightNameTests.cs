using MimEngine.Engine.Runs;
using NUnit.Framework;

namespace MimEngine.Tests;

[TestFixture]
public class WeightNameTests
{
    private static Dictionary<string, float[]> Kamim(int blocks)
    {
        Dictionary<string, float[]> w = [];
        float next = 0;
        void Add(string name, int count) => w.Add(name, [.. Enumerable.Range(0, count).Select(_ => next++)]);
        void Pair(string name, int weight, int bias) { Add(name + ".weight", weight); Add(name + ".bias", bias); }
        Add("vit.embeddings.cls_token", 2);
        Add("vit.embeddings.mask_token", 2);
        Add("vit.embeddings.position_embeddings", 10);
        Pair("vit.embeddings.patch_embeddings.projection", 24, 2);
        for (int i = 0; i < blocks; i++)
        {
            string b = $"vit.encoder.layer.{i}.";
            foreach (string part in new[] { "query", "key", "value" }) Pair($"{b}attention.attention.{part}", 4, 2);
            Pair(b + "attention.output.dense", 4, 2);
            Pair(b + "intermediate.dense", 8, 4);
            Pair(b + "output.dense", 8, 2);
            Pair(b + "layernorm_before", 2, 2);
            Pair(b + "layernorm_after", 2, 2);
        }
        Pair("vit.layernorm", 2, 2);
        Pair("decoder.0", 24, 12);
        return w;
    }

    private static Dictionary<string, float[]> SimMim() => new()
    {
        ["encoder.cls_token"] = [1], ["encoder.mask_token"] = [2], ["encoder.pos_embed"] = [3],
        ["encoder.patch_embed.proj.weight"] = [4], ["encoder.patch_embed.proj.bias"] = [5],
        ["encoder.rel_pos_bias.relative_position_bias_table"] = [6],
        ["encoder.blocks.11.attn.relative_position_bias_table"] = [7],
        ["encoder.blocks.11.attn.qkv.weight"] = [8, 9, 10], ["encoder.blocks.11.attn.q_bias"] = [11, 12],
        ["encoder.blocks.11.attn.v_bias"] = [13, 14],
        ["encoder.blocks.11.attn.proj.weight"] = [15], ["encoder.blocks.11.attn.proj.bias"] = [16],
        ["encoder.blocks.11.gamma_1"] = [17], ["encoder.blocks.11.gamma_2"] = [18],
        ["encoder.blocks.11.mlp.fc1.weight"] = [19], ["encoder.blocks.11.norm2.bias"] = [20],
        ["encoder.norm.weight"] = [21], ["decoder.0.weight"] = [22],
    };

    [Test]
    public void Kamim_names_become_ours_with_one_qkv()
    {
        Dictionary<string, float[]> theirs = Kamim(12), ours = WeightNames.FromKamim(theirs);
        const string attention = "vit.encoder.layer.10.attention.attention.";
        Assert.That(ours["blocks.10.attn.qkv.weight"],
            Is.EqualTo([.. theirs[attention + "query.weight"], .. theirs[attention + "key.weight"],
                .. theirs[attention + "value.weight"]]));
        Assert.That(ours["blocks.10.attn.qkv.bias"],
            Is.EqualTo([.. theirs[attention + "query.bias"], .. theirs[attention + "key.bias"], .. theirs[attention + "value.bias"]]));
        Assert.That(ours["blocks.1.norm1.weight"], Is.EqualTo(theirs["vit.encoder.layer.1.layernorm_before.weight"]));
        Assert.That(ours["blocks.1.norm2.bias"], Is.EqualTo(theirs["vit.encoder.layer.1.layernorm_after.bias"]));
        Assert.That(ours["blocks.0.mlp.fc2.weight"], Is.EqualTo(theirs["vit.encoder.layer.0.output.dense.weight"]));
        Assert.That(ours["blocks.0.attn.proj.weight"], Is.EqualTo(theirs["vit.encoder.layer.0.attention.output.dense.weight"]));
        Assert.That(ours["decoder.bias"], Is.EqualTo(theirs["decoder.0.bias"]));
        Assert.That(ours.Keys.Where(k => !k.StartsWith("blocks.")).Order(),
            Is.EqualTo(new[] { "cls_token", "decoder.bias", "decoder.weight", "mask_token",
            "norm.bias", "norm.weight", "patch_embed.proj.bias", "patch_embed.proj.weight", "pos_embed" }));
        Assert.That(ours.Values.Sum(v => v.Length), Is.EqualTo(theirs.Values.Sum(v => v.Length)), "no number is lost");
    }

    [Test]
    public void SimMim_names_become_ours_with_a_key_bias_of_zeros()
    {
        Dictionary<string, float[]> ours = WeightNames.FromSimMim(SimMim());
        Assert.That(ours["blocks.11.attn.qkv.bias"], Is.EqualTo(new float[] { 11, 12, 0, 0, 13, 14 }));
        Assert.That(ours["blocks.11.attn.qkv.weight"], Is.EqualTo(new float[] { 8, 9, 10 }));
        Assert.That(ours["blocks.11.attn.rel_pos_bias.relative_position_bias_table"], Is.EqualTo(new float[] { 7 }));
        Assert.That(ours["rel_pos_bias.relative_position_bias_table"], Is.EqualTo(new float[] { 6 }));
        Assert.That((ours["blocks.11.ls1.gamma"][0], ours["blocks.11.ls2.gamma"][0], ours["decoder.weight"][0]),
            Is.EqualTo((17f, 18f, 22f)));
        Assert.That(ours, Has.Count.EqualTo(17));
    }

    [Test]
    public void Both_maps_invert()
    {
        Assert.That(WeightNames.ToKamim(WeightNames.FromKamim(Kamim(12))), Is.EquivalentTo(Kamim(12)));
        Assert.That(WeightNames.ToSimMim(WeightNames.FromSimMim(SimMim())), Is.EquivalentTo(SimMim()));
        Dictionary<string, float[]> ours = WeightNames.FromSimMim(SimMim());
        ours["blocks.11.attn.qkv.bias"][2] = 1;
        Assert.That(Assert.Throws<WeightFileException>(() => WeightNames.ToSimMim(ours))!.Message, Does.Contain("key bias"));
    }

    [TestCase("vit.encoder.layer.0.attention.attention.query.gamma")]
    [TestCase("vit.encoder.layer.x.layernorm_before.weight")]
    [TestCase("blocks.0.norm1.weight")]
    [TestCase("vit.pooler.dense.weight")]
    [TestCase("weight")]
    [TestCase("")]
    public void An_unknown_name_is_refused_never_skipped(string name)
    {
        Dictionary<string, float[]> theirs = Kamim(1);
        theirs[name] = [1];
        Assert.That(Assert.Throws<WeightFileException>(() => WeightNames.FromKamim(theirs))!.Message, Does.Contain($"'{name}'"));
        Assert.Throws<WeightFileException>(() => WeightNames.FromSimMim(new Dictionary<string, float[]> { [name] = [1] }));
    }

    [TestCase("query")]
    [TestCase("key")]
    [TestCase("value")]
    public void A_query_key_and_value_of_which_one_is_missing_is_refused(string part)
    {
        Dictionary<string, float[]> theirs = Kamim(2);
        theirs.Remove($"vit.encoder.layer.1.attention.attention.{part}.bias");
        Assert.That(Assert.Throws<WeightFileException>(() => WeightNames.FromKamim(theirs))!.Message, Does.Contain("blocks.1.attn.q"));
    }
}
