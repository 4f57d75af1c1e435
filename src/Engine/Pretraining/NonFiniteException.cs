using MimEngine.Engine.Autograd;
using MimEngine.Kernels;

namespace MimEngine.Engine.Pretraining;

/// <summary>A loss or gradient that is NaN or infinite. The message is one sentence for the user.</summary>
public sealed class NonFiniteException(string message) : Exception(message)
{
    /// <summary>Says what was not finite, when, and which parameter was the first to be so.</summary>
    internal static NonFiniteException Of(Backend backend, ParamSet parameters, string what, long step, long updates)
    {
        string first = "no parameter is affected yet";
        foreach (Param p in parameters.Params)
        {
            bool badGradient = p.Place is not null && Array.Exists(Transfer.Floats(backend, p.Gradient), v => !float.IsFinite(v));
            bool badValue = Array.Exists(Transfer.Floats(backend, p.Data), v => !float.IsFinite(v));
            if (!badGradient && !badValue) continue;
            first = $"the first tensor that is not finite is {(badValue ? "the parameter" : "the gradient of")} '{p.Name}'";
            break;
        }
        return new NonFiniteException($"Training stopped: {what} between steps {step - updates + 1} and {step}; {first}. "
            + "A lower optim.rate or a smaller optim.clipNorm usually helps; the last checkpoint is intact.");
    }
}
