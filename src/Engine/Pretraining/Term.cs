namespace MimEngine.Engine.Pretraining;

/// <summary>Tokens that a term predicts something at.</summary>
public enum TokenChoice : byte
{
    /// <summary>Patches that the encoder did not see.</summary>
    HiddenPatches,

    /// <summary>The [cls] token of every crop.</summary>
    Cls,
}

/// <summary>One part of the loss: what is predicted at which tokens, how pixels count, by which head.</summary>
public sealed record Term
{
    /// <summary>Its name in metrics.</summary>
    public string Name { get; init; } = "pixels";

    public TokenChoice On { get; init; } = TokenChoice.HiddenPatches;
    public Target Target { get; init; } = new PixelTarget();
    public Weighting Weighting { get; init; } = new UniformWeighting();
    public Head Head { get; init; } = new LinearPixelHead();

    /// <summary>Factor of the term in the sum.</summary>
    public float Scale { get; init; } = 1f;

    /// <summary>Refuses what makes no sense in an experiment.</summary>
    /// <param name="place">"terms.0".</param>
    /// <exception cref="ConfigException">One sentence.</exception>
    internal void Validate(PretrainConfig config, string place)
    {
        Target.Validate();
        Weighting.Validate(config.Encoder.ImagePixels);
        Head.Validate(config.Encoder);
        Require(float.IsFinite(Scale), $"{place}.scale is {Scale}; it must be a finite number.");
        Require(Name.Length > 0 && config.Terms.Count(t => t.Name == Name) == 1,
            $"{place}.name is '{Name}'; metrics tell terms apart by their names, so each needs one of its own.");
        if (Target is TeacherTokens) ValidateTeacher(config, place);
        else
        {
            Require(On == TokenChoice.HiddenPatches, $"{place}.on is cls, but pixels belong to patches; use hidden-patches, or a teacher's tokens as target.");
            Require(Head is not (PrototypeHead or SharedPrototypes),
                $"{place}.head predicts prototypes, but its target is pixels; use head kind linear or transformer, or target kind teacher-tokens.");
        }
        if (On != TokenChoice.HiddenPatches) return;
        Require(config.Masking.Hides, $"{place}.on is hidden-patches, but masking hides none; choose another masking, or remove the term.");
    }

    private void ValidateTeacher(PretrainConfig config, string place)
    {
        Require(config.Teacher is not null, $"{place}.target is teacher-tokens, but teacher is null; set teacher={{}} for one with the usual momentum.");
        Require(Head is PrototypeHead or SharedPrototypes,
            $"{place}.target is teacher-tokens, which compares prototypes; its head must be of kind prototypes or shared-prototypes.");
        Require(Weighting is UniformWeighting, $"{place}.weighting weighs pixels, but its target is teacher-tokens; use kind uniform.");
        Require(On != TokenChoice.Cls || config.Views.Global > 1,
            $"{place}.on is cls, which compares different crops of a picture, but views.global is {config.Views.Global}; use 2.");
        Require(On == TokenChoice.Cls || config.Encoder.Corruption == Nn.Corruption.Replace,
            $"{place}.on is hidden-patches, but encoder.corruption is drop and hidden patches have no token; use encoder.corruption=replace.");
        if (Head is not SharedPrototypes shared) return;
        Term? owner = config.Terms.FirstOrDefault(t => t.Name == shared.With);
        Require(owner?.Head is PrototypeHead && Array.IndexOf(config.Terms, owner) < Array.IndexOf(config.Terms, this),
            $"{place}.head.with is '{shared.With}'; it must name a term before this one whose head is of kind prototypes.");
        Require(shared.Prototypes > 0 || owner!.On != On || owner.Target != Target,
            $"{place} repeats the term '{shared.With}'; remove it.");
    }

    private static void Require(bool condition, string message)
    {
        if (!condition) throw new ConfigException(message);
    }
}
