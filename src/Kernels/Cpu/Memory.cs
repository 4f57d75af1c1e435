using System.Runtime.CompilerServices;

namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    private const int ElementGrain = 32_768;   // floats a chunk: 128 kB, so that chunks outnumber threads and stay in L2

    public override void Fill(Tensor y, float value)
    {
        if (y.DType == DType.U8) y.Host<byte>().Fill((byte)value);
        else new Span<float>(y.F32, checked((int)y.Count)).Fill(value);
    }

    public override void Copy(Tensor y, Tensor x)
        => Buffer.MemoryCopy((void*)x.HostAddress, (void*)y.HostAddress, y.Bytes, x.Bytes);

    public override void Cast(Tensor y, Tensor x)
    {
        if (y.Count != x.Count) throw new ArgumentException($"Cast: {x.Shape} into {y.Shape}.");
        if (y.DType == x.DType) Copy(y, x);
        else if (y.DType == DType.BF16) Run(x.DType, new CastOp<Bf16Element>(y.Raw, x.Raw, checked((int)y.Count)));
        else Run(x.DType, new CastOp<F32Element>(y.F32, x.Raw, checked((int)y.Count)));
    }

    private readonly struct CastOp<TY>(void* y, void* x, int n) : IElementOp where TY : struct, IElement
    {
        public void Run<TV, TE>(Rows rows) where TV : struct, ILanes<TV> where TE : struct, IElement
            => rows.For(n, ElementGrain, new CastRows<TV, TY, TE>(y, x));
    }

    private readonly struct CastRows<TV, TY, TX>(void* y, void* x) : IRowKernel
        where TV : struct, ILanes<TV> where TY : struct, IElement where TX : struct, IElement
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            for (int i = first; i < last; i += TV.Count) Lines<TV>.Store<TY>(Lines<TV>.Load<TX>(x, i, last - i), y, i, last - i);
        }
    }

    public override void AddScaled(Tensor y, Tensor x, float a, float b)
    {
        int n = checked((int)y.Count);
        switch (Level)
        {
            case SimdLevel.Vector512: _rows.For(n, ElementGrain, new AddScaledRows<Lanes16>(y.F32, x.F32, a, b)); break;
            case SimdLevel.Vector256: _rows.For(n, ElementGrain, new AddScaledRows<Lanes8>(y.F32, x.F32, a, b)); break;
            default: _rows.For(n, ElementGrain, new AddScaledRows<Lanes1>(y.F32, x.F32, a, b)); break;
        }
    }

    private readonly struct AddScaledRows<TV>(float* y, float* x, float a, float b) : IRowKernel where TV : struct, ILanes<TV>
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            TV va = TV.All(a), vb = TV.All(b);
            bool keep = b != 0f;   // 0·NaN is NaN: a destination that is not kept must not be read
            int i = first;
            for (; i <= last - TV.Count; i += TV.Count)
            {
                TV v = va * TV.Load(x + i);
                (keep ? TV.MulAdd(vb, TV.Load(y + i), v) : v).Store(y + i);
            }
            if (i == last) return;
            TV tail = va * TV.LoadFirst(x + i, last - i);
            (keep ? TV.MulAdd(vb, TV.LoadFirst(y + i, last - i), tail) : tail).StoreFirst(y + i, last - i);
        }
    }
}
