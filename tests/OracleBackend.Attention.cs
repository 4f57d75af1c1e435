using MimEngine.Kernels;

namespace MimEngine.Tests;

internal sealed unsafe partial class OracleBackend
{
    public override void AttentionForward(Tensor y, Tensor lse, Tensor qkv, int heads, Tensor? bias)
    {
        (int images, int tokens, int width) = (qkv.Shape.D0, qkv.Shape.D1, qkv.Shape.D2 / 3);
        int depth = width / heads;
        double* py = F(y), plse = F(lse);
        Require(qkv.DType == DType.F64, $"The oracle computes in F64, qkv is {qkv.DType}.");
        double[] logits = new double[tokens], p = new double[tokens];
        for (int b = 0; b < images; b++)
            for (int h = 0; h < heads; h++)
                for (int i = 0; i < tokens; i++)
                {
                    Logits(logits, qkv, bias, heads, b, h, i);
                    fixed (double* to = p, from = logits) plse[(b * heads + h) * tokens + i] = Softmax(to, from, tokens);
                    for (int d = 0; d < depth; d++)
                    {
                        double sum = 0;
                        for (int j = 0; j < tokens; j++) sum += p[j] * V(qkv, b, j, h * depth + d);
                        py[((long)b * tokens + i) * width + h * depth + d] = sum;
                    }
                }
    }

    public override void AttentionBackward(Grad dqkv, Grad dbias, Tensor dy, Tensor y, Tensor lse, Tensor qkv, int heads, Tensor? bias)
    {
        (int images, int tokens, int width) = (qkv.Shape.D0, qkv.Shape.D1, qkv.Shape.D2 / 3);
        int depth = width / heads;
        double scale = 1 / Math.Sqrt(depth);
        double* pdy = F(dy), py = F(y), plse = F(lse);
        double[] g = new double[qkv.Count], gbias = new double[(long)heads * tokens * tokens], logits = new double[tokens];
        for (int b = 0; b < images; b++)
            for (int h = 0; h < heads; h++)
                for (int i = 0; i < tokens; i++)
                {
                    Logits(logits, qkv, bias, heads, b, h, i);
                    long rowY = ((long)b * tokens + i) * width + h * depth;
                    double delta = 0;
                    for (int d = 0; d < depth; d++) delta += pdy[rowY + d] * py[rowY + d];
                    for (int j = 0; j < tokens; j++)
                    {
                        double p = Math.Exp(logits[j] - plse[(b * heads + h) * tokens + i]), dp = 0;
                        for (int d = 0; d < depth; d++)
                        {
                            dp += pdy[rowY + d] * V(qkv, b, j, h * depth + d);
                            g[At(qkv, b, j, 2 * width + h * depth + d)] += p * pdy[rowY + d];
                        }
                        double ds = p * (dp - delta);
                        gbias[((long)h * tokens + i) * tokens + j] += ds;
                        for (int d = 0; d < depth; d++)
                        {
                            g[At(qkv, b, i, h * depth + d)] += ds * scale * K(qkv, b, j, h * depth + d);
                            g[At(qkv, b, j, width + h * depth + d)] += ds * scale * Q(qkv, b, i, h * depth + d);
                        }
                    }
                }
        Emit(dqkv, g);
        Emit(dbias, gbias);
    }

    public override void RelativePositionBiasForward(Tensor bias, Tensor table, int grid)
    {
        int tokens = 1 + grid * grid, heads = table.Shape.D1;
        double* pbias = F(bias), ptable = F(table);
        for (int h = 0; h < heads; h++)
            for (int i = 0; i < tokens; i++)
                for (int j = 0; j < tokens; j++)
                    pbias[(h * tokens + i) * tokens + j] = ptable[RelativeIndex(i, j, grid) * heads + h];
    }

    public override void RelativePositionBiasBackward(Grad dtable, Tensor dbias, int grid)
    {
        int tokens = 1 + grid * grid, heads = dbias.Shape.D0, entries = (2 * grid - 1) * (2 * grid - 1) + 3;
        double* pdbias = F(dbias);
        double[] g = new double[entries * heads];
        for (int h = 0; h < heads; h++)
            for (int i = 0; i < tokens; i++)
                for (int j = 0; j < tokens; j++)
                    g[RelativeIndex(i, j, grid) * heads + h] += pdbias[(h * tokens + i) * tokens + j];
        Emit(dtable, g);
    }

    /// <summary>Row of the relative position table for query token i and key token j; token 0 is [cls].</summary>
    private static int RelativeIndex(int i, int j, int grid)
    {
        int side = 2 * grid - 1, entries = side * side + 3;
        if (i == 0 && j == 0) return entries - 1;
        if (i == 0) return entries - 3;
        if (j == 0) return entries - 2;
        (int ri, int ci) = Math.DivRem(i - 1, grid);
        (int rj, int cj) = Math.DivRem(j - 1, grid);
        return (ri - rj + grid - 1) * side + (ci - cj + grid - 1);
    }

    private static void Logits(double[] logits, Tensor qkv, Tensor? bias, int heads, int b, int h, int i)
    {
        int tokens = qkv.Shape.D1, depth = qkv.Shape.D2 / 3 / heads;
        for (int j = 0; j < tokens; j++)
        {
            double dot = 0;
            for (int d = 0; d < depth; d++) dot += Q(qkv, b, i, h * depth + d) * K(qkv, b, j, h * depth + d);
            logits[j] = dot / Math.Sqrt(depth) + (bias is { } t ? F(t)[((long)h * tokens + i) * tokens + j] : 0);
        }
    }

    private static long At(Tensor qkv, int b, int token, int column) => ((long)b * qkv.Shape.D1 + token) * qkv.Shape.D2 + column;
    private static double Q(Tensor qkv, int b, int token, int column) => ((double*)qkv.HostAddress)[At(qkv, b, token, column)];
    private static double K(Tensor qkv, int b, int token, int column)
        => ((double*)qkv.HostAddress)[At(qkv, b, token, qkv.Shape.D2 / 3 + column)];
    private static double V(Tensor qkv, int b, int token, int column)
        => ((double*)qkv.HostAddress)[At(qkv, b, token, qkv.Shape.D2 / 3 * 2 + column)];

    public override void AttentionProbabilities(Tensor p, Tensor qkv, int heads, Tensor? bias)
    {
        (int images, int tokens) = (qkv.Shape.D0, qkv.Shape.D1);
        double[] logits = new double[tokens];
        for (int b = 0; b < images; b++)
            for (int h = 0; h < heads; h++)
                for (int i = 0; i < tokens; i++)
                {
                    Logits(logits, qkv, bias, heads, b, h, i);
                    fixed (double* from = logits) Softmax(F(p) + (((long)b * heads + h) * tokens + i) * tokens, from, tokens);
                }
    }

    public override void ClsAttention(Tensor a, Tensor qkv, int heads, Tensor? bias)
    {
        (int images, int tokens, int patches) = (qkv.Shape.D0, qkv.Shape.D1, a.Shape.D1);
        double[] logits = new double[tokens];
        double* p = stackalloc double[tokens];
        for (int b = 0; b < images; b++)
        {
            for (int l = 0; l < patches; l++) F(a)[b * patches + l] = 0;
            for (int h = 0; h < heads; h++)
            {
                Logits(logits, qkv, bias, heads, b, h, 0);
                fixed (double* from = logits) Softmax(p, from, tokens);
                for (int l = 0; l < patches; l++) F(a)[b * patches + l] += p[tokens - patches + l] / heads;
            }
        }
    }

    public override void MixAttentionForward(Tensor w, Tensor sums, Tensor attention, Tensor mix, float gain, bool renormalise, float eps)
    {
        (int images, int heads, int tokens, int count) = (mix.Shape.D0, mix.Shape.D1, mix.Shape.D2, w.Shape.D1);
        for (int b = 0; b < images; b++)
        {
            double[] r = new double[count];
            for (int row = 0; row < heads * tokens; row++)
                for (int j = 0; j < count; j++)
                    r[j] += F(mix)[b * heads * tokens + row] * F(attention)[((long)b * heads * tokens + row) * tokens + tokens - count + j];
            F(sums)[b] = renormalise ? r.Sum() + eps : 1;
            for (int j = 0; j < count; j++) F(w)[b * count + j] = gain * r[j] / F(sums)[b];
        }
    }

    public override void MixAttentionBackward(Grad dattention, Tensor dw, Tensor w, Tensor sums, Tensor mix, float gain, bool renormalise)
    {
        if (!dattention.Wanted) return;
        (int images, int heads, int tokens, int count) = (mix.Shape.D0, mix.Shape.D1, mix.Shape.D2, w.Shape.D1);
        double[] g = new double[dattention.Into.Count];
        for (int b = 0; b < images; b++)
        {
            double shift = 0;
            for (int k = 0; k < count && renormalise; k++) shift += F(dw)[b * count + k] * F(w)[b * count + k];
            for (int row = 0; row < heads * tokens; row++)
                for (int j = 0; j < count; j++)
                    g[((long)b * heads * tokens + row) * tokens + tokens - count + j] = F(mix)[b * heads * tokens + row]
                        * (gain * F(dw)[b * count + j] - shift) / F(sums)[b];
        }
        Emit(dattention, g);
    }
}
