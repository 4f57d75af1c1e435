namespace MimEngine.Kernels;

public sealed partial class TimedBackend
{
    public override void NormalizeImages(Tensor y, Tensor x, ReadOnlySpan<float> mean, ReadOnlySpan<float> std)
    {
        long start = Start();
        inner.NormalizeImages(y, x, mean, std);
        Stop(start, Moved(nameof(NormalizeImages), y, x), x.Shape);
    }

    public override void Luma(Tensor gray, Tensor images, LumaWeights weights)
    {
        long start = Start();
        inner.Luma(gray, images, weights);
        Stop(start, Moved(nameof(Luma), gray, images), gray.Shape);
    }

    public override void FastKeypoints(Tensor keypoints, Tensor gray, int threshold, FastType type, bool suppress)
    {
        long start = Start();
        inner.FastKeypoints(keypoints, gray, threshold, type, suppress);
        Stop(start, Moved(nameof(FastKeypoints), keypoints, gray), gray.Shape);
    }

    public override void MarkKeypoints(Tensor marks, Tensor keypoints, Mark mark)
    {
        long start = Start();
        inner.MarkKeypoints(marks, keypoints, mark);
        Stop(start, Moved(nameof(MarkKeypoints), marks, keypoints), marks.Shape);
    }

    public override void BoxDensity(Tensor density, Tensor marks, int cell)
    {
        long start = Start();
        inner.BoxDensity(density, marks, cell);
        Stop(start, Moved(nameof(BoxDensity), density, marks), marks.Shape);
    }

    public override void KeypointWeights(Tensor weights, Tensor density, float temperature)
    {
        long start = Start();
        inner.KeypointWeights(weights, density, temperature);
        Stop(start, Moved(nameof(KeypointWeights), weights, density), weights.Shape);
    }
}
