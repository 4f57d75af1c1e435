using MimEngine.Engine.Autograd;
using MimEngine.Engine.Imaging;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;

namespace MimEngine.Engine.Analysis;

/// <summary>One crop of a <see cref="MaskSheet"/>.</summary>
/// <param name="Hidden">Patches that the encoder does not see, of <paramref name="Patches"/>.</param>
/// <param name="MeanWeight">Mean over the crop's pixels; 1 where every pixel counts the same.</param>
public readonly record struct MaskRow(int Hidden, int Patches, double MeanWeight, double LargestWeight);

/// <summary>
/// What a run does to its first crops before any network: a row a crop; columns crop, what the encoder sees, weights as a heat map
/// (black = 1, the brightest = the crop's largest), weights over the crop.
/// </summary>
public sealed record MaskSheet(RgbImage Image, IReadOnlyList<MaskRow> Rows)
{
    private const int Columns = 4;

    /// <summary>Draws <paramref name="count"/> crops with the masks that update 0 gives them.</summary>
    /// <param name="crops">(count, 3, S, S) U8, planar.</param>
    public static MaskSheet Draw(Backend backend, PretrainConfig config, ReadOnlySpan<byte> crops, int count)
    {
        int s = config.Encoder.ImagePixels, p = config.Encoder.PatchPixels, grid = s / p, plane = s * s;
        (float[]? weights, int cells) = Weights(backend, config, crops, count);
        byte[] pixels = crops.ToArray(), hidden = new byte[grid * grid];
        PictureSheet sheet = new(count, Columns, s);
        List<MaskRow> rows = [];
        for (int i = 0; i < count; i++)
        {
            Rng own = new(config.Run.Seed, RandomStream.Mask, (ulong)i);
            config.Masking.Sample(new MaskRequest { Grid = grid, PatchPixels = p, Crop = own }, hidden);
            float[] w = weights is null ? [1f] : weights[(i * cells * cells)..((i + 1) * cells * cells)];
            float largest = w.Max();
            int first = i * 3 * plane;
            (byte R, byte G, byte B) crop(int y, int x)
                => (pixels[first + y * s + x], pixels[first + plane + y * s + x], pixels[first + 2 * plane + y * s + x]);
            (byte R, byte G, byte B) heat(int y, int x) => HeatMap.Color(largest <= 1f
                ? 0f : MathF.Log(w[y * cells / s * cells + x * cells / s]) / MathF.Log(largest));
            sheet.Draw(i, 0, crop);
            sheet.Draw(i, 1, (y, x) => hidden[y / p * grid + x / p] != 0 ? ((byte)128, (byte)128, (byte)128) : crop(y, x));
            sheet.Draw(i, 2, heat);
            sheet.Draw(i, 3, (y, x) => Half(crop(y, x), heat(y, x)));
            rows.Add(new(hidden.Count(h => h != 0), hidden.Length, w.Average(v => (double)v), largest));
        }
        return new(sheet.Image, rows);
    }

    private static (byte, byte, byte) Half((byte R, byte G, byte B) a, (byte R, byte G, byte B) b)
        => ((byte)((a.R + b.R) / 2), (byte)((a.G + b.G) / 2), (byte)((a.B + b.B) / 2));

    private static (float[]? Weights, int Cells) Weights(Backend backend, PretrainConfig config, ReadOnlySpan<byte> crops, int count)
    {
        const long Unlimited = 1L << 50;
        long bytes;
        using (NullBackend nothing = new())
        using (Arena plan = new(nothing, Unlimited))
        {
            _ = Run(nothing, plan, config, crops, count);
            bytes = plan.Peak;
        }
        using Arena arena = new(backend, bytes);
        return Run(backend, arena, config, crops, count);
    }

    private static (float[]? Weights, int Cells) Run(Backend backend, Arena arena, PretrainConfig config, ReadOnlySpan<byte> crops,
        int count)
    {
        int s = config.Encoder.ImagePixels;
        Tape tape = new(backend, arena);
        tape.BeginNoGrad();
        Tensor u8 = tape.Keep(new Shape(count, 3, s, s), DType.U8);
        backend.Upload(u8, crops);
        Tensor? weights = config.Terms[0].Weighting.Weights(tape, u8, config.Terms[0].Weighting.UploadMarks(tape, crops, s));
        (float[]?, int) result = weights is { } w ? (Transfer.Floats(backend, w), w.Shape.D2) : (null, 1);
        tape.EndNoGrad();
        tape.Reset();
        return result;
    }
}
