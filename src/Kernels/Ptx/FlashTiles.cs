namespace MimEngine.Kernels.Ptx;

/// <summary>How attention is cut: a warp owns 16 tokens of a head, a group Warps · 16; the others pass by in blocks.</summary>
/// <param name="Width">Numbers a head: 32, 64 or 128.</param>
/// <param name="Block">Tokens of a passing block, a multiple of 16.</param>
internal readonly record struct FlashTiling(int Width, int Warps, int Block)
{
    public int Threads => Warps * 32;
    public int Own => Warps * 16;
    public int OwnBytes => Own * Width * 2;
    public int BlockBytes => Block * Width * 2;

    public override string ToString() => $"{Width}_{Warps}x{Block}";
}

/// <summary>
/// What the attention kernels share: a group's place, tiles of tokens, and the small products of a warp. A tile of tokens is read both
/// ways: lines along depth for q·kᵀ, lines as the summed axis for p·v; its bytes are the same.
/// </summary>
internal sealed class FlashTiles
{
    private readonly PtxText _t;
    private readonly FlashTiling _tiling;

    /// <param name="firstImage">
    /// None: a group is a block of own tokens of one head of one image. Given: it is a block of own tokens and one of the others, of one head,
    /// beginning with this image.
    /// </param>
    public FlashTiles(PtxText t, FlashTiling tiling, string tokens, string heads, string? firstImage = null)
    {
        (_t, _tiling, Tokens, Heads) = (t, tiling, tokens, heads);
        string group = t.Int("mov.u32", "%ctaid.x");
        Thread = t.Int("mov.u32", "%tid.x");
        Lane = t.Int("and.b32", Thread, 31);
        Warp = t.Int("shr.u32", Thread, 5);
        OtherFirst = "";
        if (firstImage is not null) (group, OtherFirst) = Split(group, tiling.Block);
        (ImageHead, First) = Split(group, tiling.Own);
        if (firstImage is null) Image = t.Int("div.u32", ImageHead, heads);
        else
        {
            Image = firstImage;
            ImageHead = t.Int("mad.lo.u32", firstImage, heads, ImageHead);
        }
        Head = t.Int("sub.u32", ImageHead, t.Int("mul.lo.u32", Image, heads));
        Columns = t.Int("mul.lo.u32", heads, tiling.Width);
        Stride = t.Int("mul.lo.u32", Columns, 3);
        FirstToken = t.Int("mul.lo.u32", Image, tokens);
        FirstColumn = t.Int("mul.lo.u32", Head, tiling.Width);
        WarpRow = t.Int("shl.b32", Warp, 4);
        Row = t.Int("add.u32", t.Int("add.u32", First, WarpRow), t.Int("shr.u32", Lane, 2));
        Pair = t.Int("shl.b32", t.Int("and.b32", Lane, 3), 1);
    }

    public string Tokens { get; }
    public string Heads { get; }
    public string Thread { get; }
    public string Lane { get; }
    public string Warp { get; }

    /// <summary>image · heads + head.</summary>
    public string ImageHead { get; }
    public string Image { get; }
    public string Head { get; }

    /// <summary>First token of the group, and of the others where a group has one block of them.</summary>
    public string First { get; }
    public string OtherFirst { get; }

    /// <summary>heads · width, and three times that.</summary>
    public string Columns { get; }
    public string Stride { get; }

    /// <summary>First row of the image, first column of the head.</summary>
    public string FirstToken { get; }
    public string FirstColumn { get; }

    /// <summary>The warp's first row in the group's tile; the lane's first token, the other is 8 on; the lane's first column of a tile.</summary>
    public string WarpRow { get; }
    public string Row { get; }
    public string Pair { get; }

    /// <summary>What is left of a number after blocks of the tokens, and the first token of the block.</summary>
    private (string Above, string First) Split(string number, int size)
    {
        string blocks = _t.Int("div.u32", _t.Int("add.u32", Tokens, size - 1), size), rest = _t.Int("div.u32", number, blocks);
        return (rest, _t.Int("mul.lo.u32", _t.Int("sub.u32", number, _t.Int("mul.lo.u32", rest, blocks)), size));
    }

    public MatrixTile Along(int tokens) => new(tokens, _tiling.Width, AlongDepth: true);
    public MatrixTile Summed(int tokens) => new(_tiling.Width, tokens, AlongDepth: false);

    /// <summary>Address of this head's first token in a matrix of so many columns.</summary>
    /// <param name="part">How many times heads · width columns lie before: 0 q, 1 k, 2 v.</param>
    public string HeadAddress(string matrix, string columns, int part)
    {
        string column = _t.Int("mad.lo.u32", Columns, part, FirstColumn);
        return _t.Long("mad.lo.u64", _t.Long("add.u64", _t.Long("mul.wide.u32", FirstToken, columns), _t.Long("cvt.u64.u32", column)), 2, matrix);
    }

    public TileCopy Copy(int tokens, string matrix, string columns, string first, string shared)
        => new(_t, Summed(tokens), _tiling.Threads, Thread, matrix, _t.Int("mov.u32", _tiling.Width), columns, _t.Int("mov.u32", 0), first, Tokens, shared);

    /// <summary>The warp's own 16 tokens as left operand: one fragment a step of 16 along the width.</summary>
    public string[][] Own(string shared)
    {
        MatrixTile tile = Along(_tiling.Own);
        string[] lanes = [.. tile.Lanes(_t, Lane, WarpRow, 16, right: false).Select(o => _t.Int("add.u32", o, shared))];
        return [.. Enumerable.Range(0, _tiling.Width / 16).Select(k => tile.Load(_t, lanes, 0, 16 * k))];
    }

    public string[][] Zeros(int tiles)
    {
        string[][] all = [.. Enumerable.Range(0, tiles).Select(_ => _t.F32(4))];
        foreach (string f in all.SelectMany(a => a)) _t.Op($"mov.f32 {f}, 0f00000000");
        return all;
    }

    /// <summary>Own tokens times the block's, summed over the width: one tile a 8 tokens of the block.</summary>
    /// <param name="lanes">Of <see cref="Along"/>(Block), with the stage added.</param>
    public string[][] Dot(string[][] own, string[] lanes)
    {
        MatrixTile tile = Along(_tiling.Block);
        string[][] sums = Zeros(_tiling.Block / 8);
        for (int k = 0; k < _tiling.Width; k += 16)
            for (int j = 0; j < _tiling.Block; j += 16)
            {
                string[] b = tile.Load(_t, lanes, j, k);
                Fragments.Multiply(_t, sums[j / 8], own[k / 16], b[0], b[1]);
                Fragments.Multiply(_t, sums[j / 8 + 1], own[k / 16], b[2], b[3]);
            }
        return sums;
    }

    /// <summary>sums += weights · block, summed over the block's tokens; weights are tiles as <see cref="Dot"/> leaves them.</summary>
    /// <param name="lanes">Of <see cref="Summed"/>(Block), with the stage added.</param>
    public void Spread(string[][] sums, string[][] weights, string[] lanes)
    {
        MatrixTile tile = Summed(_tiling.Block);
        for (int k = 0; k < _tiling.Block; k += 16)
        {
            string[] x = weights[k / 8], y = weights[k / 8 + 1];
            string[] a = [Fragments.Pack(_t, x[0], x[1]), Fragments.Pack(_t, x[2], x[3]), Fragments.Pack(_t, y[0], y[1]), Fragments.Pack(_t, y[2], y[3])];
            for (int d = 0; d < _tiling.Width; d += 16)
            {
                string[] b = tile.Load(_t, lanes, d, k);
                Fragments.Multiply(_t, sums[d / 8], a, b[0], b[1]);
                Fragments.Multiply(_t, sums[d / 8 + 1], a, b[2], b[3]);
            }
        }
    }

    /// <summary>Addresses in stage 0 from which a block is read: as <see cref="Along"/>, and as <see cref="Summed"/>.</summary>
    public string[] AlongLanes(string shared) => [.. Along(_tiling.Block).Lanes(_t, Lane, _t.Int("mov.u32", 0), _tiling.Block, right: true)
        .Select(o => _t.Int("add.u32", o, shared))];

    public string[] SummedLanes(string shared) => [.. Summed(_tiling.Block).Lanes(_t, Lane, _t.Int("mov.u32", 0), _tiling.Width, right: true)
        .Select(o => _t.Int("add.u32", o, shared))];

    public string[] At(string[] lanes, string stage) => [.. lanes.Select(o => _t.Int("add.u32", o, stage))];

    /// <summary>−∞ where the block's tokens are past the last one.</summary>
    public void MaskPastEnd(string[][] logits, string blockFirst)
    {
        string skip = _t.NewLabel("whole");
        _t.Op($"@{_t.Test("setp.le.u32", _t.Int("add.u32", blockFirst, _tiling.Block), Tokens)} bra.uni {skip}");
        string first = _t.Int("add.u32", blockFirst, Pair);
        for (int j = 0; j < logits.Length; j++)
            for (int c = 0; c < 2; c++)
            {
                string inside = _t.Test("setp.lt.u32", _t.Int("add.u32", first, 8 * j + c), Tokens);
                foreach (string s in new[] { logits[j][c], logits[j][c + 2] }) _t.Op($"selp.f32 {s}, {s}, 0fFF800000, {inside}");
            }
        _t.Label(skip);
    }

    /// <summary>logits = products · scale (+ bias), in powers of two; bias[head, query, key] where both exist.</summary>
    /// <param name="ownIsQuery">The warp's tokens are the queries, the block's the keys; or the other way round.</param>
    public void Scale(string[][] products, string scaleLog2, string? bias, string blockFirst, bool ownIsQuery)
    {
        string[] rows = [Row, _t.Int("add.u32", Row, 8)];
        string first = _t.Int("add.u32", blockFirst, Pair);
        for (int j = 0; j < products.Length; j++)
            for (int i = 0; i < 4; i++)
            {
                string s = products[j][i];
                if (bias is null)
                {
                    _t.Op($"mul.f32 {s}, {s}, {scaleLog2}");
                    continue;
                }
                string own = rows[i / 2], other = _t.Int("add.u32", first, 8 * j + i % 2);
                string inside = _t.Test("and.pred", _t.Test("setp.lt.u32", own, Tokens), _t.Test("setp.lt.u32", other, Tokens));
                (string query, string key) = ownIsQuery ? (own, other) : (other, own);
                string index = _t.Int("mad.lo.u32", _t.Int("mad.lo.u32", Head, Tokens, query), Tokens, key), b = _t.Float("mov.f32", 0f);
                _t.Op($"@{inside} ld.global.nc.f32 {b}, [{_t.Long("mad.wide.u32", index, 4, bias)}]");
                _t.Op($"fma.rn.f32 {s}, {s}, {scaleLog2}, {_t.Float("mul.f32", b, PtxMath.Log2E)}");
            }
    }

    /// <summary>bias·log2 e of the block, own tokens as queries; zeros outside.</summary>
    public string[][] Bias(string bias, string blockFirst)
    {
        string[][] all = Zeros(_tiling.Block / 8);
        Each(all, blockFirst, (f, query, key, inside) =>
        {
            string index = _t.Int("mad.lo.u32", _t.Int("mad.lo.u32", Head, Tokens, query), Tokens, key);
            _t.Op($"@{inside} ld.global.nc.f32 {f}, [{_t.Long("mad.wide.u32", index, 4, bias)}]");
            _t.Op($"mul.f32 {f}, {f}, {PtxText.Constant(PtxMath.Log2E)}");
        });
        return all;
    }

    /// <summary>Stores a block's numbers into matrix [head, query, key].</summary>
    public void StoreBlock(string[][] values, string matrix, string blockFirst) => Each(values, blockFirst, (f, query, key, inside) =>
    {
        string index = _t.Int("mad.lo.u32", _t.Int("mad.lo.u32", Head, Tokens, query), Tokens, key);
        _t.Op($"@{inside} st.global.f32 [{_t.Long("mad.wide.u32", index, 4, matrix)}], {f}");
    });

    private void Each(string[][] values, string blockFirst, Action<string, string, string, string> use)
    {
        string[] rows = [Row, _t.Int("add.u32", Row, 8)];
        string first = _t.Int("add.u32", blockFirst, Pair);
        for (int j = 0; j < values.Length; j++)
            for (int i = 0; i < 4; i++)
            {
                string key = _t.Int("add.u32", first, 8 * j + i % 2);
                use(values[j][i], rows[i / 2], key, _t.Test("and.pred", _t.Test("setp.lt.u32", rows[i / 2], Tokens), _t.Test("setp.lt.u32", key, Tokens)));
            }
    }

    /// <summary>Stores 16 own tokens × width as bfloat16.</summary>
    public void Store(string[][] values, string headAddress, string columns)
    {
        for (int half = 0; half < 2; half++)
        {
            string row = _t.Int("add.u32", Row, 8 * half), here = _t.Test("setp.lt.u32", row, Tokens);
            string at = _t.Long("mad.lo.u64", _t.Long("add.u64", _t.Long("mul.wide.u32", row, columns), _t.Long("cvt.u64.u32", Pair)), 2, headAddress);
            for (int d = 0; d < values.Length; d++)
                _t.Op($"@{here} st.global.b32 [{at}+{16 * d}], {Fragments.Pack(_t, values[d][2 * half], values[d][2 * half + 1])}");
        }
    }
}
