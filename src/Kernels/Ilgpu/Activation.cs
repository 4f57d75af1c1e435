using ILGPU;

namespace MimEngine.Kernels.Ilgpu;

internal sealed partial class IlgpuBackend
{
    public override void ActivateForward(Tensor y, Tensor x, Activation kind)
        => LaunchEach(y.Count, new ActivateEach(F(y), F(x), kind == Activation.Tanh ? 1 : 0));

    public override void ActivateBackward(Grad dx, Tensor dy, Tensor y, Activation kind)
    {
        if (dx.Wanted) LaunchEach(y.Count, new ActivateBackwardEach(F(dx), F(dy), F(y), kind == Activation.Tanh ? 1 : 0, Flag(dx.Accumulate)));
    }

    public override void NormalizePatches(Tensor y, Tensor x, int patch, float eps)
        => Launch(x.Count / (3L * patch * patch),
            new NormalizePatchRows(F(y), F(x), new PatchLayout(x.Shape, patch, PixelOrder.ChannelSlowest), eps));
}

internal readonly struct ActivateEach(ArrayView<float> y, ArrayView<float> x, int tanh) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= y.Length) return;
        float v = x[i];
        if (tanh != 0) v = Scalar.Tanh(v);
        else v = v > 0f ? v : 0f;
        y[i] = v;
    }
}

internal readonly struct ActivateBackwardEach(ArrayView<float> dx, ArrayView<float> dy, ArrayView<float> y, int tanh, int accumulate) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        int i = Team.Index<TT>();
        if (i >= y.Length) return;
        float d;
        if (tanh != 0) d = dy[i] * (1f - y[i] * y[i]);
        else d = y[i] > 0f ? dy[i] : 0f;
        dx[i] = accumulate != 0 ? dx[i] + d : d;
    }
}

/// <summary>One group is one patch: mean, unbiased variance, then y.</summary>
internal readonly struct NormalizePatchRows(ArrayView<float> y, ArrayView<float> x, PatchLayout at, float eps) : IKernel
{
    public void Run<TT>() where TT : struct, ITile
    {
        ArrayView<float> room = SharedMemory.Allocate<float>(Team.Room<TT>()), second = SharedMemory.Allocate<float>(Team.Room<TT>());
        int numbers = 3 * at.Patch * at.Patch;
        float sum = 0f, squares = 0f;
        for (int i = Group.IdxX; i < numbers; i += TT.Side * TT.Side) sum += x[at.Pixel(Grid.IdxX, i)];
        float mean = Team.Sum<TT>(room, sum, 0f).A / numbers;
        for (int i = Group.IdxX; i < numbers; i += TT.Side * TT.Side)
        {
            float d = x[at.Pixel(Grid.IdxX, i)] - mean;
            squares += d * d;
        }
        float rstd = 1f / MathF.Sqrt(Team.Sum<TT>(second, squares, 0f).A / (numbers - 1) + eps);
        for (int i = Group.IdxX; i < numbers; i += TT.Side * TT.Side)
        {
            int pixel = at.Pixel(Grid.IdxX, i);
            y[pixel] = (x[pixel] - mean) * rstd;
        }
    }
}
