using MimEngine.Engine.Autograd;
using MimEngine.Engine.Imaging;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Optim;
using MimEngine.Kernels;

namespace MimEngine.Engine.Pretraining;

/// <summary>What happened since the last read-out.</summary>
/// <param name="Losses">Mean of each term over the updates read.</param>
/// <param name="Entropies">Mean entropy of what the teacher said to each term, in nats; 0 where it says nothing.</param>
/// <param name="GradientNorm">Of the last update, before clipping.</param>
public readonly record struct StepReadout(float[] Losses, float[] Entropies, float GradientNorm, long Updates);

/// <summary>
/// One pretraining step: crops → teacher → weights and masks → encoder → heads and losses → backward → clip → update → teacher follows.
/// The only state besides the parameter slabs, the optimiser's, the teacher's and its centres is the step number.
/// </summary>
public sealed class Pretrainer : IDisposable
{
    private readonly Backend _backend;
    private readonly PretrainConfig _config;
    private readonly Timetable _timetable;
    private readonly Tape _tape;
    private readonly Storage _sumStorage;
    private readonly Tensor _sums;   // losses by term, then entropies by term
    private readonly byte[] _hidden;
    private readonly float[] _dropScales, _localDropScales, _rowWeights, _attention;
    private readonly ClsAttentionWatch? _attentionWatch;
    private readonly Value[] _predictions;
    private readonly Value?[] _localPredictions;
    private readonly int _visible;
    private readonly CropMarker? _marker;
    private readonly bool _weighsRows;
    private byte[] _marks = [];
    private long _summed, _passes, _step;
    private bool _warm;

    /// <param name="arenaBytes">Memory of a step, as <see cref="MemoryPlan"/> forecasts it.</param>
    /// <param name="initialise">Draw initial parameters; false leaves zeros, for a checkpoint or a plan.</param>
    /// <param name="timetable">What changes from update to update; none = one endless first epoch.</param>
    /// <param name="gradientSlab">Gradients in a slab even where an update is one pass: the same bits, more memory.</param>
    public Pretrainer(Backend backend, PretrainConfig config, long arenaBytes, bool initialise = true, Timetable? timetable = null,
        bool gradientSlab = false)
    {
        (_backend, _config) = (backend, config);
        _timetable = timetable ?? new Timetable(config, int.MaxValue);
        Arena = new Arena(backend, arenaBytes);
        Model = new MimModel(config);
        Model.Params.Allocate(backend, seed: null, lender: config.Run.Accumulate == 1 && !gradientSlab ? new ArenaGradients(Arena) : null);
        Optimizer = new Optimizer(backend, Model.Params, config.Optim);
        if (config.Teacher is not null) Teacher = new Teacher(backend, config, Model.Params);
        if (initialise) Initialise();
        _tape = new Tape(backend, Arena, config.Run.Recompute);
        int terms = config.Terms.Length, crops = config.Views.Global * config.Run.Batch, patches = Model.Encoder.Grid * Model.Encoder.Grid;
        _sumStorage = backend.Allocate(2 * terms * backend.Real.Size());
        _sums = new Tensor(_sumStorage, 0, new Shape(2 * terms), backend.Real);
        _predictions = new Value[terms];
        _localPredictions = new Value?[terms];
        _hidden = new byte[crops * patches];
        _visible = config.Encoder.Corruption == Corruption.Drop ? config.Masking.Visible(Model.Encoder.Grid, Model.Encoder.TokenPixels) : 0;
        _weighsRows = config.Terms.Any(t => t.Target is TeacherTokens && t.On == TokenChoice.HiddenPatches);
        _attention = new float[config.Masking.NeedsAttention ? _hidden.Length : 0];
        if (config.Masking.NeedsAttention) _attentionWatch = new ClsAttentionWatch { Block = Model.Encoder.Depth - 1 };
        _rowWeights = new float[_weighsRows ? _hidden.Length : 0];
        _dropScales = new float[Model.Encoder.DropRows * crops];
        _localDropScales = new float[Model.Encoder.DropRows * config.Views.Local * config.Run.Batch];
        _marker = config.NewMarker();
    }

    public MimModel Model { get; }
    public Optimizer Optimizer { get; }
    public Teacher? Teacher { get; }
    public Arena Arena { get; }

    /// <summary>Draws the initial parameters; the teacher begins as a copy of the student.</summary>
    public void Initialise()
    {
        Model.Params.Initialise(_backend, _config.Run.Seed);
        Teacher?.Follow(momentum: 0);
    }

    /// <summary>
    /// One pass of an update. Call it Accumulate times, then <see cref="Update"/>.
    /// </summary>
    /// <param name="pixels">Global crops, (V·B, 3, S, S) U8, planar; after them local ones, (v·B, 3, s, s).</param>
    /// <param name="batchNumber">Number of this batch since the run's beginning: update · Accumulate + pass. Names its random numbers.</param>
    /// <param name="firstPass">Gradients are overwritten instead of added to.</param>
    /// <param name="marks">(B, S, S) U8 where a weighting marks crops on the host; none = this call marks them, on its own thread.</param>
    public void Pass(ReadOnlySpan<byte> pixels, long batchNumber, bool firstPass, ReadOnlySpan<byte> marks = default)
    {
        if (firstPass) Model.Params.BeginUpdate();   // before anything is rented: a pass whose update never came holds its gradients
        Crops global = Load(pixels, 0, _config.Views.Global, _config.Encoder.ImagePixels);
        Crops? local = _config.Views.Local == 0 ? null
            : Load(pixels, (int)global.Bytes.Bytes, _config.Views.Local, _config.Views.LocalPixels);
        Pass(global, local, batchNumber, firstPass, default, Marks(pixels, marks));
    }

    /// <summary>A pass on crops that lie on the device.</summary>
    /// <param name="masks">(V·B·L), 1 = hidden; empty = drawn.</param>
    internal void Pass(Crops global, Crops? local, long batchNumber, bool firstPass, ReadOnlySpan<byte> masks, Tensor? marks = null)
    {
        if (firstPass) Model.Params.BeginUpdate();
        else if (_config.Optim.ClipEachPass) Optimizer.ClipGradient();
        _step = batchNumber / _config.Run.Accumulate;
        LookAt(global);
        if (masks.IsEmpty) DrawMasks(batchNumber);
        else masks.CopyTo(_hidden);
        Tensor hidden = Upload(_hidden, new Shape(global.Count, _hidden.Length / global.Count));
        Tensor? rowWeights = WeighRows(global.Count);
        var request = new EncodeRequest(_config.Masking.Hides ? hidden : null, DrawDropScales(_dropScales, (ulong)batchNumber, global.Count),
            Visible: _visible);
        Encode(global, request, _predictions, clsOnly: false);
        if (local is { } small)
            Encode(small, new EncodeRequest(DropScales: DrawDropScales(_localDropScales, ulong.MaxValue - (ulong)batchNumber, small.Count)),
                _localPredictions, clsOnly: true);
        for (int term = 0; term < _config.Terms.Length; term++)
        {
            Lesson? lesson = Ask(term, rowWeights);
            Value loss = Model.Loss(_tape, _predictions[term], term, global.Bytes, global.Images, hidden, 1f / _config.Run.Accumulate, marks,
                lesson);
            _backend.AddScaled(_sums.Slice(term, 1), loss.Data, 1f, 1f);
        }
        _passes++;
        _tape.Backward();
        _tape.Reset();
    }

    /// <summary>Tokens after a block for one batch, without gradient, downloaded; the final normalisation follows the last block.</summary>
    /// <param name="block">1 … depth.</param>
    public float[] Tokens(ReadOnlySpan<byte> pixels, long batchNumber, int block)
    {
        _tape.BeginNoGrad();
        Crops global = Load(pixels, 0, _config.Views.Global, _config.Encoder.ImagePixels);
        LookAt(global);
        DrawMasks(batchNumber);
        Tensor hidden = Upload(_hidden, new Shape(global.Count, _hidden.Length / global.Count));
        var request = new EncodeRequest(_config.Masking.Hides ? hidden : null, DrawDropScales(_dropScales, (ulong)batchNumber, global.Count), block, block < Model.Encoder.Depth,
            _visible);
        float[] tokens = Transfer.Floats(_backend, Model.Encoder.Encode(_tape, global.Images, request).All.Data);
        _tape.EndNoGrad();
        _tape.Reset();
        return tokens;
    }

    /// <summary>Clips and updates at this learning rate; then the teacher follows.</summary>
    public void Update(double rate)
    {
        Model.Freeze(_timetable.Epoch(_step));
        Optimizer.Step(rate, _timetable.WeightDecay(_step));
        Teacher?.Follow(_timetable.Momentum(_step));
        _summed++;
        if (_warm) return;
        Arena.Freeze();
        _warm = true;
    }

    /// <summary>Mean losses since the last call, and the last gradient norm; waits for the device.</summary>
    /// <exception cref="NonFiniteException">A loss or the gradient norm is not a number; names the first parameter that is not.</exception>
    public StepReadout ReadOut(long step)
    {
        int terms = _config.Terms.Length;
        float[] sums = Transfer.Floats(_backend, _sums), losses = sums[..terms], entropies = sums[terms..];
        float norm = Transfer.Floats(_backend, Optimizer.GradientNorm)[0];
        for (int i = 0; i < terms; i++) losses[i] /= Math.Max(1, _summed);
        for (int i = 0; i < terms; i++) entropies[i] /= Math.Max(1, _passes);
        (long updates, _summed, _passes) = (_summed, 0, 0);
        _backend.Fill(_sums, 0f);
        for (int i = 0; i < terms; i++)
            if (!float.IsFinite(losses[i])) throw NonFiniteException.Of(_backend, Model.Params, $"loss '{_config.Terms[i].Name}' is {losses[i]}", step, updates);
        if (!float.IsFinite(norm)) throw NonFiniteException.Of(_backend, Model.Params, $"the gradient norm is {norm}", step, updates);
        return new StepReadout(losses, entropies, norm, updates);
    }

    public void Dispose()
    {
        Model.Dispose();
        Teacher?.Dispose();
        Optimizer.Dispose();
        Arena.Dispose();
        _sumStorage.Dispose();
    }

    private Tensor? Marks(ReadOnlySpan<byte> pixels, ReadOnlySpan<byte> marks)
    {
        if (_marker is null) return null;
        int b = _config.Run.Batch, s = _config.Encoder.ImagePixels, plane = s * s;
        if (marks.IsEmpty)
        {
            if (_marks.Length == 0) _marks = new byte[b * plane];
            for (int i = 0; i < b; i++) _marker.Paint(_marks.AsSpan(i * plane, plane), pixels.Slice(3 * i * plane, 3 * plane), s);
            marks = _marks;
        }
        Tensor device = _tape.Keep(new Shape(b, s, s), DType.U8);
        _backend.Upload(device, marks);
        return device;
    }

    private Crops Load(ReadOnlySpan<byte> pixels, int first, int views, int side)
    {
        var shape = new Shape(views * _config.Run.Batch, 3, side, side);
        Tensor bytes = _tape.Keep(shape, DType.U8), images = _tape.Keep(shape);
        _backend.Upload(bytes, pixels.Slice(first, (int)bytes.Bytes));
        _backend.NormalizeImages(images, bytes, Normalization.Mean, Normalization.Std);
        return new Crops(bytes, images);
    }

    private Tensor Upload(byte[] values, Shape shape)
    {
        Tensor tensor = _tape.Keep(shape, DType.U8);
        _backend.Upload(tensor, values);
        return tensor;
    }

    /// <summary>The teacher sees whole crops; what its [cls] attends to in the last block is read back where masks depend on it.</summary>
    private void LookAt(Crops global)
    {
        if (Teacher is null) return;
        if (_attentionWatch is not null) _attentionWatch.Into = _tape.Keep(new Shape(global.Count, _attention.Length / global.Count));
        Teacher.Look(_tape, global.Images, new EncodeRequest(Watch: _attentionWatch));
        if (_attentionWatch is not null) Transfer.Download(_backend, _attention, _attentionWatch.Into);
    }

    /// <summary>Runs the student on crops of one size, and every head that has something to say about them.</summary>
    private void Encode(Crops crops, in EncodeRequest request, Value?[] predictions, bool clsOnly)
    {
        EncodedTokens tokens = Model.Encoder.Encode(_tape, crops.Images, request);
        Model.See(_tape, tokens, clsOnly, firstOfPass: !clsOnly);
        for (int term = 0; term < predictions.Length; term++)
            if (!clsOnly || _config.Terms[term].On == TokenChoice.Cls) predictions[term] = Model.Logits(_tape, tokens, term);
    }

    /// <summary>The teacher's answer for a term that learns from it.</summary>
    private Lesson? Ask(int term, Tensor? rowWeights)
    {
        Term spec = _config.Terms[term];
        if (spec.Target is not TeacherTokens) return null;
        Tensor? weights = spec.On == TokenChoice.HiddenPatches ? rowWeights : null;
        Tensor entropy = _tape.Scratch(new Shape(1));
        Tensor targets = Teacher!.Answer(_tape, term, entropy, weights, _timetable.Epoch(_step));
        _backend.AddScaled(_sums.Slice(_config.Terms.Length + term, 1), entropy, 1f, 1f);
        _tape.Done(entropy);
        ViewsConfig views = _config.Views;
        return new Lesson(_localPredictions[term], targets, weights, _config.Run.Batch, views.Global, views.Local);
    }

    /// <summary>(V·B·L): every crop's hidden patches count 1/(V·B) together, none nothing (SPEC E.3).</summary>
    private Tensor? WeighRows(int crops)
    {
        if (!_weighsRows) return null;
        int patches = _hidden.Length / crops;
        for (int i = 0; i < crops; i++)
        {
            ReadOnlySpan<byte> hidden = _hidden.AsSpan(i * patches, patches);
            int count = 0;
            foreach (byte h in hidden) count += h;
            for (int l = 0; l < patches; l++) _rowWeights[i * patches + l] = hidden[l] == 0 ? 0f : 1f / ((float)count * crops);
        }
        Tensor weights = _tape.Keep(new Shape(_rowWeights.Length));
        Transfer.Upload(_backend, weights, _rowWeights);
        return weights;
    }

    /// <summary>Drawn on the host: one name a crop, so masks depend on nothing but seed, place in the run and the teacher's attention.</summary>
    private void DrawMasks(long batchNumber)
    {
        int grid = Model.Encoder.Grid, patches = grid * grid, crops = _hidden.Length / patches;
        for (int i = 0; i < crops; i++)
        {
            var request = new MaskRequest
            {
                Grid = grid,
                PatchPixels = Model.Encoder.TokenPixels,
                Crop = new Rng(_config.Run.Seed, RandomStream.Mask, (ulong)(batchNumber * crops + i)),
                Step = new Rng(_config.Run.Seed, RandomStream.MaskStep, (ulong)batchNumber),
                Epoch = (double)_step / _timetable.StepsPerEpoch,
                ClsAttention = _attention.Length == 0 ? default : _attention.AsSpan(i * patches, patches),
            };
            _config.Masking.Sample(request, _hidden.AsSpan(i * patches, patches));
        }
    }

    /// <summary>(2·depth, crops): 0 for a dropped branch, else 1/(1 − p), or none without stochastic depth.</summary>
    private Tensor? DrawDropScales(float[] scales, ulong index, int crops)
    {
        int rows = Model.Encoder.DropRows;
        if (rows == 0) return null;
        StochasticDepth.Draw(scales, Model.Encoder, crops, new Rng(_config.Run.Seed, RandomStream.DropPath, index));
        Tensor tensor = _tape.Keep(new Shape(rows, crops));
        Transfer.Upload(_backend, tensor, scales);
        return tensor;
    }
}
