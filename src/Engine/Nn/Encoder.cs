using MimEngine.Engine.Autograd;
using MimEngine.Kernels;

namespace MimEngine.Engine.Nn;

/// <summary>What a pass through an encoder does beside the pictures.</summary>
/// <param name="Hidden">(B, L) U8, 1 = replaced by the mask token; none = everything visible.</param>
/// <param name="DropScales">(2·depth, B): the factor of every residual branch and image under stochastic depth; none = evaluation.</param>
/// <param name="LastBlock">Blocks to run; 0 = all.</param>
/// <param name="SkipFinalNorm">Leave the residual stream as it is.</param>
/// <param name="Visible">Visible patches, the same number in every image: for encoders that leave hidden ones out.</param>
/// <param name="Watch">Looks into every block, or none.</param>
public readonly record struct EncodeRequest(Tensor? Hidden = null, Tensor? DropScales = null, int LastBlock = 0, bool SkipFinalNorm = false,
    int Visible = 0, IBlockWatch? Watch = null);

/// <summary>Tokens of every image: <paramref name="Prefix"/> rows ([cls]), then Grid × Grid patches in raster order.</summary>
/// <param name="LeftOut">(B, L) U8: 1 where a patch has no token; none = all have one.</param>
public readonly record struct EncodedTokens(Value All, int Prefix, int Grid, Tensor? LeftOut = null);

/// <summary>What every method and probe sees of a network.</summary>
public abstract class Encoder
{
    /// <summary>Patches a side of the images it is made for; masks apply to these.</summary>
    public abstract int Grid { get; }

    /// <summary>Pixels that one output token stands for, a side.</summary>
    public abstract int TokenPixels { get; }

    /// <summary>Channels of an output token.</summary>
    public abstract int Width { get; }

    /// <summary>Number of blocks.</summary>
    public abstract int Depth { get; }

    /// <summary>What becomes of hidden patches.</summary>
    public abstract Corruption Corruption { get; }

    /// <summary>Rows of the stochastic-depth table, or 0 when there is none.</summary>
    public abstract int DropRows { get; }

    /// <summary>Probability that row <paramref name="row"/> of the table drops its branch.</summary>
    public abstract float DropProbability(int row);

    /// <summary>
    /// (B, 3, S, S) normalised images to tokens. S need not be the encoder's own: the grid is the images', and positions are resized to it
    /// where it differs.
    /// </summary>
    public abstract EncodedTokens Encode(Tape t, Tensor images, in EncodeRequest request);
}
