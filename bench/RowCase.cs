using MimEngine.Kernels;
using TensorPrimitives = System.Numerics.Tensors.TensorPrimitives;

namespace MimEngine.Bench;

/// <summary>What is timed, and the operands that it streams through in the order of its mix: read, read and written back, written.</summary>
internal sealed record RowWork(Action Run, params Tensor[] Streams);

/// <summary>An operation along rows of 768 numbers: its streams, how to set it up, and the same by TensorPrimitives where that has it.</summary>
internal sealed record RowCase(string Name, StreamMix Mix, Func<Backend, Operands, int, RowWork> Setup, Func<Operands, int, Action>? Primitives = null)
{
    private const int Cols = 768;
    private const double Hidden = 0.6;

    /// <summary>Floats of one stream.</summary>
    public long Floats(int rows) => (long)rows * Cols;

    public static IReadOnlyList<RowCase> All { get; } =
    [
        new("LayerNorm forward", new(1, 0, 1), (b, o, rows) =>
        {
            (Tensor y, Tensor x, Tensor mean, Tensor rstd, Tensor g) = (o.New(rows, Cols), o.New(rows, Cols), o.New(1, rows), o.New(1, rows),
                o.New(1, Cols));
            return new RowWork(() => b.LayerNormForward(y, mean, rstd, x, g, g, 1e-6f), x, y);
        }, LayerNorm),
        new("LayerNorm backward", new(2, 0, 1), (b, o, rows) =>
        {
            (Tensor dx, Tensor x, Tensor dy, Tensor mean, Tensor g) = (o.New(rows, Cols), o.New(rows, Cols), o.New(rows, Cols),
                o.New(1, rows), o.New(1, Cols));
            Tensor dg = o.New(1, Cols), db = o.New(1, Cols);
            return new RowWork(() => b.LayerNormBackward(Grad.Write(dx), Grad.Write(dg), Grad.Write(db), dy, x, mean, mean, g), dy, x, dx);
        }),
        new("GELU forward", new(1, 0, 1), (b, o, rows) =>
        {
            Tensor y = o.New(rows, Cols), x = o.New(new Shape(rows, Cols), 4);
            return new RowWork(() => b.GeluForward(y, x), x, y);
        }),
        new("GELU backward", new(2, 0, 1), (b, o, rows) =>
        {
            Tensor dx = o.New(rows, Cols), dy = o.New(rows, Cols), x = o.New(new Shape(rows, Cols), 4);
            return new RowWork(() => b.GeluBackward(Grad.Write(dx), dy, x), dy, x, dx);
        }),
        new("softmax forward", new(1, 0, 1), (b, o, rows) =>
        {
            Tensor y = o.New(rows, Cols), x = o.New(new Shape(rows, Cols), 4);
            return new RowWork(() => b.SoftmaxForward(y, x), x, y);
        }, Softmax),
        new("softmax backward", new(2, 0, 1), (b, o, rows) =>
        {
            Tensor dx = o.New(rows, Cols), dy = o.New(rows, Cols), y = o.New(rows, Cols);
            return new RowWork(() => b.SoftmaxBackward(Grad.Write(dx), dy, y), dy, y, dx);
        }),
        new("AdamW", new(1, 3, 0), (b, o, rows) =>
        {
            Shape slab = new(rows * Cols);
            Tensor p = o.New(slab, 1), m = o.New(slab, 1), v = o.Filled(slab, 1f), g = o.New(slab, 1);
            UpdateSegment[] segments = [new(0, rows * Cols, 1e-4f, 0.05f, 5)];
            return new RowWork(() => b.AdamWStep(p, m, v, null, g, null, segments, 0.9f, 0.999f, 1e-8f), g, p, m, v);
        }),
        new("cross-entropy and its gradient", new(2, 0, 1), (b, o, rows) =>
        {
            Tensor x = o.New(new Shape(rows, Cols), 4), dx = o.New(rows, Cols), t = o.Filled(new Shape(rows, Cols), 1f / Cols), loss = o.New(1, 1);
            return new RowWork(() => b.CrossEntropyLoss(loss, dx, x, t, 1f), x, t, dx);
        }),
        new("masked pixel loss and its gradient", new(2 * Hidden, 0, 1), (b, o, rows) =>
        {
            int side = rows % 144 == 0 ? 192 : 128, patches = side * side / 256, pictures = rows / patches;   // patches of 16 × 16 pixels
            Tensor x = o.New(rows, Cols), dx = o.New(rows, Cols), images = o.New(new Shape(pictures, 3, side, side), 1);
            Tensor hidden = o.Hidden(new Shape(pictures, patches)), loss = o.New(1, 1);
            return new RowWork(() => b.MaskedPixelLoss(loss, dx, x, images, hidden, null, 16, PixelOrder.ChannelSlowest, PixelDistance.L1, false, 1e-5f, 1f), x, images, dx);
        }),
    ];

    private static Action Softmax(Operands o, int rows)
    {
        Tensor y = o.New(rows, Cols), x = o.New(new Shape(rows, Cols), 4);
        return () =>
        {
            Span<float> to = y.Host<float>(), from = x.Host<float>();
            for (int r = 0; r < rows; r++) TensorPrimitives.SoftMax<float>(from.Slice(r * Cols, Cols), to.Slice(r * Cols, Cols));
        };
    }

    private static Action LayerNorm(Operands o, int rows)
    {
        Tensor y = o.New(rows, Cols), x = o.New(rows, Cols), g = o.New(1, Cols);
        return () =>
        {
            ReadOnlySpan<float> gamma = g.Host<float>();
            for (int r = 0; r < rows; r++)
            {
                Span<float> to = y.Host<float>().Slice(r * Cols, Cols), from = x.Host<float>().Slice(r * Cols, Cols);
                TensorPrimitives.Subtract(from, TensorPrimitives.Sum<float>(from) / Cols, to);
                TensorPrimitives.Multiply(to, 1f / MathF.Sqrt(TensorPrimitives.SumOfSquares<float>(to) / Cols + 1e-6f), to);
                TensorPrimitives.MultiplyAdd(to, gamma, gamma, to);
            }
        };
    }
}
