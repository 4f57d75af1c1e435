namespace MimEngine.Kernels.Cpu.Emitted;

/// <summary>
/// Emitted register tiles, those of float32 (<see cref="Instance"/>) or of bfloat16 pairs, assembled at first use and kept as long as it runs, like the JIT's own code. Absent where
/// AVX-512 is (the processor's, or switched off in the runtime) and where the system refuses executable memory; then
/// <see cref="MicroKernels"/> computes the same bits, slower.
/// </summary>
internal sealed unsafe class TileRoutines
{
    private readonly nint[] _along = new nint[MicroKernels.Vectors + 1];
    private readonly nint[] _across = new nint[MicroKernels.Vectors + 1];
    private readonly nint[] _rounded = new nint[MicroKernels.Vectors + 1];

    private readonly nint[] _gather = new nint[6 * (MicroKernels.Vectors + 1)];

    private readonly nint[] _finished = new nint[Finishes * (MicroKernels.Vectors + 1)];
    private const int Finishes = (int)Finish.Residual + 1;

    private readonly nint _chains;

    public TileRoutines(bool pairs)
    {
        var code = new CodeBuffer(128 << 10);
        for (int v = 1; v <= MicroKernels.Vectors; v++)
        {
            _along[v] = code.Add(TileCode.AlongRows(v, pairs));
            _across[v] = code.Add(TileCode.AcrossRows(v, pairs));
            for (int copies = 0; copies < 4; copies++)
                _gather[6 * v + copies] = code.Add(TileCode.Gathering(v, pairs, (copies & 1) != 0, (copies & 2) != 0));
            for (int copiesB = 0; pairs && copiesB < 2; copiesB++)
                _gather[6 * v + 4 + copiesB] = code.Add(TileCode.Gathering(v, pairs, true, copiesB != 0, rounds: true));
            for (Finish finish = Finish.Gelu; finish <= Finish.Residual; finish++)
                _finished[Finishes * v + (int)finish] = code.Add(TileCode.AlongRows(v, pairs, pairs && finish != Finish.Residual, finish));
            if (pairs) _rounded[v] = code.Add(TileCode.AlongRows(v, pairs, rounds: true));
        }
        if (pairs) _chains = code.Add(TileCode.DotChains());
        code.Seal();
    }

    /// <summary>The routines, or null with the reason.</summary>
    public static TileRoutines? Instance => s_instance.Value.Routines;
    public static string? Absence => s_instance.Value.Absence;

    private static readonly Lazy<(TileRoutines? Routines, string? Absence)> s_instance = new(() =>
    {
        if (Simd.Best != SimdLevel.Vector512) return (null, "AVX-512 is absent or switched off");
        try
        {
            return (new TileRoutines(pairs: false), null);
        }
        catch (PlatformNotSupportedException e)
        {
            return (null, e.Message);
        }
    });

    /// <summary>Rows of a read along k, b packed: 8 rows, the vectors whole.</summary>
    public void Along(Tile* t, int vectors) => ((delegate* unmanaged[SuppressGCTransition]<Tile*, void>)_along[vectors])(t);

    /// <summary>Of pairs only: as <see cref="Along"/>, but c is bfloat16, rounded to nearest even; Accumulate does not exist.</summary>
    public void AlongRounded(Tile* t, int vectors) => ((delegate* unmanaged[SuppressGCTransition]<Tile*, void>)_rounded[vectors])(t);

    /// <summary>
    /// As <see cref="Along"/>, ending with GELU, with its slope, or added to a residual: c is only written. It and what lies at Beside are float32, of pairs
    /// bfloat16, but a residual and its sum are always float32.
    /// </summary>
    public void AlongFinished(Tile* t, int vectors, Finish finish)
        => ((delegate* unmanaged[SuppressGCTransition]<Tile*, void>)_finished[Finishes * vectors + (int)finish])(t);

    /// <summary>Of pairs only: 24 VDPBF16PS a turn, nothing else.</summary>
    public void Chains(nint turns) => ((delegate* unmanaged[SuppressGCTransition]<nint, void>)_chains)(turns);

    /// <summary>Eight neighbours of a read for each k; the vectors whole.</summary>
    public void Across(Tile* t, int vectors) => ((delegate* unmanaged[SuppressGCTransition]<Tile*, void>)_across[vectors])(t);

    /// <summary>
    /// As <see cref="Across"/>, with two runs of lines asked for; copies rows of a or of b to CopyA and CopyB as it goes, pairing rows of bfloat16. Sums of
    /// a come with its copy.
    /// </summary>
    /// <param name="rounds">Of pairs only: rows of a that are copied are float32.</param>
    public void Gather(Tile* t, int vectors, bool copiesA = false, bool copiesB = false, bool rounds = false)
        => ((delegate* unmanaged[SuppressGCTransition]<Tile*, void>)
            _gather[6 * vectors + (copiesA && rounds ? 4 + (copiesB ? 1 : 0) : (copiesA ? 1 : 0) + (copiesB ? 2 : 0))])(t);
}
