using System.Diagnostics;
using System.Security.Cryptography;
using System.Text;
using MimEngine.Engine.Analysis;
using MimEngine.Engine.Data;
using MimEngine.Engine.Imaging;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;

namespace MimEngine.Engine.Experiments;

/// <summary>What a user asked of a pretraining run beside the experiment itself.</summary>
public sealed record PretrainOptions : TrainingOptions
{
    /// <summary>The experiment of a new run; a resumed run has its own.</summary>
    public PretrainConfig Config { get; init; } = Recipes.Kamim();
}

/// <summary>What is known before the first step.</summary>
public sealed record PretrainStart(string Folder, PretrainConfig Config, string Device, string Dataset, int Pictures, MemoryPlan Plan,
    long FirstStep, long TotalSteps, int StepsPerEpoch);

/// <summary>A line of progress.</summary>
/// <param name="ImagesPerSecond">Since the line before.</param>
/// <param name="DataWait">Share of that time spent waiting for pictures, 0 to 1.</param>
/// <param name="Remaining">Time to the end at this speed.</param>
public sealed record PretrainProgress(long Step, long TotalSteps, double Epoch, double Loss, double Rate, double GradientNorm,
    double ImagesPerSecond, double DataWait, TimeSpan Remaining);

/// <summary>How a run ended.</summary>
/// <param name="Interrupted">The user stopped it; it can be resumed.</param>
public sealed record PretrainResult(string Folder, long Step, bool Interrupted, double Loss, double Seconds, double ImagesPerSecond,
    long PlannedBytes, long AllocatedBytes, IReadOnlyList<string> Pictures);

/// <summary>Told what a run does.</summary>
public interface IPretrainObserver
{
    void Started(PretrainStart start);
    void Progress(PretrainProgress progress);
    void Note(string sentence);
}

/// <summary>The loop around the step: load, step, log, draw, save; stops at a step's end when asked, and continues to the same bits.</summary>
public sealed class PretrainRun : IDisposable
{
    private const int PictureCrops = 8, RankCrops = 64;
    private readonly PretrainOptions _options;
    private readonly IPretrainObserver _observer;
    private readonly RunDirectory _folder;
    private readonly PretrainConfig _config;
    private readonly IDataset _dataset;
    private readonly MemoryPlan _plan;
    private readonly Backend _backend;
    private readonly Pretrainer _pretrainer;
    private readonly RunState _state;
    private readonly string _configHash;
    private readonly Reconstruction _reconstruction;
    private readonly Health _health;
    private readonly CollapseWatch? _collapse;
    private readonly AttentionStrip? _strip;
    private readonly LiveKnn? _knn;
    private readonly List<string> _pictures = [];
    private long _step;
    private string? _trouble;

    /// <summary>Opens everything and refuses what cannot work, before the first step.</summary>
    private PretrainRun(PretrainOptions options, IPretrainObserver observer)
    {
        (_options, _observer) = (options, observer);
        string json = options.Resume is { } run ? RunDirectory.ReadConfig(run) : ConfigJson.Write(options.Config);
        _config = ConfigJson.Read<PretrainConfig>(json, options.Resume is null ? "the configuration" : Path.Combine(options.Resume, "config.json"));
        _config.Validate();
        _configHash = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(json)));
        _dataset = Datasets.Open(options.Data ?? _config.Data, Split.Train);
        _backend = Backend.Open(options.Device, options.Threads, _config.Run.Precision);
        _plan = Plan(_config, options.Device, options.Threads, _dataset.Count);
        _pretrainer = new Pretrainer(_backend, _config, _plan.ArenaBytes, initialise: options.Resume is null,
            new Timetable(_config, _dataset.Count / _config.Run.Batch));
        _state = new RunState(_backend, _pretrainer);
        byte[] shown = FixedCrops(PictureCrops);
        _reconstruction = new Reconstruction(_backend, _config, shown);
        _health = new Health(_backend, _config.Encoder, shown);
        if (_config.Teacher is not null)
            (_collapse, _strip) = (new CollapseWatch(_backend, _config, FixedCrops(RankCrops)), new AttentionStrip(_backend, _config, shown));
        if (_config.Run.KnnEveryEpochs > 0) _knn = new LiveKnn(_backend, _config, options.Data ?? _config.Data, options.LoaderThreads);
        _folder = options.Resume is { } old ? RunDirectory.Resume(old)
            : options.Out is { } path ? RunDirectory.Create(path, json)
            : RunDirectory.CreateNumbered("runs", _config.Recipe.Length > 0 ? _config.Recipe : "pretrain", json);
        if (options.Resume is not null) _step = Restore();
        _folder.AddEnvironment(options.Environment(_backend, _step));
    }

    /// <summary>The memory of a whole run: its steps, and what looks at it while it trains.</summary>
    /// <param name="pictures">Training pictures there are.</param>
    public static MemoryPlan Plan(PretrainConfig config, string device, int threads, int pictures)
        => MemoryPlan.Of(config, device, threads, LiveKnn.Rehearsal(config, pictures));

    /// <summary>Runs or continues an experiment to its end, or until <paramref name="stop"/> is set.</summary>
    /// <exception cref="RunException">The run folder cannot be used, or the final checkpoint could not be saved.</exception>
    /// <exception cref="NonFiniteException">The loss or the gradient stopped being a number.</exception>
    public static PretrainResult Execute(PretrainOptions options, IPretrainObserver observer, CancellationToken stop)
    {
        using var run = new PretrainRun(options, observer);
        return run.Loop(stop);
    }

    public void Dispose()
    {
        _folder.Dispose();
        _knn?.Dispose();
        _pretrainer.Dispose();
        _dataset.Dispose();
        _backend.Dispose();
    }

    private PretrainResult Loop(CancellationToken stop)
    {
        RunConfig run = _config.Run;
        int batches = _dataset.Count / run.Batch;
        long total = _config.TotalSteps(batches);
        using var loader = new Loader(new LoaderConfig(_dataset, new AugmentedViews(_config), run.Batch)
        {
            Seed = run.Seed,
            StartStep = _step * run.Accumulate,
            EndStep = total * run.Accumulate,
            Threads = _options.LoaderThreads,
        });
        var span = _config.Rates(batches);
        long everyCheckpoint = Every(run.CheckpointEveryEpochs, span.StepsPerEpoch), everyPicture = Every(run.PicturesEveryEpochs, span.StepsPerEpoch);
        long everyHealth = Every(run.HealthEveryEpochs, span.StepsPerEpoch), everyKnn = Every(run.KnnEveryEpochs, span.StepsPerEpoch);
        using var metrics = MetricsLog.Open(_folder.Metrics, _step);
        using var events = EventFile.Create(_folder.Path, _step, _options.Clock);
        _observer.Started(new PretrainStart(_folder.Path, _config, _backend.Description, _dataset.Name, _dataset.Count, _plan, _step, total,
            span.StepsPerEpoch));
        long first = _step, started = Stopwatch.GetTimestamp(), lineStart = started, lineStep = _step;
        double waitBefore = 0, loss = double.NaN;
        SaveException? unsaved = null;
        while (_step < total && !stop.IsCancellationRequested)
        {
            double rate = _config.RateOf(span, _step);
            OneStep(loader, rate);
            _step++;
            bool last = _step == total || stop.IsCancellationRequested, save = last || _step % everyCheckpoint == 0;
            bool draw = _step == total || (everyPicture > 0 && _step % everyPicture == 0);
            bool look = everyHealth > 0 && _step % everyHealth == 0, ask = everyKnn > 0 && _step % everyKnn == 0;
            if (save || draw || look || ask || _step % run.LogEverySteps == 0)
            {
                StepReadout read = _pretrainer.ReadOut(_step);
                loss = read.Losses.Sum();
                long now = Stopwatch.GetTimestamp();
                double seconds = Stopwatch.GetElapsedTime(lineStart, now).TotalSeconds, waited = loader.WaitSeconds;
                double speed = (_step - lineStep) * (double)run.Batch * run.Accumulate / seconds;
                double pace = Stopwatch.GetElapsedTime(started, now).TotalSeconds / (_step - first);
                var line = new PretrainProgress(_step, total, (double)_step / span.StepsPerEpoch, loss, rate, read.GradientNorm, speed,
                    Math.Clamp((waited - waitBefore) / seconds, 0, 1), TimeSpan.FromSeconds(pace * (total - _step)));
                (lineStart, lineStep, waitBefore) = (now, _step, waited);
                List<Metric> health = look ? _health.Look(_pretrainer.Model.Encoder, _pretrainer.Arena.Guest()) : [];
                if (_pretrainer.Teacher is { } teacher)
                    health.AddRange(_collapse!.Look(read, teacher, look ? _pretrainer.Arena.Guest() : null, _step > span.StepsPerEpoch, _observer.Note));
                if (ask) health.AddRange(_knn!.Look((_pretrainer.Teacher?.Model ?? _pretrainer.Model).Params));
                Log(metrics, events, line, read, health);
                _observer.Progress(line);
            }
            if (draw && _config.PixelTerm >= 0) Draw(events, "reconstruction", _reconstruction.Draw(_pretrainer.Model, _pretrainer.Arena.Guest()));
            if (draw && _strip is not null) Draw(events, "attention", _strip.Draw(_pretrainer.Teacher!.Model.Encoder, _pretrainer.Arena.Guest()));
            if (save) unsaved = Save(metrics);
        }
        if (_step == first && _step < total) unsaved = Save(metrics);
        if (unsaved is not null) throw unsaved;
        if (loader.Corrupt.Failures > 0) _observer.Note(loader.Corrupt.Report());
        double whole = Stopwatch.GetElapsedTime(started).TotalSeconds;
        return new PretrainResult(_folder.Path, _step, _step < total, loss, whole, (_step - first) * (double)run.Batch * run.Accumulate / whole,
            _plan.TotalBytes, _backend.AllocatedBytes + _backend.OwnBytes, _pictures);
    }

    private void OneStep(Loader loader, double rate)
    {
        int passes = _config.Run.Accumulate;
        for (int pass = 0; pass < passes; pass++)
        {
            Batch batch = loader.Next();
            _pretrainer.Pass(batch.Filled, _step * passes + pass, firstPass: pass == 0, batch.FilledMarks);
            loader.Return(batch);
        }
        _pretrainer.Update(rate);
    }

    private void Log(MetricsLog metrics, EventFile events, PretrainProgress p, StepReadout read, IReadOnlyList<Metric> health)
    {
        List<Metric> line = [new("epoch", p.Epoch), new("loss", p.Loss)];
        if (read.Losses.Length > 1)
            for (int i = 0; i < read.Losses.Length; i++) line.Add(new("loss." + _config.Terms[i].Name, read.Losses[i]));
        line.AddRange([new("rate", p.Rate), new("gradient_norm", p.GradientNorm), new("images_per_second", p.ImagesPerSecond),
            new("data_wait", p.DataWait), .. health]);
        metrics.Write(p.Step, line.ToArray());
        foreach (Metric m in line) events.Scalar(p.Step, "train/" + m.Name, m.Value);
        string? trouble = metrics.Trouble ?? events.Trouble;
        if (trouble is not null && _trouble is null) _observer.Note(trouble);
        _trouble = trouble;
    }

    private void Draw(EventFile events, string name, RgbImage sheet)
    {
        byte[] png = Png.Encode(sheet);
        string path = Path.Combine(_folder.Pictures, $"{name}-{_step:00000000}.png");
        try
        {
            File.WriteAllBytes(path, png);
            _pictures.Add(path);
        }
        catch (IOException e)
        {
            _observer.Note($"{path}: the picture was not written ({e.Message.TrimEnd('.')}); training goes on.");
        }
        events.Picture(_step, name, sheet.Width, sheet.Height, png);
    }

    /// <summary>Saves; a full disk is reported and training goes on, since the next save may succeed.</summary>
    private SaveException? Save(MetricsLog metrics)
    {
        try
        {
            metrics.Sync();
            var notes = new Dictionary<string, string> { ["dataset"] = _dataset.Name, ["pictures"] = _dataset.Count.ToString() };
            SavedCheckpoint saved = Checkpoint.Save(_folder.Checkpoints, new CheckpointHeader(_step, _configHash, notes), _state.Tensors(),
                _config.Run.KeepCheckpoints);
            foreach (string warning in saved.Warnings) _observer.Note(warning);
            return null;
        }
        catch (SaveException e)
        {
            _observer.Note(e.Message);
            return e;
        }
    }

    private long Restore()
    {
        (Checkpoint? newest, IReadOnlyList<(string File, string Reason)> skipped) = Checkpoint.Latest(_folder.Checkpoints);
        foreach ((_, string reason) in skipped) _observer.Note(reason);
        if (newest is null)
        {
            _pretrainer.Initialise();
            _observer.Note($"{_folder.Path} has no checkpoint yet: it starts at step 0.");
            return 0;
        }
        using (newest)
        {
            if (newest.Header.ConfigHash != _configHash)
                throw new RunException($"{newest.File}: it was written under another config.json; restore that file, or start a new run.");
            if (newest.Header.Notes is { } notes && notes.TryGetValue("pictures", out string? count) && count != _dataset.Count.ToString())
                throw new RunException($"{_dataset.Name} has {_dataset.Count} pictures, but the run was made with {count}; "
                    + "point --data at the same pictures.");
            _state.Load(newest.Tensors);
            return newest.Header.Step;
        }
    }

    /// <summary>The first pictures of the test split, or of the training split where there is no other, resized without augmentation.</summary>
    private byte[] FixedCrops(int most)
    {
        string? path = _options.Data ?? _config.Data;
        using IDataset shown = Datasets.Open(path, Datasets.Has(path, Split.Test) ? Split.Test : Split.Train);
        int n = Math.Min(most, Math.Min(shown.Count, _config.Run.Batch));
        using var loader = new Loader(new LoaderConfig(shown, new AugmentedViews(AugmentConfig.Resize, _config.Encoder.ImagePixels), n)
        {
            Order = LoaderOrder.InOrder,
            EndStep = 1,
        });
        return loader.Next().Filled.ToArray();
    }

    private static long Every(double epochs, int stepsPerEpoch) => epochs <= 0 ? 0 : Math.Max(1, (long)Math.Round(epochs * stepsPerEpoch));
}
