namespace MimEngine.Kernels.Cpu.Emitted;

/// <summary>
/// What is emitted for attention (<see cref="BandCode"/>, <see cref="SlopeCode"/>), for float32 (<see cref="Floats"/>) or for bfloat16 pairs
/// (<see cref="Pairs"/>), assembled at first use. Absent where <see cref="TileRoutines"/> or <see cref="Bf16Routines"/> are.
/// </summary>
internal sealed unsafe class AttentionRoutines
{
    private const int MostRows = 8;
    private readonly bool _pairs;
    private readonly nint[] _at = new nint[2 * (BandCode.Vectors + 1) * (MostRows + 1)];

    private readonly nint _softmax, _slopes;

    private AttentionRoutines(bool pairs)
    {
        _pairs = pairs;
        var code = new CodeBuffer(128 << 10);
        BandCode.Form scaled = pairs ? BandCode.Form.Rounded : BandCode.Form.Scaled;
        for (int v = 1; v <= BandCode.Vectors; v++)
            for (int rows = 1; rows <= BandCode.Rows(v); rows++)
            {
                _at[Place(rows, v, scaled: false)] = code.Add(BandCode.Tiles(rows, v, pairs, BandCode.Form.Raw));
                _at[Place(rows, v, scaled: true)] = code.Add(BandCode.Tiles(rows, v, pairs, scaled));
            }
        _softmax = code.Add(SlopeCode.Softmax(pairs));
        _slopes = code.Add(SlopeCode.Slopes(pairs));
        code.Seal();
    }

    public static AttentionRoutines? Floats => s_floats.Value;
    public static AttentionRoutines? Pairs => s_pairs.Value;

    private static readonly Lazy<AttentionRoutines?> s_floats = new(() => TileRoutines.Instance != null ? TryNew(pairs: false) : null);
    private static readonly Lazy<AttentionRoutines?> s_pairs = new(() => Bf16Routines.Of(Bf16Unit.Dot) != null ? TryNew(pairs: true) : null);

    private static AttentionRoutines? TryNew(bool pairs)
    {
        try
        {
            return new AttentionRoutines(pairs);
        }
        catch (PlatformNotSupportedException)
        {
            return null;
        }
    }

    private static int Place(int rows, int vectors, bool scaled) => ((scaled ? BandCode.Vectors + 1 : 0) + vectors) * (MostRows + 1) + rows;

    /// <summary>All rows of a band, the last ones as a tile of as many.</summary>
    /// <param name="scaled">Each row by its scale; of pairs also rounded to bfloat16.</param>
    public void Run(Band band, int rows, int vectors, bool scaled)
    {
        int tall = BandCode.Rows(vectors), rest = rows % tall;
        band.Tiles = rows / tall;
        if (band.Tiles > 0) ((delegate* unmanaged[SuppressGCTransition]<Band*, void>)_at[Place(tall, vectors, scaled)])(&band);
        if (rest == 0) return;
        nint done = rows - rest;
        band.Tiles = 1;
        band.A += done * band.ARow;
        band.C = (byte*)band.C + done * band.CRow * (scaled && _pairs ? sizeof(ushort) : sizeof(float));
        ((delegate* unmanaged[SuppressGCTransition]<Band*, void>)_at[Place(rest, vectors, scaled)])(&band);   // the scales have moved on by themselves
    }

    /// <summary>Scores become exponentials; of pairs these go to Pairs only.</summary>
    public void Softmax(SlopeColumn* column) => ((delegate* unmanaged[SuppressGCTransition]<SlopeColumn*, void>)_softmax)(column);

    /// <summary>Scores become probabilities and dp their slopes; of pairs these go to P, Ds and Pairs only.</summary>
    public void Slopes(SlopeColumn* column) => ((delegate* unmanaged[SuppressGCTransition]<SlopeColumn*, void>)_slopes)(column);
}
