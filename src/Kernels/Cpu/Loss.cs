using System.Runtime.CompilerServices;

namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    private const int LossChunks = 256;   // partial sums a loss keeps: a grain that grows with the batch, not with threads

    public override void MaskedPixelLoss(Tensor loss, Tensor? dprediction, Tensor prediction, Tensor images, Tensor hidden, Tensor? weights,
        int patch, PixelOrder order, PixelDistance distance, bool divideByWeights, float eps, float scale)
    {
        switch (Level)
        {
            case SimdLevel.Vector512:
                PixelLoss<Lanes16>(loss, dprediction, prediction, images, hidden, weights, patch, order, distance, divideByWeights, eps,
                    scale);
                break;
            case SimdLevel.Vector256:
                PixelLoss<Lanes8>(loss, dprediction, prediction, images, hidden, weights, patch, order, distance, divideByWeights, eps,
                    scale);
                break;
            default:
                PixelLoss<Lanes1>(loss, dprediction, prediction, images, hidden, weights, patch, order, distance, divideByWeights, eps,
                    scale);
                break;
        }
    }

    private void PixelLoss<TV>(Tensor loss, Tensor? dprediction, Tensor prediction, Tensor images, Tensor hidden, Tensor? weights,
        int patch, PixelOrder order, PixelDistance distance, bool divideByWeights, float eps, float scale) where TV : struct, ILanes<TV>
    {
        int height = images.Shape.D2, width = images.Shape.D3, patches = checked((int)hidden.Count);
        // A chunk has room for one run, a patch's row of pixels (all three channels where they are interleaved), and for the weights of a patch.
        int run = order == PixelOrder.ChannelFastest ? 3 * patch : patch, room = run + Math.Max(run, patch * patch);
        int grain = Math.Max(RowGrain(3 * patch * patch), Rows.Chunks(patches, LossChunks)), chunks = Rows.Chunks(patches, grain);
        var partial = (double*)Scratch(PartialSlot, (long)chunks * (sizeof(double) + room * sizeof(float)));
        var work = (float*)(partial + chunks);
        float* w = weights is { } given ? given.F32 : null;
        int cellRows = weights?.Shape.D1 ?? 1, cellCols = weights?.Shape.D2 ?? 1;
        byte* h = hidden.U8;

        double counted = 0;   // ΣM, or ΣW·M
        if (divideByWeights && w != null)
        {
            _rows.For(patches, grain, new HiddenWeightRows(partial, h, w, patch, height, width, cellRows, cellCols));
            for (int c = 0; c < chunks; c++) counted += partial[c];
        }
        else
        {
            long rows = 0;
            for (int l = 0; l < patches; l++) rows += h[l] != 0 ? 1 : 0;
            counted = (double)rows * patch * patch;
        }
        double factor = scale / (3 * (counted + eps));
        float* dx = dprediction is { } d ? d.F32 : null;
        _rows.For(patches, grain, new PixelLossRows<TV>(partial, work, room, dx, prediction.F32, images.F32, h, w, patch, height, width,
            cellRows, cellCols, order == PixelOrder.ChannelFastest, distance == PixelDistance.L2, (float)factor));
        double sum = 0;
        for (int c = 0; c < chunks; c++) sum += partial[c];
        loss.F32[0] = (float)(sum * factor);
    }

    /// <summary>One row is one patch: ΣW over the pixels of hidden ones.</summary>
    private readonly struct HiddenWeightRows(double* partial, byte* hidden, float* weights, int patch, int height, int width, int cellRows,
        int cellCols) : IRowKernel
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int across = width / patch, length = height / patch * across;
            int cellHeight = height / cellRows, cellWidth = width / cellCols;
            double sum = 0;
            for (int row = first; row < last; row++)
            {
                if (hidden[row] == 0) continue;
                int top = row % length / across * patch, left = row % length % across * patch;
                float* cells = weights + (long)(row / length) * cellRows * cellCols;
                for (int y = top; y < top + patch; y++)
                {
                    float* line = cells + Math.Min(y / cellHeight, cellRows - 1) * cellCols;
                    for (int x = left; x < left + patch; x++) sum += line[Math.Min(x / cellWidth, cellCols - 1)];
                }
            }
            partial[chunk] = sum;
        }
    }

    /// <summary>One row is one patch: Σ W·|x − x̂|^p where it is hidden, and factor times its gradient.</summary>
    private readonly struct PixelLossRows<TV>(double* partial, float* work, int room, float* dprediction, float* prediction, float* images,
        byte* hidden, float* weights, int patch, int height, int width, int cellRows, int cellCols, bool interleaved, bool squared,
        float factor) : IRowKernel where TV : struct, ILanes<TV>
    {
        // Patches between the one that is worked on and the one whose lines are asked for.
        private const int Ahead = 2;

        /// <remarks>
        /// Of a patch's picture a processor guesses no line: they lie a picture's width apart. So each patch, hidden or not, asks for those of one
        /// farther on: a core waits for few lines at a time, and so ought to all the time.
        /// </remarks>
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int size = 3 * patch * patch, run = interleaved ? 3 * patch : patch;
            float* target = work + (long)room * chunk, w = target + run;
            bool whole = !interleaved && patch % TV.Count == 0 && patch % 2 == 0;
            double sum = 0;
            for (int row = first; row < last; row++)
            {
                float* x = prediction + (long)row * size, dx = dprediction == null ? null : dprediction + (long)row * size;
                int then = row + Ahead < last && hidden[row + Ahead] != 0 ? row + Ahead : row;
                if (hidden[row] == 0)
                {
                    if (dx == null) continue;
                    if (whole && then != row) Clear(dx, x, Pixels(then), (long)(then - row) * size);
                    else Lines<TV>.Set(dx, 0f, size);
                }
                else if (!whole) sum += Patch(dx, x, row, target, w);
                else
                {
                    if (weights != null) SpreadWeights(w, row);
                    sum += WholePatch(dx, x, Pixels(row), Pixels(then), w, (long)(then - row) * size);
                }
            }
            partial[chunk] = sum;
        }

        /// <summary>No gradient of a patch that is not hidden, while the lines of another one are asked for.</summary>
        [MethodImpl(MethodImplOptions.NoInlining)]
        private void Clear(float* dx, float* x, float* pixelsThen, long then)
        {
            int side = patch;
            nint down = width, plane = (nint)height * width;
            for (int c = 0; c < 3; c++, pixelsThen += plane)
            {
                float* line = pixelsThen;
                for (int y = 0; y < side; y++, line += down)
                    for (int i = 0; i < side; i += TV.Count, x += TV.Count, dx += TV.Count)
                    {
                        Lines<TV>.AskFar(line + i);
                        Lines<TV>.AskFar(x + then);
                        Lines<TV>.Ask(dx + then);
                        TV.Zero.Store(dx);
                    }
            }
        }

        /// <summary>
        /// One hidden patch of whole vectors, channel after channel and two lines at a time, so that its prediction and gradient are walked in the
        /// order of their addresses; and the lines of the patch <paramref name="then"/> floats on are asked for.
        /// </summary>
        [MethodImpl(MethodImplOptions.NoInlining)]
        private float WholePatch(float* dx, float* x, float* pixels, float* pixelsThen, float* w, long then)
        {
            int side = patch;   // fields would be read again after every store
            nint down = width, plane = (nint)height * width, soon = (nint)(pixelsThen - pixels);
            bool square = squared, weighted = weights != null, slopes = dx != null;
            TV f = TV.All(factor), s0 = TV.Zero, s1 = TV.Zero;
            for (int c = 0; c < 3; c++, pixels += plane)
            {
                float* line = pixels, weight = w;
                for (int y = 0; y < side; y += 2, line += 2 * down, weight += 2 * side, x += side, dx += side)
                    for (int i = 0; i < side; i += TV.Count, x += TV.Count, dx += TV.Count)
                    {
                        Lines<TV>.AskFar(line + i + soon);
                        Lines<TV>.AskFar(line + i + down + soon);
                        Lines<TV>.AskFar(x + then);
                        Lines<TV>.AskFar(x + side + then);
                        TV a = TV.Load(x) - TV.Load(line + i), b = TV.Load(x + side) - TV.Load(line + down + i);
                        TV lossA = square ? a * a : TV.Abs(a), lossB = square ? b * b : TV.Abs(b), slopeA = f, slopeB = f;
                        if (weighted)
                        {
                            TV weightA = TV.Load(weight + i), weightB = TV.Load(weight + side + i);
                            (slopeA, slopeB) = (weightA * f, weightB * f);
                            (s0, s1) = (TV.MulAdd(weightA, lossA, s0), TV.MulAdd(weightB, lossB, s1));
                        }
                        else (s0, s1) = (s0 + lossA, s1 + lossB);
                        if (!slopes) continue;
                        Lines<TV>.Ask(dx + then);
                        Lines<TV>.Ask(dx + side + then);
                        Slope(a, slopeA, square).Store(dx);
                        Slope(b, slopeB, square).Store(dx + side);
                    }
            }
            return (s0 + s1).Sum();
        }

        /// <summary>Any hidden patch, run by run.</summary>
        private float Patch(float* dx, float* x, int row, float* target, float* w)
        {
            int cellHeight = height / cellRows;
            (int b, int top, int left) = Place(row);
            float* pixels = Pixels(row);
            long plane = (long)height * width;
            TV sum = TV.Zero;
            for (int dy = 0; dy < patch; dy++, pixels += width)
            {
                if (weights != null && (dy == 0 || (top + dy) % cellHeight == 0))
                    SpreadWeights(w, weights + (long)b * cellRows * cellCols, top + dy, left);
                if (interleaved)
                {
                    for (int c = 0; c < 3; c++)
                        for (int i = 0; i < patch; i++) target[3 * i + c] = pixels[c * plane + i];
                    sum = Line(dx, x, target, w, 3 * patch * dy, 3 * patch, sum);
                }
                else
                    for (int c = 0; c < 3; c++) sum = Line(dx, x, pixels + c * plane, w, (c * patch + dy) * patch, patch, sum);
            }
            return sum.Sum();
        }

        /// <summary>The gradient of weight·|d| or weight·d², given factor·weight.</summary>
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static TV Slope(TV d, TV slope, bool square)
            => square ? slope * (d + d) : TV.Where(d, TV.Zero, slope, TV.Where(TV.Zero, d, TV.Zero - slope, TV.Zero));

        /// <summary>Where a patch lies.</summary>
        private (int Picture, int Top, int Left) Place(int row)
        {
            int across = width / patch, length = height / patch * across;
            return (row / length, row % length / across * patch, row % length % across * patch);
        }

        /// <summary>The first pixel of a patch.</summary>
        private float* Pixels(int row)
        {
            (int b, int top, int left) = Place(row);
            return images + (long)b * 3 * height * width + (long)top * width + left;
        }

        /// <summary>The weight of each number of a channel of a patch.</summary>
        private void SpreadWeights(float* w, int row)
        {
            int cellHeight = height / cellRows;
            (int b, int top, int left) = Place(row);
            float* cells = weights + (long)b * cellRows * cellCols;
            for (int dy = 0; dy < patch; dy++, w += patch)
                if (dy == 0 || (top + dy) % cellHeight == 0) SpreadWeights(w, cells, top + dy, left);
                else Lines<TV>.Copy(w, w - patch, patch);
        }

        /// <summary>The weight of each number of a run in image row <paramref name="y"/>.</summary>
        private void SpreadWeights(float* w, float* cells, int y, int left)
        {
            int cellHeight = height / cellRows, cellWidth = width / cellCols, repeat = interleaved ? 3 : 1;
            float* line = cells + Math.Min(y / cellHeight, cellRows - 1) * cellCols;
            for (int i = 0; i < patch; i++)
                for (int c = 0; c < repeat; c++) w[repeat * i + c] = line[Math.Min((left + i) / cellWidth, cellCols - 1)];
        }

        /// <summary>Adds the loss of n numbers from <paramref name="at"/> on in the patch; target and w start at the run.</summary>
        private TV Line(float* dx, float* x, float* target, float* w, int at, int n, TV sum)
        {
            TV f = TV.All(factor);
            for (int i = 0; i < n; i += TV.Count)
            {
                int left = n - i;
                TV d = Lines<TV>.Load(x + at + i, left) - Lines<TV>.Load(target + i, left);
                TV weight = weights == null ? TV.All(1f) : Lines<TV>.Load(w + i, left);
                sum = TV.MulAdd(weight, squared ? d * d : TV.Abs(d), sum);   // past the end d is 0
                if (dx != null) Lines<TV>.Store(Slope(d, weight * f, squared), dx + at + i, left);
            }
            return sum;
        }
    }

    public override void CrossEntropyLoss(Tensor loss, Tensor? dlogits, Tensor logits, Tensor targets, float scale)
    {
        int rows = logits.Shape.Rows, cols = logits.Shape.Cols, grain = RowGrain(cols), chunks = Rows.Chunks(rows, grain);
        var partial = (double*)Scratch(PartialSlot, (long)chunks * (sizeof(double) + (long)cols * sizeof(float)));
        var work = (float*)(partial + chunks);
        float* d = dlogits is { } given ? given.F32 : null;
        float factor = scale / rows;
        switch (Level)
        {
            case SimdLevel.Vector512:
                _rows.For(rows, grain, new CrossEntropyRows<Lanes16>(partial, work, d, logits.F32, targets.F32, cols, factor));
                break;
            case SimdLevel.Vector256:
                _rows.For(rows, grain, new CrossEntropyRows<Lanes8>(partial, work, d, logits.F32, targets.F32, cols, factor));
                break;
            default:
                _rows.For(rows, grain, new CrossEntropyRows<Lanes1>(partial, work, d, logits.F32, targets.F32, cols, factor));
                break;
        }
        double sum = 0;
        for (int c = 0; c < chunks; c++) sum += partial[c];
        loss.F32[0] = (float)(sum * scale / rows);
    }

    private readonly struct CrossEntropyRows<TV>(double* partial, float* work, float* dlogits, float* logits, float* targets, int cols,
        float factor) : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            if (cols <= TV.Count)
            {
                partial[chunk] = Short(first, last);
                return;
            }
            double total = 0;
            float largest = Lines<TV>.Largest(logits + (long)first * cols, cols);
            for (int row = first; row < last; row++)
            {
                long at = (long)row * cols;
                float* x = logits + at, t = targets + at, e = dlogits == null ? work + (long)chunk * cols : dlogits + at;
                (float sum, float mass, float dot) = Sums(e, x, t, row + 1 < last ? x + cols : x, ref largest);
                total += mass * Math.Log(sum) - dot;
                if (dlogits != null) Slopes(e, t, mass / sum * factor);
            }
            partial[chunk] = total;
        }

        /// <summary>
        /// e = exp(x − largest), Σ e, Σ t and Σ t·(x − largest): −Σ t·(x − lse) with the largest logit taken out first, so that large logits cost no
        /// digits. On the same walk the largest of the next row, so that memory is read while exponentials are computed.
        /// </summary>
        private (float Sum, float Mass, float Dot) Sums(float* e, float* x, float* t, float* next, ref float largest)
        {
            TV m = TV.All(largest), sum = TV.Zero, mass = TV.Zero, dot = TV.Zero, most = TV.Load(next);
            int i = 0, end = cols - TV.Count;   // a field would be read again after every store
            for (; i <= end; i += TV.Count)
            {
                Lines<TV>.Ask(next + i + Lines<TV>.Ahead);
                Lines<TV>.Ask(t + i + Lines<TV>.Ahead);
                Lines<TV>.Ask(e + i + Lines<TV>.Ahead);
                TV a = TV.Load(x + i) - m, target = TV.Load(t + i), v = VectorMath.ExpDown(a);
                most = TV.Max(most, TV.Load(next + i));
                v.Store(e + i);
                (sum, mass, dot) = (sum + v, mass + target, TV.MulAdd(target, a, dot));
            }
            largest = TV.Max(most, TV.Load(next + cols - TV.Count)).Largest();   // before the end is written: e may be next
            int n = cols - i;
            if (n == 0) return (sum.Sum(), mass.Sum(), dot.Sum());
            TV rest = TV.LoadFirst(x + i, n) - m, last = TV.LoadFirst(t + i, n);
            VectorMath.ExpDown(rest).StoreFirst(e + i, n);   // past the end t is 0, but e is not: what was stored is added
            return (sum.Sum() + TV.LoadFirst(e + i, n).Sum(), (mass + last).Sum(), TV.MulAdd(last, rest, dot).Sum());
        }

        /// <summary>dx = share·e − factor·t, in place of e.</summary>
        private void Slopes(float* e, float* t, float share)
        {
            TV s = TV.All(share), f = TV.All(-factor);
            int i = 0, width = cols;
            for (; i <= width - TV.Count; i += TV.Count) TV.MulAdd(s, TV.Load(e + i), f * TV.Load(t + i)).Store(e + i);
            int n = width - i;
            if (n > 0) TV.MulAdd(s, TV.LoadFirst(e + i, n), f * TV.LoadFirst(t + i, n)).StoreFirst(e + i, n);
        }

        /// <summary>Rows of one vector at most: nothing leaves the registers, which is most of the time of ten classes.</summary>
        /// <remarks>
        /// Logarithms come a block of rows later, as a call would empty the vector registers in every row; and of rows whose targets sum to 1
        /// sixteen have one in common, of the product of their sums: 1 to 16 each, so that it stays below 2^64. The same sixteen share one sum
        /// across lanes of t·(x − max).
        /// </remarks>
        private double Short(int first, int last)
        {
            double total = 0;
            float* ones = stackalloc float[TV.Count + 2 * Block], sums = ones + TV.Count, masses = sums + Block;
            Lines<TV>.Set(ones, 1f, TV.Count);
            for (int block = first; block < last; block += Block)
            {
                int n = Math.Min(Block, last - block);
                float dots = ShortBlock(block, n, Lines<TV>.Load(ones, cols), sums, masses);
                double product = 1;
                for (int i = 0; i < n; i++)
                {
                    if (masses[i] == 1f) product *= sums[i];
                    else total += masses[i] * Math.Log(sums[i]);
                }
                total += Math.Log(product) - dots;
            }
            return total;
        }

        private const int Block = 16;

        [MethodImpl(MethodImplOptions.NoInlining)]
        private float ShortBlock(int first, int rows, TV inside, float* sums, float* masses)
        {
            TV f = TV.All(-factor), dots = TV.Zero;
            long end = (long)(first + rows) * cols;
            for (int i = 0; i < rows; i++)
            {
                long at = (long)(first + i) * cols;
                TV x = Lines<TV>.Load(logits + at, cols), t = Lines<TV>.Load(targets + at, cols);
                TV m = TV.All(TV.Where(inside, TV.Zero, x, TV.All(logits[at])).Largest());
                TV e = TV.Where(inside, TV.Zero, VectorMath.ExpWithin(TV.Max(TV.All(-87f), x - m)), TV.Zero);
                float sum = e.Sum(), mass = t.Sum();
                (sums[i], masses[i]) = (sum, mass);
                dots = TV.MulAdd(t, x - m, dots);
                if (dlogits == null) continue;
                TV d = TV.MulAdd(TV.All(mass / sum * factor), e, f * t);
                if (at + TV.Count <= end) d.Store(dlogits + at);   // the rows after this one write over what is too much
                else Lines<TV>.Store(d, dlogits + at, cols);
            }
            return dots.Sum();
        }
    }
}
