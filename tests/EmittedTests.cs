using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using MimEngine.Kernels.Cpu.Emitted;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Machine code assembled at run time beside the JIT's: the same products.</summary>
[TestFixture]
public class EmittedTests
{
    // Whole tiles and cut ones, odd and even sums, one block and several, parts wider and narrower than a panel.
    private static readonly (int Rows, int Out, int In)[] s_shapes =
        [(8, 48, 3), (9, 48, 2), (64, 48, 40), (401, 96, 64), (31, 144, 32), (805, 784, 392), (1001, 16, 800), (640, 392, 1008), (17, 40, 33)];

    private static Tensor Some(Backend backend, uint name, int rows, int cols = 1)
    {
        var t = new Tensor(backend.Allocate(4L * rows * cols), 0, cols == 1 ? new Shape(rows) : new Shape(rows, cols), DType.F32);
        uint h = name * 2654435761u + 1;
        foreach (ref float v in t.Host<float>())
        {
            h = h * 1664525 + 1013904223;
            v = ((int)(h >> 12) - (1 << 19)) / (float)(1 << 19);
        }
        return t;
    }

    [Test]
    public void Emitted_and_compiled_tiles_give_the_same_bits([Values] bool accumulate)
    {
        if (TileRoutines.Instance == null) Assert.Ignore($"No emitted tiles here: {TileRoutines.Absence}.");
        using CpuBackend emitted = new(2), compiled = new(2, emit: false);
        foreach ((int rows, int outs, int ins) in s_shapes)
        {
            var results = new List<float[][]>();
            foreach (CpuBackend cpu in new[] { emitted, compiled })
            {
                Tensor x = Some(cpu, 1, rows, ins), w = Some(cpu, 2, outs, ins), b = Some(cpu, 3, outs), dy = Some(cpu, 4, rows, outs),
                    y = Some(cpu, 5, rows, outs), dx = Some(cpu, 6, rows, ins), dw = Some(cpu, 7, outs, ins), db = Some(cpu, 8, outs),
                    onlyDb = Some(cpu, 8, outs);
                cpu.LinearForward(y, x, w, b);
                Grad Into(Tensor t) => accumulate ? Grad.Add(t) : Grad.Write(t);
                cpu.LinearBackward(Into(dx), Into(dw), Into(db), dy, x, w);
                cpu.LinearBackward(Grad.None, Grad.None, Into(onlyDb), dy, x, w);
                results.Add([.. new[] { y, dx, dw, db, onlyDb }.Select(t => t.Host<float>().ToArray())]);
                foreach (Tensor t in new[] { x, w, b, dy, y, dx, dw, db, onlyDb }) t.Storage.Dispose();
            }
            string[] names = ["y", "dx", "dw", "db", "db alone"];
            for (int i = 0; i < names.Length; i++)
                Assert.That(results[0][i].AsSpan().SequenceEqual(results[1][i]), $"{names[i]} of {rows} × {outs} × {ins}");
            Assert.That(results[0][3], Is.EqualTo(results[0][4]), "the bias gradient with and without the weight's");
        }
    }
}
