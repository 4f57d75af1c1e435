using MimEngine.Kernels;

namespace MimEngine.Engine.Data;

/// <summary>
/// A shuffle of 0 … count−1 for every epoch, by random access and without storing it: a Feistel network on Z_a × Z_b with a·b ≥ count,
/// whose round function is Philox, walked again when it leaves the range (Black and Rogaway 2002, "cycle walking").
/// </summary>
/// <remarks>a = ⌈√count⌉ and b = ⌈count/a⌉, so fewer than one sample in a walks twice. Eight Philox blocks a sample.</remarks>
public sealed class EpochOrder
{
    private const int Rounds = 8;
    private readonly ulong _seed;
    private readonly uint _a, _b;

    /// <param name="count">Samples in an epoch, at least 1.</param>
    public EpochOrder(ulong seed, int count)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(count);
        (_seed, Count) = (seed, count);
        _a = (uint)Math.Ceiling(Math.Sqrt(count));
        _b = (uint)((count + (long)_a - 1) / _a);
    }

    /// <summary>Samples in an epoch.</summary>
    public int Count { get; }

    /// <summary>The sample at <paramref name="position"/> of <paramref name="epoch"/>'s order.</summary>
    /// <param name="position">0 to Count − 1.</param>
    public int Sample(long epoch, int position)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)position, (uint)Count, nameof(position));
        var name = new Rng(_seed, RandomStream.Shuffle, (ulong)epoch);
        ulong x = (ulong)position;
        do x = Permute(name, x);
        while (x >= (ulong)Count);
        return (int)x;
    }

    // Each round adds a random function of one half to the other, modulo that half's size: invertible whatever the function is.
    private ulong Permute(Rng name, ulong x)
    {
        uint left = (uint)(x / _b), right = (uint)(x % _b);
        for (uint round = 0; round < Rounds; round += 2)
        {
            left = (left + Below(name, round, right, _a)) % _a;
            right = (right + Below(name, round + 1, left, _b)) % _b;
        }
        return (ulong)left * _b + right;
    }

    // One word a block (the shift by 2); the bias of multiply-and-shift is below bound/2^32.
    private static uint Below(Rng name, uint round, uint half, uint bound) =>
        (uint)((ulong)name.Word(((ulong)round << 32 | half) << 2) * bound >> 32);
}
