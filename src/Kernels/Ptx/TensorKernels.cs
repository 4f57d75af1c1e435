namespace MimEngine.Kernels.Ptx;

/// <summary>What happens to the sums of a product on tensor cores.</summary>
internal enum Ending : byte { Float, Half, Gelu, Slope }

/// <summary>The emitted kernels that a backend launches, by name; the tilings are those of every NVIDIA GPU since compute capability 8.0.</summary>
internal static class TensorKernels
{
    /// <summary>96 KB of shared memory: two groups at once on data-centre GPUs, one on others.</summary>
    public static GemmTiling Tiling { get; } = new(128, 128, 64, 64, 64, 3, 2);

    /// <summary>Widths of heads that have kernels.</summary>
    public static IReadOnlyList<int> Widths { get; } = [32, 64, 128];

    /// <summary>Wide heads take smaller blocks: their sums fill the registers.</summary>
    public static FlashTiling Flash(int width) => new(width, 4, width == 128 ? 32 : 64);

    public static string ProductName(Ending ending, bool aAlongDepth, bool bAlongDepth)
        => $"gemm_{ending}_{(aAlongDepth ? "k" : "m")}{(bAlongDepth ? "k" : "n")}".ToLowerInvariant();

    public static PtxKernel Product(Ending ending, bool aAlongDepth, bool bAlongDepth)
        => GemmMma.Write(ProductName(ending, aAlongDepth, bAlongDepth), aAlongDepth, bAlongDepth, Tiling, Epilogue(ending));

    public static PtxKernel AttentionForward(int width, bool hasBias)
        => FlashForward.Write($"attention_{width}{Suffix(hasBias)}", Flash(width), hasBias);

    /// <param name="ofQueries">dq; otherwise dk and dv.</param>
    public static PtxKernel AttentionBackward(int width, bool hasBias, bool ofQueries)
        => FlashBackward.Write($"attention_{(ofQueries ? "dq" : "dkv")}_{width}{Suffix(hasBias)}", Flash(width), hasBias, ofQueries);

    public static PtxKernel AttentionBias(int width) => FlashBias.Write($"attention_dbias_{width}", Flash(width));

    public static GemmEpilogue Epilogue(Ending ending)
        => ending switch { Ending.Gelu => new StoreGelu(), Ending.Slope => new StoreSlope(), Ending.Half => new StoreHalf(), _ => new StoreFloat() };

    public static PtxKernel NormForward(int cols, bool half) => RowKernels.NormForward($"layer_norm_{cols}{Type(half)}", cols, half);

    public static PtxKernel NormBackward(int cols, bool half) => RowKernels.NormBackward($"layer_norm_backward_{cols}{Type(half)}", cols, half);

    public static PtxKernel ColumnSums(bool half) => RowKernels.ColumnSums("column_sums" + Type(half), half);

    public static PtxKernel GeluBackward() => RowKernels.GeluBackward("gelu_backward");

    public static PtxKernel AdamW() => ElementKernels.AdamW("adamw");

    public static PtxKernel Combine() => ElementKernels.Combine("combine");

    public static PtxKernel HeadDots(int width) => ElementKernels.HeadDots($"head_dots_{width}", width);

    public static PtxKernel BranchGradient() => ElementKernels.BranchGradient("branch_gradient");

    /// <summary>Every kernel that is launched; of those made for a row's length, the lengths of the published encoders.</summary>
    public static IEnumerable<PtxKernel> All()
    {
        foreach (Ending ending in new[] { Ending.Float, Ending.Half, Ending.Gelu }) yield return Product(ending, true, true);
        foreach (Ending ending in new[] { Ending.Float, Ending.Half, Ending.Slope }) yield return Product(ending, true, false);
        yield return Product(Ending.Float, false, false);
        foreach (int width in Widths)
        {
            foreach (bool hasBias in new[] { false, true })
            {
                yield return AttentionForward(width, hasBias);
                yield return AttentionBackward(width, hasBias, ofQueries: true);
                yield return AttentionBackward(width, hasBias, ofQueries: false);
            }
            yield return AttentionBias(width);
            yield return HeadDots(width);
        }
        foreach (bool half in new[] { false, true })
        {
            foreach (int cols in new[] { 128, 384, 512, 768, 1024 })
            {
                yield return NormForward(cols, half);
                yield return NormBackward(cols, half);
            }
            yield return ColumnSums(half);
        }
        yield return GeluBackward();
        yield return AdamW();
        yield return Combine();
        yield return BranchGradient();
    }

    private static string Type(bool half) => half ? "_bf16" : "_f32";

    private static string Suffix(bool hasBias) => hasBias ? "_bias" : "";
}
