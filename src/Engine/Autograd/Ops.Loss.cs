using MimEngine.Kernels;

namespace MimEngine.Engine.Autograd;

/// <summary>What a pixel loss compares and how; see Backend.MaskedPixelLoss.</summary>
public readonly record struct PixelLossOptions(int Patch, PixelOrder Order, PixelDistance Distance, bool DivideByWeights, float Eps, float Scale);

public static partial class Ops
{
    /// <summary>Masked, weighted pixel loss of a (B, L, 3·P²) prediction; (1). The gradient is made with it.</summary>
    public static Value MaskedPixelLoss(this Tape t, Value prediction, Tensor images, Tensor hidden, Tensor? weights, PixelLossOptions o)
    {
        int mark = t.Mark;
        Value loss = t.New(new Shape(1), prediction.NeedsGrad);
        Tensor? gradient = loss.NeedsGrad ? t.Scratch(prediction.Shape) : null;
        t.Backend.MaskedPixelLoss(loss.Data, gradient, prediction.Data, images, hidden, weights, o.Patch, o.Order, o.Distance,
            o.DivideByWeights, o.Eps, o.Scale);
        t.Record<LossNode>(loss, mark)?.Set(prediction, gradient!.Value);
        return loss;
    }

    /// <summary>Cross-entropy of (B, K) logits against target rows; (1). The gradient is made with it.</summary>
    public static Value CrossEntropyLoss(this Tape t, Value logits, Tensor targets, float scale = 1f)
    {
        int mark = t.Mark;
        Value loss = t.New(new Shape(1), logits.NeedsGrad);
        Tensor? gradient = loss.NeedsGrad ? t.Scratch(logits.Shape) : null;
        t.Backend.CrossEntropyLoss(loss.Data, gradient, logits.Data, targets, scale);
        t.Record<LossNode>(loss, mark)?.Set(logits, gradient!.Value);
        return loss;
    }

    /// <summary>Starts backward at <paramref name="y"/> with a given gradient, as if a loss had produced it.</summary>
    public static void Seed(this Tape t, Value y, Tensor gradient)
    {
        if (!y.NeedsGrad) return;
        int mark = t.Mark;
        Value start = t.New(new Shape(1), needsGrad: true);
        Tensor own = t.Scratch(y.Shape);
        t.Backend.Copy(own, gradient.Reshape(y.Shape));
        t.Record<LossNode>(start, mark)?.Set(y, own);
    }

    /// <summary>A loss made its input's gradient during forward; backward only puts it there.</summary>
    private sealed class LossNode : Node
    {
        private Value _x = null!;
        private Tensor _gradient;

        public void Set(Value x, Tensor gradient) => (_x, _gradient) = (x, gradient);

        public override bool IsLoss => true;

        public override void Abandon(Tape t) => t.Done(_gradient);

        public override void Backward(Tape t)
        {
            if (_x.Gradient is { } known)
            {
                t.Backend.AddScaled(known, _gradient, 1f, 1f);
                t.Done(_gradient);
            }
            else _x.Gradient = _gradient;
        }
    }
}
