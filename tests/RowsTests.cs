using System.Runtime.CompilerServices;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

[TestFixture]
internal sealed unsafe class RowsTests
{
    /// <summary>Counts how often a row runs; the run that begins with a given row is late.</summary>
    private readonly struct Counting(int* runs, int* longest, int* chunks, int grain, int late) : IRowKernel
    {
        [MethodImpl(MethodImplOptions.NoInlining)]
        public void Run(int first, int last, int chunk)
        {
            if (first <= late && late < last) Thread.Sleep(2);
            for (int i = first; i < last; i++) Interlocked.Increment(ref runs[i]);
            if (grain > 0 && first == chunk * grain) Interlocked.Increment(ref chunks[chunk]);
            for (int seen = *longest; last - first > seen; seen = *longest) Interlocked.CompareExchange(ref *longest, last - first, seen);
        }
    }

    [Test]
    public void Every_chunk_of_rows_runs_once_whoever_is_late([Values(1, 2, 3, 8)] int threads)
    {
        using var rows = new Rows(threads);
        foreach (int count in new[] { 0, 1, 2, 7, 64, 999 })
            foreach (int grain in new[] { 1, 3, 64 })
                foreach (int late in new[] { -1, 0, count / 2, count - 1 })
                {
                    int chunks = Rows.Chunks(count, grain), longest = 0;
                    int[] runs = new int[count + 1], begun = new int[chunks + 1];
                    fixed (int* r = runs, b = begun) rows.For(count, grain, new Counting(r, &longest, b, grain, late));
                    string what = $"{count} rows by {grain}, late {late}";
                    Assert.That(runs.AsSpan(0, count).ToArray(), Is.All.EqualTo(1), what);
                    Assert.That(begun.AsSpan(0, chunks).ToArray(), Is.All.EqualTo(1), what);
                    Assert.That(runs[count] + begun[chunks], Is.Zero, what);
                }
    }

    [Test]
    public void Runs_of_any_cut_have_every_row_once_and_keep_to_their_length([Values(1, 2, 3, 8)] int threads)
    {
        using var rows = new Rows(threads);
        foreach (int count in new[] { 0, 1, 2, 11, 400, 1161 })
            foreach ((int least, int most) in new[] { (1, 1), (3, 12), (5, 5), (1, 400) })
                foreach (int late in new[] { -1, 0, count / 2, count - 1 })
                {
                    int longest = 0;
                    int[] runs = new int[count + 1];
                    fixed (int* r = runs) rows.ForAnyCut(count, least, most, new Counting(r, &longest, null, 0, late));
                    string what = $"{count} rows, {least} to {most}, late {late}";
                    Assert.That(runs.AsSpan(0, count).ToArray(), Is.All.EqualTo(1), what);
                    Assert.That(runs[count], Is.Zero, what);
                    Assert.That(longest, Is.LessThanOrEqualTo(most), what);
                }
    }
}
