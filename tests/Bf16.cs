namespace MimEngine.Tests;

/// <summary>bfloat16 by the book: the nearest of the two neighbours, the even one if both are as near.</summary>
internal static class Bf16
{
    public static float Widen(ushort half) => BitConverter.UInt32BitsToSingle((uint)half << 16);

    public static float Round(float x) => Widen(Narrow(x));

    public static ushort Narrow(float x)
    {
        uint bits = BitConverter.SingleToUInt32Bits(x);
        ushort below = (ushort)(bits >> 16);
        if (float.IsNaN(x)) return (ushort)(below | 0x40);
        uint rest = bits & 0xFFFF;
        // The next pattern is the neighbour away from zero; past the largest number it is infinity.
        return rest > 0x8000 || rest == 0x8000 && (below & 1) == 1 ? (ushort)(below + 1) : below;
    }
}
