namespace MimEngine.Engine.Pretraining;

/// <summary>Channel statistics of ImageNet, which every method here normalises with (SPEC 0.2).</summary>
public static class Normalization
{
    public static ReadOnlySpan<float> Mean => [0.485f, 0.456f, 0.406f];
    public static ReadOnlySpan<float> Std => [0.229f, 0.224f, 0.225f];
}
