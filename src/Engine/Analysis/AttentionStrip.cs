using MimEngine.Engine.Autograd;
using MimEngine.Engine.Imaging;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;

namespace MimEngine.Engine.Analysis;

/// <summary>
/// What a teacher looks at and what it would hide, a row a picture: the picture, [cls]'s attention in the last block (mean over heads, the
/// brightest = the picture's largest), and the masks High, Hint and Low over the picture, hidden patches grey (SPEC E.5).
/// </summary>
public sealed class AttentionStrip
{
    private static readonly Guide[] s_guides = [Guide.High, Guide.Hint, Guide.Low];
    private readonly Backend _backend;
    private readonly PretrainConfig _config;
    private readonly byte[] _crops;
    private readonly int _count;

    /// <param name="crops">(n, 3, S, S) U8, planar, n at most the batch.</param>
    public AttentionStrip(Backend backend, PretrainConfig config, byte[] crops)
    {
        (_backend, _config, _crops) = (backend, config, crops);
        _count = crops.Length / (3 * config.Encoder.ImagePixels * config.Encoder.ImagePixels);
    }

    /// <summary>Draws what an encoder looks at now.</summary>
    /// <param name="arena">Memory for one forward pass: a guest of the training arena.</param>
    public RgbImage Draw(Encoder encoder, Arena arena)
    {
        var shape = new Shape(_count, 3, _config.Encoder.ImagePixels, _config.Encoder.ImagePixels);
        var tape = new Tape(_backend, arena);
        tape.BeginNoGrad();
        Tensor u8 = tape.Keep(shape, DType.U8), images = tape.Keep(shape), attention = tape.Keep(new Shape(_count, encoder.Grid * encoder.Grid));
        _backend.Upload(u8, _crops);
        _backend.NormalizeImages(images, u8, Normalization.Mean, Normalization.Std);
        encoder.Encode(tape, images, new EncodeRequest(Watch: new ClsAttentionWatch { Block = encoder.Depth - 1, Into = attention }));
        tape.EndNoGrad();
        float[] seen = Transfer.Floats(_backend, attention);
        tape.Reset();
        return Draw(_config, _crops, seen).Image;
    }

    /// <summary>Draws pictures whose attention is known.</summary>
    /// <param name="crops">(n, 3, S, S) U8, planar.</param>
    /// <param name="attention">(n, L).</param>
    /// <returns>The sheet, and how many patches High, Hint and Low hide of each picture.</returns>
    public static (RgbImage Image, IReadOnlyList<int[]> Hidden) Draw(PretrainConfig config, ReadOnlySpan<byte> crops, float[] attention)
    {
        int s = config.Encoder.ImagePixels, p = config.Encoder.PatchPixels, grid = s / p, plane = s * s, patches = grid * grid;
        int count = attention.Length / patches;
        byte[] pixels = crops.ToArray();
        var sheet = new PictureSheet(count, 2 + s_guides.Length, s);
        List<int[]> counts = [];
        for (int i = 0; i < count; i++)
        {
            int first = i * 3 * plane;
            float[] own = attention[(i * patches)..((i + 1) * patches)];
            float largest = own.Max();
            (byte R, byte G, byte B) crop(int y, int x)
                => (pixels[first + y * s + x], pixels[first + plane + y * s + x], pixels[first + 2 * plane + y * s + x]);
            sheet.Draw(i, 0, crop);
            sheet.Draw(i, 1, (y, x) => HeatMap.Color(own[y / p * grid + x / p] / largest));
            int[] hides = new int[s_guides.Length];
            for (int g = 0; g < s_guides.Length; g++)
            {
                byte[] hidden = Mask(config, s_guides[g], own, grid, i);
                sheet.Draw(i, 2 + g, (y, x) => hidden[y / p * grid + x / p] != 0 ? ((byte)128, (byte)128, (byte)128) : crop(y, x));
                hides[g] = hidden.Count(h => h != 0);
            }
            counts.Add(hides);
        }
        return (sheet.Image, counts);
    }

    /// <summary>A mask of the experiment's own numbers, or of the paper's where it masks otherwise: its largest ratio, every picture masked.</summary>
    private static byte[] Mask(PretrainConfig config, Guide guide, float[] attention, int grid, int picture)
    {
        AttentionGuided own = config.Masking as AttentionGuided ?? new AttentionGuided();
        var masking = new AttentionGuided(guide, [own.Ratio.Max()], [0f], 1f, own.ShowMax);
        byte[] hidden = new byte[grid * grid];
        masking.Sample(new MaskRequest
        {
            Grid = grid,
            PatchPixels = config.Encoder.PatchPixels,
            Crop = new Rng(config.Run.Seed, RandomStream.Mask, (ulong)picture),
            Step = new Rng(config.Run.Seed, RandomStream.MaskStep, 0),
            ClsAttention = attention,
        }, hidden);
        return hidden;
    }
}
