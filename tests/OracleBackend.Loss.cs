using MimEngine.Kernels;

namespace MimEngine.Tests;

internal sealed unsafe partial class OracleBackend
{
    public override void MaskedPixelLoss(Tensor loss, Tensor? dprediction, Tensor prediction, Tensor images, Tensor hidden, Tensor? weights,
        int patch, PixelOrder order, PixelDistance distance, bool divideByWeights, float eps, float scale)
    {
        (int height, int width) = (images.Shape.D2, images.Shape.D3);
        int cellRows = weights?.Shape.D1 ?? 1, cellCols = weights?.Shape.D2 ?? 1;
        double* pp = F(prediction), px = F(images), pw = F(weights), pd = F(dprediction);
        byte* ph = U(hidden);
        int perPatch = 3 * patch * patch;
        double sum = 0, mask = 0, weightedMask = 0;

        double Weight(long pixel)
        {
            (long b, int y, int x) = (pixel / width / height / 3, (int)(pixel / width % height), (int)(pixel % width));
            return pw == null ? 1 : pw[(b * cellRows + y / (height / cellRows)) * cellCols + x / (width / cellCols)];
        }

        ForPixels(images.Shape, patch, order, (pixel, at) =>
        {
            if (ph[at / perPatch] == 0) return;
            double d = pp[at] - px[pixel];
            sum += Weight(pixel) * (distance == PixelDistance.L1 ? Math.Abs(d) : d * d);
            mask += 1.0 / 3;               // each hidden pixel is met once a channel
            weightedMask += Weight(pixel) / 3;
        });
        double denominator = 3 * ((divideByWeights ? weightedMask : mask) + eps);
        F(loss)[0] = scale * sum / denominator;
        if (pd == null) return;
        ForPixels(images.Shape, patch, order, (pixel, at) =>
        {
            double d = pp[at] - px[pixel];
            double slope = distance == PixelDistance.L1 ? Math.Sign(d) : 2 * d;
            pd[at] = ph[at / perPatch] == 0 ? 0 : scale * Weight(pixel) * slope / denominator;
        });
    }

    public override void CrossEntropyLoss(Tensor loss, Tensor? dlogits, Tensor logits, Tensor targets, float scale)
    {
        (int rows, int cols) = (logits.Shape.Rows, logits.Shape.Cols);
        double* pl = F(logits), pt = F(targets), pd = F(dlogits);
        double[] p = new double[cols];
        double sum = 0;
        for (int b = 0; b < rows; b++)
        {
            double lse, mass = 0;
            fixed (double* to = p) lse = Softmax(to, pl + (long)b * cols, cols);
            for (int k = 0; k < cols; k++)
            {
                sum -= pt[b * cols + k] * (pl[b * cols + k] - lse);
                mass += pt[b * cols + k];
            }
            for (int k = 0; k < cols && pd != null; k++) pd[b * cols + k] = scale * (p[k] * mass - pt[b * cols + k]) / rows;
        }
        F(loss)[0] = scale * sum / rows;
    }
}
