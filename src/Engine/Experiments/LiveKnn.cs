using MimEngine.Engine.Autograd;
using MimEngine.Engine.Data;
using MimEngine.Engine.Imaging;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Probing;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;

namespace MimEngine.Engine.Experiments;

/// <summary>
/// What the features of a run are worth while it trains: weighted k-NN (k = 20) of [cls] and of the mean patch after the last block and its
/// norm, on labelled pictures that are only resized. It changes nothing in the run.
/// </summary>
/// <remarks>The originals vote at the teacher's temperature, here it is always 0.07.</remarks>
internal sealed class LiveKnn : IDisposable
{
    private const int Neighbours = 20;
    private readonly Backend _backend;
    private readonly FrozenEncoder _encoder;
    private readonly AugmentedViews _views;
    private readonly IDataset _train, _test;
    private readonly int _threads;

    /// <param name="data">The run's pictures; both splits need labels.</param>
    /// <exception cref="DataException">There are no labels, or no test pictures.</exception>
    public LiveKnn(Backend backend, PretrainConfig config, string? data, int threads)
    {
        (_backend, _threads) = (backend, threads);
        if (!Datasets.Has(data, Split.Test))
            throw new DataException("run.knnEveryEpochs asks for k-NN while training, but these pictures have no test split; set it to 0.");
        _train = new Thinned(Datasets.Open(data, Split.Train).WithLabels("k-NN while training"), config.Run.KnnPictures);
        _test = new Thinned(Datasets.Open(data, Split.Test).WithLabels("k-NN while training"), config.Run.KnnPictures);
        _views = new AugmentedViews(AugmentConfig.Resize, config.Encoder.ImagePixels);
        _encoder = Encoder(backend, config);
    }

    /// <summary>A look on a backend that computes nothing, for <see cref="MemoryPlan"/>; none where the run asks for no k-NN.</summary>
    /// <param name="pictures">Training pictures there are.</param>
    public static Action<Backend>? Rehearsal(PretrainConfig config, int pictures)
    {
        if (config.Run.KnnEveryEpochs == 0) return null;
        int bank = Math.Min(pictures, config.Run.KnnPictures), side = config.Encoder.ImagePixels;
        return backend =>
        {
            using FrozenEncoder encoder = Encoder(backend, config);
            encoder.Encode(new float[encoder.Width], new byte[3 * side * side], 1);
            int width = encoder.Row.Parts.Max(p => p.Length);
            KnnProbe.Score(backend, Nearest(bank), new FeatureSet(new float[bank * width], new int[bank], width),
                new FeatureSet(new float[KnnProbe.LargestChunk * width], new int[KnnProbe.LargestChunk], width), 1);
        };
    }

    private static FrozenEncoder Encoder(Backend backend, PretrainConfig config) => new(backend, config.Encoder,
        new FeaturePlace(config.Encoder.Depth, config.Encoder.FinalNorm, Pooling.Cls), [Pooling.MeanPatches]);

    private static KnnConfig Nearest(int pictures) => new() { Neighbours = [Math.Min(Neighbours, pictures)] };

    /// <summary>"knn.cls" and "knn.patches": shares of test pictures whose class wins the vote.</summary>
    /// <param name="network">The teacher's parameters where there is one, else the student's.</param>
    public IReadOnlyList<Metric> Look(ParamSet network)
    {
        Dictionary<string, float[]> weights = network.Params.Where(p => _encoder.Has(p.Name)).ToDictionary(p => p.Name, p => Transfer.Floats(_backend, p.Data));
        _encoder.Load(weights, "the network of this run");
        FeatureSet train = FeatureSet.Extract(_encoder, _train, _views, _threads), test = FeatureSet.Extract(_encoder, _test, _views, _threads);
        KnnConfig config = Nearest(train.Count);
        List<Metric> metrics = [];
        foreach (FeaturePart part in _encoder.Row.Parts)
        {
            KnnScore score = KnnProbe.Score(_backend, config, train.Only(_encoder.Row, part), test.Only(_encoder.Row, part), _train.Classes.Count)[0];
            metrics.Add(new Metric(part.Pooling == Pooling.Cls ? "knn.cls" : "knn.patches", score.Top1));
        }
        return metrics;
    }

    public void Dispose()
    {
        _encoder.Dispose();
        _train.Dispose();
        _test.Dispose();
    }

    /// <summary>At most so many pictures of a dataset, evenly spread.</summary>
    private sealed class Thinned(IDataset all, int most) : IDataset
    {
        public string Name => all.Name;
        public int Count { get; } = Math.Min(all.Count, most);
        public IReadOnlyList<string> Classes => all.Classes;
        public int Label(int index) => all.Label(At(index));
        public void Read(int index, RgbImage into) => all.Read(At(index), into);
        public void Dispose() => all.Dispose();

        private int At(int index) => (int)((long)index * all.Count / Count);
    }
}
