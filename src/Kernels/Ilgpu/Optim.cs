using System.Runtime.InteropServices;
using ILGPU;

namespace MimEngine.Kernels.Ilgpu;

/// <summary>
/// A segment as kernels read it. Gradient is the first element of its gradient; First counts elements, FirstChunk chunks, of all segments before
/// it in the list.
/// </summary>
internal struct SegmentRow
{
    public long Gradient;
    public int Offset, Length, First, FirstChunk, Flags;
    public float A, B, C;
}

internal sealed partial class IlgpuBackend
{
    private const int TableSlot = 2, RatioSlot = 3;
    private SegmentRow[] _table = [];

    public override void SquaredNorms(Tensor norms, Tensor gradient, ReadOnlySpan<UpdateSegment> segments)
    {
        SegmentTable table = Table(segments, out int chunks, static (ref _, _, _, _) => { });
        SegmentSums(table, chunks, F(norms), None, Wide(gradient), None, 0, None, 0);
    }

    public override void ClipScales(Tensor scales, Tensor total, Tensor norms, float max, bool perSegment)
        => Launch(1, new ClipEach(F(scales), F(total), F(norms), max, Flag(perSegment)));

    public override void AdamWStep(Tensor p, Tensor m, Tensor v, Tensor? copy, Tensor gradient, Tensor? scales,
        ReadOnlySpan<UpdateSegment> segments, float beta1, float beta2, float eps)
    {
        // The decimal that was written, not the float nearest to it: see the contract.
        (double first, double second) = ((double)(decimal)beta1, (double)(decimal)beta2);
        SegmentTable table = Table(segments, out int chunks, static (ref row, s, first, second) =>
        {
            row.A = (float)(1 - (double)s.LearningRate * s.WeightDecay);
            row.B = (float)(s.LearningRate / (1 - Math.Pow(first, s.Step)));
            row.C = (float)(1 / Math.Sqrt(1 - Math.Pow(second, s.Step)));
        }, first, second);
        if (TryAdamW(p, m, v, copy, gradient, scales, table, chunks, AtFours(segments), first, second, eps)) return;
        Launch(chunks, new AdamWEach(F(p), F(m), F(v), N(copy), Flag(copy), Wide(gradient), F(scales), Flag(scales), table, (float)first,
            (float)(1 - first), (float)second, (float)(1 - second), eps));
    }

    public override void LarsStep(Tensor p, Tensor mu, Tensor? copy, Tensor gradient, Tensor? scales,
        ReadOnlySpan<UpdateSegment> segments, float momentum, float trust)
    {
        SegmentTable table = Table(segments, out int chunks, static (ref row, s, _, _) =>
        {
            (row.A, row.B) = (s.LearningRate, s.Trust ? s.WeightDecay : 0f);
            row.Flags = s.Trust ? 1 : 0;
        });
        ArrayView<float> norms = Scratch<float>(RatioSlot, 2L * segments.Length);
        ArrayView<float> ofP = norms.SubView(0, segments.Length), ofG = norms.SubView(segments.Length, segments.Length);
        SegmentSums(table, chunks, ofG, ofP, Wide(gradient), F(scales), Flag(scales), F(p), 1);
        LaunchEach(table.Elements, new LarsEach(F(p), F(mu), N(copy), Flag(copy), Wide(gradient), F(scales), Flag(scales), table, ofP, ofG, momentum, trust));
    }

    public override void SgdStep(Tensor p, Tensor mu, Tensor? copy, Tensor gradient, Tensor? scales,
        ReadOnlySpan<UpdateSegment> segments, float momentum)
    {
        SegmentTable table = Table(segments, out _, static (ref row, s, _, _) =>
        {
            (row.A, row.B) = (s.LearningRate, s.WeightDecay);
            row.Flags = s.Step == 1 ? 1 : 0;
        });
        LaunchEach(table.Elements, new SgdEach(F(p), F(mu), N(copy), Flag(copy), Wide(gradient), F(scales), Flag(scales), table, momentum));
    }

    /// <summary>Static, with what it needs as arguments: a closure would be garbage at every step.</summary>
    private delegate void FillRow(ref SegmentRow row, UpdateSegment segment, double first, double second);

    private static bool AtFours(ReadOnlySpan<UpdateSegment> segments)
    {
        foreach (UpdateSegment s in segments)
            if (s.Offset % 4 != 0 || s.GradientOffset % 4 != 0) return false;
        return true;
    }

    /// <summary>Copies the list of segments to the device.</summary>
    private SegmentTable Table(ReadOnlySpan<UpdateSegment> segments, out int chunks, FillRow fill, double first = 0, double second = 0)
    {
        if (_table.Length < segments.Length) _table = new SegmentRow[segments.Length];
        int before = 0;
        chunks = 0;
        for (int i = 0; i < segments.Length; i++)
        {
            ref SegmentRow row = ref _table[i];
            row = new SegmentRow
            {
                Gradient = segments[i].GradientOffset,
                Offset = checked((int)segments[i].Offset),
                Length = segments[i].Length,
                First = before,
                FirstChunk = chunks,
            };
            fill(ref row, segments[i], first, second);
            before += segments[i].Length;
            chunks += Blocks(segments[i].Length, SegmentTable.Chunk);
        }
        ArrayView<SegmentRow> rows = Scratch<SegmentRow>(TableSlot, segments.Length);
        ReadOnlySpan<byte> bytes = MemoryMarshal.AsBytes(_table.AsSpan(0, segments.Length));
        Upload(new Tensor(_scratch[TableSlot]!, 0, new Shape(bytes.Length), DType.U8), bytes);
        return new SegmentTable(rows, segments.Length, before);
    }

    /// <summary>Σ (scale·g + decay·p)² and Σ p² of every segment: chunks first, then the chunks of each.</summary>
    private void SegmentSums(SegmentTable table, int chunks, ArrayView<float> ofG, ArrayView<float> ofP, ArrayView<float> g,
        ArrayView<float> scales, int hasScales, ArrayView<float> p, int hasP)
    {
        ArrayView<float> partial = Scratch<float>(PartialSlot, 2L * chunks);
        Launch(chunks, new SegmentChunks(partial, table, chunks, g, scales, hasScales, p, hasP));
        Launch(table.Count, new SegmentTotals(ofG, ofP, partial, table, chunks, hasP));
    }
}

/// <summary>The list of segments on the device.</summary>
internal readonly struct SegmentTable(ArrayView<SegmentRow> rows, int count, int elements)
{
    /// <summary>Elements of one segment that one group sums.</summary>
    public const int Chunk = Ptx.ElementKernels.Chunk;

    public readonly ArrayView<SegmentRow> Rows = rows;
    public readonly int Count = count, Elements = elements;

    /// <summary>The segment that holds element i of the list.</summary>
    public int OfElement(int i)
    {
        int low = 0, high = Count - 1;
        while (low < high)
        {
            int middle = (low + high + 1) / 2;
            if (Rows[middle].First <= i) low = middle;
            else high = middle - 1;
        }
        return low;
    }

    /// <summary>The segment that holds chunk i of the list.</summary>
    public int OfChunk(int i)
    {
        int low = 0, high = Count - 1;
        while (low < high)
        {
            int middle = (low + high + 1) / 2;
            if (Rows[middle].FirstChunk <= i) low = middle;
            else high = middle - 1;
        }
        return low;
    }
}

/// <summary>One group is one chunk of a segment.</summary>
internal readonly struct SegmentChunks(ArrayView<float> partial, SegmentTable table, int chunks, ArrayView<float> g, ArrayView<float> scales,
    int hasScales, ArrayView<float> p, int hasP) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>());
        int s = table.OfChunk(Grid.IdxX);
        SegmentRow row = table.Rows[s];
        int start = (Grid.IdxX - row.FirstChunk) * SegmentTable.Chunk;
        int end = start + SegmentTable.Chunk < row.Length ? start + SegmentTable.Chunk : row.Length;
        float scale = 1f, ofG = 0f, ofP = 0f;
        if (hasScales != 0) scale = scales[s];
        for (int i = start + Group.IdxX; i < end; i += TT.Side * TT.Side)
        {
            float x = g[row.Gradient + i] * scale, y = 0f;
            if (hasP != 0) y = p[row.Offset + i];
            x += row.B * y;
            ofG += x * x;
            ofP += y * y;
        }
        Pair sums = Team.Sum<TT>(room, ofG, ofP);
        if (Group.IdxX != 0) return;
        partial[Grid.IdxX] = sums.A;
        partial[chunks + Grid.IdxX] = sums.B;
    }
}

/// <summary>One group is one segment: its chunks, every so many a thread, then the threads. A matrix has hundreds, too many to wait for one by one.</summary>
internal readonly struct SegmentTotals(ArrayView<float> ofG, ArrayView<float> ofP, ArrayView<float> partial, SegmentTable table, int chunks,
    int hasP) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>());
        SegmentRow row = table.Rows[Grid.IdxX];
        int count = (row.Length + SegmentTable.Chunk - 1) / SegmentTable.Chunk;
        float g = 0f, p = 0f;
        for (int i = row.FirstChunk + Group.IdxX; i < row.FirstChunk + count; i += TT.Side * TT.Side)
        {
            g += partial[i];
            p += partial[chunks + i];
        }
        Pair sums = Team.Sum<TT>(room, g, p);
        if (Group.IdxX != 0) return;
        ofG[Grid.IdxX] = sums.A;
        if (hasP != 0) ofP[Grid.IdxX] = sums.B;
    }
}

/// <summary>One group: the global norm in order, then every scale.</summary>
internal readonly struct ClipEach(ArrayView<float> scales, ArrayView<float> total, ArrayView<float> norms, float max, int perSegment) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>());
        float sum = 0f;
        for (int i = Group.IdxX; i < norms.Length; i += TT.Side * TT.Side) sum += norms[i];
        float norm = MathF.Sqrt(Team.Sum<TT>(room, sum, 0f).A);
        if (Group.IdxX == 0) total[0] = norm;
        for (int i = Group.IdxX; i < scales.Length; i += TT.Side * TT.Side)
        {
            float own = norm;
            if (perSegment != 0) own = MathF.Sqrt(norms[i]);
            float scale = max / (own + 1e-6f);
            // A NaN is kept, so that a broken gradient is seen downstream.
            scales[i] = max <= 0f || scale > 1f ? 1f : scale;
        }
    }
}

/// <summary>One group is one chunk of a segment. Rows hold 1 − lr·decay, lr/(1 − β1^t) and 1/√(1 − β2^t).</summary>
internal readonly struct AdamWEach(ArrayView<float> p, ArrayView<float> m, ArrayView<float> v, Cells copy, int hasCopy, ArrayView<float> gradient,
    ArrayView<float> scales, int hasScales, SegmentTable table, float beta1, float rest1, float beta2, float rest2, float eps) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int s = table.OfChunk(Grid.IdxX);
        SegmentRow row = table.Rows[s];
        int start = (Grid.IdxX - row.FirstChunk) * SegmentTable.Chunk;
        int end = start + SegmentTable.Chunk < row.Length ? start + SegmentTable.Chunk : row.Length;
        float scale = 1f;
        if (hasScales != 0) scale = scales[s];
        for (int n = start + Group.IdxX; n < end; n += TT.Side * TT.Side)
        {
            int i = row.Offset + n;
            float g = gradient[row.Gradient + n] * scale;
            float first = beta1 * m[i] + rest1 * g, second = beta2 * v[i] + rest2 * (g * g);
            m[i] = first;
            v[i] = second;
            float updated = p[i] * row.A - row.B * first / (MathF.Sqrt(second) * row.C + eps);
            p[i] = updated;
            if (hasCopy != 0) copy.Put(i, updated);
        }
    }
}

/// <summary>Rows hold lr and decay; flag 1 = with the trust ratio. Norms are squared.</summary>
internal readonly struct LarsEach(ArrayView<float> p, ArrayView<float> mu, Cells copy, int hasCopy, ArrayView<float> gradient, ArrayView<float> scales, int hasScales,
    SegmentTable table, ArrayView<float> ofP, ArrayView<float> ofG, float momentum, float trust) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int n = Team.Index<TT>();
        if (n >= table.Elements) return;
        int s = table.OfElement(n);
        SegmentRow row = table.Rows[s];
        int i = row.Offset + n - row.First;
        float g = gradient[row.Gradient + n - row.First];
        if (hasScales != 0) g *= scales[s];
        g += row.B * p[i];
        if (row.Flags != 0 && ofP[s] > 0f && ofG[s] > 0f) g *= trust * MathF.Sqrt(ofP[s]) / MathF.Sqrt(ofG[s]);
        float momentumNow = momentum * mu[i] + g;
        mu[i] = momentumNow;
        float updated = p[i] - row.A * momentumNow;
        p[i] = updated;
        if (hasCopy != 0) copy.Put(i, updated);
    }
}

/// <summary>Rows hold lr and decay; flag 1 = the first step, which has no momentum yet.</summary>
internal readonly struct SgdEach(ArrayView<float> p, ArrayView<float> mu, Cells copy, int hasCopy, ArrayView<float> gradient, ArrayView<float> scales, int hasScales,
    SegmentTable table, float momentum) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int n = Team.Index<TT>();
        if (n >= table.Elements) return;
        int s = table.OfElement(n);
        SegmentRow row = table.Rows[s];
        int i = row.Offset + n - row.First;
        float g = gradient[row.Gradient + n - row.First];
        if (hasScales != 0) g *= scales[s];
        g += row.B * p[i];
        if (row.Flags == 0) g += momentum * mu[i];
        mu[i] = g;
        float updated = p[i] - row.A * g;
        p[i] = updated;
        if (hasCopy != 0) copy.Put(i, updated);
    }
}
