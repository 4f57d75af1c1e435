using MimEngine.Engine.Nn;
using MimEngine.Kernels;

namespace MimEngine.Engine.Runs;

/// <summary>Why a tensor is not a parameter's, and which setting or shape would fit.</summary>
public static class Misfit
{
    /// <summary>One clause, or null when it fits.</summary>
    /// <remarks>
    /// Published files write a vector with leading ones and a patch embedding as (C, 3, P, P): the first extent above 1 and the number of
    /// elements must agree, so that a transposed matrix is noticed.
    /// </remarks>
    /// <param name="name">Our name of the parameter.</param>
    /// <param name="theirs">Shape in the file.</param>
    /// <param name="ours">Shape of the parameter.</param>
    /// <param name="config">The encoder it belongs to.</param>
    public static string? Of(string name, ReadOnlySpan<long> theirs, Shape ours, VitConfig config)
        => Fits(theirs, ours) ? null
            : $"'{name}' is ({string.Join(", ", theirs.ToArray())}), its parameter is {ours}{Remedy(name, theirs, config)}";

    /// <summary>Whether the numbers of a tensor can become those of a parameter.</summary>
    public static bool Fits(ReadOnlySpan<long> theirs, Shape ours)
    {
        long count = 1, first = 1;
        foreach (long extent in theirs)
        {
            count *= extent;
            if (first == 1) first = extent;
        }
        int ourFirst = ours.D0;
        for (int axis = 1; axis < ours.Rank && ourFirst == 1; axis++) ourFirst = ours[axis];
        return count == ours.Count && first == ourFirst;
    }

    private static string Remedy(string name, ReadOnlySpan<long> theirs, VitConfig config)
    {
        long count = 1;
        foreach (long extent in theirs) count *= extent;
        if (name == "pos_embed" && Side(count / config.Width - 1) is { } grid && (1 + grid * grid) * config.Width == count)
            return $": a table of {grid} × {grid} patches, which encoder.imagePixels={grid * config.PatchPixels} would fit; mim import --pixels "
                + $"{config.ImagePixels} resizes it";
        if (name.EndsWith("relative_position_bias_table", StringComparison.Ordinal) && theirs.Length == 2
            && Side(theirs[0] - RelativeBiasTable.ClsRows) is { } side && side % 2 == 1)
            return theirs[1] != config.Heads ? $": encoder.heads={theirs[1]} would fit"
                : $": a table of {(side + 1) / 2} × {(side + 1) / 2} patches, which "
                    + $"encoder.imagePixels={(side + 1) / 2 * config.PatchPixels} would fit";
        if (name == "patch_embed.proj.weight" && theirs.Length >= 2)
        {
            if (theirs[0] != config.Width) return $": encoder.width={theirs[0]} would fit";
            if (theirs.Length == 4 && theirs[1] != 3) return $": it reads pictures of {theirs[1]} channels, those here have 3";
            if (Side(count / theirs[0] / 3) is { } patch && patch * patch * 3 * theirs[0] == count)
                return $": encoder.patchPixels={patch} would fit";
        }
        if (name.EndsWith("norm1.weight", StringComparison.Ordinal) || name is "cls_token" or "norm.weight")
            return $": encoder.width={count} would fit";
        if (name.EndsWith("attn.qkv.weight", StringComparison.Ordinal) && theirs.Length == 2 && theirs[0] == 3 * theirs[1])
            return $": encoder.width={theirs[1]} would fit";
        if (name.EndsWith("mlp.fc1.weight", StringComparison.Ordinal) && theirs.Length == 2 && theirs[1] == config.Width)
            return FormattableString.Invariant($": encoder.mlpRatio={(float)theirs[0] / config.Width} would fit");
        return "";
    }

    private static long? Side(long square)
    {
        long side = (long)Math.Round(Math.Sqrt(Math.Max(0, square)));
        return side > 0 && side * side == square ? side : null;
    }
}
