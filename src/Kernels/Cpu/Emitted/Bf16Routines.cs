namespace MimEngine.Kernels.Cpu.Emitted;

/// <summary>What multiplies bfloat16 numbers.</summary>
public enum Bf16Unit : byte
{
    /// <summary>Nothing does: operands are rounded to bfloat16 and multiplied as float32.</summary>
    Float32,

    /// <summary>VDPBF16PS (AVX512-BF16).</summary>
    Dot,

    /// <summary>TDPBF16PS (AMX).</summary>
    Tiles,
}

/// <summary>The emitted bfloat16 products of one unit. Kept as long as the process runs.</summary>
internal sealed unsafe class Bf16Routines
{
    private readonly TileRoutines? _dot;
    private readonly nint _configure, _release, _block;

    private Bf16Routines(Bf16Unit unit)
    {
        Unit = unit;
        if (unit == Bf16Unit.Dot)
        {
            _dot = new TileRoutines(pairs: true);
            (TileRows, Width) = (TileCode.Rows, MicroKernels.Vectors * 16);
            return;
        }
        var code = new CodeBuffer(4096);
        (_configure, _release, _block) = (code.Add(AmxCode.Configure()), code.Add(AmxCode.Release()), code.Add(AmxCode.Block()));
        code.Seal();
        (TileRows, Width) = (AmxCode.Rows, AmxCode.Cols);
    }

    /// <summary>The best unit of this machine: AMX, else AVX512-BF16, else plain float32.</summary>
    public static Bf16Unit Best => CpuFeatures.HasBf16Tiles && Of(Bf16Unit.Tiles) != null ? Bf16Unit.Tiles
        : CpuFeatures.HasBf16Dot && Of(Bf16Unit.Dot) != null ? Bf16Unit.Dot : Bf16Unit.Float32;

    /// <summary>The unit's routines, or null where the machine lacks it or the system refuses executable memory.</summary>
    public static Bf16Routines? Of(Bf16Unit unit) => unit switch
    {
        Bf16Unit.Dot => s_dotRoutines.Value,
        Bf16Unit.Tiles => s_tileRoutines.Value,
        _ => null,
    };

    private static readonly Lazy<Bf16Routines?> s_dotRoutines = new(() => CpuFeatures.HasBf16Dot ? TryNew(Bf16Unit.Dot) : null);
    private static readonly Lazy<Bf16Routines?> s_tileRoutines = new(() => CpuFeatures.HasBf16Tiles ? TryNew(Bf16Unit.Tiles) : null);

    private static Bf16Routines? TryNew(Bf16Unit unit)
    {
        try
        {
            return new Bf16Routines(unit);
        }
        catch (PlatformNotSupportedException)
        {
            return null;
        }
    }

    public Bf16Unit Unit { get; }

    /// <summary>The register tiles of <see cref="Bf16Unit.Dot"/>, for products that cut themselves; null for another unit.</summary>
    public TileRoutines? Dots => _dot;

    /// <summary>Rows of a block of the product, and columns of a panel of b.</summary>
    public int TileRows { get; }
    public int Width { get; }

    /// <summary>Before and after a thread's blocks.</summary>
    public void Enter()
    {
        if (Unit != Bf16Unit.Tiles) return;
        byte* config = stackalloc byte[64];
        AmxCode.Shapes(new Span<byte>(config, 64));
        ((delegate* unmanaged[SuppressGCTransition]<byte*, void>)_configure)(config);
    }

    public void Leave()
    {
        if (Unit == Bf16Unit.Tiles) ((delegate* unmanaged[SuppressGCTransition]<void>)_release)();
    }

    /// <summary>A tile of TileRows × Width whose a is read along k and whose b is packed; only the first vectors of it need be computed.</summary>
    /// <param name="t">Its steps are pairs: a multiple of 16 for AMX. There, what is added can only be c itself.</param>
    /// <param name="rounds">c is bfloat16 (<see cref="Bf16Unit.Dot"/> only) and nothing is added to it.</param>
    public void Run(Tile* t, int vectors, bool rounds)
    {
        if (rounds) _dot!.AlongRounded(t, vectors);
        else if (_dot != null) _dot.Along(t, vectors);
        else
        {
            var block = new AmxBlock
            {
                Steps = t->K / 16, A = (byte*)t->A, ARow = t->ARow * 4, B = (byte*)t->B, C = t->C, CRow = t->CRow * 4,
                Start = t->Accumulate ? t->C : t->Start, StartRow = t->Accumulate ? t->CRow * 4 : 0,
            };
            ((delegate* unmanaged[SuppressGCTransition]<AmxBlock*, void>)_block)(&block);
        }
    }
}
