namespace MimEngine.Tests;

/// <summary>
/// The Mersenne Twister (Matsumoto and Nishimura 1998) as NumPy, Python and PyTorch seed and consume it (SPEC 0.3). For replaying the
/// originals' draws in golden tests only; the engine itself draws from Rng.
/// </summary>
internal sealed class Mt19937
{
    private const int Words = 624, Middle = 397;
    private readonly uint[] _state = new uint[Words];
    private int _next = Words;

    /// <summary>np.random.seed(s) and torch.manual_seed(s).</summary>
    public Mt19937(uint seed) => Seed(seed);

    private void Seed(uint seed)
    {
        _state[0] = seed;
        for (int i = 1; i < Words; i++) _state[i] = 1812433253u * (_state[i - 1] ^ _state[i - 1] >> 30) + (uint)i;
    }

    /// <summary>random.seed(s) of Python, for 0 ≤ s &lt; 2³².</summary>
    public static Mt19937 Python(uint seed)
    {
        var made = new Mt19937(19650218);
        uint[] s = made._state;
        int i = 1;
        for (int k = 0; k < Words; k++)
        {
            s[i] = (s[i] ^ (s[i - 1] ^ s[i - 1] >> 30) * 1664525u) + seed;   // a key of one word: its index is always 0
            if (++i == Words) (s[0], i) = (s[Words - 1], 1);
        }
        for (int k = 0; k < Words - 1; k++)
        {
            s[i] = (s[i] ^ (s[i - 1] ^ s[i - 1] >> 30) * 1566083941u) - (uint)i;
            if (++i == Words) (s[0], i) = (s[Words - 1], 1);
        }
        s[0] = 0x80000000;
        return made;
    }

    /// <summary>32 uniform bits.</summary>
    public uint Word()
    {
        if (_next == Words) Turn();
        uint y = _state[_next++];
        y ^= y >> 11;
        y ^= y << 7 & 0x9D2C5680;
        y ^= y << 15 & 0xEFC60000;
        return y ^ y >> 18;
    }

    /// <summary>np.random.rand() and Python's random.random(): 53 bits.</summary>
    public double Uniform53() => ((Word() >> 5) * 67108864.0 + (Word() >> 6)) / 9007199254740992.0;

    /// <summary>random.uniform(low, high).</summary>
    public double Uniform53(double low, double high) => low + (high - low) * Uniform53();

    /// <summary>random.randint(low, high), both included: as many leading bits as the count has, until they are below it.</summary>
    public int PythonInteger(int low, int high)
    {
        uint count = (uint)(high - low + 1), draw;
        int bits = 32 - System.Numerics.BitOperations.LeadingZeroCount(count);
        do draw = Word() >> 32 - bits;
        while (draw >= count);
        return low + (int)draw;
    }

    /// <summary>np.random.permutation(n).</summary>
    public int[] NumPyPermutation(int n)
    {
        int[] items = [.. Enumerable.Range(0, n)];
        for (int i = n - 1; i >= 1; i--)
        {
            uint mask = uint.MaxValue >> System.Numerics.BitOperations.LeadingZeroCount((uint)i), j;
            do j = Word() & mask;
            while (j > i);
            (items[i], items[j]) = (items[j], items[i]);
        }
        return items;
    }

    /// <summary>torch.rand on the CPU, float32: 24 bits.</summary>
    public float TorchUniform() => (Word() & 0xFFFFFF) * (1f / (1 << 24));

    /// <summary>tensor.uniform_(low, high) on the CPU, float32.</summary>
    public float TorchUniform(float low, float high) => TorchUniform() * (high - low) + low;

    /// <summary>torch.randint(0, n).</summary>
    public int TorchInteger(int n) => (int)(Word() % (uint)n);

    /// <summary>torch.randperm(n) on the CPU.</summary>
    public int[] TorchPermutation(int n)
    {
        int[] items = [.. Enumerable.Range(0, n)];
        for (int i = 0; i < n - 1; i++)
        {
            int j = i + (int)(Word() % (uint)(n - i));
            (items[i], items[j]) = (items[j], items[i]);
        }
        return items;
    }

    private void Turn()
    {
        for (int i = 0; i < Words; i++)
        {
            uint y = _state[i] & 0x80000000 | _state[(i + 1) % Words] & 0x7FFFFFFF;
            _state[i] = _state[(i + Middle) % Words] ^ y >> 1 ^ ((y & 1) == 0 ? 0 : 0x9908B0DF);
        }
        _next = 0;
    }
}
