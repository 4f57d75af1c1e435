using System.Runtime.CompilerServices;

namespace MimEngine.Kernels.Cpu;

public sealed unsafe partial class CpuBackend
{
    public override void AttentionProbabilities(Tensor p, Tensor qkv, int heads, Tensor? bias)
    {
        int images = qkv.Shape.D0, tokens = qkv.Shape.D1, width = qkv.Shape.D2 / 3;
        Run(qkv.DType, new ProbabilitiesOp(p.F32, qkv.Raw, bias is { } given ? given.F32 : null, images, heads, tokens, width));
    }

    private readonly struct ProbabilitiesOp(float* p, void* qkv, float* bias, int images, int heads, int tokens, int width) : IElementOp
    {
        public void Run<TV, TE>(Rows rows) where TV : struct, ILanes<TV> where TE : struct, IElement
            => rows.For(images * heads, 1, new ProbabilityHeads<TV, TE>(p, qkv, bias, heads, tokens, width));
    }

    /// <summary>One row is one head of one image.</summary>
    private readonly struct ProbabilityHeads<TV, TE>(float* p, void* qkv, float* bias, int heads, int tokens, int width) : IRowKernel
        where TV : struct, ILanes<TV> where TE : struct, IElement
    {
        public void Run(int first, int last, int chunk)
        {
            int depth = width / heads, row = 3 * width;
            float scale = (float)(1 / Math.Sqrt(depth));
            for (int unit = first; unit < last; unit++)
            {
                (int b, int h) = Math.DivRem(unit, heads);
                void* q = TE.At(qkv, (nint)b * tokens * row + h * depth);
                float* line = p + (long)unit * tokens * tokens;
                for (int i = 0; i < tokens; i++, line += tokens)
                {
                    for (int j = 0; j < tokens; j++)
                        line[j] = scale * Lines<TV>.Dot<TE>(TE.At(q, (nint)i * row), TE.At(q, width + (nint)j * row), depth);
                    if (bias != null) Lines<TV>.Add(line, line, bias + ((long)h * tokens + i) * tokens, tokens);
                    float sum = Lines<TV>.ExpMinus(line, line, Lines<TV>.Largest(line, tokens), tokens);
                    Lines<TV>.Scale(line, line, 1f / sum, accumulate: false, tokens);
                }
            }
        }
    }

    public override void ClsAttention(Tensor a, Tensor qkv, int heads, Tensor? bias)
    {
        int images = qkv.Shape.D0, tokens = qkv.Shape.D1, width = qkv.Shape.D2 / 3, patches = a.Shape.D1;
        float* lines = (float*)Scratch(PartialSlot, (long)images * tokens * sizeof(float));
        Run(qkv.DType, new ClsOp(a.F32, lines, qkv.Raw, bias is { } given ? given.F32 : null, images, heads, tokens, width, patches));
    }

    private readonly struct ClsOp(float* a, float* lines, void* qkv, float* bias, int images, int heads, int tokens, int width, int patches) : IElementOp
    {
        public void Run<TV, TE>(Rows rows) where TV : struct, ILanes<TV> where TE : struct, IElement
            => rows.For(images, 1, new ClsImages<TV, TE>(a, lines, qkv, bias, heads, tokens, width, patches));
    }

    /// <summary>One row is one image; its line holds one head's logits.</summary>
    private readonly struct ClsImages<TV, TE>(float* a, float* lines, void* qkv, float* bias, int heads, int tokens, int width, int patches)
        : IRowKernel where TV : struct, ILanes<TV> where TE : struct, IElement
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            int depth = width / heads, row = 3 * width;
            float scale = (float)(1 / Math.Sqrt(depth));
            for (int b = first; b < last; b++)
            {
                float* to = a + (long)b * patches, line = lines + (long)b * tokens;
                Lines<TV>.Set(to, 0f, patches);
                for (int h = 0; h < heads; h++)
                {
                    void* q = TE.At(qkv, (nint)b * tokens * row + h * depth);
                    for (int j = 0; j < tokens; j++) line[j] = scale * Lines<TV>.Dot<TE>(q, TE.At(q, width + (nint)j * row), depth);
                    if (bias != null) Lines<TV>.Add(line, line, bias + (long)h * tokens * tokens, tokens);
                    float sum = Lines<TV>.ExpMinus(line, line, Lines<TV>.Largest(line, tokens), tokens);
                    Lines<TV>.Scale(to, line + tokens - patches, 1f / (heads * sum), accumulate: true, patches);
                }
            }
        }
    }

    public override void MixAttentionForward(Tensor w, Tensor sums, Tensor attention, Tensor mix, float gain, bool renormalise, float eps)
    {
        int images = attention.Shape.D0, heads = attention.Shape.D1, tokens = attention.Shape.D2, count = w.Shape.D1;
        float* pw = w.F32, ps = sums.F32, pa = attention.F32, pm = mix.F32;
        switch (Level)
        {
            case SimdLevel.Vector512: _rows.For(images, 1, new MixImages<Lanes16>(pw, ps, pa, pm, heads, tokens, count, gain, renormalise, eps)); break;
            case SimdLevel.Vector256: _rows.For(images, 1, new MixImages<Lanes8>(pw, ps, pa, pm, heads, tokens, count, gain, renormalise, eps)); break;
            default: _rows.For(images, 1, new MixImages<Lanes1>(pw, ps, pa, pm, heads, tokens, count, gain, renormalise, eps)); break;
        }
    }

    /// <summary>One row is one image.</summary>
    private readonly struct MixImages<TV>(float* w, float* sums, float* attention, float* mix, int heads, int tokens, int count, float gain,
        bool renormalise, float eps) : IRowKernel where TV : struct, ILanes<TV>
    {
        public void Run(int first, int last, int chunk)
        {
            for (int b = first; b < last; b++)
            {
                float* to = w + (long)b * count, m = mix + (long)b * heads * tokens;
                float* line = attention + (long)b * heads * tokens * tokens + tokens - count;
                Lines<TV>.Set(to, 0f, count);
                for (int row = 0; row < heads * tokens; row++, line += tokens)
                    if (m[row] != 0f) Lines<TV>.Scale(to, line, m[row], accumulate: true, count);
                sums[b] = renormalise ? Lines<TV>.Sum(to, count) + eps : 1f;
                Lines<TV>.Scale(to, to, gain / sums[b], accumulate: false, count);
            }
        }
    }

    public override void MixAttentionBackward(Grad dattention, Tensor dw, Tensor w, Tensor sums, Tensor mix, float gain, bool renormalise)
    {
        if (!dattention.Wanted) return;
        int images = mix.Shape.D0, heads = mix.Shape.D1, tokens = mix.Shape.D2, count = w.Shape.D1;
        float* slopes = (float*)Scratch(PartialSlot, (long)images * count * sizeof(float));
        float* to = dattention.Into.F32, g = dw.F32, pw = w.F32, ps = sums.F32, pm = mix.F32;
        bool a = dattention.Accumulate;
        switch (Level)
        {
            case SimdLevel.Vector512:
                _rows.For(images, 1, new MixBackwardImages<Lanes16>(to, a, slopes, g, pw, ps, pm, heads, tokens, count, gain, renormalise));
                break;
            case SimdLevel.Vector256:
                _rows.For(images, 1, new MixBackwardImages<Lanes8>(to, a, slopes, g, pw, ps, pm, heads, tokens, count, gain, renormalise));
                break;
            default:
                _rows.For(images, 1, new MixBackwardImages<Lanes1>(to, a, slopes, g, pw, ps, pm, heads, tokens, count, gain, renormalise));
                break;
        }
    }

    /// <summary>One row is one image.</summary>
    private readonly struct MixBackwardImages<TV>(float* dattention, bool accumulate, float* slopes, float* dw, float* w, float* sums,
        float* mix, int heads, int tokens, int count, float gain, bool renormalise) : IRowKernel where TV : struct, ILanes<TV>
    {
        public void Run(int first, int last, int chunk)
        {
            int before = tokens - count;
            for (int b = first; b < last; b++)
            {
                float* slope = slopes + (long)b * count, g = dw + (long)b * count;
                float shift = renormalise ? Lines<TV>.Dot(g, w + (long)b * count, count) : 0f;
                for (int j = 0; j < count; j++) slope[j] = (gain * g[j] - shift) / sums[b];
                float* to = dattention + (long)b * heads * tokens * tokens, m = mix + (long)b * heads * tokens;
                for (int row = 0; row < heads * tokens; row++, to += tokens)
                {
                    if (!accumulate) Lines<TV>.Set(to, 0f, before);
                    Lines<TV>.Scale(to + before, slope, m[row], accumulate, count);
                }
            }
        }
    }
}
