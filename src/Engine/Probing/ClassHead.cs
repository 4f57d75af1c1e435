using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;

namespace MimEngine.Engine.Probing;

/// <summary>The linear layer that names classes, of probes and of fine-tuned networks: "head.weight" (K, C) and "head.bias" (K).</summary>
internal static class ClassHead
{
    /// <summary>Declares it with the start that <paramref name="init"/> names.</summary>
    public static LinearParams Declare(ParamSet p, int width, int classes, ClassifierInit init)
    {
        Init uniform = new Init.Uniform(1f / MathF.Sqrt(width));
        Init weight = init switch
        {
            ClassifierInit.Mae or ClassifierInit.Dino => new Init.TruncatedNormal(0.01f),
            ClassifierInit.NearZero => new Init.TruncatedNormal(2e-5f),
            _ => uniform,
        };
        return p.Linear("head", width, classes, weight, biasInit: init is ClassifierInit.NearZero or ClassifierInit.Dino ? Init.Zeros : uniform);
    }
}
