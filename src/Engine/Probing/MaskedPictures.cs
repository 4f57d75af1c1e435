using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;

namespace MimEngine.Engine.Probing;

/// <summary>Blackens the patches that an encoder's [cls] looks at most, in the last block, mean over heads (SPEC E.6).</summary>
/// <param name="attentioner">Whose attention it is; not disposed here.</param>
public sealed class MaskedPictures(FrozenEncoder attentioner, VitConfig config)
{
    private readonly int[] _order = new int[config.Grid * config.Grid];

    /// <summary>Blackens ⌊ratio·L⌋ patches of every picture: bytes become 0, which normalisation turns into −2.118, −2.036, −1.804.</summary>
    /// <param name="crops">(count, 3, S, S) u8, planar, changed.</param>
    public void Blacken(Span<byte> crops, int count, double ratio)
    {
        int side = config.ImagePixels, patch = config.PatchPixels, patches = _order.Length, picture = 3 * side * side;
        float[] attention = new float[count * patches];
        attentioner.ClsAttention(attention, crops, count);
        for (int i = 0; i < count; i++)
        {
            AttentionGuided.Rank(attention.AsSpan(i * patches, patches), mostFirst: true, _order);
            foreach (int at in _order.AsSpan(0, (int)(ratio * patches)))
                for (int c = 0; c < 3; c++)
                    for (int y = 0; y < patch; y++)
                        crops.Slice(i * picture + (c * side + at / config.Grid * patch + y) * side + at % config.Grid * patch, patch).Clear();
        }
    }
}
