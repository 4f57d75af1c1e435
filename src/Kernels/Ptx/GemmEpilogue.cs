namespace MimEngine.Kernels.Ptx;

/// <summary>What a product on tensor cores does with finished sums. Every variant is a kernel of its own; options are runtime flags.</summary>
internal abstract class GemmEpilogue
{
    /// <summary>Reads the parameters of its own.</summary>
    public abstract void Parameters(PtxText t);

    /// <summary>Writes a warp's results.</summary>
    /// <param name="sums">[i][j]: rows row + 16·i and + 8, columns col + 8·j and the next.</param>
    public abstract void Store(PtxText t, string[][][] sums, string row, string col, string rows, string cols, string slice);

    /// <summary>Begins, and names the rows of a warp that this lane has a part of.</summary>
    protected RowPlace[] Places(PtxText t, string[][][] sums, string row, string col, string rows, string cols, string slice)
    {
        (Col, Cols) = (col, cols);
        Begin(t, rows, slice);
        return [.. Enumerable.Range(0, 2 * sums.Length).Select(r =>
        {
            string at = t.Int("add.u32", row, 8 * r);
            return Row(t, at, t.Test("setp.lt.u32", at, rows));
        })];
    }

    /// <summary>What stays the same along a row.</summary>
    /// <param name="At">Address of the lane's first column in the result.</param>
    /// <param name="From">The same in another matrix, or none.</param>
    protected sealed record RowPlace(string Inside, string At, string From = "", string Scale = "");

    /// <summary>The lane's first column, and how many there are.</summary>
    protected string Col { get; private set; } = "";
    protected string Cols { get; private set; } = "";

    protected virtual void Begin(PtxText t, string rows, string slice) { }
    protected abstract RowPlace Row(PtxText t, string row, string inside);

    /// <summary>Two entries of a float32 vector for columns 8·j and the next; otherwise constants where there is no vector.</summary>
    protected string[] Columns(PtxText t, string vector, int j, string inside, float otherwise)
    {
        string[] pair = [t.Float("mov.f32", otherwise), t.Float("mov.f32", otherwise)];
        string here = t.Test("and.pred", inside, t.Test("setp.ne.u64", vector, 0));
        t.Op($"@{here} ld.global.nc.v2.f32 {{{pair[0]}, {pair[1]}}}, [{t.Long("mad.wide.u32", Col, 4, vector)}+{32 * j}]");
        return pair;
    }

    /// <summary>Address of the lane's first column of a row.</summary>
    protected string Address(PtxText t, string matrix, string row, int bytes) => Address(t, matrix, row, Col, bytes);

    protected string Address(PtxText t, string matrix, string row, string column, int bytes)
        => t.Long("mad.lo.u64", t.Long("add.u64", t.Long("mul.wide.u32", row, Cols), t.Long("cvt.u64.u32", column)), bytes, matrix);
}

/// <summary>
/// float32: y = (residual or nothing) + rowScale·gamma·(sum + bias); residual may be y itself. With several slices, slice s writes its own
/// matrix s.
/// </summary>
internal sealed class StoreFloat : GemmEpilogue
{
    private string _y = "", _bias = "", _residual = "", _gamma = "", _rowScale = "", _rowsPerScale = "", _hasResidual = "";

    public override void Parameters(PtxText t)
        => (_y, _bias, _residual, _gamma, _rowScale, _rowsPerScale) = (t.Parameter("y", "u64"), t.Parameter("bias", "u64"),
            t.Parameter("residual", "u64"), t.Parameter("gamma", "u64"), t.Parameter("rowScale", "u64"), t.Parameter("rowsPerScale", "u32"));

    protected override void Begin(PtxText t, string rows, string slice)
    {
        _hasResidual = t.Test("setp.ne.u64", _residual, 0);
        string matrix = t.Long("mul.lo.u64", t.Long("mul.wide.u32", rows, Cols), t.Long("cvt.u64.u32", slice));
        _y = t.Long("add.s64", _y, t.Long("shl.b64", matrix, 2));
    }

    protected override RowPlace Row(PtxText t, string row, string inside)
    {
        string scaled = t.Test("and.pred", inside, t.Test("setp.ne.u32", _rowsPerScale, 0)), scale = t.Float("mov.f32", 1f);
        string group = t.Int("div.u32", row, t.Int("max.u32", _rowsPerScale, 1));
        t.Op($"@{scaled} ld.global.nc.f32 {scale}, [{t.Long("mad.wide.u32", group, 4, _rowScale)}]");
        return new RowPlace(inside, Address(t, _y, row, 4), Address(t, _residual, row, 4), scale);
    }

    public override void Store(PtxText t, string[][][] sums, string row, string col, string rows, string cols, string slice)
    {
        RowPlace[] places = Places(t, sums, row, col, rows, cols, slice);
        for (int j = 0; j < sums[0].Length; j++)
        {
            string inside = t.Test("setp.lt.u32", t.Int("add.u32", col, 8 * j), cols);
            string[] b = Columns(t, _bias, j, inside, 0f), g = Columns(t, _gamma, j, inside, 1f);
            for (int r = 0; r < places.Length; r++)
                Pair(t, j, places[r], t.Test("and.pred", places[r].Inside, inside), sums[r / 2][j][r % 2 * 2], sums[r / 2][j][r % 2 * 2 + 1], b, g);
        }
    }

    private void Pair(PtxText t, int j, RowPlace row, string here, string first, string second, string[] b, string[] g)
    {
        string[] old = [t.Float("mov.f32", 0f), t.Float("mov.f32", 0f)], sums = [first, second], results = new string[2];
        t.Op($"@{t.Test("and.pred", here, _hasResidual)} ld.global.v2.f32 {{{old[0]}, {old[1]}}}, [{row.From}+{32 * j}]");
        for (int i = 0; i < 2; i++)
            results[i] = t.Float("fma.rn.f32", t.Float("add.f32", sums[i], b[i]), t.Float("mul.f32", g[i], row.Scale), old[i]);
        t.Op($"@{here} st.global.v2.f32 [{row.At}+{32 * j}], {{{results[0]}, {results[1]}}}");
    }
}
