using MimEngine.Kernels;

namespace MimEngine.Tests;

internal sealed unsafe partial class OracleBackend
{
    public override void LayerNormForward(Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor gamma, Tensor beta, float eps)
    {
        int cols = x.Shape.Cols, rows = x.Shape.Rows;
        double* py = F(y), pmean = F(mean), prstd = F(rstd), px = F(x), pgamma = F(gamma), pbeta = F(beta);
        for (int m = 0; m < rows; m++)
        {
            double* row = px + (long)m * cols;
            double sum = 0, squares = 0;
            for (int c = 0; c < cols; c++) sum += row[c];
            pmean[m] = sum / cols;
            for (int c = 0; c < cols; c++) squares += (row[c] - pmean[m]) * (row[c] - pmean[m]);
            prstd[m] = 1 / Math.Sqrt(squares / cols + eps);
            for (int c = 0; c < cols; c++) py[(long)m * cols + c] = (row[c] - pmean[m]) * prstd[m] * pgamma[c] + pbeta[c];
        }
    }

    public override void LayerNormBackward(Grad dx, Grad dgamma, Grad dbeta, Tensor dy, Tensor x, Tensor mean, Tensor rstd, Tensor gamma)
    {
        int cols = x.Shape.Cols, rows = x.Shape.Rows;
        double* pdy = F(dy), px = F(x), pmean = F(mean), prstd = F(rstd), pgamma = F(gamma);
        double[] gx = new double[(long)rows * cols], ggamma = new double[cols], gbeta = new double[cols];
        for (int m = 0; m < rows; m++)
        {
            double meanG = 0, meanGx = 0;
            for (int c = 0; c < cols; c++)
            {
                double hat = (px[m * cols + c] - pmean[m]) * prstd[m], g = pdy[m * cols + c] * pgamma[c];
                meanG += g / cols;
                meanGx += g * hat / cols;
                ggamma[c] += pdy[m * cols + c] * hat;
                gbeta[c] += pdy[m * cols + c];
            }
            for (int c = 0; c < cols; c++)
            {
                double hat = (px[m * cols + c] - pmean[m]) * prstd[m], g = pdy[m * cols + c] * pgamma[c];
                gx[m * cols + c] = prstd[m] * (g - meanG - hat * meanGx);
            }
        }
        Emit(dx, gx);
        Emit(dgamma, ggamma);
        Emit(dbeta, gbeta);
    }

    public override void SoftmaxForward(Tensor y, Tensor x)
    {
        int cols = x.Shape.Cols, rows = x.Shape.Rows;
        double* py = F(y), px = F(x);
        for (int m = 0; m < rows; m++) Softmax(py + (long)m * cols, px + (long)m * cols, cols);
    }

    public override void SoftmaxBackward(Grad dx, Tensor dy, Tensor y)
    {
        int cols = y.Shape.Cols, rows = y.Shape.Rows;
        double* pdy = F(dy), py = F(y);
        double[] gx = new double[y.Count];
        for (int m = 0; m < rows; m++)
        {
            double dot = 0;
            for (int c = 0; c < cols; c++) dot += pdy[m * cols + c] * py[m * cols + c];
            for (int c = 0; c < cols; c++) gx[m * cols + c] = py[m * cols + c] * (pdy[m * cols + c] - dot);
        }
        Emit(dx, gx);
    }

    public override void BatchNormForward(Tensor y, Tensor mean, Tensor rstd, Tensor runningMean, Tensor runningVariance, Tensor x,
        float eps, float momentum, bool training)
    {
        int cols = x.Shape.Cols, rows = x.Shape.Rows;
        double* py = F(y), pmean = F(mean), prstd = F(rstd), prunning = F(runningMean), prunningVariance = F(runningVariance), px = F(x);
        for (int c = 0; c < cols; c++)
        {
            double sum = 0, squares = 0;
            for (int m = 0; m < rows; m++) sum += px[(long)m * cols + c];
            double average = sum / rows;
            for (int m = 0; m < rows; m++) squares += (px[(long)m * cols + c] - average) * (px[(long)m * cols + c] - average);
            double variance = squares / rows;
            if (training)
            {
                prunning[c] = (1 - (double)momentum) * prunning[c] + momentum * average;
                prunningVariance[c] = (1 - (double)momentum) * prunningVariance[c] + momentum * (squares / (rows - 1));
            }
            pmean[c] = training ? average : prunning[c];
            prstd[c] = 1 / Math.Sqrt((training ? variance : prunningVariance[c]) + eps);
            for (int m = 0; m < rows; m++) py[(long)m * cols + c] = (px[(long)m * cols + c] - pmean[c]) * prstd[c];
        }
    }

    public override void BatchNormBackward(Grad dx, Tensor dy, Tensor x, Tensor mean, Tensor rstd, bool training)
    {
        int cols = x.Shape.Cols, rows = x.Shape.Rows;
        double* pdy = F(dy), px = F(x), pmean = F(mean), prstd = F(rstd);
        double[] gx = new double[x.Count];
        for (int c = 0; c < cols; c++)
        {
            double meanDy = 0, meanDyX = 0;
            for (int m = 0; m < rows; m++)
            {
                meanDy += pdy[m * cols + c] / rows;
                meanDyX += pdy[m * cols + c] * (px[m * cols + c] - pmean[c]) * prstd[c] / rows;
            }
            for (int m = 0; m < rows; m++)
            {
                double hat = (px[m * cols + c] - pmean[c]) * prstd[c];
                gx[m * cols + c] = training ? prstd[c] * (pdy[m * cols + c] - meanDy - hat * meanDyX) : prstd[c] * pdy[m * cols + c];
            }
        }
        Emit(dx, gx);
    }

    /// <summary>y = softmax(x) of one row; returns ln Σ exp x.</summary>
    private static double Softmax(double* y, double* x, int n)
    {
        double largest = double.NegativeInfinity, sum = 0;
        for (int i = 0; i < n; i++) largest = Math.Max(largest, x[i]);
        for (int i = 0; i < n; i++) sum += y[i] = Math.Exp(x[i] - largest);
        for (int i = 0; i < n; i++) y[i] /= sum;
        return largest + Math.Log(sum);
    }

    public override void ActivateForward(Tensor y, Tensor x, Activation kind)
    {
        for (long i = 0; i < x.Count; i++) F(y)[i] = kind == Activation.Tanh ? Math.Tanh(F(x)[i]) : Math.Max(F(x)[i], 0);
    }

    public override void ActivateBackward(Grad dx, Tensor dy, Tensor y, Activation kind)
    {
        double[] g = new double[y.Count];
        for (long i = 0; i < y.Count; i++)
            g[i] = F(dy)[i] * (kind == Activation.Tanh ? 1 - F(y)[i] * F(y)[i] : F(y)[i] > 0 ? 1 : 0);
        Emit(dx, g);
    }
}
