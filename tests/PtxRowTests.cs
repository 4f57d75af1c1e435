using MimEngine.Kernels.Ptx;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>The emitted kernels that walk through rows, run on a model of the machine against their definitions in float64.</summary>
[TestFixture]
public class PtxRowTests
{
    [Test]
    public void LayerNorm_of_a_warp_a_row_is_layer_norm([Values(128, 768, 1024)] int cols, [Values] bool half)
    {
        const int rows = 13;
        const float eps = 1e-6f;
        float[] x = Numbers.Floats(rows * cols, 1), gamma = Numbers.Floats(cols, 2), beta = Numbers.Floats(cols, 3);
        var machine = new PtxMachine();
        ulong y = half ? machine.Add(new ushort[rows * cols]) : machine.Add(new float[rows * cols]), mean = machine.Add(new float[rows]), rstd = machine.Add(new float[rows]);
        machine.Run(RowKernels.NormForward("norm", cols, half), (rows + RowKernels.Warps - 1) / RowKernels.Warps, 1, false, y, mean, rstd, machine.Add(x),
            machine.Add(gamma), machine.Add(beta), rows, BitConverter.SingleToUInt32Bits(eps));
        double[] made = half ? Array.ConvertAll(machine.Read<ushort>(y), v => (double)Numbers.Float(v)) : Array.ConvertAll(machine.Read<float>(y), v => (double)v);
        for (int r = 0; r < rows; r++)
        {
            (double m, double s) = Statistics(x, r, cols, eps);
            Assert.That(machine.Read<float>(mean)[r], Is.EqualTo(m).Within(1e-6));
            Assert.That(machine.Read<float>(rstd)[r], Is.EqualTo(s).Within(1e-6 * s));
            for (int c = 0; c < cols; c++)
            {
                double expected = (x[r * cols + c] - m) * s * gamma[c] + beta[c];
                Assert.That(made[r * cols + c], Is.EqualTo(expected).Within((half ? 4e-3 : 1e-6) * Math.Abs(expected) + 1e-6), $"({r}, {c})");
            }
        }
    }

    [Test]
    public void Its_gradients_are_those_of_the_definition([Values(128, 768)] int cols, [Values] bool half, [Values] bool accumulate, [Values] bool backwards)
    {
        const int rows = RowKernels.RowsOfGroup + 21;
        float[] x = Numbers.Floats(rows * cols, 1), gamma = Numbers.Floats(cols, 2), old = Numbers.Floats(rows * cols, 3), mean = new float[rows], rstd = new float[rows];
        ushort[] halves = Numbers.Halves(rows * cols, 4);
        float[] dy = half ? Array.ConvertAll(halves, Numbers.Float) : Numbers.Floats(rows * cols, 4);
        for (int r = 0; r < rows; r++)
        {
            (double m, double s) = Statistics(x, r, cols, 1e-6);
            (mean[r], rstd[r]) = ((float)m, (float)s);
        }
        var machine = new PtxMachine();
        const int groups = 2;
        ulong dx = machine.Add(old), ofGamma = machine.Add(new float[groups * cols]), ofBeta = machine.Add(new float[groups * cols]);
        machine.Run(RowKernels.NormBackward("norm", cols, half), groups, 1, backwards, dx, ofGamma, ofBeta, half ? machine.Add(halves) : machine.Add(dy),
            machine.Add(x), machine.Add(mean), machine.Add(rstd), machine.Add(gamma), rows, accumulate ? 1u : 0u);
        double[] dgamma = new double[cols], dbeta = new double[cols];
        float[] made = machine.Read<float>(dx);
        for (int r = 0; r < rows; r++)
        {
            double sum = 0, dot = 0;
            for (int c = 0; c < cols; c++)
            {
                double normal = (x[r * cols + c] - (double)mean[r]) * rstd[r], g = (double)dy[r * cols + c] * gamma[c];
                sum += g / cols;
                dot += g * normal / cols;
                dgamma[c] += dy[r * cols + c] * normal;
                dbeta[c] += dy[r * cols + c];
            }
            for (int c = 0; c < cols; c++)
            {
                double normal = (x[r * cols + c] - (double)mean[r]) * rstd[r];
                double expected = rstd[r] * ((double)dy[r * cols + c] * gamma[c] - sum - normal * dot) + (accumulate ? old[r * cols + c] : 0);
                Assert.That(made[r * cols + c], Is.EqualTo(expected).Within(2e-5), $"({r}, {c})");
            }
        }
        foreach ((ulong at, double[] right) in new[] { (ofGamma, dgamma), (ofBeta, dbeta) })
        {
            float[] partial = machine.Read<float>(at);
            for (int c = 0; c < cols; c++) Assert.That(partial[c] + (double)partial[cols + c], Is.EqualTo(right[c]).Within(1e-4), $"column {c}");
        }
    }

    [Test]
    public void Sums_of_columns_are_sums([Values(8, 264, 768)] int cols, [Values] bool half, [Values] bool backwards)
    {
        const int rows = RowKernels.RowsOfGroup + 5, groups = 2;
        ushort[] halves = Numbers.Halves(rows * cols, 1);
        float[] x = half ? Array.ConvertAll(halves, Numbers.Float) : Numbers.Floats(rows * cols, 1);
        var machine = new PtxMachine();
        ulong into = machine.Add(Enumerable.Repeat(float.NaN, groups * cols).ToArray());
        machine.Run(RowKernels.ColumnSums("sums", half), (cols + RowKernels.ColumnsOfGroup - 1) / RowKernels.ColumnsOfGroup, groups, backwards, into,
            half ? machine.Add(halves) : machine.Add(x), rows, (ulong)cols);
        float[] partial = machine.Read<float>(into);
        for (int c = 0; c < cols; c++)
        {
            double sum = Enumerable.Range(0, rows).Sum(r => (double)x[r * cols + c]);
            Assert.That(partial[c] + (double)partial[cols + c], Is.EqualTo(sum).Within(1e-4), $"column {c}");
        }
    }

    [Test]
    public void The_slope_of_gelu_in_place_is_the_slope_of_gelu()
    {
        const int n = 8 * 300;
        ushort[] dy = Numbers.Halves(n, 1), x = [.. Numbers.Halves(n, 2).Select((h, i) => (ushort)(i % 5 == 0 ? h + 0x180 : h))];
        var machine = new PtxMachine();
        ulong d = machine.Add(dy);
        machine.Run(RowKernels.GeluBackward("gelu"), 2, 1, false, d, d, machine.Add(x), n / 8);
        ushort[] made = machine.Read<ushort>(d);
        for (int i = 0; i < n; i++)
        {
            double v = Numbers.Float(x[i]), slope = OracleBackend.NormalDistribution(v) + v * Math.Exp(-v * v / 2) / Math.Sqrt(2 * Math.PI);
            Assert.That(Numbers.Float(made[i]), Is.EqualTo(Numbers.Float(dy[i]) * slope).Within(0.004 * Math.Abs(slope) + 1e-5), $"GELU′({v})");
        }
    }

    private static (double Mean, double Rstd) Statistics(float[] x, int row, int cols, double eps)
    {
        double mean = Enumerable.Range(row * cols, cols).Average(i => (double)x[i]);
        return (mean, 1 / Math.Sqrt(Enumerable.Range(row * cols, cols).Average(i => (x[i] - mean) * (x[i] - mean)) + eps));
    }
}
