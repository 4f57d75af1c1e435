using System.Runtime.CompilerServices;

namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    // Elements between the vector that is worked on and the lines that are asked for: some 100 ns of work.
    private const int Ahead = 512;

    public override void GeluForward(Tensor y, Tensor x)
    {
        SameShape(nameof(GeluForward), y, x);
        Run(OneType(nameof(GeluForward), y, x), new GeluOp(y.Raw, x.Raw, checked((int)y.Count)));
    }

    private readonly struct GeluOp(void* y, void* x, int n) : IElementOp
    {
        public void Run<TV, TE>(Rows rows) where TV : struct, ILanes<TV> where TE : struct, IElement
            => rows.For(n, ElementGrain, new GeluRows<TV, TE>(y, x));
    }

    private readonly struct GeluRows<TV, TE>(void* y, void* x) : IRowKernel where TV : struct, ILanes<TV> where TE : struct, IElement
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int i = first;
            for (; i <= last - 2 * TV.Count; i += 2 * TV.Count)
            {
                Lines<TV>.Ask(TE.At(x, i + Ahead));
                Lines<TV>.Ask(TE.At(x, i + Ahead + TV.Count));
                Lines<TV>.Ask(TE.At(y, i + Ahead));
                Lines<TV>.Ask(TE.At(y, i + Ahead + TV.Count));
                TV a = VectorMath.Gelu(TE.Load<TV>(x, i)), b = VectorMath.Gelu(TE.Load<TV>(x, i + TV.Count));
                TE.Store(a, y, i);
                TE.Store(b, y, i + TV.Count);
            }
            for (; i <= last - TV.Count; i += TV.Count) TE.Store(VectorMath.Gelu(TE.Load<TV>(x, i)), y, i);
            if (i < last) TE.StoreFirst(VectorMath.Gelu(TE.LoadFirst<TV>(x, i, last - i)), y, i, last - i);
        }
    }

    public override void GeluBackward(Grad dx, Tensor dy, Tensor x)
    {
        if (!dx.Wanted) return;
        SameShape(nameof(GeluBackward), dx.Into, x);
        SameShape(nameof(GeluBackward), dy, x);
        Run(OneType(nameof(GeluBackward), dx.Into, dy, x), new GeluSlopeOp(dx.Into.Raw, dx.Accumulate, dy.Raw, x.Raw, checked((int)x.Count)));
    }

    private readonly struct GeluSlopeOp(void* dx, bool accumulate, void* dy, void* x, int n) : IElementOp
    {
        public void Run<TV, TE>(Rows rows) where TV : struct, ILanes<TV> where TE : struct, IElement
            => rows.For(n, ElementGrain, new GeluSlopeRows<TV, TE>(dx, accumulate, dy, x));
    }

    private readonly struct GeluSlopeRows<TV, TE>(void* dx, bool accumulate, void* dy, void* x) : IRowKernel
        where TV : struct, ILanes<TV> where TE : struct, IElement
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int i = first;
            for (; i <= last - TV.Count; i += TV.Count)
            {
                Lines<TV>.Ask(TE.At(x, i + Ahead));
                Lines<TV>.Ask(TE.At(dy, i + Ahead));
                Lines<TV>.Ask(TE.At(dx, i + Ahead));
                TV v = TE.Load<TV>(dy, i) * VectorMath.GeluSlope(TE.Load<TV>(x, i));
                TE.Store(accumulate ? v + TE.Load<TV>(dx, i) : v, dx, i);
            }
            int n = last - i;
            if (n == 0) return;
            TV tail = TE.LoadFirst<TV>(dy, i, n) * VectorMath.GeluSlope(TE.LoadFirst<TV>(x, i, n));
            TE.StoreFirst(accumulate ? tail + TE.LoadFirst<TV>(dx, i, n) : tail, dx, i, n);
        }
    }
}
