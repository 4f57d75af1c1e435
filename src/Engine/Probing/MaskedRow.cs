namespace MimEngine.Engine.Probing;

/// <summary>What a probe still tells when the patches that matter most are black (SPEC E.6, "Masked-ImageNet").</summary>
/// <param name="Name">The probe.</param>
/// <param name="Encoder">"pretrained" or "random-init".</param>
/// <param name="Ratio">Share of patches hidden: those most attended by [cls] of the run that is asked.</param>
public sealed record MaskedRow(string Name, string Encoder, double Ratio, double Top1);
