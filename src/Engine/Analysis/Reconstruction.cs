using MimEngine.Engine.Autograd;
using MimEngine.Engine.Imaging;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;

namespace MimEngine.Engine.Analysis;

/// <summary>
/// What a model makes of hidden patches, as one picture: a row a crop; columns picture, what the encoder saw, weights as a heat map
/// (black where every pixel counts the same), what it predicted, and the prediction on hidden patches within the picture. Where a target is
/// normalised patch by patch, the true patches lend their mean and deviation: a model cannot know them.
/// </summary>
public sealed class Reconstruction
{
    private const int Columns = 5;
    private readonly Backend _backend;
    private readonly PretrainConfig _config;
    private readonly byte[] _crops;
    private readonly int _count;

    /// <param name="crops">(n, 3, S, S) U8, planar, n at most the batch: the same pictures every time, so that progress shows.</param>
    public Reconstruction(Backend backend, PretrainConfig config, byte[] crops)
    {
        (_backend, _config, _crops) = (backend, config, crops);
        int s = config.Encoder.ImagePixels;
        _count = crops.Length / (3 * s * s);
    }

    /// <summary>Draws the sheet with a model's present parameters.</summary>
    /// <param name="arena">Memory for one forward pass: a guest of the training arena.</param>
    public RgbImage Draw(MimModel model, Arena arena)
    {
        int s = _config.Encoder.ImagePixels, p = _config.Encoder.PatchPixels, grid = s / p, plane = s * s;
        (float[] predicted, byte[] hidden, float[]? weights, int cells) = Forward(model, arena);
        var sheet = new PictureSheet(_count, Columns, s);
        for (int i = 0; i < _count; i++)
        {
            int image = i;
            float largest = weights is null ? 1f : weights.AsSpan(i * cells * cells, cells * cells).ToArray().Max();
            (byte, byte, byte) original(int y, int x) => (Crop(image, 0, y, x), Crop(image, 1, y, x), Crop(image, 2, y, x));
            (byte, byte, byte) prediction(int y, int x) => (Predicted(image, 0, y, x), Predicted(image, 1, y, x), Predicted(image, 2, y, x));
            bool isHidden(int y, int x) => hidden[image * grid * grid + y / p * grid + x / p] != 0;
            sheet.Draw(i, 0, original);
            sheet.Draw(i, 1, (y, x) => isHidden(y, x) ? ((byte)128, (byte)128, (byte)128) : original(y, x));
            sheet.Draw(i, 2, (y, x) => HeatMap.Color(weights is null || largest <= 1f ? 0f
                : MathF.Log(weights[(image * cells + y * cells / s) * cells + x * cells / s]) / MathF.Log(largest)));
            sheet.Draw(i, 3, prediction);
            sheet.Draw(i, 4, (y, x) => isHidden(y, x) ? prediction(y, x) : original(y, x));
        }
        return sheet.Image;

        byte Crop(int image, int c, int y, int x) => _crops[((image * 3 + c) * s + y) * s + x];
        byte Predicted(int image, int c, int y, int x)
        {
            float v = predicted[(image * 3 + c) * plane + y * s + x] * Normalization.Std[c] + Normalization.Mean[c];
            return (byte)Math.Clamp(MathF.Round(v * 255f), 0f, 255f);
        }
    }

    private (float[] Pixels, byte[] Hidden, float[]? Weights, int Cells) Forward(MimModel model, Arena arena)
    {
        (Backend backend, PretrainConfig config, int count) = (_backend, _config, _count);
        int s = config.Encoder.ImagePixels, grid = model.Encoder.Grid;
        var shape = new Shape(count, 3, s, s);
        var tape = new Tape(backend, arena);
        tape.BeginNoGrad();
        Tensor u8 = tape.Keep(shape, DType.U8), images = tape.Keep(shape), hidden = tape.Keep(new Shape(count, grid * grid), DType.U8);
        backend.Upload(u8, _crops);
        backend.NormalizeImages(images, u8, Normalization.Mean, Normalization.Std);
        byte[] mask = Draw(model.Encoder, tape, images);
        backend.Upload(hidden, mask);
        int visible = config.Masking.Visible(grid, model.Encoder.TokenPixels);
        EncodedTokens tokens = model.Encoder.Encode(tape, images, new EncodeRequest(hidden, Visible: visible));
        (Value prediction, PixelOrder order) = model.Predict(tape, tokens, config.PixelTerm);
        float[] truth = Transfer.Floats(backend, images);
        backend.Unpatchify(images, prediction.Data, model.Encoder.TokenPixels, order);
        float[] predicted = Transfer.Floats(backend, images);
        Term term = config.Terms[config.PixelTerm];
        term.Target.ToPixels(predicted, truth, s, model.Encoder.TokenPixels);
        Tensor? weights = term.Weighting.Weights(tape, u8, term.Weighting.UploadMarks(tape, _crops, s));
        var result = (predicted, mask, weights is { } w ? Transfer.Floats(backend, w) : null,
            weights is { } v ? v.Shape.D2 : 0);
        tape.EndNoGrad();
        tape.Reset();
        return result;
    }

    /// <summary>(n, L) masks under a fixed name outside the run's own indices: every sheet hides the same patches, or what this encoder's attention says.</summary>
    private byte[] Draw(Encoder encoder, Tape tape, Tensor images)
    {
        int patches = encoder.Grid * encoder.Grid;
        byte[] mask = new byte[_count * patches];
        float[] attention = [];
        if (_config.Masking.NeedsAttention)
        {
            var watch = new ClsAttentionWatch { Block = encoder.Depth - 1, Into = tape.Keep(new Shape(_count, patches)) };
            encoder.Encode(tape, images, new EncodeRequest(Watch: watch));
            attention = Transfer.Floats(_backend, watch.Into);
        }
        for (int i = 0; i < _count; i++)
        {
            var request = new MaskRequest
            {
                Grid = encoder.Grid,
                PatchPixels = encoder.TokenPixels,
                Crop = new Rng(_config.Run.Seed, RandomStream.Mask, ulong.MaxValue - (ulong)i),
                Step = new Rng(_config.Run.Seed, RandomStream.MaskStep, ulong.MaxValue),
                Epoch = double.MaxValue,
                ClsAttention = attention.Length == 0 ? default : attention.AsSpan(i * patches, patches),
            };
            _config.Masking.Sample(request, mask.AsSpan(i * patches, patches));
        }
        return mask;
    }
}
