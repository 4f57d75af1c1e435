using System.Runtime.InteropServices;
using MimEngine.Engine.Autograd;
using MimEngine.Kernels;

namespace MimEngine.Engine.Probing;

/// <summary>Scores of one number of neighbours.</summary>
/// <param name="Predictions">(test pictures): the class with the largest vote, the lower of equals.</param>
/// <param name="Votes">(test pictures): its vote, Σ exp(similarity/temperature).</param>
/// <param name="Top1">Share of right predictions.</param>
/// <param name="Top5">Share of pictures whose class has a vote and is among the five largest.</param>
public sealed record KnnScore(int Neighbours, int[] Predictions, double[] Votes, double Top1, double Top5);

/// <summary>
/// Weighted k-NN (Wu et al. 2018; SPEC E.6): features of length 1, similarity = dot product, each of the k most similar training pictures
/// votes exp(similarity/T) for its class.
/// </summary>
/// <remarks>Of equally similar pictures the first in order counts as nearer. A class without votes never counts as one of five.</remarks>
public static class KnnProbe
{
    private const float NormEps = 1e-12f;
    private const long SimilarityElements = 8L << 20;

    /// <summary>Test pictures that are compared at once, at most.</summary>
    internal const int LargestChunk = 256;

    /// <summary>Scores every k of the config that there are training pictures for, in ascending order.</summary>
    /// <param name="chunk">Test pictures at a time; results do not depend on it. 0 = what fits 32 MB.</param>
    public static IReadOnlyList<KnnScore> Score(Backend backend, KnnConfig config, FeatureSet train, FeatureSet test, int classes,
        int chunk = 0, CancellationToken stop = default)
    {
        int[] ks = [.. config.Neighbours.Where(k => k <= train.Count).Distinct().Order()];
        KnnScore[] scores = [.. ks.Select(k => new KnnScore(k, new int[test.Count], new double[test.Count], 0, 0))];
        if (ks.Length == 0) return scores;
        if (chunk == 0) chunk = (int)Math.Clamp(SimilarityElements / train.Count, 1, LargestChunk);
        int c = train.Width, real = backend.Real.Size();
        using Storage memory = backend.Allocate(((long)train.Count * c + (long)chunk * c + (long)chunk * train.Count) * real);
        var bank = new Tensor(memory, 0, new Shape(train.Count, c), backend.Real);
        var queries = new Tensor(memory, bank.Bytes, new Shape(chunk, c), backend.Real);
        var similar = new Tensor(memory, bank.Bytes + queries.Bytes, new Shape(chunk, train.Count), backend.Real);
        Transfer.Upload(backend, bank, UnitRows(train.Values, c));
        float[] units = UnitRows(test.Values, c), rows = new float[chunk * (long)train.Count];
        var tally = new Tally(ks, classes, config.Temperature, train.Labels);
        int[] right = new int[ks.Length], rightFive = new int[ks.Length];
        for (int first = 0; first < test.Count; first += chunk)
        {
            stop.ThrowIfCancellationRequested();
            int n = Math.Min(chunk, test.Count - first);
            Transfer.Upload(backend, queries.Slice(0, n), units.AsSpan(first * c, n * c));
            backend.LinearForward(similar.Slice(0, n), queries.Slice(0, n), bank, null);
            Transfer.Download(backend, rows.AsSpan(0, n * train.Count), similar.Slice(0, n));
            for (int i = 0; i < n; i++)
            {
                tally.Nearest(rows.AsSpan(i * train.Count, train.Count));
                for (int j = 0; j < ks.Length; j++)
                {
                    int own = test.Labels[first + i];
                    (int prediction, double vote, int before) = tally.Count(j, own);
                    (scores[j].Predictions[first + i], scores[j].Votes[first + i]) = (prediction, vote);
                    if (prediction == own) right[j]++;
                    if (before < 5) rightFive[j]++;
                }
            }
        }
        double total = test.Count;
        return [.. scores.Select((s, j) => s with { Top1 = right[j] / total, Top5 = rightFive[j] / total })];
    }

    private static float[] UnitRows(float[] values, int cols)
    {
        float[] units = new float[values.Length];
        for (int at = 0; at < values.Length; at += cols)
        {
            double squares = 0;
            for (int i = at; i < at + cols; i++) squares += (double)values[i] * values[i];
            double norm = Math.Max(Math.Sqrt(squares), NormEps);
            for (int i = at; i < at + cols; i++) units[i] = (float)(values[i] / norm);
        }
        return units;
    }

    /// <summary>The votes about one test picture.</summary>
    private sealed class Tally(int[] ks, int classes, float temperature, int[] labels)
    {
        private readonly PriorityQueue<int, (float, int)> _farthest = new(ks[^1] + 1);
        private readonly List<(float Similarity, int Index)> _nearest = new(ks[^1]);
        private readonly double[] _votes = new double[classes];
        private int _counted;

        /// <summary>Sorts the largest similarities, most similar first.</summary>
        public void Nearest(ReadOnlySpan<float> similarity)
        {
            int most = ks[^1];
            _farthest.Clear();
            float worst = float.NegativeInfinity;
            for (int i = 0; i < similarity.Length; i++)
            {
                // A later picture that is only as similar as the farthest kept one stays out.
                if (_farthest.Count == most && !(similarity[i] > worst)) continue;
                if (_farthest.Count < most) _farthest.Enqueue(i, (similarity[i], -i));
                else _farthest.EnqueueDequeue(i, (similarity[i], -i));
                if (_farthest.Count == most && _farthest.TryPeek(out _, out (float Similarity, int) priority)) worst = priority.Similarity;
            }
            _nearest.Clear();
            while (_farthest.TryDequeue(out int index, out (float Similarity, int) priority)) _nearest.Add((priority.Similarity, index));
            _nearest.Reverse();
            Array.Clear(_votes);
            _counted = 0;
        }

        /// <summary>Adds the votes up to the j-th k: the winner, its vote, and how many classes come before <paramref name="own"/>.</summary>
        public (int Prediction, double Vote, int Before) Count(int j, int own)
        {
            foreach ((float similarity, int index) in CollectionsMarshal.AsSpan(_nearest)[_counted..ks[j]])
                _votes[labels[index]] += Math.Exp(similarity / (double)temperature);
            _counted = ks[j];
            int winner = 0, before = 0;
            for (int k = 0; k < classes; k++)
            {
                if (_votes[k] > _votes[winner]) winner = k;
                if (_votes[k] > _votes[own] || _votes[k] == _votes[own] && k < own) before++;
            }
            return (winner, _votes[winner], _votes[own] > 0 ? before : classes + 5);
        }
    }
}
