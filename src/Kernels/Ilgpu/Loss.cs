using ILGPU;

namespace MimEngine.Kernels.Ilgpu;

internal sealed partial class IlgpuBackend
{
    public override void MaskedPixelLoss(Tensor loss, Tensor? dprediction, Tensor prediction, Tensor images, Tensor hidden, Tensor? weights,
        int patch, PixelOrder order, PixelDistance distance, bool divideByWeights, float eps, float scale)
    {
        int patches = checked((int)hidden.Count);
        ArrayView<float> partial = Scratch<float>(PartialSlot, 2L * patches), factor = Scratch<float>(SecondPartialSlot, 1);
        var at = new PixelTerms(F(prediction), F(images), U(hidden), F(weights), Flag(weights), weights?.Shape.D1 ?? 1, weights?.Shape.D2 ?? 1,
            new PatchLayout(images.Shape, patch, order), distance == PixelDistance.L2 ? 1 : 0);
        Launch(patches, new PixelLossPatches(partial, at, patches, Flag(divideByWeights)));
        Launch(1, new PixelLossTotal(F(loss), factor, partial, patches, eps, scale));
        if (dprediction is { } d) LaunchEach(images.Count, new PixelLossGradient(F(d), factor, at, (int)images.Count));
    }

    public override void CrossEntropyLoss(Tensor loss, Tensor? dlogits, Tensor logits, Tensor targets, float scale)
    {
        int rows = logits.Shape.Rows, cols = logits.Shape.Cols;
        ArrayView<float> partial = Scratch<float>(PartialSlot, rows);
        Launch(rows, new CrossEntropyRows(partial, F(dlogits), Flag(dlogits), F(logits), F(targets), cols, scale / rows));
        Launch(1, new MeanOf(F(loss), partial, rows, scale / rows));
    }
}

/// <summary>The terms of the masked pixel loss, by pixel of the image tensor.</summary>
internal readonly struct PixelTerms(ArrayView<float> prediction, ArrayView<float> images, ArrayView<byte> hidden, ArrayView<float> weights,
    int hasWeights, int cellRows, int cellCols, PatchLayout at, int squared)
{
    public readonly PatchLayout At = at;

    public bool IsHidden(int patch) => hidden[patch] != 0;

    public float Difference(int pixel) => prediction[At.Place(pixel)] - images[pixel];

    public float Distance(float d) => squared != 0 ? d * d : d < 0f ? -d : d;

    public float Slope(float d) => squared != 0 ? 2f * d : d > 0f ? 1f : d < 0f ? -1f : 0f;

    /// <summary>W of pixel (b, y, x).</summary>
    public float Weight(int b, int y, int x)
    {
        if (hasWeights == 0) return 1f;
        int row = y / (At.Height / cellRows), col = x / (At.Width / cellCols);
        return weights[(b * cellRows + (row < cellRows ? row : cellRows - 1)) * cellCols + (col < cellCols ? col : cellCols - 1)];
    }
}

/// <summary>One group is one patch: Σ W·|d|^p, and ΣM or ΣW·M, of its pixels.</summary>
internal readonly struct PixelLossPatches(ArrayView<float> partial, PixelTerms terms, int patches, int divideByWeights) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>());
        PatchLayout at = terms.At;
        int patch = Grid.IdxX, b = patch / at.PatchesAnImage, inImage = patch % at.PatchesAnImage, across = at.Width / at.Patch;
        float sum = 0f, counted = 0f;
        if (terms.IsHidden(patch))
        {
            for (int i = Group.IdxX; i < 3 * at.Patch * at.Patch; i += TT.Side * TT.Side)
            {
                int c = i / (at.Patch * at.Patch), inside = i % (at.Patch * at.Patch);
                int y = inImage / across * at.Patch + inside / at.Patch, x = inImage % across * at.Patch + inside % at.Patch;
                float w = terms.Weight(b, y, x);
                sum += w * terms.Distance(terms.Difference(((b * 3 + c) * at.Height + y) * at.Width + x));
                if (c == 0) counted += divideByWeights != 0 ? w : 1f;
            }
        }
        Pair sums = Team.Sum<TT>(room, sum, counted);
        if (Group.IdxX != 0) return;
        partial[patch] = sums.A;
        partial[patches + patch] = sums.B;
    }
}

/// <summary>One group: factor = scale/(3·(counted + eps)), loss = factor·sum.</summary>
internal readonly struct PixelLossTotal(ArrayView<float> loss, ArrayView<float> factor, ArrayView<float> partial, int patches, float eps,
    float scale) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>());
        float sum = 0f, counted = 0f;
        for (int i = Group.IdxX; i < patches; i += TT.Side * TT.Side)
        {
            sum += partial[i];
            counted += partial[patches + i];
        }
        Pair sums = Team.Sum<TT>(room, sum, counted);
        if (Group.IdxX != 0) return;
        float f = scale / (3f * (sums.B + eps));
        factor[0] = f;
        loss[0] = sums.A * f;
    }
}

internal readonly struct PixelLossGradient(ArrayView<float> dprediction, ArrayView<float> factor, PixelTerms terms, int pixels) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= pixels) return;
        PatchLayout at = terms.At;
        int x = i % at.Width, y = i / at.Width % at.Height, b = i / at.Width / at.Height / 3;
        float d = 0f;
        if (terms.IsHidden(at.PatchOf(b, y, x))) d = factor[0] * terms.Weight(b, y, x) * terms.Slope(terms.Difference(i));
        dprediction[at.Place(i)] = d;
    }
}

/// <summary>One group is one row: −Σ t·(x − lse), the largest logit taken out first, and the gradient.</summary>
internal readonly struct CrossEntropyRows(ArrayView<float> partial, ArrayView<float> dlogits, int hasGradient, ArrayView<float> logits,
    ArrayView<float> targets, int cols, float factor) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>()), second = SharedMemory.Allocate<float>(Team.Room<TT>());
        ArrayView<float> third = SharedMemory.Allocate<float>(Team.Room<TT>());
        int at = Grid.IdxX * cols;
        float max = float.NegativeInfinity, sum = 0f, mass = 0f, dot = 0f;
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side) max = Scalar.Larger(max, logits[at + c]);
        max = Team.Max<TT>(room, max);
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side)
        {
            sum += Scalar.Exp(logits[at + c] - max);
            mass += targets[at + c];
            dot += targets[at + c] * (logits[at + c] - max);
        }
        Pair sums = Team.Sum<TT>(second, sum, mass);
        dot = Team.Sum<TT>(third, dot, 0f).A;
        if (Group.IdxX == 0) partial[Grid.IdxX] = sums.B * Scalar.Log(sums.A) - dot;
        if (hasGradient == 0) return;
        for (int c = Group.IdxX; c < cols; c += TT.Side * TT.Side)
            dlogits[at + c] = (Scalar.Exp(logits[at + c] - max) * (sums.B / sums.A) - targets[at + c]) * factor;
    }
}

/// <summary>One group: y = factor·Σ x.</summary>
internal readonly struct MeanOf(ArrayView<float> y, ArrayView<float> x, int count, float factor) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>());
        float sum = 0f;
        for (int i = Group.IdxX; i < count; i += TT.Side * TT.Side) sum += x[i];
        sum = Team.Sum<TT>(room, sum, 0f).A;
        if (Group.IdxX == 0) y[0] = sum * factor;
    }
}
