namespace MimEngine.Kernels.Cpu;

/// <summary>
/// Products of matrices that fit the caches and lie in place, such as the tiles of attention: one thread, no packing, no scratch.
/// Called inside a row kernel. Every element is one chain of multiply-adds in the order of k.
/// </summary>
internal static unsafe class SmallGemm
{
    /// <summary>
    /// c = a·b (+ c). Element (i, p) of a lies at i·aRow + p·aStep, so a transposed a costs nothing; b is row-major. Nothing outside of
    /// the m × n, m × k and k × n elements is touched. A factor belongs into a or into what reads c.
    /// </summary>
    /// <param name="c">(m, n), rows cRow floats apart.</param>
    /// <param name="b">(k, n), rows bRow floats apart; for a transposed one see <see cref="Transpose"/>.</param>
    /// <param name="k">At least 1.</param>
    public static void Multiply<TV>(float* c, nint cRow, float* a, nint aRow, nint aStep, float* b, nint bRow, int m, int n, int k,
        bool accumulate) where TV : struct, ILanes<TV>
    {
        int tileRows = MicroKernels.Rows<TV>(), width = MicroKernels.Vectors * TV.Count;
        float* zeros = stackalloc float[MicroKernels.Vectors * 16];
        Tile t = default;
        (t.K, t.ARow, t.AStep, t.BRow, t.CRow) = (k, aRow, aStep, bRow, cRow);
        t.Accumulate = accumulate;
        t.Start = zeros;
        for (int col = 0; col < n; col += width)
        {
            int cols = Math.Min(width, n - col), vectors = (cols + TV.Count - 1) / TV.Count;
            t.Tail = cols % TV.Count;
            t.B = b + col;
            for (int row = 0; row < m; row += tileRows)
            {
                t.A = a + row * aRow;
                t.C = c + row * cRow + col;
                MicroKernels.Run<TV>(t, Math.Min(tileRows, m - row), vectors, true);
            }
        }
    }

    /// <summary>y = xᵀ: y is (cols, rows), its rows yRow apart; x is (rows, cols), its rows xRow apart.</summary>
    public static void Transpose(float* y, int yRow, float* x, nint xRow, int rows, int cols) => GemmPack.Transpose(y, yRow, x, xRow,
        rows, cols);
}
