namespace MimEngine.Engine.Pretraining;

/// <summary>The encoder sees everything: DINO.</summary>
public sealed record NoMasking : Masking
{
    /// <inheritdoc/>
    public override bool Hides => false;

    /// <inheritdoc/>
    public override void Sample(in MaskRequest request, Span<byte> hidden) => hidden.Clear();

    /// <inheritdoc/>
    public override void Validate(int imagePixels, int patchPixels) { }
}
