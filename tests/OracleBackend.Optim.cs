using MimEngine.Kernels;

namespace MimEngine.Tests;

internal sealed unsafe partial class OracleBackend
{
    public override void SquaredNorms(Tensor norms, Tensor gradient, ReadOnlySpan<UpdateSegment> segments)
    {
        for (int s = 0; s < segments.Length; s++) F(norms)[s] = Squares(F(gradient) + segments[s].GradientOffset, segments[s].Length);
    }

    public override void ClipScales(Tensor scales, Tensor total, Tensor norms, float max, bool perSegment)
    {
        double* ps = F(scales), pn = F(norms);
        double sum = 0;
        for (int s = 0; s < norms.Count; s++) sum += pn[s];
        F(total)[0] = Math.Sqrt(sum);
        for (int s = 0; s < norms.Count; s++)
            ps[s] = max <= 0 ? 1 : Math.Min(1, max / (Math.Sqrt(perSegment ? pn[s] : sum) + 1e-6));
    }

    public override void AdamWStep(Tensor p, Tensor m, Tensor v, Tensor? copy, Tensor gradient, Tensor? scales,
        ReadOnlySpan<UpdateSegment> segments, float beta1, float beta2, float eps)
    {
        double* pp = F(p), pm = F(m), pv = F(v), pg = F(gradient), ps = F(scales);
        double b1 = (double)(decimal)beta1, b2 = (double)(decimal)beta2;
        for (int s = 0; s < segments.Length; s++)
        {
            UpdateSegment at = segments[s];
            double lr = at.LearningRate, correction1 = 1 - Math.Pow(b1, at.Step), correction2 = 1 - Math.Pow(b2, at.Step);
            for (long i = at.Offset; i < at.Offset + at.Length; i++)
            {
                double g = pg[i - at.Offset + at.GradientOffset] * (ps == null ? 1 : ps[s]);
                pp[i] *= 1 - lr * at.WeightDecay;
                pm[i] = b1 * pm[i] + (1 - b1) * g;
                pv[i] = b2 * pv[i] + (1 - b2) * g * g;
                pp[i] -= lr / correction1 * pm[i] / (Math.Sqrt(pv[i]) / Math.Sqrt(correction2) + eps);
            }
        }
        CopyOut(copy, p, segments);
    }

    public override void LarsStep(Tensor p, Tensor mu, Tensor? copy, Tensor gradient, Tensor? scales,
        ReadOnlySpan<UpdateSegment> segments, float momentum, float trust)
    {
        double* pp = F(p), pmu = F(mu), pg = F(gradient), ps = F(scales);
        for (int s = 0; s < segments.Length; s++)
        {
            UpdateSegment at = segments[s];
            double[] g = new double[at.Length];
            double ratio = 1;
            for (int i = 0; i < at.Length; i++)
                g[i] = pg[at.GradientOffset + i] * (ps == null ? 1 : ps[s]) + (at.Trust ? (double)at.WeightDecay * pp[at.Offset + i] : 0);
            if (at.Trust)
            {
                double normP = Math.Sqrt(Squares(pp + at.Offset, at.Length)), normG;
                fixed (double* first = g) normG = Math.Sqrt(Squares(first, at.Length));
                if (normP > 0 && normG > 0) ratio = trust * normP / normG;
            }
            for (int i = 0; i < at.Length; i++)
            {
                pmu[at.Offset + i] = momentum * pmu[at.Offset + i] + ratio * g[i];
                pp[at.Offset + i] -= (double)at.LearningRate * pmu[at.Offset + i];
            }
        }
        CopyOut(copy, p, segments);
    }

    public override void SgdStep(Tensor p, Tensor mu, Tensor? copy, Tensor gradient, Tensor? scales,
        ReadOnlySpan<UpdateSegment> segments, float momentum)
    {
        double* pp = F(p), pmu = F(mu), pg = F(gradient), ps = F(scales);
        for (int s = 0; s < segments.Length; s++)
        {
            UpdateSegment at = segments[s];
            for (long i = at.Offset; i < at.Offset + at.Length; i++)
            {
                double g = pg[i - at.Offset + at.GradientOffset] * (ps == null ? 1 : ps[s]) + (double)at.WeightDecay * pp[i];
                pmu[i] = at.Step == 1 ? g : momentum * pmu[i] + g;
                pp[i] -= (double)at.LearningRate * pmu[i];
            }
        }
        CopyOut(copy, p, segments);
    }

    private static void CopyOut(Tensor? copy, Tensor p, ReadOnlySpan<UpdateSegment> segments)
    {
        if (copy is not { } to) return;
        foreach (UpdateSegment at in segments)
            for (long i = at.Offset; i < at.Offset + at.Length; i++) F(to)[i] = F(p)[i];
    }

    private static double Squares(double* x, int n)
    {
        double sum = 0;
        for (int i = 0; i < n; i++) sum += x[i] * x[i];
        return sum;
    }
}
