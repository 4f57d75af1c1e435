using MimEngine.Kernels;

namespace MimEngine.Tests;

internal sealed unsafe partial class OracleBackend
{
    public override void L2NormalizeForward(Tensor y, Tensor norms, Tensor x, Tensor? gain, float eps)
    {
        int cols = x.Shape.Cols;
        double* py = F(y), pn = F(norms), px = F(x), pg = F(gain);
        for (long m = 0; m < norms.Count; m++)
        {
            pn[m] = Math.Max(Math.Sqrt(Squares(px + m * cols, cols)), eps);
            for (int c = 0; c < cols; c++) py[m * cols + c] = (pg == null ? 1 : pg[m]) * px[m * cols + c] / pn[m];
        }
    }

    public override void L2NormalizeBackward(Grad dx, Grad dgain, Tensor dy, Tensor x, Tensor norms, Tensor? gain, float eps)
    {
        int cols = x.Shape.Cols;
        double* pdy = F(dy), px = F(x), pn = F(norms), pg = F(gain);
        double[] gx = new double[x.Count], gg = new double[norms.Count];
        for (long m = 0; m < norms.Count; m++)
        {
            for (int c = 0; c < cols; c++) gg[m] += pdy[m * cols + c] * px[m * cols + c] / pn[m];
            for (int c = 0; c < cols; c++)
            {
                double along = pn[m] > eps ? px[m * cols + c] / pn[m] * gg[m] : 0;
                gx[m * cols + c] = (pg == null ? 1 : pg[m]) / pn[m] * (pdy[m * cols + c] - along);
            }
        }
        Emit(dx, gx);
        Emit(dgain, gg);
    }

    public override void ScaleShiftForward(Tensor y, Tensor x, Tensor gamma, Tensor beta)
    {
        int cols = x.Shape.Cols;
        for (long i = 0; i < x.Count; i++) F(y)[i] = F(gamma)[i % cols] * F(x)[i] + F(beta)[i % cols];
    }

    public override void ScaleShiftBackward(Grad dx, Grad dgamma, Grad dbeta, Tensor dy, Tensor x, Tensor gamma)
    {
        int cols = x.Shape.Cols;
        double[] gx = new double[x.Count], gg = new double[cols], gb = new double[cols];
        for (long i = 0; i < x.Count; i++)
        {
            gx[i] = F(gamma)[i % cols] * F(dy)[i];
            gg[i % cols] += F(dy)[i] * F(x)[i];
            gb[i % cols] += F(dy)[i];
        }
        Emit(dx, gx);
        Emit(dgamma, gg);
        Emit(dbeta, gb);
    }

    public override void TeacherTargets(Tensor targets, Tensor entropy, Tensor logits, Tensor center, Tensor? weights, float temperature)
    {
        (int rows, int cols) = (logits.Shape.Rows, logits.Shape.Cols);
        double* pt = F(targets), pz = F(logits), pc = F(center), pw = F(weights);
        double[] x = new double[cols];
        double sum = 0;
        for (int m = 0; m < rows; m++)
        {
            double weight = pw == null ? 1.0 / rows : pw[m];
            if (weight == 0) continue;
            for (int k = 0; k < cols; k++) x[k] = (pz[(long)m * cols + k] - pc[k]) / temperature;
            fixed (double* from = x) Softmax(pt + (long)m * cols, from, cols);
            for (int k = 0; k < cols; k++)
            {
                double p = pt[(long)m * cols + k];
                if (p > 0) sum -= weight * p * Math.Log(p);
            }
        }
        F(entropy)[0] = sum;
    }

    public override void DistillLoss(Tensor loss, Tensor? dstudent, Tensor student, Tensor targets, Tensor? weights, int rows, int firstView,
        ViewPairing pairing, float temperature, float scale)
    {
        int cols = student.Shape.Cols, views = student.Shape.Rows / rows, teachers = targets.Shape.Rows / rows;
        double* ps = F(student), pt = F(targets), pw = F(weights), pd = F(dstudent);
        double[] x = new double[cols], softmax = new double[cols];
        double sum = 0;
        for (long i = 0; pd != null && i < student.Count; i++) pd[i] = 0;
        for (int v = 0; v < views; v++)
            for (int q = 0; q < teachers; q++)
            {
                if ((v + firstView == q) != (pairing == ViewPairing.Same)) continue;
                for (int m = 0; m < rows; m++)
                {
                    long s = ((long)v * rows + m) * cols, t = ((long)q * rows + m) * cols;
                    double weight = pw == null ? 1.0 / rows : pw[v * rows + m], lse, mass = 0;
                    if (weight == 0) continue;
                    for (int k = 0; k < cols; k++) x[k] = ps[s + k] / temperature;
                    fixed (double* to = softmax, from = x) lse = Softmax(to, from, cols);
                    for (int k = 0; k < cols; k++)
                    {
                        sum -= weight * pt[t + k] * (x[k] - lse);
                        mass += pt[t + k];
                    }
                    for (int k = 0; k < cols && pd != null; k++)
                        pd[s + k] += scale * weight / temperature * (softmax[k] * mass - pt[t + k]);
                }
            }
        F(loss)[0] = scale * sum;
    }

    public override void UpdateCenter(Tensor center, Tensor x, float momentum)
    {
        (int rows, int cols) = (x.Shape.Rows, x.Shape.Cols);
        for (int k = 0; k < cols; k++)
        {
            double sum = 0;
            for (int m = 0; m < rows; m++) sum += F(x)[(long)m * cols + k];
            double mean = (1 - (double)momentum) * sum / rows;
            F(center)[k] = momentum == 0 ? mean : momentum * F(center)[k] + mean;
        }
    }
}
