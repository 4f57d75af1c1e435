using MimEngine.Engine.Autograd;
using MimEngine.Engine.Optim;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;

namespace MimEngine.Engine.Experiments;

/// <summary>
/// All that a run must remember besides its configuration and step: parameters ("params/…"), the optimiser's moments ("adam.m/…",
/// "adam.v/…"), how often each parameter was updated ("steps"), an average of the parameters where there is one ("average/…"), and a
/// teacher's parameters ("teacher/…") and centres ("center/…").
/// </summary>
internal sealed class RunState(Backend backend, ParamSet parameters, Optimizer optimizer, ParamSet? average = null, Teacher? teacher = null)
{
    private const string StepsName = "steps", TeacherPrefix = "teacher/", CenterPrefix = "center/";

    public RunState(Backend backend, Pretrainer pretrainer) : this(backend, pretrainer.Model.Params, pretrainer.Optimizer, null, pretrainer.Teacher) { }

    /// <summary>Everything to be saved.</summary>
    public IReadOnlyList<NamedTensor> Tensors()
    {
        List<NamedTensor> tensors = [];
        foreach ((string prefix, Tensor slab) in Slabs())
            foreach (Param p in parameters.Params)
                tensors.Add(NamedTensor.From(prefix + p.Name, View(slab, p), backend));
        if (teacher is not null)
        {
            foreach (Param p in teacher.Model.Params.Params) tensors.Add(NamedTensor.From(TeacherPrefix + p.Name, p.Data, backend));
            foreach ((string term, Tensor center) in teacher.Centers) tensors.Add(NamedTensor.From(CenterPrefix + term, center, backend));
        }
        int[] steps = optimizer.StepCounts;
        tensors.Add(new NamedTensor(StepsName, "I32", [steps.Length], (offset, destination) =>
            System.Runtime.InteropServices.MemoryMarshal.AsBytes(steps.AsSpan()).Slice((int)offset, destination.Length).CopyTo(destination)));
        return tensors;
    }

    /// <summary>Puts a checkpoint back.</summary>
    /// <exception cref="WeightFileException">A tensor is missing, of another shape, or one too many.</exception>
    public void Load(SafeTensors file)
    {
        int expected = 1;
        foreach ((string prefix, Tensor slab) in Slabs())
            foreach (Param p in parameters.Params) Put(prefix + p.Name, View(slab, p));
        parameters.RefreshOperands(backend);
        average?.RefreshOperands(backend);
        if (teacher is not null)
        {
            foreach (Param p in teacher.Model.Params.Params) Put(TeacherPrefix + p.Name, p.Data);
            teacher.Model.Params.RefreshOperands(backend);
            foreach ((string term, Tensor center) in teacher.Centers) Put(CenterPrefix + term, center);
        }
        int[] steps = file.Ints(StepsName), counts = optimizer.StepCounts;
        if (steps.Length != counts.Length || file.Entries.Count != expected)
            throw new WeightFileException($"{file.File}: it holds {file.Entries.Count} tensors, but this experiment has {expected}.");
        steps.CopyTo(counts, 0);

        void Put(string name, Tensor into)
        {
            float[] values = file.Floats(name);
            if (values.Length != into.Count)
                throw new WeightFileException($"{file.File}: '{name}' is {file[name]}, but this experiment's is {into.Shape}.");
            Transfer.Upload(backend, into, values);
            expected++;
        }
    }

    private IEnumerable<(string Prefix, Tensor Slab)> Slabs()
    {
        yield return ("params/", parameters.Master);
        yield return ("adam.m/", optimizer.Moment1);
        if (optimizer.Moment2 is { } second) yield return ("adam.v/", second);
        if (average is not null) yield return ("average/", average.Master);
    }

    private Tensor View(Tensor slab, Param p) => slab with
    {
        ByteOffset = slab.ByteOffset + parameters.Offset(p) * slab.DType.Size(),
        Shape = p.DeclaredShape,
    };
}
