using ILGPU;

namespace MimEngine.Kernels.Ilgpu;

internal sealed partial class IlgpuBackend
{
    public override void AttentionForward(Tensor y, Tensor lse, Tensor qkv, int heads, Tensor? bias)
    {
        if (TryAttentionForward(y, lse, qkv, heads, bias)) return;
        HeadLayout at = Layout(qkv, heads);
        int across = Blocks(at.Width, Block), blocks = Blocks(at.Tokens, Block);
        Launch((long)qkv.Shape.D0 * heads * blocks * across,
            new AttentionBlocks(N(y), F(lse), N(qkv), F(bias), Flag(bias), at, blocks, across));
    }

    public override void AttentionBackward(Grad dqkv, Grad dbias, Tensor dy, Tensor y, Tensor lse, Tensor qkv, int heads, Tensor? bias)
    {
        if (!dqkv.Wanted && !dbias.Wanted) return;
        HeadLayout at = Layout(qkv, heads);
        int images = qkv.Shape.D0, across = Blocks(at.Width, Block), blocks = Blocks(at.Tokens, Block);
        ArrayView<float> delta = Scratch<float>(PartialSlot, lse.Count);
        if (!TryHeadDots(delta, dy, y, qkv, heads)) LaunchEach(lse.Count, new RowDots(delta, N(dy), N(y), at));
        var p = new Probabilities(N(qkv), N(dy), F(lse), delta, F(bias), Flag(bias), at);
        if (dqkv.Wanted && (dqkv.Accumulate || !TryAttentionBackward(dqkv.Into, dy, lse, delta, qkv, heads, bias)))
        {
            long groups = (long)images * heads * blocks * across;
            Launch(groups, new QueryGradients(N(dqkv), p, blocks, across, Flag(dqkv.Accumulate)));
            Launch(groups, new KeyValueGradients(N(dqkv), p, blocks, across, Flag(dqkv.Accumulate)));
        }
        if (dbias.Wanted && !TryAttentionBias(dbias, dy, lse, delta, qkv, heads, bias))
            Launch((long)heads * blocks * blocks, new BiasGradients(N(dbias), p, images, blocks, Flag(dbias.Accumulate)));
    }

    private static HeadLayout Layout(Tensor qkv, int heads)
    {
        int width = qkv.Shape.Cols / 3 / heads;
        return new HeadLayout(qkv.Shape.D1, heads, width, 1f / MathF.Sqrt(width));
    }

    public override void RelativePositionBiasForward(Tensor bias, Tensor table, int grid)
        => LaunchEach(bias.Count, new SpreadTable(F(bias), F(table), grid, table.Shape.Cols));

    public override void RelativePositionBiasBackward(Grad dtable, Tensor dbias, int grid)
    {
        if (dtable.Wanted) LaunchEach(dtable.Into.Count, new GatherTable(F(dtable), F(dbias), grid, dbias.Shape.D0, Flag(dtable.Accumulate)));
    }
}

/// <summary>Sizes of attention: tokens an image, heads, width of a head, 1/√width; and where heads lie.</summary>
internal readonly struct HeadLayout(int tokens, int heads, int width, float scale)
{
    public readonly int Tokens = tokens, Heads = heads, Width = width;
    public readonly float Scale = scale;

    /// <summary>Numbers from a token of qkv to the next.</summary>
    public int Stride => 3 * Heads * Width;

    /// <summary>First number of a head's q (part 0), k (1) or v (2) in qkv; head = image·Heads + h.</summary>
    public int Part(int head, int part) => head / Heads * Tokens * Stride + (part * Heads + head % Heads) * Width;

    /// <summary>First number of a head in y and dy.</summary>
    public int Output(int head) => head / Heads * Tokens * (Heads * Width) + head % Heads * Width;
}

/// <summary>
/// One group is one block of queries of one head and up to 4·Side columns of its output; wider heads compute their logits once for each
/// such run of columns. Online softmax over blocks of keys (Milakov and Gimelshein 2018; Dao et al. 2022).
/// </summary>
internal readonly struct AttentionBlocks(Cells y, ArrayView<float> lse, Cells qkv, ArrayView<float> bias, int hasBias,
    HeadLayout at, int blocks, int across) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> left = SharedMemory.Allocate<float>(Panel.Size<TT>()), right = SharedMemory.Allocate<float>(Panel.Size<TT>());
        ArrayView<float> p = SharedMemory.Allocate<float>(4 * TT.Side * (4 * TT.Side + 1));
        ArrayView<float> room = SharedMemory.Allocate<float>(4 * TT.Side * TT.Side), sums = SharedMemory.Allocate<float>(4 * TT.Side * TT.Side);
        int col0 = Grid.IdxX % across * (4 * TT.Side), q0 = Grid.IdxX / across % blocks * (4 * TT.Side), head = Grid.IdxX / across / blocks;
        int tx = Group.IdxX % TT.Side, ty = Group.IdxX / TT.Side;
        var q = new Operand(qkv, at.Part(head, 0), at.Tokens, at.Stride, 1);
        var keys = new Operand(qkv, at.Part(head, 1), at.Tokens, at.Stride, 1);
        Results output = default;
        Four max = new(float.NegativeInfinity, float.NegativeInfinity, float.NegativeInfinity, float.NegativeInfinity), total = default;
        for (int k0 = 0; k0 < at.Tokens; k0 += 4 * TT.Side)
        {
            Results s = Heads.Dot<TT>(left, right, q, q0, keys, k0, at.Width);
            Four a = Logits<TT>(s.A, head, q0 + ty, k0 + tx), b = Logits<TT>(s.B, head, q0 + ty + TT.Side, k0 + tx);
            Four c = Logits<TT>(s.C, head, q0 + ty + 2 * TT.Side, k0 + tx), d = Logits<TT>(s.D, head, q0 + ty + 3 * TT.Side, k0 + tx);
            int mine = ty * TT.Side + tx, step = TT.Side * TT.Side;
            room[mine] = Largest(a);
            room[mine + step] = Largest(b);
            room[mine + 2 * step] = Largest(c);
            room[mine + 3 * step] = Largest(d);
            Group.Barrier();
            Four newMax = new(RowMax<TT>(room, ty, max.X), RowMax<TT>(room, ty + TT.Side, max.Y),
                RowMax<TT>(room, ty + 2 * TT.Side, max.Z), RowMax<TT>(room, ty + 3 * TT.Side, max.W));
            sums[mine] = Exponentials<TT>(p, a, newMax.X, ty, tx);
            sums[mine + step] = Exponentials<TT>(p, b, newMax.Y, ty + TT.Side, tx);
            sums[mine + 2 * step] = Exponentials<TT>(p, c, newMax.Z, ty + 2 * TT.Side, tx);
            sums[mine + 3 * step] = Exponentials<TT>(p, d, newMax.W, ty + 3 * TT.Side, tx);
            Group.Barrier();
            Four shrink = new(Scalar.Exp(max.X - newMax.X), Scalar.Exp(max.Y - newMax.Y), Scalar.Exp(max.Z - newMax.Z),
                Scalar.Exp(max.W - newMax.W));
            total = new Four(total.X * shrink.X + RowSum<TT>(sums, ty), total.Y * shrink.Y + RowSum<TT>(sums, ty + TT.Side),
                total.Z * shrink.Z + RowSum<TT>(sums, ty + 2 * TT.Side), total.W * shrink.W + RowSum<TT>(sums, ty + 3 * TT.Side));
            output = new Results(output.A.Times(shrink.X), output.B.Times(shrink.Y), output.C.Times(shrink.Z), output.D.Times(shrink.W));
            output = Heads.Spread<TT>(output, p, right, qkv, at.Part(head, 2) + col0, k0, at.Tokens, at.Stride, at.Width - col0);
            max = newMax;
        }
        int row = q0 + ty;
        Store<TT>(row, head, col0, output.A, max.X, total.X);
        Store<TT>(row + TT.Side, head, col0, output.B, max.Y, total.Y);
        Store<TT>(row + 2 * TT.Side, head, col0, output.C, max.Z, total.Z);
        Store<TT>(row + 3 * TT.Side, head, col0, output.D, max.W, total.W);
    }

    private Four Logits<TT>(Four s, int head, int row, int col) where TT : struct, ITile
        => new(Logit(s.X, head, row, col), Logit(s.Y, head, row, col + TT.Side), Logit(s.Z, head, row, col + 2 * TT.Side),
            Logit(s.W, head, row, col + 3 * TT.Side));

    private float Logit(float s, int head, int row, int col)
    {
        if (col >= at.Tokens) return float.NegativeInfinity;
        s *= at.Scale;
        if (hasBias != 0 && row < at.Tokens) s += bias[(head % at.Heads * at.Tokens + row) * at.Tokens + col];
        return s;
    }

    private static float Largest(Four a) => Scalar.Larger(Scalar.Larger(a.X, a.Y), Scalar.Larger(a.Z, a.W));

    private static float RowMax<TT>(ArrayView<float> room, int row, float before) where TT : struct, ITile
    {
        for (int i = 0; i < TT.Side; i++) before = Scalar.Larger(before, room[row * TT.Side + i]);
        return before;
    }

    private static float RowSum<TT>(ArrayView<float> room, int row) where TT : struct, ITile
    {
        float sum = 0f;
        for (int i = 0; i < TT.Side; i++) sum += room[row * TT.Side + i];
        return sum;
    }

    /// <summary>Puts exp(logit − max) into the panel of probabilities, [key][query], and gives their sum.</summary>
    private static float Exponentials<TT>(ArrayView<float> p, Four logits, float max, int row, int col) where TT : struct, ITile
    {
        var e = new Four(Scalar.Exp(logits.X - max), Scalar.Exp(logits.Y - max), Scalar.Exp(logits.Z - max), Scalar.Exp(logits.W - max));
        Heads.PutTransposed<TT>(p, row, col, e);
        return e.X + e.Y + (e.Z + e.W);
    }

    private void Store<TT>(int row, int head, int col0, Four values, float max, float total) where TT : struct, ITile
    {
        if (row >= at.Tokens) return;
        int tx = Group.IdxX % TT.Side;
        Heads.Store<TT>(y, at.Output(head) + row * (at.Heads * at.Width) + col0, at.Width - col0, values.Times(1f / total), 0);
        if (col0 == 0 && tx == 0) lse[head * at.Tokens + row] = max + Scalar.Log(total);
    }
}

/// <summary>What the forward and backward kernels of attention share.</summary>
internal static class Heads
{
    /// <summary>Results a·bᵀ from row a0 of a and row b0 of b on.</summary>
    public static Results Dot<TT>(ArrayView<float> left, ArrayView<float> right, Operand a, int a0, Operand b, int b0, int depth)
        where TT : struct, ITile
    {
        Results sum = default;
        for (int k = 0; k < depth; k += Panel.Depth)
        {
            a.Load<TT>(left, a0, k, depth);
            b.Load<TT>(right, b0, k, depth);
            Group.Barrier();
            sum = Panel.Multiply<TT>(sum, left, 0, right);
            Group.Barrier();
        }
        return sum;
    }

    /// <summary>sum + pᵀ·x: p a panel [depth][row] in shared memory, x its rows k0 … from <paramref name="offset"/> on.</summary>
    public static Results Spread<TT>(Results sum, ArrayView<float> p, ArrayView<float> right, Cells x, int offset, int k0,
        int depth, int stride, int cols) where TT : struct, ITile
    {
        for (int k = 0; k < 4 * TT.Side; k += Panel.Depth)
        {
            Panel.Load<TT>(right, x, offset, 0, cols, 1, k0 + k, depth, stride);
            Group.Barrier();
            sum = Panel.Multiply<TT>(sum, p, k, right);
            Group.Barrier();
        }
        return sum;
    }

    /// <summary>panel[col][row] = values, four columns Side apart.</summary>
    public static void PutTransposed<TT>(ArrayView<float> panel, int row, int col, Four values) where TT : struct, ITile
    {
        int width = 4 * TT.Side + 1;
        panel[col * width + row] = values.X;
        panel[(col + TT.Side) * width + row] = values.Y;
        panel[(col + 2 * TT.Side) * width + row] = values.Z;
        panel[(col + 3 * TT.Side) * width + row] = values.W;
    }

    /// <summary>panel[row][col] = values, four columns Side apart.</summary>
    public static void Put<TT>(ArrayView<float> panel, int row, int col, Four values) where TT : struct, ITile
    {
        int first = row * (4 * TT.Side + 1) + col;
        panel[first] = values.X;
        panel[first + TT.Side] = values.Y;
        panel[first + 2 * TT.Side] = values.Z;
        panel[first + 3 * TT.Side] = values.W;
    }

    /// <summary>Writes or adds four columns Side apart, from this thread's on, where they exist.</summary>
    public static void Store<TT>(Cells y, int at, int cols, Four values, int accumulate) where TT : struct, ITile
    {
        int tx = Group.IdxX % TT.Side;
        Store(y, at, tx, cols, values.X, accumulate);
        Store(y, at, tx + TT.Side, cols, values.Y, accumulate);
        Store(y, at, tx + 2 * TT.Side, cols, values.Z, accumulate);
        Store(y, at, tx + 3 * TT.Side, cols, values.W, accumulate);
    }

    private static void Store(Cells y, int at, int col, int cols, float value, int accumulate)
    {
        if (col < cols) y.Put(at + col, value, accumulate);
    }
}

/// <summary>bias[h, i, j] = table[index(i, j), h].</summary>
internal readonly struct SpreadTable(ArrayView<float> bias, ArrayView<float> table, int grid, int heads) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int n = Team.Index<TT>(), tokens = 1 + grid * grid;
        if (n >= bias.Length) return;
        int j = n % tokens, i = n / tokens % tokens, h = n / tokens / tokens, side = 2 * grid - 1;
        int index = side * side + (i == 0 && j == 0 ? 2 : i == 0 ? 0 : 1);
        if (i > 0 && j > 0)
            index = ((i - 1) / grid - (j - 1) / grid + grid - 1) * side + ((i - 1) % grid - (j - 1) % grid + grid - 1);
        bias[n] = table[index * heads + h];
    }
}

/// <summary>One thread is one entry of the table: it adds the places that read it, in raster order.</summary>
internal readonly struct GatherTable(ArrayView<float> dtable, ArrayView<float> dbias, int grid, int heads, int accumulate) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int n = Team.Index<TT>(), tokens = 1 + grid * grid, side = 2 * grid - 1;
        if (n >= dtable.Length) return;
        int index = n / heads, first = n % heads * tokens * tokens, special = index - side * side;
        float sum = 0f;
        if (special == 0)
            for (int j = 1; j < tokens; j++) sum += dbias[first + j];
        if (special == 1)
            for (int i = 1; i < tokens; i++) sum += dbias[first + i * tokens];
        if (special == 2) sum = dbias[first];
        if (special < 0)
        {
            int down = index / side - (grid - 1), right = index % side - (grid - 1);
            for (int i = 0; i < grid * grid; i++)
            {
                int row = i / grid - down, col = i % grid - right;
                if (row >= 0 && row < grid && col >= 0 && col < grid) sum += dbias[first + (1 + i) * tokens + 1 + row * grid + col];
            }
        }
        dtable[n] = accumulate != 0 ? dtable[n] + sum : sum;
    }
}
