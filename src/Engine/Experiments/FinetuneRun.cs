using System.Diagnostics;
using System.Security.Cryptography;
using System.Text;
using MimEngine.Engine.Data;
using MimEngine.Engine.Optim;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Probing;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;

namespace MimEngine.Engine.Experiments;

/// <summary>
/// The loop around fine-tuning's step: load, step, log, score, save; stops at a step's end when asked, and continues to the same bits.
/// </summary>
public sealed class FinetuneRun : IDisposable
{
    private const string ReportName = "finetune.json", ControlName = "untrained";
    private readonly FinetuneOptions _options;
    private readonly IFinetuneObserver _observer;
    private readonly RunDirectory _folder;
    private readonly FinetuneConfig _config;
    private readonly IDataset _train, _test;
    private readonly Backend _backend;
    private readonly Finetuner _finetuner;
    private readonly RunState _state;
    private readonly string _configHash;
    private readonly List<FinetuneScore> _scores = [];
    private readonly FinetuneLoaded? _loaded;
    private string? _trouble;
    private long _step;

    /// <summary>Opens everything and refuses what cannot work, before the first step.</summary>
    private FinetuneRun(FinetuneOptions options, IFinetuneObserver observer)
    {
        (_options, _observer) = (options, observer);
        string json = options.Resume is { } run ? RunDirectory.ReadConfig(run) : ConfigJson.Write(options.Config);
        _config = ConfigJson.Read<FinetuneConfig>(json, options.Resume is null ? "the configuration" : Path.Combine(options.Resume, "config.json"));
        _config.Validate();
        _configHash = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(json)));
        _train = Datasets.Open(options.Data ?? _config.Data, Split.Train).WithLabels("fine-tuning");
        _test = Datasets.Open(options.Data ?? _config.Data, Split.Test).WithLabels("fine-tuning");
        if (!_train.Classes.SequenceEqual(_test.Classes))
            throw new DataException($"{_train.Name} has {_train.Classes.Count} classes and {_test.Name} {_test.Classes.Count}, or their names "
                + "differ: both splits must have the same class folders.");
        if (_config.Loop.Batch > _train.Count)
            throw new ConfigException($"Fine-tuning: loop.batch is {_config.Loop.Batch}, but there are {_train.Count} training pictures; "
                + "use a smaller --batch.");
        _backend = Backend.Open(options.Device, options.Threads, _config.Loop.Precision);
        int classes = _train.Classes.Count;
        _finetuner = new Finetuner(_backend, _config, classes, Finetuner.Planned(_backend, _config, classes), seed: null);
        _state = new RunState(_backend, _finetuner.Model.Params, _finetuner.Optimizer, _finetuner.Average);
        if (options.Resume is null) _loaded = Start();   // before the folder: weights that do not fit leave none behind
        _folder = options.Resume is { } old ? RunDirectory.Resume(old)
            : options.Out is { } path ? RunDirectory.Create(path, json)
            : RunDirectory.CreateNumbered("runs", "finetune", json);
        if (options.Resume is not null && !Restore()) _loaded = Start();
        _folder.AddEnvironment(options.Environment(_backend, _step));
    }

    /// <summary>
    /// Runs or continues fine-tuning to its end, or until <paramref name="stop"/> is set, and after it the untrained control where the
    /// configuration asks for one. The report is written to the run's folder as well as returned.
    /// </summary>
    /// <exception cref="RunException">A run folder cannot be used, or the final checkpoint or the report could not be saved.</exception>
    /// <exception cref="WeightFileException">The pretrained encoder does not fit.</exception>
    /// <exception cref="ConfigException">A setting makes no sense.</exception>
    /// <exception cref="DataException">The data cannot be used.</exception>
    /// <exception cref="NonFiniteException">The loss or the gradient stopped being a number.</exception>
    public static FinetuneReport Execute(FinetuneOptions options, IFinetuneObserver observer, CancellationToken stop)
    {
        FinetuneReport report;
        using (var run = new FinetuneRun(options, observer)) report = run.Report(run.Loop(stop));
        FinetuneRow first = report.Rows[0];
        if (report.Config.Beside && !first.Interrupted)
        {
            string folder = Path.Combine(first.Folder, ControlName);
            bool begun = File.Exists(Path.Combine(folder, "config.json"));
            FinetuneConfig untrained = report.Config with { Start = FinetuneStart.Untrained, Beside = false };
            using var control = new FinetuneRun(options with { Config = untrained, Out = folder, Resume = begun ? folder : null }, observer);
            report = report with { Rows = [first, control.Loop(stop)] };
        }
        Save(first.Folder, report);
        return report;
    }

    public void Dispose()
    {
        _folder.Dispose();
        _finetuner.Dispose();
        _train.Dispose();
        _test.Dispose();
        _backend.Dispose();
    }

    private FinetuneRow Loop(CancellationToken stop)
    {
        FinetuneLoop loop = _config.Loop;
        int batches = _train.Count / loop.Batch;
        long total = _config.TotalSteps(batches);
        RateSpan span = _config.Rates(batches);
        using var loader = new Loader(new LoaderConfig(_train, new AugmentedViews(_config.Augment, _config.Encoder.ImagePixels), loop.Batch)
        {
            Seed = loop.Seed,
            StartStep = _step * loop.Accumulate,
            EndStep = total * loop.Accumulate,
            Threads = _options.LoaderThreads,
        });
        long everyScore = Every(loop.TestEveryEpochs, span.StepsPerEpoch), everySave = Every(loop.CheckpointEveryEpochs, span.StepsPerEpoch);
        using var metrics = MetricsLog.Open(_folder.Metrics, _step);
        _scores.AddRange(FinetuneScores.Earlier(_folder.Metrics));
        using var events = EventFile.Create(_folder.Path, _step, _options.Clock);
        _observer.Started(new FinetuneBeginning(_folder.Path, _config, _backend.Description, _train.Name, _train.Count, _test.Name, _test.Count,
            _train.Classes.Count, _finetuner.Model.Params.Count, _backend.AllocatedBytes, _loaded, _step, total, span.StepsPerEpoch));
        long first = _step, started = Stopwatch.GetTimestamp(), lineStart = started, lineStep = _step;
        double waitBefore = 0;
        SaveException? unsaved = null;
        while (_step < total && !stop.IsCancellationRequested)
        {
            double rate = _config.Optim.RateOf(span, _step, loop.Accumulate);
            OneStep(loader, rate);
            _step++;
            bool last = _step == total || stop.IsCancellationRequested, save = last || _step % everySave == 0;
            bool score = _step == total || _step % everyScore == 0;
            if (save || score || _step % loop.LogEverySteps == 0)
            {
                StepReadout read = _finetuner.ReadOut(_step);
                long now = Stopwatch.GetTimestamp();
                double seconds = Stopwatch.GetElapsedTime(lineStart, now).TotalSeconds, waited = loader.WaitSeconds;
                double pace = Stopwatch.GetElapsedTime(started, now).TotalSeconds / (_step - first);
                var line = new PretrainProgress(_step, total, (double)_step / span.StepsPerEpoch, read.Losses[0], rate, read.GradientNorm,
                    (_step - lineStep) * (double)loop.Batch * loop.Accumulate / seconds, Math.Clamp((waited - waitBefore) / seconds, 0, 1),
                    TimeSpan.FromSeconds(pace * (total - _step)));
                if (score) _scores.Add(Score(line.Epoch));
                Log(metrics, events, line, score ? _scores[^1] : null);
                _observer.Progress(line);
                if (score) _observer.Scored(_config.Start, _scores[^1]);
                (lineStart, lineStep, waitBefore) = (Stopwatch.GetTimestamp(), _step, waited);
            }
            if (save) unsaved = Save(metrics);
        }
        if (_step == first && _step < total) unsaved = Save(metrics);
        if (unsaved is not null) throw unsaved;
        if (loader.Corrupt.Failures > 0) _observer.Note(loader.Corrupt.Report());
        if (_scores.Count == 0 || _scores[^1].Step != _step) _scores.Add(Score((double)_step / span.StepsPerEpoch));   // stopped between two
        double whole = Stopwatch.GetElapsedTime(started).TotalSeconds;
        return new FinetuneRow(_config.Start, _folder.Path, _step, _step < total, _scores[^1], _scores.MaxBy(s => s.Top1)!, _test.Count, _loaded,
            (_step - first) * (double)loop.Batch * loop.Accumulate / whole);
    }

    private void OneStep(Loader loader, double rate)
    {
        int passes = _config.Loop.Accumulate;
        for (int pass = 0; pass < passes; pass++)
        {
            Batch batch = loader.Next();
            _finetuner.Pass(batch.Filled, batch.Labels, _step * passes + pass, firstPass: pass == 0);
            loader.Return(batch);
        }
        _finetuner.Update(rate);
    }

    private FinetuneScore Score(double epoch)
        => FinetuneScores.Of(_finetuner, _config, _test, _options.LoaderThreads) with { Step = _step, Epoch = epoch };

    private void Log(MetricsLog metrics, EventFile events, PretrainProgress p, FinetuneScore? score)
    {
        List<Metric> line = [new("epoch", p.Epoch), new("loss", p.Loss), new("rate", p.Rate), new("gradient_norm", p.GradientNorm),
            new("images_per_second", p.ImagesPerSecond), new("data_wait", p.DataWait)];
        if (score is not null) line.AddRange([new("test.top1", score.Top1), new("test.top5", score.Top5), new("test.loss", score.Loss)]);
        metrics.Write(p.Step, line.ToArray());
        foreach (Metric m in line) events.Scalar(p.Step, m.Name.Contains('.') ? m.Name.Replace('.', '/') : "train/" + m.Name, m.Value);
        string? trouble = metrics.Trouble ?? events.Trouble;
        if (trouble is not null && _trouble is null) _observer.Note(trouble);
        _trouble = trouble;
    }

    /// <summary>Saves; a full disk is reported and training goes on, since the next save may succeed.</summary>
    private SaveException? Save(MetricsLog metrics)
    {
        try
        {
            metrics.Sync();
            var notes = new Dictionary<string, string> { ["dataset"] = _train.Name, ["pictures"] = _train.Count.ToString() };
            SavedCheckpoint saved = Checkpoint.Save(_folder.Checkpoints, new CheckpointHeader(_step, _configHash, notes), _state.Tensors(),
                _config.Loop.KeepCheckpoints);
            foreach (string warning in saved.Warnings) _observer.Note(warning);
            return null;
        }
        catch (SaveException e)
        {
            _observer.Note(e.Message);
            return e;
        }
    }

    /// <summary>Step 0: fresh head, and the encoder of the run or what that started from.</summary>
    private FinetuneLoaded Start()
    {
        using TrainedRun trained = TrainedRun.Open(_config.Run);
        foreach (string note in trained.Notes) _observer.Note(note);
        _finetuner.Model.Params.Initialise(_backend, _config.Loop.Seed);
        FinetuneLoaded loaded = FinetuneWeights.Put(_backend, _finetuner.Model, trained.Config.Encoder,
            _config.Start == FinetuneStart.Pretrained ? trained.EncoderValues() : trained.UntrainedValues(_backend));
        _finetuner.BeginAverage();
        return loaded;
    }

    private bool Restore()
    {
        (Checkpoint? newest, IReadOnlyList<(string File, string Reason)> skipped) = Checkpoint.Latest(_folder.Checkpoints);
        foreach ((_, string reason) in skipped) _observer.Note(reason);
        if (newest is null)
        {
            _observer.Note($"{_folder.Path} has no checkpoint yet: it starts at step 0.");
            return false;
        }
        using (newest)
        {
            if (newest.Header.ConfigHash != _configHash)
                throw new RunException($"{newest.File}: it was written under another config.json; restore that file, or start a new run.");
            if (newest.Header.Notes is { } notes && notes.TryGetValue("pictures", out string? count) && count != _train.Count.ToString())
                throw new RunException($"{_train.Name} has {_train.Count} pictures, but the run was made with {count}; "
                    + "point --data at the same pictures.");
            _state.Load(newest.Tensors);
            _step = newest.Header.Step;
            return true;
        }
    }

    private FinetuneReport Report(FinetuneRow row) => new()
    {
        TrainData = _train.Name,
        TestData = _test.Name,
        TrainPictures = _train.Count,
        TestPictures = _test.Count,
        Classes = _train.Classes.Count,
        MajorityRate = FinetuneScores.MajorityRate(_train, _test),
        Config = _config,
        Rows = [row],
    };

    private static void Save(string folder, FinetuneReport report)
    {
        string file = Path.Combine(folder, ReportName);
        try
        {
            DiskFiles.Replace(DiskFiles.Instance, file, Encoding.UTF8.GetBytes(ConfigJson.Write(report)));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new RunException($"{file}: the report was not written ({e.Message.TrimEnd('.')}).", e);
        }
    }

    private static long Every(double epochs, int stepsPerEpoch) => Math.Max(1, (long)Math.Round(epochs * stepsPerEpoch));
}
