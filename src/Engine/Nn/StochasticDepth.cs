using MimEngine.Kernels;

namespace MimEngine.Engine.Nn;

/// <summary>Stochastic depth (Huang et al. 2016): residual branches left out at random while training, a branch and a picture at a time.</summary>
public static class StochasticDepth
{
    /// <summary>Factors of every residual branch and picture: 0 for a dropped branch, else 1/(1 − p).</summary>
    /// <param name="scales">(<see cref="Encoder.DropRows"/>, B), written row by row.</param>
    /// <param name="name">Of this pass: the same name, the same branches.</param>
    public static void Draw(Span<float> scales, Encoder encoder, int batch, Rng name)
    {
        RngSequence rng = name.Start();
        for (int row = 0; row < encoder.DropRows; row++)
        {
            float p = encoder.DropProbability(row);
            foreach (ref float scale in scales.Slice(row * batch, batch)) scale = rng.Uniform() >= p ? 1f / (1f - p) : 0f;
        }
    }
}
