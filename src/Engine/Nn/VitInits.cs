using MimEngine.Engine.Autograd;
using MimEngine.Kernels;

namespace MimEngine.Engine.Nn;

/// <summary>Parameters of layers, declared with the initialisation of the chosen scheme.</summary>
internal static class VitInits
{
    private const float Std = 0.02f;

    /// <summary>A weight matrix.</summary>
    public static Init Matrix(VitConfig config, int inputs, int outputs) => config.Init is VitInit.Xavier or VitInit.Mae
        ? new Init.Uniform(MathF.Sqrt(6f / (inputs + outputs)))
        : Token(config);

    /// <summary>Projections that end a residual branch; SimMIM divides block l's (1-based) by √(2l).</summary>
    public static Init Residual(VitConfig config, int block, int inputs, int outputs) => config.Init == VitInit.SimMim
        ? new Init.TruncatedNormal(Std, Std, MathF.Sqrt(2f * (block + 1)))
        : Matrix(config, inputs, outputs);

    /// <summary>The patch embedding.</summary>
    public static Init Patches(VitConfig config, int pixels)
        => config.Init == VitInit.Dino ? new Init.Uniform(1f / MathF.Sqrt(pixels)) : Matrix(config, pixels, config.Width);

    /// <summary>Bias of the patch embedding.</summary>
    public static Init PatchBias(VitConfig config, int pixels) => config.Init is VitInit.Mae or VitInit.Dino ? new Init.Uniform(1f / MathF.Sqrt(pixels)) : Init.Zeros;

    /// <summary>[cls] and positions.</summary>
    public static Init Token(VitConfig config)
        => config.Init == VitInit.SimMim ? new Init.TruncatedNormal(Std, Std) : new Init.TruncatedNormal(Std);

    /// <summary>Hugging Face and iBOT leave the mask token at 0.</summary>
    public static Init MaskToken(VitConfig config) => config.Init is VitInit.HuggingFace or VitInit.Dino ? Init.Zeros : Token(config);

    /// <summary>A relative position table for the config's grid: ((2G − 1)² + 3, H), zeros.</summary>
    public static Param BiasTable(ParamSet p, string prefix, VitConfig config)
    {
        int side = 2 * config.Grid - 1;
        return p.Add(prefix + "relative_position_bias_table", new Shape(side * side + 3, config.Heads), Init.Zeros);
    }

    public static LinearParams Linear(this ParamSet p, string name, int inputs, int outputs, Init weight, bool bias = true,
        Init? biasInit = null)
        => new(p.Add(name + ".weight", new Shape(outputs, inputs), weight),
            bias ? p.Add(name + ".bias", new Shape(outputs), biasInit ?? Init.Zeros) : null);

    public static NormParams Norm(this ParamSet p, string name, int width, float eps)
        => new(p.Add(name + ".weight", new Shape(width), Init.Ones), p.Add(name + ".bias", new Shape(width), Init.Zeros), eps);
}
