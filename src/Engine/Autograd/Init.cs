using MimEngine.Kernels;

namespace MimEngine.Engine.Autograd;

/// <summary>How a parameter starts. Draws come from Rng(seed, Init, index of the parameter).</summary>
public abstract record Init
{
    public static Init Zeros { get; } = new Constant(0f);
    public static Init Ones { get; } = new Constant(1f);

    /// <summary>Fills <paramref name="values"/>.</summary>
    public abstract void Fill(Span<float> values, ref RngSequence rng);

    /// <summary>Every element the same.</summary>
    public sealed record Constant(float Value) : Init
    {
        public override void Fill(Span<float> values, ref RngSequence rng) => values.Fill(Value);
    }

    /// <summary>
    /// Normal(0, std), redrawn outside ±bound (absolute), then divided by <paramref name="Divisor"/>. PyTorch's default bound is 2,
    /// which at std 0.02 never acts; SimMIM's is std itself, which leaves an effective deviation of 0.5396·std (SPEC B.3).
    /// </summary>
    public sealed record TruncatedNormal(float Std, float Bound = 2f, float Divisor = 1f) : Init
    {
        public override void Fill(Span<float> values, ref RngSequence rng)
        {
            foreach (ref float v in values)
            {
                double x;
                do x = rng.Normal() * Std;
                while (Math.Abs(x) > Bound);
                v = (float)(x / Divisor);
            }
        }
    }

    /// <summary>Uniform in ±bound: Xavier's rule and PyTorch's layer defaults, the bound computed by the caller.</summary>
    public sealed record Uniform(float Bound) : Init
    {
        public override void Fill(Span<float> values, ref RngSequence rng)
        {
            foreach (ref float v in values) v = rng.Uniform(-Bound, Bound);
        }
    }
}
