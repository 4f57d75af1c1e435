using ILGPU;

namespace MimEngine.Kernels.Ilgpu;

internal sealed partial class IlgpuBackend
{
    public override void L2NormalizeForward(Tensor y, Tensor norms, Tensor x, Tensor? gain, float eps)
        => Launch(norms.Count, new L2NormalizeRows(F(y), F(norms), F(x), F(gain), Flag(gain), x.Shape.Cols, eps));

    public override void L2NormalizeBackward(Grad dx, Grad dgain, Tensor dy, Tensor x, Tensor norms, Tensor? gain, float eps)
        => Launch(norms.Count, new L2NormalizeBackwardRows(new GradView(F(dx), dx), new GradView(F(dgain), dgain), F(dy), F(x), F(norms), F(gain),
            Flag(gain), x.Shape.Cols, eps));

    public override void ScaleShiftForward(Tensor y, Tensor x, Tensor gamma, Tensor beta)
        => LaunchEach(x.Count, new ScaleShiftEach(F(y), F(x), F(gamma), F(beta), x.Shape.Cols));

    public override void ScaleShiftBackward(Grad dx, Grad dgamma, Grad dbeta, Tensor dy, Tensor x, Tensor gamma)
    {
        int rows = x.Shape.Rows, cols = x.Shape.Cols;
        if (dx.Wanted) LaunchEach(x.Count, new ScaleShiftBackwardEach(new GradView(F(dx), dx), F(dy), F(gamma), cols));
        if (dgamma.Wanted) SumColumns(dgamma, PartialSlot, rows, cols, new Times(F(dy), F(x), cols));
        if (dbeta.Wanted) SumColumns(dbeta, SecondPartialSlot, rows, cols, new Plain(N(dy), cols));
    }

    public override void TeacherTargets(Tensor targets, Tensor entropy, Tensor logits, Tensor center, Tensor? weights, float temperature)
    {
        int rows = logits.Shape.Rows, cols = logits.Shape.Cols;
        ArrayView<float> partial = Scratch<float>(PartialSlot, rows);
        Launch(rows, new TeacherRows(partial, F(targets), F(logits), F(center), F(weights), Flag(weights), cols, 1f / temperature, 1f / rows));
        Launch(1, new MeanOf(F(entropy), partial, rows, 1f));
    }

    public override void DistillLoss(Tensor loss, Tensor? dstudent, Tensor student, Tensor targets, Tensor? weights, int rows, int firstView,
        ViewPairing pairing, float temperature, float scale)
    {
        int all = student.Shape.Rows;
        ArrayView<float> partial = Scratch<float>(PartialSlot, all);
        var pairs = new ViewPairs(rows, targets.Shape.Rows / rows, firstView, pairing == ViewPairing.Same ? 1 : 0);
        Launch(all, new DistillRows(partial, F(dstudent), Flag(dstudent), F(student), F(targets), F(weights), Flag(weights), pairs,
            student.Shape.Cols, 1f / temperature, 1f / rows, scale));
        Launch(1, new MeanOf(F(loss), partial, all, scale));
    }

    public override void UpdateCenter(Tensor center, Tensor x, float momentum)
        => LaunchEach(center.Count, new CenterCols(F(center), F(x), x.Shape.Rows, x.Shape.Cols, momentum));
}

/// <summary>Where a gradient goes, as kernels see it.</summary>
internal readonly struct GradView(ArrayView<float> into, Grad g)
{
    private readonly int _wanted = g.Wanted ? 1 : 0, _accumulate = g.Accumulate ? 1 : 0;

    public bool Wanted => _wanted != 0;

    public void Put(int i, float d) => into[i] = _accumulate != 0 ? into[i] + d : d;
}

/// <summary>a·b, element for element: what a column's scale sums.</summary>
internal readonly struct Times(ArrayView<float> a, ArrayView<float> b, int cols) : IElement
{
    public float At(int row, int col) => a[row * cols + col] * b[row * cols + col];
}

/// <summary>One group is one row.</summary>
internal readonly struct L2NormalizeRows(ArrayView<float> y, ArrayView<float> norms, ArrayView<float> x, ArrayView<float> gain, int hasGain,
    int cols, float eps) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>());
        int at = Grid.IdxX * cols;
        float squares = 0f, scale = 1f;
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side) squares += x[at + c] * x[at + c];
        float norm = Scalar.Larger(MathF.Sqrt(Team.Sum<TT>(room, squares, 0f).A), eps);
        if (hasGain != 0) scale = gain[Grid.IdxX];
        scale /= norm;
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side) y[at + c] = x[at + c] * scale;
        if (Group.IdxX == 0) norms[Grid.IdxX] = norm;
    }
}

/// <summary>One group is one row.</summary>
internal readonly struct L2NormalizeBackwardRows(GradView dx, GradView dgain, ArrayView<float> dy, ArrayView<float> x, ArrayView<float> norms,
    ArrayView<float> gain, int hasGain, int cols, float eps) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>());
        int at = Grid.IdxX * cols;
        float sum = 0f, norm = norms[Grid.IdxX], scale = 1f;
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side) sum += dy[at + c] * x[at + c];
        float dot = Team.Sum<TT>(room, sum, 0f).A / norm;
        if (Group.IdxX == 0 && dgain.Wanted) dgain.Put(Grid.IdxX, dot);
        if (!dx.Wanted) return;
        if (hasGain != 0) scale = gain[Grid.IdxX];
        scale /= norm;
        float along = norm > eps ? dot / norm : 0f;
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side) dx.Put(at + c, scale * (dy[at + c] - along * x[at + c]));
    }
}

internal readonly struct ScaleShiftEach(ArrayView<float> y, ArrayView<float> x, ArrayView<float> gamma, ArrayView<float> beta, int cols) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i < y.Length) y[i] = x[i] * gamma[i % cols] + beta[i % cols];
    }
}

internal readonly struct ScaleShiftBackwardEach(GradView dx, ArrayView<float> dy, ArrayView<float> gamma, int cols) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i < dy.Length) dx.Put(i, dy[i] * gamma[i % cols]);
    }
}

/// <summary>One group is one row: its softmax, and its share of the mean entropy.</summary>
internal readonly struct TeacherRows(ArrayView<float> partial, ArrayView<float> targets, ArrayView<float> logits, ArrayView<float> center,
    ArrayView<float> weights, int hasWeights, int cols, float sharp, float even) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>()), second = SharedMemory.Allocate<float>(Team.Room<TT>());
        float weight = even;
        if (hasWeights != 0) weight = weights[Grid.IdxX];
        if (weight == 0f)
        {
            if (Group.IdxX == 0) partial[Grid.IdxX] = 0f;
            return;
        }
        int at = Grid.IdxX * cols;
        float max = float.NegativeInfinity, sum = 0f, dot = 0f;
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side) max = Scalar.Larger(max, (logits[at + c] - center[c]) * sharp);
        max = Team.Max<TT>(room, max);
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side)
        {
            float x = (logits[at + c] - center[c]) * sharp - max, e = Scalar.Exp(x);
            sum += e;
            dot += e * x;
        }
        Pair sums = Team.Sum<TT>(second, sum, dot);
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side)
            targets[at + c] = Scalar.Exp((logits[at + c] - center[c]) * sharp - max) / sums.A;
        if (Group.IdxX == 0) partial[Grid.IdxX] = weight * (Scalar.Log(sums.A) - sums.B / sums.A);
    }
}

/// <summary>Which of the teacher's views a student's row learns from.</summary>
internal readonly struct ViewPairs(int rows, int teachers, int firstView, int same)
{
    public readonly int Teachers = teachers;

    public bool Pair(int row, int teacher) => (row / rows + firstView == teacher) == (same != 0);

    public int RowOf(int row, int teacher) => teacher * rows + row % rows;
}

/// <summary>One group is one row of the student: Σ_q H(p_q, s) and its gradient.</summary>
internal readonly struct DistillRows(ArrayView<float> partial, ArrayView<float> dstudent, int hasGradient, ArrayView<float> student,
    ArrayView<float> targets, ArrayView<float> weights, int hasWeights, ViewPairs pairs, int cols, float sharp, float even, float scale) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>()), second = SharedMemory.Allocate<float>(Team.Room<TT>());
        ArrayView<float> third = SharedMemory.Allocate<float>(Team.Room<TT>());
        int row = Grid.IdxX, at = row * cols;
        float weight = even, max = float.NegativeInfinity, sum = 0f, mass = 0f, dot = 0f;
        if (hasWeights != 0) weight = weights[row];
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side) max = Scalar.Larger(max, student[at + c] * sharp);
        max = Team.Max<TT>(room, max);
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side)
        {
            float x = student[at + c] * sharp - max, p = Target(row, c);
            sum += Scalar.Exp(x);
            mass += p;
            dot += p * x;
        }
        Pair sums = Team.Sum<TT>(second, sum, mass);
        dot = Team.Sum<TT>(third, dot, 0f).A;
        if (Group.IdxX == 0) partial[row] = weight == 0f ? 0f : weight * (sums.B * Scalar.Log(sums.A) - dot);
        if (hasGradient == 0) return;
        float slope = weight * scale * sharp, share = sums.B / sums.A;
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side)
            dstudent[at + c] = weight == 0f ? 0f : slope * (Scalar.Exp(student[at + c] * sharp - max) * share - Target(row, c));
    }

    /// <summary>Σ_q p_q; a row of weight 0 has targets that nobody computed.</summary>
    private float Target(int row, int c)
    {
        float p = 0f;
        for (int q = 0; q < pairs.Teachers; q++)
            if (pairs.Pair(row, q)) p += targets[pairs.RowOf(row, q) * cols + c];
        return p;
    }
}

/// <summary>One thread is one column.</summary>
internal readonly struct CenterCols(ArrayView<float> center, ArrayView<float> x, int rows, int cols, float momentum) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int c = Team.Index<TT>();
        if (c >= cols) return;
        float sum = 0f;
        for (int block = 0; block < rows; block += 64)   // short sums first: the error grows as their number's root, not the rows'
        {
            float part = 0f;
            for (int row = block; row < rows && row < block + 64; row++) part += x[row * cols + c];
            sum += part;
        }
        float mean = (1f - momentum) * (sum / rows);
        center[c] = momentum == 0f ? mean : momentum * center[c] + mean;
    }
}
