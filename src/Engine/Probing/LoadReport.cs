using MimEngine.Engine.Runs;

namespace MimEngine.Engine.Probing;

/// <summary>Which tensors of a file became which parameters: kept with every result, so that nobody probes an untrained network.</summary>
public sealed record LoadReport
{
    /// <summary>Parameters that took a tensor's values.</summary>
    public required IReadOnlyList<string> Matched { get; init; }

    /// <summary>Parameters that found no tensor.</summary>
    public required IReadOnlyList<string> Missing { get; init; }

    /// <summary>Tensors that no parameter wanted.</summary>
    public required IReadOnlyList<string> Unexpected { get; init; }

    /// <summary>One sentence a tensor whose shape does not fit its parameter.</summary>
    public required IReadOnlyList<string> Misshapen { get; init; }

    /// <summary>Tensors that belong to the run's heads, which a probe does not use.</summary>
    public required IReadOnlyList<string> OfHeads { get; init; }

    public bool Complete => Missing.Count == 0 && Unexpected.Count == 0 && Misshapen.Count == 0;

    /// <summary>"86 of 86 encoder parameters matched, 2 of the pretraining head left aside."</summary>
    public override string ToString() => $"{Matched.Count} of {Matched.Count + Missing.Count + Misshapen.Count} encoder parameters matched"
        + Listed(Missing, "missing") + Listed(Unexpected, "unexpected") + (Misshapen.Count == 0 ? "" : $"; {string.Join("; ", Misshapen)}")
        + (OfHeads.Count == 0 ? "" : $", {OfHeads.Count} of the pretraining head left aside") + ".";

    /// <exception cref="WeightFileException">Anything did not match; names the first of each kind.</exception>
    internal void Require(string source)
    {
        if (!Complete) throw new WeightFileException($"{source}: the weights do not fit this encoder: {ToString().TrimEnd('.')}; nothing was loaded.");
    }

    private static string Listed(IReadOnlyList<string> names, string what)
        => names.Count == 0 ? "" : $", {names.Count} {what} ({string.Join(", ", names.Take(3))}{(names.Count > 3 ? ", …" : "")})";
}
