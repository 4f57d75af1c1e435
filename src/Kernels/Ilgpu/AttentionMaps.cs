using ILGPU;

namespace MimEngine.Kernels.Ilgpu;

internal sealed partial class IlgpuBackend
{
    public override void AttentionProbabilities(Tensor p, Tensor qkv, int heads, Tensor? bias)
    {
        HeadLayout at = Layout(qkv, heads);
        Launch((long)qkv.Shape.D0 * heads * at.Tokens, new ProbabilityRows(F(p), N(qkv), F(bias), Flag(bias), at));
    }

    public override void ClsAttention(Tensor a, Tensor qkv, int heads, Tensor? bias)
    {
        HeadLayout at = Layout(qkv, heads);
        ArrayView<float> rows = Scratch<float>(PartialSlot, (long)qkv.Shape.D0 * heads * at.Tokens);
        Launch((long)qkv.Shape.D0 * heads, new ClsRows(rows, N(qkv), F(bias), Flag(bias), at));
        LaunchEach(a.Count, new HeadMeans(F(a), rows, heads, at.Tokens, a.Shape.Cols));
    }

    public override void MixAttentionForward(Tensor w, Tensor sums, Tensor attention, Tensor mix, float gain, bool renormalise, float eps)
        => Launch(w.Shape.D0, new MixImages(F(w), F(sums), F(attention), F(mix), attention.Shape.D1 * attention.Shape.D2, attention.Shape.D3,
            w.Shape.Cols, gain, Flag(renormalise), eps));

    public override void MixAttentionBackward(Grad dattention, Tensor dw, Tensor w, Tensor sums, Tensor mix, float gain, bool renormalise)
    {
        if (!dattention.Wanted) return;
        Shape to = dattention.Into.Shape;
        ArrayView<float> dots = Scratch<float>(PartialSlot, w.Shape.D0);
        LaunchEach(w.Shape.D0, new ImageDots(dots, F(dw), F(w), w.Shape.Cols, Flag(renormalise)));
        LaunchEach(to.Count, new MixBackwardEach(F(dattention), F(dw), dots, F(sums), F(mix), to.D1 * to.D2, to.D3, w.Shape.Cols, gain,
            Flag(dattention.Accumulate)));
    }
}

/// <summary>One group is one query of one head: its logits, then their softmax.</summary>
internal readonly struct ProbabilityRows(ArrayView<float> p, Cells qkv, ArrayView<float> bias, int hasBias, HeadLayout at) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>()), second = SharedMemory.Allocate<float>(Team.Room<TT>());
        int head = Grid.IdxX / at.Tokens, row = Grid.IdxX % at.Tokens, to = Grid.IdxX * at.Tokens;
        int q = at.Part(head, 0) + row * at.Stride, k = at.Part(head, 1);
        float largest = float.NegativeInfinity, sum = 0f;
        for (int col = Group.IdxX; col < at.Tokens; col += TT.Side * TT.Side)
        {
            float s = 0f;
            for (int d = 0; d < at.Width; d++) s += qkv.Get(q + d) * qkv.Get(k + col * at.Stride + d);
            s *= at.Scale;
            if (hasBias != 0) s += bias[(head % at.Heads * at.Tokens + row) * at.Tokens + col];
            p[to + col] = s;
            largest = Scalar.Larger(largest, s);
        }
        largest = Team.Max<TT>(room, largest);
        for (int col = Group.IdxX; col < at.Tokens; col += TT.Side * TT.Side)
        {
            float e = Scalar.Exp(p[to + col] - largest);
            p[to + col] = e;
            sum += e;
        }
        float share = 1f / Team.Sum<TT>(second, sum, 0f).A;
        for (int col = Group.IdxX; col < at.Tokens; col += TT.Side * TT.Side) p[to + col] *= share;
    }
}

/// <summary>One group is the first query of one head: its logits, then their softmax.</summary>
internal readonly struct ClsRows(ArrayView<float> p, Cells qkv, ArrayView<float> bias, int hasBias, HeadLayout at) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>()), second = SharedMemory.Allocate<float>(Team.Room<TT>());
        int head = Grid.IdxX, to = head * at.Tokens, q = at.Part(head, 0), k = at.Part(head, 1);
        float largest = float.NegativeInfinity, sum = 0f;
        for (int col = Group.IdxX; col < at.Tokens; col += TT.Side * TT.Side)
        {
            float s = 0f;
            for (int d = 0; d < at.Width; d++) s += qkv.Get(q + d) * qkv.Get(k + col * at.Stride + d);
            s *= at.Scale;
            if (hasBias != 0) s += bias[head % at.Heads * at.Tokens * at.Tokens + col];
            p[to + col] = s;
            largest = Scalar.Larger(largest, s);
        }
        largest = Team.Max<TT>(room, largest);
        for (int col = Group.IdxX; col < at.Tokens; col += TT.Side * TT.Side)
        {
            float e = Scalar.Exp(p[to + col] - largest);
            p[to + col] = e;
            sum += e;
        }
        float share = 1f / Team.Sum<TT>(second, sum, 0f).A;
        for (int col = Group.IdxX; col < at.Tokens; col += TT.Side * TT.Side) p[to + col] *= share;
    }
}

/// <summary>One thread is one patch of one image: the mean over heads.</summary>
internal readonly struct HeadMeans(ArrayView<float> a, ArrayView<float> p, int heads, int tokens, int patches) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= a.Length) return;
        int image = i / patches, at = image * heads * tokens + tokens - patches + i % patches;
        float sum = 0f;
        for (int h = 0; h < heads; h++) sum += p[at + h * tokens];
        a[i] = sum / heads;
    }
}

/// <summary>One group is one image. Rows are queries of all heads.</summary>
internal readonly struct MixImages(ArrayView<float> w, ArrayView<float> sums, ArrayView<float> attention, ArrayView<float> mix, int rows,
    int tokens, int last, float gain, int renormalise, float eps) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>());
        int image = Grid.IdxX, first = image * rows;
        float sum = 0f;
        for (int j = Group.IdxX; j < last; j += TT.Side * TT.Side)
        {
            float r = 0f;
            for (int row = 0; row < rows; row++) r += mix[first + row] * attention[(first + row) * tokens + tokens - last + j];
            w[image * last + j] = r;
            sum += r;
        }
        sum = Team.Sum<TT>(room, sum, 0f).A;
        float divisor = renormalise != 0 ? sum + eps : 1f;
        if (Group.IdxX == 0) sums[image] = divisor;
        for (int j = Group.IdxX; j < last; j += TT.Side * TT.Side) w[image * last + j] *= gain / divisor;
    }
}

/// <summary>One thread is one image: Σ dw·w, or 0 without renormalise.</summary>
internal readonly struct ImageDots(ArrayView<float> dots, ArrayView<float> dw, ArrayView<float> w, int cols, int renormalise) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= dots.Length) return;
        float sum = 0f;
        if (renormalise != 0)
            for (int j = 0; j < cols; j++) sum += dw[i * cols + j] * w[i * cols + j];
        dots[i] = sum;
    }
}

internal readonly struct MixBackwardEach(ArrayView<float> dattention, ArrayView<float> dw, ArrayView<float> dots, ArrayView<float> sums,
    ArrayView<float> mix, int rows, int tokens, int last, float gain, int accumulate) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= dattention.Length) return;
        int row = i / tokens, image = row / rows, j = i % tokens - (tokens - last);
        float d = 0f;
        if (j >= 0) d = mix[row] * (gain * dw[image * last + j] - dots[image]) / sums[image];
        dattention[i] = accumulate != 0 ? dattention[i] + d : d;
    }
}
