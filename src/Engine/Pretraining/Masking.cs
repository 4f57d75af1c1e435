using System.Text.Json.Serialization;
using MimEngine.Kernels;

namespace MimEngine.Engine.Pretraining;

/// <summary>One crop to be masked.</summary>
public readonly ref struct MaskRequest
{
    /// <summary>Patches a side.</summary>
    public required int Grid { get; init; }

    /// <summary>Pixels of a patch, a side.</summary>
    public required int PatchPixels { get; init; }

    /// <summary>This crop's own random numbers.</summary>
    public required Rng Crop { get; init; }

    /// <summary>Random numbers that all crops of a batch share.</summary>
    public Rng Step { get; init; }

    /// <summary>Passes over the pictures so far.</summary>
    public double Epoch { get; init; }

    /// <summary>(L): what the teacher's [cls] looks at in this crop; empty without a teacher.</summary>
    public ReadOnlySpan<float> ClsAttention { get; init; }
}

/// <summary>Chooses what the encoder may not see.</summary>
[JsonPolymorphic(TypeDiscriminatorPropertyName = "kind")]
[JsonDerivedType(typeof(RandomCells), "random-cells")]
[JsonDerivedType(typeof(RandomTokens), "random-tokens")]
[JsonDerivedType(typeof(RandomPatches), "random-patches")]
[JsonDerivedType(typeof(BlockwiseMasking), "blockwise")]
[JsonDerivedType(typeof(AttentionGuided), "attention")]
[JsonDerivedType(typeof(NoMasking), "none")]
public abstract record Masking
{
    /// <summary>Writes L = Grid² bytes, row-major: 1 = hidden.</summary>
    public abstract void Sample(in MaskRequest request, Span<byte> hidden);

    /// <summary>Every crop has the same number of hidden patches: what an encoder needs that leaves them out.</summary>
    public virtual bool HidesSameNumber => true;

    /// <summary>It reads a teacher's attention.</summary>
    public virtual bool NeedsAttention => false;

    /// <summary>Whether it ever hides anything.</summary>
    public virtual bool Hides => true;

    /// <summary>Visible patches of every crop, where that is the same number each time; else 0.</summary>
    public int Visible(int grid, int patchPixels)
    {
        if (!HidesSameNumber) return 0;
        byte[] hidden = new byte[grid * grid];
        Sample(new MaskRequest { Grid = grid, PatchPixels = patchPixels, Crop = new Rng(0, RandomStream.Mask, 0) }, hidden);
        return hidden.Count(h => h == 0);
    }

    /// <summary>Refuses numbers that make no sense for an encoder.</summary>
    /// <exception cref="ConfigException">One sentence.</exception>
    public abstract void Validate(int imagePixels, int patchPixels);

    private protected static void CheckRatio(float ratio)
    {
        if (!(ratio > 0f && ratio < 1f))
            throw new ConfigException($"masking.ratio is {ratio}; it is the share of hidden patches and must lie between 0 and 1, both excluded.");
    }
}

/// <summary>
/// Random square cells coarser than patches: SimMIM section 3.2 (Xie et al. 2022), SPEC A.2. Of (S/CellPixels)² cells,
/// ⌈cells·Ratio⌉ are hidden, computed in double as the original does.
/// </summary>
public sealed record RandomCells(float Ratio = 0.6f, int CellPixels = 32) : Masking
{
    /// <summary>Hidden cells of a picture with this many cells.</summary>
    public int Count(int cells) => (int)Math.Ceiling(cells * Exact(Ratio));

    /// <inheritdoc/>
    public override void Sample(in MaskRequest request, Span<byte> hidden)
    {
        int side = request.Grid * request.PatchPixels / CellPixels, cells = side * side;
        Span<int> order = cells <= 1024 ? stackalloc int[cells] : new int[cells];
        for (int i = 0; i < cells; i++) order[i] = i;
        RngSequence rng = request.Crop.Start();
        rng.Shuffle(order);
        Hide(order, side, request.Grid, hidden);
    }

    /// <summary>Hides the first <see cref="Count"/> cells of a given order.</summary>
    public void Hide(ReadOnlySpan<int> order, int side, int grid, Span<byte> hidden)
    {
        int scale = grid / side;
        hidden.Clear();
        foreach (int cell in order[..Count(order.Length)])
        {
            int row = cell / side * scale, col = cell % side * scale;
            for (int r = row; r < row + scale; r++) hidden.Slice(r * grid + col, scale).Fill(1);
        }
    }

    /// <inheritdoc/>
    public override void Validate(int imagePixels, int patchPixels)
    {
        CheckRatio(Ratio);
        if (CellPixels < patchPixels || CellPixels % patchPixels != 0 || imagePixels % CellPixels != 0)
            throw new ConfigException($"masking.cellPixels is {CellPixels}; it must be a multiple of the patch ({patchPixels} pixels) "
                + $"and divide the picture ({imagePixels} pixels).");
        int side = imagePixels / CellPixels;
        if (Count(side * side) == side * side)
            throw new ConfigException($"masking.ratio {Ratio} hides all {side * side} cells of {CellPixels} pixels; use a smaller ratio or smaller cells.");
    }

    // A float 0.6 is 0.60000002 as a double: ⌈25·0.6⌉ would become 16. The nearest short decimal is what was meant.
    private static double Exact(float ratio) => (double)(decimal)ratio;
}

/// <summary>Each patch on its own: ⌊L·(1 − Ratio)⌋ stay visible (MAE, He et al. 2022, section 3; SPEC C.1).</summary>
public sealed record RandomTokens(float Ratio = 0.75f) : Masking
{
    /// <inheritdoc/>
    public override void Sample(in MaskRequest request, Span<byte> hidden)
    {
        int patches = request.Grid * request.Grid, keep = Kept(patches);
        Span<int> order = patches <= 1024 ? stackalloc int[patches] : new int[patches];
        for (int i = 0; i < patches; i++) order[i] = i;
        RngSequence rng = request.Crop.Start();
        rng.Shuffle(order);
        hidden.Fill(1);
        foreach (int patch in order[..keep]) hidden[patch] = 0;
    }

    /// <inheritdoc/>
    public override void Validate(int imagePixels, int patchPixels)
    {
        CheckRatio(Ratio);
        int grid = imagePixels / patchPixels;
        if (Kept(grid * grid) == 0)
            throw new ConfigException($"masking.ratio {Ratio} hides all {grid * grid} patches; use a smaller ratio or smaller patches.");
    }

    private int Kept(int patches) => (int)(patches * (1 - (double)(decimal)Ratio));
}
