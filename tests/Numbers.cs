namespace MimEngine.Tests;

/// <summary>Ordinary numbers for kernels that are not in the table of operations.</summary>
internal static class Numbers
{
    public static float[] Floats(int count, int seed) => [.. Enumerable.Range(0, count).Select(i =>
    {
        uint x = (uint)(i + 1) * 2654435761u ^ (uint)seed * 0x9E3779B9u;
        x = (x ^ x >> 15) * 0x2C1B3C6Du;
        x = (x ^ x >> 12) * 0x297A2D39u;
        return ((x ^ x >> 15) >> 8) / 8388608f - 1f;
    })];

    /// <summary>bfloat16.</summary>
    public static ushort[] Halves(int count, int seed) => [.. Floats(count, seed).Select(v => (ushort)(BitConverter.SingleToUInt32Bits(v) >> 16))];

    public static float Float(ushort half) => BitConverter.UInt32BitsToSingle((uint)half << 16);
}
