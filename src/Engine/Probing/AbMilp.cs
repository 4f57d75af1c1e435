using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;

namespace MimEngine.Engine.Probing;

/// <summary>Where the self-attention of an <see cref="AbMilp"/> head acts.</summary>
public enum AbMilpAttention : byte
{
    None,

    /// <summary>On what the weights are computed from.</summary>
    Map,

    /// <summary>On that and on what is averaged.</summary>
    Both,
}

/// <summary>Options of <see cref="AbMilp"/>; the defaults are the recipe of its authors' README (SPEC D.3).</summary>
public sealed record AbMilpConfig
{
    /// <summary>Linear layers from a token to its score; an activation stands between two, so that one layer has none.</summary>
    public int Depth { get; init; } = 1;

    public Activation Activation { get; init; } = Activation.Relu;
    public AbMilpAttention SelfAttention { get; init; } = AbMilpAttention.None;

    /// <summary>Add a position table, sine-cosine at the start and trained, to what the scores are computed from.</summary>
    public bool Positions { get; init; }

    /// <summary>Leave [cls] out.</summary>
    public bool PatchesOnly { get; init; } = true;

    /// <exception cref="ConfigException">One sentence.</exception>
    public void Validate(int width)
    {
        if (Depth < 1) throw new ConfigException($"Probe: abMilp.depth is {Depth}; at least one layer makes a score.");
        if (Positions && width % 4 != 0)
            throw new ConfigException($"Probe: abMilp.positions needs a width divisible by 4, but this encoder's is {width}.");
    }
}

/// <summary>
/// Attention-based multiple-instance pooling ("Beyond [cls]", SPEC D.3; Ilse et al. 2018): scores of tokens by a small network, softmax over
/// tokens, weighted sum. With self-attention Z' = proj(attention(Z)), one head, no residual. Parameter names are the authors'.
/// </summary>
public sealed class AbMilp
{
    private readonly AbMilpConfig _config;
    private readonly LinearParams? _qkv, _proj;
    private readonly Param? _positions;
    private readonly LinearParams[] _scores;
    private readonly int _prefix;

    /// <param name="width">Channels of a token, C.</param>
    /// <param name="grid">Patches a side.</param>
    /// <param name="prefix">Tokens before the patches.</param>
    public AbMilp(ParamSet p, AbMilpConfig config, int width, int grid, int prefix = 1)
    {
        (_config, _prefix) = (config, prefix);
        Init uniform = new Init.Uniform(1f / MathF.Sqrt(width));   // PyTorch's default
        if (config.SelfAttention != AbMilpAttention.None)
        {
            _qkv = p.Linear("self_attn.qkv", width, 3 * width, uniform, bias: false);
            _proj = p.Linear("self_attn.proj", width, width, uniform, biasInit: uniform);
        }
        int before = config.PatchesOnly ? 0 : prefix;
        if (config.Positions) _positions = p.Add("pos_embed", new Shape(before + grid * grid, width), new SinCosTable(width, grid, before));
        _scores = [.. Enumerable.Range(0, config.Depth).Select(i =>
            p.Linear($"attention_predictor.{2 * i}", width, i == config.Depth - 1 ? 1 : width, uniform, biasInit: uniform))];
    }

    /// <summary>(B, C) features and the (B, T) weights that made them.</summary>
    /// <param name="tokens">(B, prefix + G², C).</param>
    public (Value Pooled, Value Weights) Forward(Tape t, Value tokens)
    {
        Value z = _config.PatchesOnly && _prefix > 0 ? t.SliceTokens(tokens, _prefix, tokens.Shape.D1 - _prefix) : tokens, attended = z;
        if (_qkv is not null) attended = t.Linear(t.Attention(t.Linear(z, _qkv), heads: 1), _proj!);
        Value u = _positions is null ? attended : t.AssembleTokens(attended, null, null, null, _positions);
        for (int i = 0; i < _scores.Length; i++)
        {
            u = t.Linear(u, _scores[i]);
            if (i < _scores.Length - 1) u = t.Activate(u, _config.Activation);
        }
        Value weights = t.Softmax(t.Reshape(u, new Shape(u.Shape.D0, u.Shape.D1)));
        return (t.PoolTokens(_config.SelfAttention == AbMilpAttention.Both ? attended : z, weights), weights);
    }
}
