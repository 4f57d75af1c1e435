using MimEngine.Kernels.Cpu.Emitted;

namespace MimEngine.Kernels.Cpu;

/// <summary>The products of attention: small matrices in cache.</summary>
/// <param name="zeros">A row of zeros, as wide as the widest product.</param>
/// <param name="ahead">What is asked for meanwhile.</param>
/// <param name="routines">Machine code to prefer to the JIT's, or null. With bfloat16 pairs as operands it must be that of pairs.</param>
internal readonly unsafe struct AttentionTiles<TV>(float* zeros, AttentionAhead* ahead, AttentionRoutines? routines) where TV : struct, ILanes<TV>
{
    /// <summary>c (rows, vectors) = a·b (+ c), raw sums. All strides as <see cref="Band"/> says.</summary>
    public void Sums(float* c, int cRow, float* a, int aRow, int aStep, float* b, int bRow, int rows, int vectors, int length, bool accumulate)
    {
        if (rows <= 0) return;
        var band = new Band
        {
            A = a, ARow = aRow, AStep = aStep, B = b, BRow = bRow, C = c, CRow = cRow, K = length, Accumulate = accumulate ? 1 : 0, Ahead = ahead,
        };
        if (routines != null) routines.Run(band, rows, vectors, scaled: false);
        else Compiled(band, rows, vectors);
    }

    /// <summary>c = scales·(a·b), where the sums leave their registers; needs <see cref="Scales"/>. c of pairs is bfloat16.</summary>
    /// <param name="scaleStep">0 for one scale of all rows, 1 for a row's own.</param>
    public void Scaled(void* c, int cRow, float* a, int aRow, int aStep, float* b, int bRow, int rows, int vectors, int length, float* scales, int scaleStep)
    {
        if (rows <= 0) return;
        routines!.Run(new Band
        {
            A = a, ARow = aRow, AStep = aStep, B = b, BRow = bRow, C = c, CRow = cRow, K = length, Scales = scales, ScaleStep = scaleStep, Ahead = ahead,
        }, rows, vectors, scaled: true);
    }

    /// <summary>Whether there are tiles that scale what they store.</summary>
    public bool Scales => routines != null;

    private void Compiled(in Band band, int rows, int vectors)
    {
        int tall = MicroKernels.Rows<TV>(), wide = vectors > MicroKernels.Vectors ? 2 : vectors;
        for (int j = 0; j < vectors; j += wide)
            for (int i = 0; i < rows; i += tall)
            {
                var t = new Tile
                {
                    K = (int)band.K, A = band.A + i * band.ARow, ARow = band.ARow, AStep = band.AStep, B = band.B + j * TV.Count, BRow = band.BRow,
                    C = (float*)band.C + i * band.CRow + j * TV.Count, CRow = band.CRow, Start = zeros, Accumulate = band.Accumulate != 0, Ahead = (byte*)band.B,
                };
                MicroKernels.Run<TV>(t, Math.Min(tall, rows - i), Math.Min(wide, vectors - j), false);
                ahead->Step((int)band.K / 8);
            }
    }
}
