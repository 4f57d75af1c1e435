using System.Globalization;
using System.Text;
using MimEngine.Engine.Data;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Probing;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;

namespace MimEngine.Engine.Experiments;

/// <summary>What a user asks of a probe.</summary>
public sealed record ProbeOptions : DeviceOptions
{
    /// <summary>A run folder, whose newest checkpoint that verifies is taken, or one checkpoint file of a run.</summary>
    public required string Run { get; init; }

    /// <summary>Labelled pictures with a train and a test split; none = those the run was trained on.</summary>
    public string? Data { get; init; }

    public ProbeConfig Config { get; init; } = ProbePresets.Linear();

    /// <summary>Score k-NN.</summary>
    public bool Knn { get; init; } = true;

    /// <summary>Train a linear classifier.</summary>
    public bool Linear { get; init; } = true;
}

/// <summary>Hears what a probe is doing.</summary>
public interface IProbeObserver
{
    /// <summary>"features of the train pictures, pretrained": <paramref name="done"/> of <paramref name="total"/> pictures.</summary>
    void Progress(string what, int done, int total);

    /// <summary>A linear probe finished an epoch.</summary>
    void Epoch(string encoder, SideProbe probe, ProbeEpoch epoch, int epochs);

    /// <summary>A sentence the reader should know.</summary>
    void Note(string sentence);
}

/// <summary>
/// Probes a run: k-NN and a linear classifier on the frozen encoder, and the same on the encoder the run started from. The report is
/// written to the run's folder <c>probes/</c> as well as returned.
/// </summary>
public sealed class ProbeRun
{
    private readonly ProbeOptions _options;
    private readonly IProbeObserver _observer;
    private readonly CancellationToken _stop;
    private readonly PretrainConfig _run;
    private readonly List<ProbeRow> _rows = [];
    private readonly List<ProbeCurve> _curves = [];
    private readonly List<string> _notes = [];
    private readonly List<LowShotRow> _lowShot = [];
    private readonly List<MaskedRow> _masked = [];
    private FrozenEncoder? _attentioner;
    private VitConfig? _attentionerConfig;
    private ProbeConfig _probe;

    private ProbeRun(ProbeOptions options, PretrainConfig run, IProbeObserver observer, CancellationToken stop)
        => (_options, _run, _probe, _observer, _stop) = (options, run, options.Config, observer, stop);

    /// <exception cref="RunException">No such run, no checkpoint, or the report cannot be written.</exception>
    /// <exception cref="WeightFileException">The checkpoint does not fit the run's encoder.</exception>
    /// <exception cref="ConfigException">A setting makes no sense for this encoder.</exception>
    /// <exception cref="DataException">The data cannot be used.</exception>
    /// <exception cref="DeviceException">The device cannot.</exception>
    /// <exception cref="OperationCanceledException">The user stopped it; nothing was written.</exception>
    public static ProbeReport Execute(ProbeOptions options, IProbeObserver observer, CancellationToken stop = default)
    {
        using TrainedRun trained = TrainedRun.Open(options.Run);
        options.Config.Validate(trained.Config.Encoder);
        if (!options.Knn && !options.Linear) throw new ConfigException("Probe: neither k-NN nor a linear probe was asked for.");
        var probe = new ProbeRun(options, trained.Config, observer, stop);
        foreach (string sentence in trained.Notes) probe.Note(sentence);
        ProbeReport report = probe.Measure(trained);
        Save(trained.Folder, report);
        return report;
    }

    private ProbeReport Measure(TrainedRun trained)
    {
        using IDataset train = Datasets.Open(_options.Data ?? _run.Data, Split.Train).WithLabels("a probe");
        using IDataset test = Datasets.Open(_options.Data ?? _run.Data, Split.Test).WithLabels("a probe");
        if (!train.Classes.SequenceEqual(test.Classes))
            throw new DataException($"{train.Name} has {train.Classes.Count} classes and {test.Name} {test.Classes.Count}, or their names differ: "
                + "both splits must have the same class folders.");
        if (_probe.Batch > train.Count)
        {
            Note($"The probe's batch of {_probe.Batch} was cut to the {train.Count} training pictures.");
            _probe = _probe with { Batch = train.Count };
        }
        FeaturePlace place = _probe.PlaceIn(_run.Encoder);
        using Backend backend = Backend.Open(_options.Device, _options.Threads);
        using FrozenEncoder? oracle = OpenOracle(backend);
        using var encoder = new FrozenEncoder(backend, _run.Encoder, place, _probe.Beside, oracle);
        LoadReport loaded = trained.LoadInto(encoder);
        using FrozenEncoder? attentioner = _attentioner = OpenAttentioner(backend, trained);
        double majority = Score(ProbeRow.Pretrained, backend, encoder, train, test);
        encoder.Initialise(_run.Run.Seed);
        Score(ProbeRow.RandomInit, backend, encoder, train, test);
        return new ProbeReport
        {
            Checkpoint = trained.Checkpoint.File,
            Step = trained.Checkpoint.Header.Step,
            Recipe = _run.Recipe,
            RunSeed = _run.Run.Seed,
            TrainData = train.Name,
            TestData = test.Name,
            TrainPictures = train.Count,
            TestPictures = test.Count,
            Classes = train.Classes.Count,
            MajorityRate = majority,
            Encoder = _run.Encoder,
            Block = place.Block,
            FinalNorm = place.FinalNorm,
            Pooling = place.Pooling,
            Config = _probe,
            Loaded = loaded,
            Rows = _rows,
            Curves = _curves,
            Notes = _notes,
            LowShot = _lowShot,
            Masked = _masked,
        };
    }

    /// <summary>All probes of one encoder; returns the majority rate, which no encoder changes.</summary>
    private double Score(string who, Backend backend, FrozenEncoder encoder, IDataset train, IDataset test)
    {
        int classes = train.Classes.Count;
        bool cached = _options.Knn || _probe.Augment is null;
        FeatureSet testSet = Extract(who, encoder, test, "test"), trainSet = cached ? Extract(who, encoder, train, "train") : Labels(train);
        FeaturePart nearest = encoder.Row.Parts.FirstOrDefault(p => p.Tokens == 1);
        if (_options.Knn && nearest.Length == 0) Note("No k-NN: it compares vectors, and only abmilp, which learns one from tokens, was asked for.");
        else if (_options.Knn)
            foreach (KnnScore s in KnnProbe.Score(backend, _probe.Knn, trainSet.Only(encoder.Row, nearest), testSet.Only(encoder.Row, nearest),
                classes, stop: _stop))
                _rows.Add(ProbeRow.Of($"k-NN k={s.Neighbours}", who, encoder.Place with { Pooling = nearest.Pooling }, s.Top1, s.Top5,
                    testSet.Count, _probe.Seed));
        IReadOnlyList<FeatureSet> masked = [.. _probe.Masked.Select(ratio => Extract(who, encoder, test, $"test, {Share(ratio)} black",
            (crops, count) => new MaskedPictures(_attentioner!, _attentionerConfig!).Blacken(crops, count, ratio)))];
        if (_options.Knn && nearest.Length > 0) Neighbours(who, backend, encoder, nearest, trainSet, testSet, masked, classes);
        if (_options.Linear)
        {
            using FeatureStream stream = _probe.Augment is null
                ? new CachedFeatures(trainSet, _probe.Batch, classes, _probe.Seed)
                : new AugmentedFeatures(encoder, _probe, train, new AugmentedViews(_probe.Augment, _run.Encoder.ImagePixels), _options.LoaderThreads);
            foreach ((SideProbe side, LinearProbeResult result) in SideBySide.Train(backend, _probe, encoder.Row, stream, testSet, classes,
                (probe, epoch) => _observer.Epoch(who, probe, epoch, _probe.Epochs), _stop, masked))
            {
                string name = NameOf(side);
                _masked.AddRange(_probe.Masked.Select((ratio, i) => new MaskedRow(name, who, ratio, result.Also[i])));
                _rows.Add(ProbeRow.Of(name, who, encoder.Place with { Pooling = side.Pooling }, result.Last.Top1, result.Last.Top5,
                    testSet.Count, _probe.Seed, result.Best.Top1, side.Rate));
                _curves.Add(new ProbeCurve(name, who, result.Epochs));
            }
            if (stream is AugmentedFeatures { Corrupt: var corrupt } && corrupt.Report() is { Length: > 0 } sentence) Note(sentence);
        }
        return testSet.MajorityRate(trainSet, classes);
    }

    /// <summary>Low-shot k-NN, and k-NN of blackened pictures among whole ones.</summary>
    private void Neighbours(string who, Backend backend, FrozenEncoder encoder, FeaturePart part, FeatureSet trainSet, FeatureSet testSet,
        IReadOnlyList<FeatureSet> masked, int classes)
    {
        FeatureSet train = trainSet.Only(encoder.Row, part), test = testSet.Only(encoder.Row, part);
        foreach (int shots in _probe.Shots)
        {
            if (LowShot.Score(backend, _probe.Knn, who, train, test, classes, shots, _stop) is { } row) _lowShot.Add(row);
            else Note($"No low-shot k-NN with {shots} pictures of each class: some class has fewer.");
        }
        for (int i = 0; i < masked.Count; i++)
            foreach (KnnScore s in KnnProbe.Score(backend, _probe.Knn, train, masked[i].Only(encoder.Row, part), classes, stop: _stop))
                _masked.Add(new MaskedRow($"k-NN k={s.Neighbours}", who, _probe.Masked[i], s.Top1));
    }

    private static string Share(double ratio) => (100 * ratio).ToString("0.#", CultureInfo.InvariantCulture) + " %";

    /// <summary>The encoder whose attention says which patches turn black: the probed one as it was trained, or another run's.</summary>
    private FrozenEncoder? OpenAttentioner(Backend backend, TrainedRun probed)
    {
        if (_probe.Masked.Length == 0) return null;
        using TrainedRun? other = _probe.Attentioner is { } path ? TrainedRun.Open(path) : null;
        TrainedRun from = other ?? probed;
        VitConfig own = _run.Encoder, theirs = _attentionerConfig = from.Config.Encoder;
        if (theirs.ImagePixels != own.ImagePixels)
            throw new ConfigException($"Probe: the attentioner sees pictures of {theirs.ImagePixels} pixels, this encoder of {own.ImagePixels}; "
                + "both must see the same.");
        var encoder = new FrozenEncoder(backend, theirs, new FeaturePlace(theirs.Depth, theirs.FinalNorm, Pooling.Cls));
        from.LoadInto(encoder);
        return encoder;
    }

    /// <summary>The preset, and what tells this probe from those beside it.</summary>
    private string NameOf(SideProbe side) => (_probe.Preset.Length > 0 ? _probe.Preset : "linear")
        + (_probe.Beside.Length > 0 ? " " + ConfigJson.Word(side.Pooling) : "")
        + (_probe.Rates.Length > 1 ? " lr=" + side.Rate.ToString("G4", CultureInfo.InvariantCulture) : "");

    /// <summary>The encoder whose attention weighs patches, where an aggregation asks for one.</summary>
    private FrozenEncoder? OpenOracle(Backend backend)
    {
        if (!_probe.Poolings.Contains(Pooling.Oracle)) return null;
        using TrainedRun trained = TrainedRun.Open(_probe.Oracle
            ?? throw new ConfigException("Probe: oracle needs the run whose attention it reads; give it with --set oracle=RUN."));
        VitConfig own = _run.Encoder, theirs = trained.Config.Encoder;
        if (theirs.ImagePixels != own.ImagePixels || theirs.PatchPixels != own.PatchPixels)
            throw new ConfigException($"Probe: the oracle sees {theirs.PatchPixels}-pixel patches of {theirs.ImagePixels}-pixel pictures, this "
                + $"encoder {own.PatchPixels} of {own.ImagePixels}; both must see the same patches.");
        var oracle = new FrozenEncoder(backend, theirs, new FeaturePlace(theirs.Depth, false, Pooling.MeanHead));
        trained.LoadInto(oracle);
        return oracle;
    }

    private FeatureSet Extract(string who, FrozenEncoder encoder, IDataset data, string split, PictureChange? change = null)
        => FeatureSet.Extract(encoder, data, new AugmentedViews(_probe.View, _run.Encoder.ImagePixels), _options.LoaderThreads,
            done => _observer.Progress($"features of the {split} pictures, {who}", done, data.Count), Note, _stop, change);

    private static FeatureSet Labels(IDataset data) => new([], [.. Enumerable.Range(0, data.Count).Select(data.Label)], 0);

    private void Note(string sentence)
    {
        if (_notes.Contains(sentence)) return;   // both encoders read the same pictures
        _notes.Add(sentence);
        _observer.Note(sentence);
    }

    private static void Save(string folder, ProbeReport report)
    {
        string step = report.Step.ToString("00000000", CultureInfo.InvariantCulture);
        string preset = report.Config.Preset.Length > 0 ? report.Config.Preset : "linear";
        string file = Path.Combine(folder, "probes", $"{preset}-block-{report.Block}-step-{step}-seed-{report.Config.Seed}.json");
        try
        {
            Directory.CreateDirectory(Path.GetDirectoryName(file)!);
            DiskFiles.Replace(DiskFiles.Instance, file, Encoding.UTF8.GetBytes(ConfigJson.Write(report)));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new RunException($"{file}: the report was not written ({e.Message.TrimEnd('.')}).", e);
        }
    }
}
