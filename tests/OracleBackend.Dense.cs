using MimEngine.Kernels;

namespace MimEngine.Tests;

internal sealed unsafe partial class OracleBackend
{
    public override void LinearForward(Tensor y, Tensor x, Tensor w, Tensor? b)
    {
        int rows = (int)(x.Count / w.Shape.Cols), outs = w.Shape.Rows, ins = w.Shape.Cols;
        Require(y.Count == (long)rows * outs, $"LinearForward: x {x.Shape}, w {w.Shape}, y {y.Shape}.");
        double* py = F(y), px = F(x), pw = F(w), pb = F(b);
        for (int m = 0; m < rows; m++)
            for (int n = 0; n < outs; n++)
            {
                double sum = pb == null ? 0 : pb[n];
                for (int k = 0; k < ins; k++) sum += px[(long)m * ins + k] * pw[(long)n * ins + k];
                py[(long)m * outs + n] = sum;
            }
    }

    public override void LinearBackward(Grad dx, Grad dw, Grad db, Tensor dy, Tensor x, Tensor w)
    {
        int outs = w.Shape.Rows, ins = w.Shape.Cols, rows = (int)(dy.Count / outs);
        double* pdy = F(dy), px = F(x), pw = F(w);
        double[] gx = new double[(long)rows * ins], gw = new double[(long)outs * ins], gb = new double[outs];
        for (int m = 0; m < rows; m++)
            for (int n = 0; n < outs; n++)
            {
                double g = pdy[(long)m * outs + n];
                gb[n] += g;
                for (int k = 0; k < ins; k++)
                {
                    gx[m * ins + k] += g * pw[(long)n * ins + k];
                    gw[n * ins + k] += g * px[(long)m * ins + k];
                }
            }
        Emit(dx, gx);
        Emit(dw, gw);
        Emit(db, gb);
    }

    public override void GeluForward(Tensor y, Tensor x)
    {
        double* py = F(y), px = F(x);
        for (long i = 0; i < x.Count; i++) py[i] = px[i] * NormalDistribution(px[i]);
    }

    public override void GeluBackward(Grad dx, Tensor dy, Tensor x)
    {
        double* pdy = F(dy), px = F(x);
        double[] gx = new double[x.Count];
        for (int i = 0; i < gx.Length; i++)
        {
            double density = Math.Exp(-0.5 * px[i] * px[i]) / Math.Sqrt(2 * Math.PI);
            gx[i] = pdy[i] * (NormalDistribution(px[i]) + px[i] * density);
        }
        Emit(dx, gx);
    }

    public override void LinearGeluBackward(Tensor dh, Tensor dy, Tensor w, Tensor h)
    {
        int m = dy.Shape.Rows, n = w.Shape.Rows, k = w.Shape.Cols;
        double* g = F(dh), pdy = F(dy), pw = F(w), ph = F(h);
        for (int i = 0; i < m; i++)
            for (int j = 0; j < k; j++)
            {
                double sum = 0, x = ph[(long)i * k + j];
                for (int s = 0; s < n; s++) sum += pdy[(long)i * n + s] * pw[(long)s * k + j];
                g[(long)i * k + j] = sum * (NormalDistribution(x) + x * Math.Exp(-0.5 * x * x) / Math.Sqrt(2 * Math.PI));
            }
    }

    /// <summary>The body of the contract, with a detour because y may be residual's memory.</summary>
    public override void LinearResidualForward(Tensor y, Tensor x, Tensor w, Tensor? b, Tensor residual, Tensor? gamma, Tensor? rowScale)
    {
        using Storage storage = Allocate(y.Bytes);
        Tensor branch = y with { Storage = storage, ByteOffset = 0 };
        LinearForward(branch, x, w, b);
        ScaleAddForward(branch, residual, gamma, rowScale);
        Copy(y, branch);
    }

    public override void ScaleAddForward(Tensor y, Tensor residual, Tensor? gamma, Tensor? rowScale)
    {
        int cols = y.Shape.Cols, rows = y.Shape.Rows, group = rows / (int)(rowScale?.Count ?? 1);
        double* py = F(y), pr = F(residual), pg = F(gamma), ps = F(rowScale);
        for (int m = 0; m < rows; m++)
            for (int n = 0; n < cols; n++)
            {
                double factor = (pg == null ? 1 : pg[n]) * (ps == null ? 1 : ps[m / group]);
                long i = (long)m * cols + n;
                py[i] = pr[i] + factor * py[i];
            }
    }

    public override void ScaleAddBackward(Tensor branch, Tensor? scaled, Tensor dy, Tensor? gamma, Tensor? rowScale)
    {
        int cols = dy.Shape.Cols, rows = dy.Shape.Rows, group = rows / (int)(rowScale?.Count ?? 1);
        double* pbranch = F(branch), pscaled = F(scaled), pdy = F(dy), pg = F(gamma), ps = F(rowScale);
        for (int m = 0; m < rows; m++)
            for (int n = 0; n < cols; n++)
            {
                long i = (long)m * cols + n;
                double withoutGamma = (ps == null ? 1 : ps[m / group]) * pdy[i];
                pbranch[i] = (pg == null ? 1 : pg[n]) * withoutGamma;
                if (pscaled != null) pscaled[i] = withoutGamma;
            }
    }

    public override void LayerScaleBackward(Grad dgamma, Grad dw, Grad db, Tensor raw, Tensor rawBias, Tensor w, Tensor? b, Tensor gamma)
    {
        int outs = w.Shape.Rows, ins = w.Shape.Cols;
        double* praw = F(raw), prawBias = F(rawBias), pw = F(w), pb = F(b), pg = F(gamma);
        double[] gg = new double[outs], gw = new double[outs * ins], gb = new double[outs];
        for (int n = 0; n < outs; n++)
        {
            gg[n] = pb == null ? 0 : pb[n] * prawBias[n];
            gb[n] = pg[n] * prawBias[n];
            for (int k = 0; k < ins; k++)
            {
                gg[n] += pw[n * ins + k] * praw[n * ins + k];
                gw[n * ins + k] = pg[n] * praw[n * ins + k];
            }
        }
        Emit(dgamma, gg);
        Emit(dw, gw);
        Emit(db, gb);
    }

    /// <summary>Φ(x): the share of the standard normal distribution below x.</summary>
    internal static double NormalDistribution(double x) => 0.5 * (1 + Erf(x / Math.Sqrt(2)));

    /// <summary>
    /// erf(x) = 2/√π · e^(−x²) · Σ 2^n x^(2n+1)/(1·3·…·(2n+1)): all terms have one sign, so nothing cancels (Abramowitz and Stegun 7.1.6).
    /// </summary>
    internal static double Erf(double x)
    {
        if (Math.Abs(x) > 6) return Math.Sign(x);   // 1 − erf(6) = 2e-17
        double term = x, sum = x;
        for (int n = 1; Math.Abs(term) > 1e-18 * Math.Abs(sum); n++)
        {
            term *= 2 * x * x / (2 * n + 1);
            sum += term;
        }
        return 2 / Math.Sqrt(Math.PI) * Math.Exp(-x * x) * sum;
    }
}
