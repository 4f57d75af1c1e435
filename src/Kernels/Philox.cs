namespace MimEngine.Kernels;

/// <summary>
/// Philox4x32-10 (Salmon et al. 2011): a bijection from (counter, key) to 128 random bits. No state: the same name gives the same bits
/// on any thread, device or resume.
/// </summary>
public static class Philox
{
    /// <summary>Four words for a 128-bit counter under a 64-bit key.</summary>
    public static (uint X, uint Y, uint Z, uint W) Block(ulong key, ulong counterLow, ulong counterHigh)
    {
        uint k0 = (uint)key, k1 = (uint)(key >> 32);
        uint c0 = (uint)counterLow, c1 = (uint)(counterLow >> 32), c2 = (uint)counterHigh, c3 = (uint)(counterHigh >> 32);
        for (int round = 0; round < 10; round++)
        {
            ulong a = 0xD2511F53UL * c0, b = 0xCD9E8D57UL * c2;
            (c0, c1, c2, c3) = ((uint)(b >> 32) ^ c1 ^ k0, (uint)b, (uint)(a >> 32) ^ c3 ^ k1, (uint)a);
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        return (c0, c1, c2, c3);
    }
}
