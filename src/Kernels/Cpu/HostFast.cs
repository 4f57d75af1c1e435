namespace MimEngine.Kernels.Cpu;

/// <summary>FAST 9_16 with suppression of one picture on the calling thread, for who has pictures in arrays and threads of his own.</summary>
public static unsafe class HostFast
{
    /// <summary>Bytes of scratch for a picture of that width.</summary>
    public static int ScratchBytes(int width) => Fast.BandBytes(width, 1);

    /// <summary>As <see cref="Backend.FastKeypoints"/>, bit by bit. Allocates nothing.</summary>
    /// <param name="values">(H, W), written: 0 = no keypoint, else the corner's value.</param>
    /// <param name="gray">(H, W).</param>
    /// <param name="scratch">At least <see cref="ScratchBytes"/>; its contents mean nothing.</param>
    public static void Find(Span<byte> values, ReadOnlySpan<byte> gray, int height, int width, int threshold, Span<byte> scratch)
    {
        if (values.Length < height * width || gray.Length < height * width || scratch.Length < ScratchBytes(width))
            throw new ArgumentException($"HostFast: {values.Length} values, {gray.Length} pixels and {scratch.Length} bytes of scratch for "
                + $"{width} × {height} pixels.");
        int inner = width - 2 * Fast.Border;
        fixed (byte* v = values, g = gray, s = scratch)
        {
            if (Simd.Best == SimdLevel.Vector512 && inner >= 64) Run<Bytes64>(v, g, s, height, width, threshold);
            else if (Simd.Best >= SimdLevel.Vector256 && inner >= 32) Run<Bytes32>(v, g, s, height, width, threshold);
            else if (Simd.Best >= SimdLevel.Vector256 && inner >= 16) Run<Bytes16>(v, g, s, height, width, threshold);
            else Run<Bytes1>(v, g, s, height, width, threshold);
        }
    }

    private static void Run<TB>(byte* values, byte* gray, byte* scratch, int height, int width, int threshold)
        where TB : struct, IByteLanes<TB>
        => new FastBands<TB, Fast.Circle16>(values, gray, scratch, height, width, height, 1, (byte)threshold, true).Run(0, 1, 0);
}
