using System.Runtime.CompilerServices;

namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    private const int StripColumns = 256;   // columns of one chunk of a sum over rows: 1 kB of each row, partial sums in the first cache

    public override void L2NormalizeForward(Tensor y, Tensor norms, Tensor x, Tensor? gain, float eps)
    {
        int rows = (int)norms.Count, cols = x.Shape.Cols, grain = RowGrain(cols);
        float* py = y.F32, pn = norms.F32, px = x.F32, pg = gain is { } g ? g.F32 : null;
        switch (Level)
        {
            case SimdLevel.Vector512: _rows.For(rows, grain, new L2NormalizeRows<Lanes16>(py, pn, px, pg, cols, eps)); break;
            case SimdLevel.Vector256: _rows.For(rows, grain, new L2NormalizeRows<Lanes8>(py, pn, px, pg, cols, eps)); break;
            default: _rows.For(rows, grain, new L2NormalizeRows<Lanes1>(py, pn, px, pg, cols, eps)); break;
        }
    }

    private readonly struct L2NormalizeRows<TV>(float* y, float* norms, float* x, float* gain, int cols, float eps) : IRowKernel
        where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (int row = first; row < last; row++)
            {
                float* px = x + (long)row * cols;
                float norm = MathF.Max(MathF.Sqrt(Lines<TV>.SumSquares(px, cols)), eps);
                norms[row] = norm;
                Lines<TV>.Scale(y + (long)row * cols, px, (gain == null ? 1f : gain[row]) / norm, accumulate: false, cols);
            }
        }
    }

    public override void L2NormalizeBackward(Grad dx, Grad dgain, Tensor dy, Tensor x, Tensor norms, Tensor? gain, float eps)
    {
        int rows = (int)norms.Count, cols = x.Shape.Cols, grain = RowGrain(cols);
        float* to = dx.Wanted ? dx.Into.F32 : null, dg = dgain.Wanted ? dgain.Into.F32 : null, pg = gain is { } g ? g.F32 : null;
        (bool a, bool b) = (dx.Accumulate, dgain.Accumulate);
        switch (Level)
        {
            case SimdLevel.Vector512:
                _rows.For(rows, grain, new L2NormalizeBackwardRows<Lanes16>(to, a, dg, b, dy.F32, x.F32, norms.F32, pg, cols, eps));
                break;
            case SimdLevel.Vector256:
                _rows.For(rows, grain, new L2NormalizeBackwardRows<Lanes8>(to, a, dg, b, dy.F32, x.F32, norms.F32, pg, cols, eps));
                break;
            default:
                _rows.For(rows, grain, new L2NormalizeBackwardRows<Lanes1>(to, a, dg, b, dy.F32, x.F32, norms.F32, pg, cols, eps));
                break;
        }
    }

    private readonly struct L2NormalizeBackwardRows<TV>(float* dx, bool accumulate, float* dgain, bool accumulateGain, float* dy, float* x,
        float* norms, float* gain, int cols, float eps) : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (int row = first; row < last; row++)
            {
                long at = (long)row * cols;
                float norm = norms[row], dot = Lines<TV>.Dot(dy + at, x + at, cols) / norm;   // Σ dy·u
                if (dgain != null) dgain[row] = accumulateGain ? dgain[row] + dot : dot;
                if (dx == null) continue;
                float scale = (gain == null ? 1f : gain[row]) / norm;
                Lines<TV>.Scale(dx + at, dy + at, scale, accumulate, cols);
                if (norm > eps) Lines<TV>.Scale(dx + at, x + at, -scale * dot / norm, accumulate: true, cols);
            }
        }
    }

    public override void ScaleShiftForward(Tensor y, Tensor x, Tensor gamma, Tensor beta)
    {
        int rows = x.Shape.Rows, cols = x.Shape.Cols, grain = RowGrain(cols);
        switch (Level)
        {
            case SimdLevel.Vector512: _rows.For(rows, grain, new ScaleShiftRows<Lanes16>(y.F32, x.F32, gamma.F32, beta.F32, cols)); break;
            case SimdLevel.Vector256: _rows.For(rows, grain, new ScaleShiftRows<Lanes8>(y.F32, x.F32, gamma.F32, beta.F32, cols)); break;
            default: _rows.For(rows, grain, new ScaleShiftRows<Lanes1>(y.F32, x.F32, gamma.F32, beta.F32, cols)); break;
        }
    }

    private readonly struct ScaleShiftRows<TV>(float* y, float* x, float* gamma, float* beta, int cols) : IRowKernel
        where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (int row = first; row < last; row++)
            {
                float* px = x + (long)row * cols, py = y + (long)row * cols;
                for (int i = 0; i < cols; i += TV.Count)
                {
                    int n = cols - i;
                    Lines<TV>.Store(TV.MulAdd(Lines<TV>.Load(px + i, n), Lines<TV>.Load(gamma + i, n), Lines<TV>.Load(beta + i, n)), py + i, n);
                }
            }
        }
    }

    public override void ScaleShiftBackward(Grad dx, Grad dgamma, Grad dbeta, Tensor dy, Tensor x, Tensor gamma)
    {
        int rows = x.Shape.Rows, cols = x.Shape.Cols;
        switch (Level)
        {
            case SimdLevel.Vector512:
                _rows.For(cols, StripColumns, new ScaleShiftBackwardCols<Lanes16>(dx, dgamma, dbeta, dy.F32, x.F32, gamma.F32, rows, cols));
                break;
            case SimdLevel.Vector256:
                _rows.For(cols, StripColumns, new ScaleShiftBackwardCols<Lanes8>(dx, dgamma, dbeta, dy.F32, x.F32, gamma.F32, rows, cols));
                break;
            default:
                _rows.For(cols, StripColumns, new ScaleShiftBackwardCols<Lanes1>(dx, dgamma, dbeta, dy.F32, x.F32, gamma.F32, rows, cols));
                break;
        }
    }

    private readonly struct ScaleShiftBackwardCols<TV>(Grad dx, Grad dgamma, Grad dbeta, float* dy, float* x, float* gamma, int rows, int cols)
        : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            float* to = dx.Wanted ? dx.Into.F32 : null;
            for (int c = first; c < last; c += TV.Count)
            {
                int n = last - c;
                TV g = Lines<TV>.Load(gamma + c, n), sumG = TV.Zero, sumB = TV.Zero;
                for (int block = 0; block < rows; block += SumRows)
                {
                    TV partG = TV.Zero, partB = TV.Zero;
                    for (int row = block; row < Math.Min(rows, block + SumRows); row++)
                    {
                        long at = (long)row * cols + c;
                        TV d = Lines<TV>.Load(dy + at, n);
                        partG = TV.MulAdd(d, Lines<TV>.Load(x + at, n), partG);
                        partB += d;
                        if (to == null) continue;
                        TV slope = d * g;
                        Lines<TV>.Store(dx.Accumulate ? slope + Lines<TV>.Load(to + at, n) : slope, to + at, n);
                    }
                    sumG += partG;
                    sumB += partB;
                }
                Put(dgamma, sumG, c, n);
                Put(dbeta, sumB, c, n);
            }
        }

        private static void Put(Grad g, TV sum, int c, int n)
        {
            if (!g.Wanted) return;
            float* to = g.Into.F32 + c;
            Lines<TV>.Store(g.Accumulate ? sum + Lines<TV>.Load(to, n) : sum, to, n);
        }
    }

    public override void TeacherTargets(Tensor targets, Tensor entropy, Tensor logits, Tensor center, Tensor? weights, float temperature)
    {
        int rows = logits.Shape.Rows, cols = logits.Shape.Cols, grain = RowGrain(cols), chunks = Rows.Chunks(rows, grain);
        var partial = (double*)Scratch(PartialSlot, (long)chunks * sizeof(double));
        float* w = weights is { } given ? given.F32 : null, to = targets.F32, z = logits.F32, c = center.F32;
        float sharp = 1f / temperature, even = 1f / rows;
        switch (Level)
        {
            case SimdLevel.Vector512: _rows.For(rows, grain, new TeacherRows<Lanes16>(partial, to, z, c, w, cols, sharp, even)); break;
            case SimdLevel.Vector256: _rows.For(rows, grain, new TeacherRows<Lanes8>(partial, to, z, c, w, cols, sharp, even)); break;
            default: _rows.For(rows, grain, new TeacherRows<Lanes1>(partial, to, z, c, w, cols, sharp, even)); break;
        }
        double sum = 0;
        for (int i = 0; i < chunks; i++) sum += partial[i];
        entropy.F32[0] = (float)sum;
    }

    private readonly struct TeacherRows<TV>(double* partial, float* targets, float* logits, float* center, float* weights, int cols, float sharp,
        float even) : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            double total = 0;
            for (int row = first; row < last; row++)
            {
                float weight = weights == null ? even : weights[row];
                if (weight == 0f) continue;
                float* z = logits + (long)row * cols, p = targets + (long)row * cols;
                TV s = TV.All(sharp), sum = TV.Zero, dot = TV.Zero;
                float max = Sharpened(p, z, s), rest = 0f, restDot = 0f;
                TV m = TV.All(max);
                int i = 0;
                for (; i <= cols - TV.Count; i += TV.Count)
                {
                    TV x = TV.Load(p + i) - m, e = VectorMath.ExpWithin(TV.Max(TV.All(-87f), x));
                    e.Store(p + i);
                    sum += e;
                    dot = TV.MulAdd(e, x, dot);
                }
                for (; i < cols; i++)
                {
                    float x = p[i] - max, e = MathF.Exp(MathF.Max(-87f, x));
                    p[i] = e;
                    rest += e;
                    restDot += e * x;
                }
                float all = sum.Sum() + rest;
                total += weight * (Math.Log(all) - (dot.Sum() + restDot) / all);   // −Σ p·ln p, p = e/Σe
                Lines<TV>.Scale(p, p, 1f / all, accumulate: false, cols);
            }
            partial[chunk] = total;
        }

        /// <summary>p = (z − center)·sharp; returns the largest.</summary>
        private float Sharpened(float* p, float* z, TV s)
        {
            TV largest = TV.All(float.NegativeInfinity);
            int i = 0;
            for (; i <= cols - TV.Count; i += TV.Count)
            {
                TV x = (TV.Load(z + i) - TV.Load(center + i)) * s;
                x.Store(p + i);
                largest = TV.Max(largest, x);
            }
            float max = largest.Largest();
            for (; i < cols; i++)
            {
                p[i] = (z[i] - center[i]) * sharp;
                max = p[i] > max ? p[i] : max;
            }
            return max;
        }
    }

    public override void DistillLoss(Tensor loss, Tensor? dstudent, Tensor student, Tensor targets, Tensor? weights, int rows, int firstView,
        ViewPairing pairing, float temperature, float scale)
    {
        int cols = student.Shape.Cols, views = student.Shape.Rows / rows, teachers = targets.Shape.Rows / rows;
        int grain = RowGrain(cols * views), chunks = Rows.Chunks(rows, grain);
        bool scratch = dstudent is null;   // e = exp(s − max) of one row lies where its gradient will
        var partial = (double*)Scratch(PartialSlot, (long)chunks * (sizeof(double) + (scratch ? (long)cols * sizeof(float) : 0)));
        float* d = dstudent is { } given ? given.F32 : null, w = weights is { } some ? some.F32 : null;
        var pairs = new ViewPairs(views, teachers, rows, firstView, pairing == ViewPairing.Same);
        var sizes = new DistillNumbers(cols, 1f / temperature, 1f / rows, scale);
        switch (Level)
        {
            case SimdLevel.Vector512:
                _rows.For(rows, grain, new DistillRows<Lanes16>(partial, chunks, d, student.F32, targets.F32, w, pairs, sizes));
                break;
            case SimdLevel.Vector256:
                _rows.For(rows, grain, new DistillRows<Lanes8>(partial, chunks, d, student.F32, targets.F32, w, pairs, sizes));
                break;
            default:
                _rows.For(rows, grain, new DistillRows<Lanes1>(partial, chunks, d, student.F32, targets.F32, w, pairs, sizes));
                break;
        }
        double sum = 0;
        for (int i = 0; i < chunks; i++) sum += partial[i];
        loss.F32[0] = (float)(sum * scale);
    }

    private readonly record struct ViewPairs(int Views, int Teachers, int Rows, int FirstView, bool Same)
    {
        public bool Pair(int student, int teacher) => student + FirstView == teacher == Same;
    }

    private readonly record struct DistillNumbers(int Cols, float Sharp, float Even, float Scale);

    /// <summary>One row is one row of every view, so that the teacher's rows are read from memory once.</summary>
    private readonly struct DistillRows<TV>(double* partial, int chunks, float* dstudent, float* student, float* targets, float* weights,
        ViewPairs pairs, DistillNumbers x) : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            double total = 0;
            for (int m = first; m < last; m++)
                for (int v = 0; v < pairs.Views; v++)
                {
                    long row = (long)v * pairs.Rows + m;
                    float weight = weights == null ? x.Even : weights[row];
                    float* e = dstudent == null ? (float*)(partial + chunks) + (long)chunk * x.Cols : dstudent + row * x.Cols;
                    int n = 0;
                    for (int q = 0; q < pairs.Teachers; q++) n += pairs.Pair(v, q) ? 1 : 0;
                    if (weight != 0f && n > 0) total += weight * Row(e, student + row * x.Cols, m, v, weight * x.Scale * x.Sharp);
                    else if (dstudent != null) Lines<TV>.Set(e, 0f, x.Cols);
                }
            partial[chunk] = total;
        }

        /// <summary>Σ_q H(p_q, s); e becomes the gradient. Three walks along the row: largest; e, loss; gradient.</summary>
        private double Row(float* e, float* s, int m, int v, float slope)
        {
            float** partners = stackalloc float*[pairs.Teachers];
            int n = 0, i = 0;
            for (int q = 0; q < pairs.Teachers; q++)
                if (pairs.Pair(v, q)) partners[n++] = targets + ((long)q * pairs.Rows + m) * x.Cols;
            float max = Lines<TV>.Largest(s, x.Cols) * x.Sharp, all = 0f, whole = 0f, dot = 0f;
            TV sharp = TV.All(x.Sharp), top = TV.All(max), sums = TV.Zero, masses = TV.Zero, dots = TV.Zero;
            for (; i <= x.Cols - TV.Count; i += TV.Count)
            {
                TV y = TV.Load(s + i) * sharp - top, exp = VectorMath.ExpWithin(TV.Max(TV.All(-87f), y)), p = TV.Load(partners[0] + i);
                for (int q = 1; q < n; q++) p += TV.Load(partners[q] + i);
                exp.Store(e + i);
                sums += exp;
                masses += p;
                dots = TV.MulAdd(p, y, dots);
            }
            for (; i < x.Cols; i++)
            {
                float y = s[i] * x.Sharp - max, p = 0f;
                for (int q = 0; q < n; q++) p += partners[q][i];
                all += e[i] = MathF.Exp(MathF.Max(-87f, y));
                whole += p;
                dot += p * y;
            }
            (all, whole, dot) = (all + sums.Sum(), whole + masses.Sum(), dot + dots.Sum());
            if (dstudent == null) return whole * Math.Log(all) - dot;
            TV share = TV.All(slope * whole / all), minus = TV.All(-slope);
            for (i = 0; i < x.Cols; i += TV.Count)
            {
                int left = x.Cols - i;
                TV p = Lines<TV>.Load(partners[0] + i, left);
                for (int q = 1; q < n; q++) p += Lines<TV>.Load(partners[q] + i, left);
                Lines<TV>.Store(TV.MulAdd(share, Lines<TV>.Load(e + i, left), minus * p), e + i, left);
            }
            return whole * Math.Log(all) - dot;
        }
    }

    public override void UpdateCenter(Tensor center, Tensor x, float momentum)
    {
        int rows = x.Shape.Rows, cols = x.Shape.Cols;
        switch (Level)
        {
            case SimdLevel.Vector512: _rows.For(cols, StripColumns, new CenterCols<Lanes16>(center.F32, x.F32, rows, cols, momentum)); break;
            case SimdLevel.Vector256: _rows.For(cols, StripColumns, new CenterCols<Lanes8>(center.F32, x.F32, rows, cols, momentum)); break;
            default: _rows.For(cols, StripColumns, new CenterCols<Lanes1>(center.F32, x.F32, rows, cols, momentum)); break;
        }
    }

    private readonly struct CenterCols<TV>(float* center, float* x, int rows, int cols, float momentum) : IRowKernel
        where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int n = last - first;
            float* part = stackalloc float[StripColumns], all = stackalloc float[StripColumns];
            Lines<TV>.Set(all, 0f, n);
            for (int block = 0; block < rows; block += SumRows)
            {
                Lines<TV>.Set(part, 0f, n);
                for (int row = block; row < Math.Min(rows, block + SumRows); row++)
                    Lines<TV>.Add(part, part, x + (long)row * cols + first, n);
                Lines<TV>.Add(all, all, part, n);
            }
            if (momentum != 0f) Lines<TV>.Scale(center + first, center + first, momentum, accumulate: false, n);
            Lines<TV>.Scale(center + first, all, (1f - momentum) / rows, accumulate: momentum != 0f, n);
        }
    }
}
