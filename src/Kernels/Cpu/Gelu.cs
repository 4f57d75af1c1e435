using System.Runtime.CompilerServices;

namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
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
            void* to = y, from = x;   // a field would be read again after every store
            var curve = new GeluCurve<TV>();
            int i = first;
            for (; i <= last - 2 * TV.Count; i += 2 * TV.Count)
            {
                Lines<TV>.Ask(TE.At(from, i + Lines<TV>.Ahead));
                Lines<TV>.Ask(TE.At(from, i + Lines<TV>.Ahead + TV.Count));
                Lines<TV>.Ask(TE.At(to, i + Lines<TV>.Ahead));
                Lines<TV>.Ask(TE.At(to, i + Lines<TV>.Ahead + TV.Count));
                TV a = curve.Of(TE.Load<TV>(from, i)), b = curve.Of(TE.Load<TV>(from, i + TV.Count));
                TE.Store(a, to, i);
                TE.Store(b, to, i + TV.Count);
            }
            for (; i <= last - TV.Count; i += TV.Count) TE.Store(curve.Of(TE.Load<TV>(from, i)), to, i);
            if (i < last) TE.StoreFirst(curve.Of(TE.LoadFirst<TV>(from, i, last - i)), to, i, last - i);
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
            void* to = dx, slope = dy, from = x;
            bool add = accumulate;
            var curve = new SlopeCurve<TV>();
            int i = first;
            for (; i <= last - TV.Count; i += TV.Count)
            {
                Lines<TV>.Ask(TE.At(from, i + Lines<TV>.Ahead));
                Lines<TV>.Ask(TE.At(slope, i + Lines<TV>.Ahead));
                Lines<TV>.Ask(TE.At(to, i + Lines<TV>.Ahead));
                TV v = TE.Load<TV>(slope, i) * curve.Of(TE.Load<TV>(from, i));
                TE.Store(add ? v + TE.Load<TV>(to, i) : v, to, i);
            }
            int n = last - i;
            if (n == 0) return;
            TV tail = TE.LoadFirst<TV>(slope, i, n) * curve.Of(TE.LoadFirst<TV>(from, i, n));
            TE.StoreFirst(add ? tail + TE.LoadFirst<TV>(to, i, n) : tail, to, i, n);
        }
    }
}
