using System.Runtime.CompilerServices;

namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    private const int ChunkSlot = 0;     // the chunk table of an optimiser call
    private const int PartialSlot = 1;   // partial sums of chunks

    /// <summary>A run of one segment: what one thread does at a time.</summary>
    private readonly record struct SegmentChunk(int Segment, int Start);

    /// <summary>Cuts every segment into runs of <see cref="ElementGrain"/> elements. The table lies in scratch.</summary>
    private SegmentChunk* ChunkTable(ReadOnlySpan<UpdateSegment> segments, out int chunks)
    {
        chunks = 0;
        foreach (ref readonly UpdateSegment s in segments) chunks += Rows.Chunks(s.Length, ElementGrain);
        var table = (SegmentChunk*)Scratch(ChunkSlot, (long)chunks * sizeof(SegmentChunk));
        int at = 0;
        for (int i = 0; i < segments.Length; i++)
            for (int start = 0; start < segments[i].Length; start += ElementGrain) table[at++] = new SegmentChunk(i, start);
        return table;
    }

    public override void SquaredNorms(Tensor norms, Tensor gradient, ReadOnlySpan<UpdateSegment> segments)
    {
        SegmentChunk* table = ChunkTable(segments, out int chunks);
        var partial = (double*)Scratch(PartialSlot, (long)chunks * sizeof(double));
        fixed (UpdateSegment* s = segments)
        {
            switch (Level)
            {
                case SimdLevel.Vector512: _rows.For(chunks, 1, new SquareChunks<Lanes16>(partial, gradient.F32, s, table)); break;
                case SimdLevel.Vector256: _rows.For(chunks, 1, new SquareChunks<Lanes8>(partial, gradient.F32, s, table)); break;
                default: _rows.For(chunks, 1, new SquareChunks<Lanes1>(partial, gradient.F32, s, table)); break;
            }
        }
        float* y = norms.F32;
        int at = 0;
        for (int i = 0; i < segments.Length; i++)
        {
            double sum = 0;
            for (int start = 0; start < segments[i].Length; start += ElementGrain) sum += partial[at++];
            y[i] = (float)sum;
        }
    }

    /// <summary>One row is one chunk: Σ x². Float sums of 1,024 elements, then double.</summary>
    private readonly struct SquareChunks<TV>(double* partial, float* x, UpdateSegment* segments, SegmentChunk* table)
        : IRowKernel where TV : struct, ILanes<TV>
    {
        private const int Block = 1024;

        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (int row = first; row < last; row++)
            {
                UpdateSegment s = segments[table[row].Segment];
                int start = table[row].Start, end = Math.Min(s.Length, start + ElementGrain);
                double sum = 0;
                for (int i = start; i < end; i += Block) sum += Lines<TV>.SumSquares(x + s.GradientOffset + i, Math.Min(Block, end - i));
                partial[row] = sum;
            }
        }
    }

    public override void ClipScales(Tensor scales, Tensor total, Tensor norms, float max, bool perSegment)
    {
        Span<float> y = scales.Host<float>(), squares = norms.Host<float>();
        double sum = 0;
        foreach (float square in squares) sum += square;
        float norm = (float)Math.Sqrt(sum);
        total.F32[0] = norm;
        for (int i = 0; i < y.Length; i++)   // MathF.Min keeps a NaN, so that a broken gradient is seen downstream
            y[i] = max <= 0f ? 1f : MathF.Min(1f, max / ((perSegment ? MathF.Sqrt(squares[i]) : norm) + 1e-6f));
    }

    public override void AdamWStep(Tensor p, Tensor m, Tensor v, Tensor? copy, Tensor gradient, Tensor? scales,
        ReadOnlySpan<UpdateSegment> segments, float beta1, float beta2, float eps)
    {
        SegmentChunk* table = ChunkTable(segments, out int chunks);
        float* pp = p.F32, pm = m.F32, pv = v.F32, pg = gradient.F32, ps = scales is { } q ? q.F32 : null;
        ushort* pc = copy is { } c ? c.BF16 : null;
        double b1 = Written(beta1), b2 = Written(beta2);
        fixed (UpdateSegment* s = segments)
        {
            switch (Level)
            {
                case SimdLevel.Vector512:
                    _rows.For(chunks, 1, new AdamWChunks<Lanes16>(pp, pm, pv, pc, pg, ps, s, table, b1, b2, eps));
                    break;
                case SimdLevel.Vector256:
                    _rows.For(chunks, 1, new AdamWChunks<Lanes8>(pp, pm, pv, pc, pg, ps, s, table, b1, b2, eps));
                    break;
                default:
                    _rows.For(chunks, 1, new AdamWChunks<Lanes1>(pp, pm, pv, pc, pg, ps, s, table, b1, b2, eps));
                    break;
            }
        }
    }

    /// <summary>
    /// The double a person meant by a float: 0.999f is 0.99900001287, and 1 − that is off by 1.3e-5, where the reference uses doubles.
    /// Decimal keeps the seven digits that were written.
    /// </summary>
    private static double Written(float value) => (double)(decimal)value;

    private readonly struct AdamWChunks<TV>(float* p, float* m, float* v, ushort* copy, float* gradient, float* scales, UpdateSegment* segments,
        SegmentChunk* table, double beta1, double beta2, float eps) : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (int row = first; row < last; row++)
            {
                int segment = table[row].Segment;
                UpdateSegment s = segments[segment];
                long at = s.Offset + table[row].Start, slope = s.GradientOffset + table[row].Start;
                var numbers = new AdamWNumbers(scales == null ? 1f : scales[segment], (float)(1 - (double)s.LearningRate * s.WeightDecay),
                    (float)(-s.LearningRate / (1 - Math.Pow(beta1, s.Step))), (float)(1 / Math.Sqrt(1 - Math.Pow(beta2, s.Step))),
                    (float)beta1, (float)(1 - beta1), (float)beta2, (float)(1 - beta2), eps);
                Line(p + at, m + at, v + at, gradient + slope, copy == null ? null : copy + at, Math.Min(ElementGrain, s.Length - table[row].Start), numbers);
            }
        }

        // Its own method, without a call in it: a vector that is live across Math.Pow would lie on the stack, and be read again in every turn.
        [MethodImpl(MethodImplOptions.NoInlining)]
        private static void Line(float* p, float* m, float* v, float* gradient, ushort* copy, int n, in AdamWNumbers by)
        {
            TV scale = TV.All(by.Scale), keep = TV.All(by.Keep), step = TV.All(by.Step), unbias = TV.All(by.Unbias), e = TV.All(by.Eps);
            TV b1 = TV.All(by.Beta1), rest1 = TV.All(by.Rest1), b2 = TV.All(by.Beta2), rest2 = TV.All(by.Rest2);
            int i = 0;
            for (; i <= n - TV.Count; i += TV.Count)
            {
                Lines<TV>.Ask(m + i + Lines<TV>.Ahead);
                Lines<TV>.Ask(v + i + Lines<TV>.Ahead);
                Lines<TV>.Ask(p + i + Lines<TV>.Ahead);
                Lines<TV>.Ask(gradient + i + Lines<TV>.Ahead);
                TV mean = TV.Load(m + i), square = TV.Load(v + i), own = TV.Load(p + i);
                TV update = Update(scale * TV.Load(gradient + i), ref mean, ref square, b1, rest1, b2, rest2, step, unbias, e);
                mean.Store(m + i);
                square.Store(v + i);
                TV now = TV.MulAdd(keep, own, update);
                now.Store(p + i);
                if (copy != null) now.Store(copy + i);
            }
            int left = n - i;
            if (left == 0) return;
            TV lastMean = TV.LoadFirst(m + i, left), lastSquare = TV.LoadFirst(v + i, left);
            TV lastUpdate = Update(scale * TV.LoadFirst(gradient + i, left), ref lastMean, ref lastSquare, b1, rest1, b2, rest2, step, unbias, e);
            lastMean.StoreFirst(m + i, left);
            lastSquare.StoreFirst(v + i, left);
            TV lastNow = TV.MulAdd(keep, TV.LoadFirst(p + i, left), lastUpdate);
            lastNow.StoreFirst(p + i, left);
            if (copy != null) lastNow.StoreFirst(copy + i, left);
        }

        /// <summary>Moves both moments on; returns what is added to the kept parameter.</summary>
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static TV Update(TV g, ref TV mean, ref TV square, TV b1, TV rest1, TV b2, TV rest2, TV step, TV unbias, TV eps)
        {
            mean = TV.MulAdd(b1, mean, rest1 * g);
            square = TV.MulAdd(b2, square, rest2 * g * g);
            return step * mean / TV.MulAdd(TV.Sqrt(square), unbias, eps);
        }
    }

    /// <summary>What an element's update is computed with: numbers of its segment and step.</summary>
    private readonly record struct AdamWNumbers(float Scale, float Keep, float Step, float Unbias, float Beta1, float Rest1, float Beta2, float Rest2,
        float Eps);

    public override void LarsStep(Tensor p, Tensor mu, Tensor? copy, Tensor gradient, Tensor? scales,
        ReadOnlySpan<UpdateSegment> segments, float momentum, float trust)
    {
        ushort* pc = copy is { } c ? c.BF16 : null;
        switch (Level)
        {
            case SimdLevel.Vector512: Lars<Lanes16>(p.F32, mu.F32, pc, gradient.F32, scales, segments, momentum, trust); break;
            case SimdLevel.Vector256: Lars<Lanes8>(p.F32, mu.F32, pc, gradient.F32, scales, segments, momentum, trust); break;
            default: Lars<Lanes1>(p.F32, mu.F32, pc, gradient.F32, scales, segments, momentum, trust); break;
        }
    }

    private void Lars<TV>(float* p, float* mu, ushort* copy, float* gradient, Tensor? scales, ReadOnlySpan<UpdateSegment> segments,
        float momentum, float trust) where TV : struct, ILanes<TV>
    {
        SegmentChunk* table = ChunkTable(segments, out int chunks);
        float* ps = scales is { } q ? q.F32 : null;
        var partial = (double*)Scratch(PartialSlot, (long)chunks * 2 * sizeof(double) + segments.Length * sizeof(float));
        var ratios = (float*)(partial + 2 * chunks);
        fixed (UpdateSegment* s = segments)
        {
            _rows.For(chunks, 1, new LarsNormChunks<TV>(partial, p, gradient, ps, s, table));
            int at = 0;
            for (int i = 0; i < segments.Length; i++)
            {
                double own = 0, slope = 0;
                for (int start = 0; start < s[i].Length; start += ElementGrain, at++)
                {
                    own += partial[2 * at];
                    slope += partial[2 * at + 1];
                }
                ratios[i] = s[i].Trust && own > 0 && slope > 0 ? (float)(trust * Math.Sqrt(own) / Math.Sqrt(slope)) : 1f;
            }
            _rows.For(chunks, 1, new MomentumChunks<TV>(p, mu, copy, gradient, ps, ratios, s, table, momentum, lars: true));
        }
    }

    /// <summary>One row is one chunk: Σ p² and Σ (scale·g + decay·p)², left out where a segment has no trust ratio.</summary>
    private readonly struct LarsNormChunks<TV>(double* partial, float* p, float* gradient, float* scales, UpdateSegment* segments,
        SegmentChunk* table) : IRowKernel where TV : struct, ILanes<TV>
    {
        private const int Block = 1024;

        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            float* slope = stackalloc float[Block];
            for (int row = first; row < last; row++)
            {
                int segment = table[row].Segment;
                UpdateSegment s = segments[segment];
                int start = table[row].Start, end = s.Trust ? Math.Min(s.Length, start + ElementGrain) : start;
                float scale = scales == null ? 1f : scales[segment];
                double own = 0, sum = 0;
                for (int i = start; i < end; i += Block)
                {
                    int n = Math.Min(Block, end - i);
                    float* pp = p + s.Offset + i;
                    Lines<TV>.Scale(slope, gradient + s.GradientOffset + i, scale, accumulate: false, n);
                    Lines<TV>.Scale(slope, pp, s.WeightDecay, accumulate: true, n);
                    own += Lines<TV>.SumSquares(pp, n);
                    sum += Lines<TV>.SumSquares(slope, n);
                }
                partial[2 * row] = own;
                partial[2 * row + 1] = sum;
            }
        }
    }

    public override void SgdStep(Tensor p, Tensor mu, Tensor? copy, Tensor gradient, Tensor? scales,
        ReadOnlySpan<UpdateSegment> segments, float momentum)
    {
        SegmentChunk* table = ChunkTable(segments, out int chunks);
        float* pp = p.F32, pm = mu.F32, pg = gradient.F32, ps = scales is { } q ? q.F32 : null;
        ushort* pc = copy is { } c ? c.BF16 : null;
        fixed (UpdateSegment* s = segments)
        {
            switch (Level)
            {
                case SimdLevel.Vector512:
                    _rows.For(chunks, 1, new MomentumChunks<Lanes16>(pp, pm, pc, pg, ps, null, s, table, momentum, lars: false));
                    break;
                case SimdLevel.Vector256:
                    _rows.For(chunks, 1, new MomentumChunks<Lanes8>(pp, pm, pc, pg, ps, null, s, table, momentum, lars: false));
                    break;
                default:
                    _rows.For(chunks, 1, new MomentumChunks<Lanes1>(pp, pm, pc, pg, ps, null, s, table, momentum, lars: false));
                    break;
            }
        }
    }

    /// <summary>
    /// One row is one chunk: g ← ratio·(scale·g + decay·p); mu ← momentum·mu + g; p ← p − lr·mu. SGD's first mu is g; LARS starts from
    /// a zeroed mu and leaves decay out where a segment has no trust ratio.
    /// </summary>
    private readonly struct MomentumChunks<TV>(float* p, float* mu, ushort* copy, float* gradient, float* scales, float* ratios, UpdateSegment* segments,
        SegmentChunk* table, float momentum, bool lars) : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            TV friction = TV.All(momentum);
            for (int row = first; row < last; row++)
            {
                int segment = table[row].Segment;
                UpdateSegment s = segments[segment];
                long at = s.Offset + table[row].Start;
                int n = Math.Min(ElementGrain, s.Length - table[row].Start);
                bool fresh = !lars && s.Step == 1;
                TV scale = TV.All(scales == null ? 1f : scales[segment]), ratio = TV.All(ratios == null ? 1f : ratios[segment]);
                TV decay = TV.All(lars && !s.Trust ? 0f : s.WeightDecay), step = TV.All(-s.LearningRate);
                float* pp = p + at, pm = mu + at, pg = gradient + s.GradientOffset + table[row].Start;
                for (int i = 0; i < n; i += TV.Count)
                {
                    int left = n - i;
                    TV own = Lines<TV>.Load(pp + i, left);
                    TV g = ratio * TV.MulAdd(decay, own, scale * Lines<TV>.Load(pg + i, left));
                    if (!fresh) g = TV.MulAdd(friction, Lines<TV>.Load(pm + i, left), g);
                    Lines<TV>.Store(g, pm + i, left);
                    TV now = TV.MulAdd(step, g, own);
                    Lines<TV>.Store(now, pp + i, left);
                    if (copy != null) Lines<TV>.Store<Bf16Element>(now, copy, (nint)at + i, left);
                }
            }
        }
    }
}
