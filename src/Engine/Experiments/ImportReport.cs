using MimEngine.Engine.Nn;
using MimEngine.Engine.Runs;

namespace MimEngine.Engine.Experiments;

/// <summary>A tensor that looks as if nothing had ever trained it.</summary>
/// <param name="Look">"all 0", "normal 0.02".</param>
public sealed record FreshTensor(string Name, string Look);

/// <summary>What became of every tensor of a foreign file: written to <c>import.json</c> beside the imported encoder.</summary>
public sealed record ImportReport
{
    /// <summary>The file's name, without its folder.</summary>
    public required string File { get; init; }

    /// <summary>Where in it the encoder lay: "teacher/backbone.".</summary>
    public required string Place { get; init; }

    public required NameLayout Layout { get; init; }
    public required VitConfig Encoder { get; init; }

    /// <summary>Our name and the file's.</summary>
    public required IReadOnlyDictionary<string, string> Matched { get; init; }

    /// <summary>Parameters the file has nothing for; only such as no frozen encoder reads are allowed, and start at 0.</summary>
    public required IReadOnlyList<string> Missing { get; init; }

    /// <summary>Tensors among the encoder's that no parameter takes; allowed only on request.</summary>
    public required IReadOnlyList<string> Unexpected { get; init; }

    /// <summary>"pos_embed: 14 × 14 → 12 × 12 patches, bicubic".</summary>
    public required IReadOnlyList<string> Resized { get; init; }

    /// <summary>Tensors of heads, decoders, optimisers and second networks.</summary>
    public required IReadOnlyList<string> LeftAside { get; init; }

    /// <summary>Objects of the file that are no tensors: "args: argparse.Namespace".</summary>
    public required IReadOnlyList<string> Skipped { get; init; }

    public required IReadOnlyList<FreshTensor> LooksFresh { get; init; }

    /// <summary>Weight matrices, and how many of them look fresh.</summary>
    public required int Matrices { get; init; }

    public required int FreshMatrices { get; init; }

    /// <summary>Whether most matrices look fresh: this is, or was replaced by, an untrained network.</summary>
    public bool LooksUntrained => 2 * FreshMatrices > Matrices;
}
