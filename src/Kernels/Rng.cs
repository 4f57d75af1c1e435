namespace MimEngine.Kernels;

/// <summary>What a random number is for. Part of its name, so that two uses never share bits.</summary>
public enum RandomStream : uint { Init, Shuffle, Augment, Mask, DropPath, Mixup, Probe, Test, Erase, MaskStep }

/// <summary>
/// A name for random numbers: seed, purpose and index (a step, a picture, a parameter). The same name gives the same numbers anywhere;
/// there is no state to save.
/// </summary>
public readonly record struct Rng(ulong Seed, RandomStream Stream, ulong Index)
{
    /// <summary>The sequence of numbers under this name, from its beginning.</summary>
    public RngSequence Start() => new(this);

    /// <summary>Word number <paramref name="n"/> of the sequence, by random access.</summary>
    public uint Word(ulong n)
    {
        (uint x, uint y, uint z, uint w) = Philox.Block(Seed, n >> 2 | (ulong)Stream << 48, Index);
        return (n & 3) switch { 0 => x, 1 => y, 2 => z, _ => w };
    }
}

/// <summary>Draws one after the other from one <see cref="Rng"/> name. A mutable struct: pass it by ref.</summary>
public struct RngSequence(Rng name)
{
    private readonly Rng _name = name;
    private ulong _next;
    private (uint X, uint Y, uint Z, uint W) _block;

    /// <summary>32 uniform bits.</summary>
    public uint Word()
    {
        if ((_next & 3) == 0) _block = Philox.Block(_name.Seed, _next >> 2 | (ulong)_name.Stream << 48, _name.Index);
        return (_next++ & 3) switch { 0 => _block.X, 1 => _block.Y, 2 => _block.Z, _ => _block.W };
    }

    /// <summary>Uniform in [0, 1), 24 bits.</summary>
    public float Uniform() => (Word() >> 8) * (1f / (1 << 24));

    /// <summary>Uniform in [low, high).</summary>
    public float Uniform(float low, float high) => low + (high - low) * Uniform();

    /// <summary>Uniform in [0, 1), 53 bits.</summary>
    public double UniformDouble() => (((ulong)(Word() >> 5) << 26) | (Word() >> 6)) * (1.0 / (1UL << 53));

    /// <summary>Uniform integer in [0, bound), without bias (Lemire 2019).</summary>
    public int Below(int bound)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(bound);
        uint n = (uint)bound;
        ulong product = (ulong)Word() * n;
        if ((uint)product < n)
        {
            uint threshold = (0u - n) % n;
            while ((uint)product < threshold) product = (ulong)Word() * n;
        }
        return (int)(product >> 32);
    }

    /// <summary>Standard normal, by Box and Muller in double.</summary>
    public double Normal()
    {
        double u = 1.0 - UniformDouble(), angle = 2.0 * Math.PI * UniformDouble();
        return Math.Sqrt(-2.0 * Math.Log(u)) * Math.Cos(angle);
    }

    /// <summary>Fisher and Yates, in place.</summary>
    public void Shuffle<T>(Span<T> items)
    {
        for (int i = items.Length - 1; i > 0; i--)
        {
            int j = Below(i + 1);
            (items[i], items[j]) = (items[j], items[i]);
        }
    }
}
