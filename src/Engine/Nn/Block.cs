using MimEngine.Engine.Autograd;
using MimEngine.Kernels;

namespace MimEngine.Engine.Nn;

/// <summary>What one pass gives a block beside x.</summary>
public readonly record struct BlockState(Value? Bias, Tensor? AttentionDrop, Tensor? MlpDrop, IBlockWatch? Watch = null);

/// <summary>
/// A pre-norm transformer block: x += γ₁·attention(norm1(x)); x += γ₂·mlp(norm2(x)), (B, N, C) to (B, N, C).
/// LayerScale γ and stochastic depth are part of the residual's epilogue.
/// </summary>
public sealed class Block : IStretch<BlockState>
{
    private readonly NormParams _norm1, _norm2;
    private readonly LinearParams _qkv, _proj, _fc1, _fc2;
    private readonly Param? _gamma1, _gamma2, _biasTable;
    private readonly int _heads, _grid, _number;

    /// <param name="number">From 0; names and initialisation depend on it.</param>
    /// <param name="stack">Name of the stack of blocks.</param>
    public Block(ParamSet p, VitConfig config, int number, string stack = "blocks")
    {
        string prefix = $"{stack}.{number}.";
        int c = config.Width;
        (_heads, _grid, _number) = (config.Heads, config.Grid, number);
        Init matrix(int inputs, int outputs) => VitInits.Matrix(config, inputs, outputs);
        _norm1 = p.Norm(prefix + "norm1", c, config.LayerNormEps);
        _qkv = p.Linear(prefix + "attn.qkv", c, 3 * c, matrix(c, 3 * c), bias: config.QkvBias != QkvBias.None);
        if (config.QkvBias == QkvBias.NoKey) p.Absent(_qkv.Bias!, c, c);
        _proj = p.Linear(prefix + "attn.proj", c, c, VitInits.Residual(config, number, c, c));
        if (config.BlockBias) _biasTable = VitInits.BiasTable(p, prefix + "attn.rel_pos_bias.", config);
        if (config.LayerScale is { } scale)
        {
            _gamma1 = p.Add(prefix + "ls1.gamma", new Shape(c), new Init.Constant(scale));
            _gamma2 = p.Add(prefix + "ls2.gamma", new Shape(c), new Init.Constant(scale));
        }
        _norm2 = p.Norm(prefix + "norm2", c, config.LayerNormEps);
        _fc1 = p.Linear(prefix + "mlp.fc1", c, config.Hidden, matrix(c, config.Hidden));
        _fc2 = p.Linear(prefix + "mlp.fc2", config.Hidden, c, VitInits.Residual(config, number, config.Hidden, c));
    }

    /// <inheritdoc/>
    public Value Forward(Tape t, Value x, BlockState state)
    {
        Value? bias = state.Bias;
        DType between = t.Backend.Branch;   // of what lies between products; x itself, the residual stream, is Real
        if (_biasTable is not null)
        {
            Value own = t.RelativePositionBias(_biasTable, _grid);
            bias = bias is null ? own : t.Add(bias, own);
        }
        Value h = t.Linear(t.LayerNorm(x, _norm1, between), _qkv, between);
        Value before = x;
        x = t.LinearResidual(t.Attention(h, _heads, bias), _proj, x, _gamma1, state.AttentionDrop);
        state.Watch?.Attended(t, _number, before.Data, h.Data, _heads, bias?.Data, _gamma1?.Data, x.Data);
        return t.Mlp(t.LayerNorm(x, _norm2, between), _fc1, _fc2, x, _gamma2, state.MlpDrop);
    }
}
