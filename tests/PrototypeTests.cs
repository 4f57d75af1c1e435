using System.Text.Json;
using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>Prototype heads, distillation losses and centres against the official DINO and iBOT.</summary>
[TestFixture]
public class PrototypeTests
{
    private static readonly CpuBackend s_cpu = Cpu.Open(Simd.Best);

    [TestCase("0_DINOHead")]
    [TestCase("1_iBOTHead")]
    [TestCase("2_iBOTHead")]
    [TestCase("3_DINOHead")]
    [TestCase("4_iBOTHead")]
    [TestCase("5_iBOTHead")]
    public void IBot_heads_agree_with_the_official_ones(string variant)
    {
        using Golden golden = Golden.Open("05_ibot_attmask/heads");
        JsonElement hyper = golden.Hyper.GetProperty("variants").GetProperty(variant);
        bool patches = variant.EndsWith("iBOTHead", StringComparison.Ordinal);
        foreach (string form in new[] { "2d", "3d" })
        {
            float[] x = golden.Tensors.Floats("in.x" + form);
            // Rows of [cls] only, or images of a [cls] and five patches; DINO's head takes any row.
            Shape shape = form == "3d" && patches ? new Shape(3, 6, 20) : new Shape(x.Length / 20, 1, 20);
            using var rig = new Rig(Head(hyper, variant.StartsWith('5') ? HeadNorm.SharedBatch : HeadNorm.None), 20,
                patches ? Second(hyper) : null);
            rig.Load(golden, $"param.{variant}.");
            rig.Run(x, shape, clsOnly: !(form == "3d" && patches), i => golden.Tensors.Floats($"in.upstream.{variant}.{form}.y{i}"),
                (i, y) => golden.AssertClose($"out.{variant}.{form}.y{i}", y));
            rig.CheckGradients(golden, $"grad.{variant}.{form}.");
        }
    }

    [TestCase("0")]
    [TestCase("1")]
    [TestCase("2")]
    public void Dino_heads_agree_with_the_official_ones(string variant)
    {
        using Golden golden = Golden.Open("05_dino/dino_heads");
        JsonElement hyper = golden.Hyper.GetProperty("variants").GetProperty(variant);
        using var rig = new Rig(Head(hyper, hyper.TryGetProperty("use_bn", out _) ? HeadNorm.Batch : HeadNorm.None), 14, null);
        rig.Load(golden, $"param.{variant}.");
        rig.Run(golden.Tensors.Floats("in.x"), new Shape(6, 1, 14), clsOnly: true, _ => golden.Tensors.Floats($"in.upstream.{variant}"),
            (_, y) => golden.AssertClose($"out.{variant}", y));
        rig.CheckGradients(golden, $"grad.{variant}.");
    }

    [TestCase("ibot_loss_local")]
    [TestCase("ibot_loss_start_epoch")]
    public void Losses_gradients_and_centres_follow_iBot_over_epochs(string name)
    {
        using Golden golden = Golden.Open("05_ibot_attmask/" + name);
        int batch = golden.Int("batch"), views = golden.Int("ngcrops"), locals = golden.Int("nlcrops"), patches = golden.Int("grid") * golden.Int("grid");
        int[] epochs = [.. golden.Hyper.GetProperty("epochs").EnumerateArray().Select(e => e.GetInt32())];
        TeacherTokens cls = Target(golden, "warmup_teacher_temp", "teacher_temp", 0),
            patch = Target(golden, "warmup_teacher_patch_temp", "teacher_patch_temp", golden.Int("pred_start_epoch"));
        CheckSchedule(golden, "out.teacher_temp_schedule", cls);
        CheckSchedule(golden, "out.teacher_temp2_schedule", patch);
        using var rig = new LossRig();
        Tensor center = rig.Centre(golden.Int("out_dim")), center2 = rig.Centre(golden.Int("patch_out_dim"));
        for (int i = 0; i < epochs.Length; i++)
        {
            string s = $"s{i}.";
            Value student = rig.Student(golden, $"in.{s}student_cls"), hidden = rig.Student(golden, $"in.{s}student_patch");
            Value? local = locals > 0 ? rig.Student(golden, $"in.{s}student_local_cls") : null;
            Tensor targets = rig.Teach(golden, $"in.{s}teacher_cls", center, cls, epochs[i], null);
            float[] weights = Weights(golden.Tensors.Bytes($"in.{s}masks"), patches);
            Tensor rows = rig.Keep(weights), targets2 = rig.Teach(golden, $"in.{s}teacher_patch", center2, patch, epochs[i], rows);
            Value first = rig.Loss(cls, student, golden.Float("lambda1"), new Lesson(local, targets, null, batch, views, locals));
            Value second = rig.Loss(patch, hidden, golden.Float("lambda2"), new Lesson(null, targets2, rows, batch, views, locals));
            (float a, float b) = (rig.Number(first), rig.Number(second));
            golden.AssertClose($"out.{s}loss_cls_patch_total", [a, b, a + b]);
            rig.Backward();
            rig.CheckGradient(golden, $"grad.{s}student_cls", student);
            rig.CheckGradient(golden, $"grad.{s}student_patch", hidden);
            if (local is not null) rig.CheckGradient(golden, $"grad.{s}student_local_cls", local);
            golden.AssertClose($"out.{s}center_after", Transfer.Floats(s_cpu, center));
            golden.AssertClose($"out.{s}center2_after", Transfer.Floats(s_cpu, center2));
            rig.Reset();
        }
    }

    [Test]
    public void Dino_loss_its_gradient_and_centre_follow_the_official_one_over_epochs()
    {
        using Golden golden = Golden.Open("05_dino/dino_loss");
        int batch = golden.Int("batch"), crops = golden.Int("ncrops"), dim = golden.Int("out_dim");
        int[] epochs = [.. golden.Hyper.GetProperty("epochs").EnumerateArray().Select(e => e.GetInt32())];
        TeacherTokens target = Target(golden, "warmup_teacher_temp", "teacher_temp", 0);
        CheckSchedule(golden, "out.teacher_temp_schedule", target);
        using var rig = new LossRig();
        Tensor center = rig.Centre(dim);
        for (int i = 0; i < epochs.Length; i++)
        {
            float[] all = golden.Tensors.Floats($"in.s{i}.student");
            Value global = rig.Student(all[..(2 * batch * dim)], dim), local = rig.Student(all[(2 * batch * dim)..], dim);
            Tensor targets = rig.Teach(golden, $"in.s{i}.teacher", center, target, epochs[i], null);
            Value loss = rig.Loss(target, global, 1f, new Lesson(local, targets, null, batch, 2, crops - 2));
            golden.AssertClose($"out.s{i}.loss", [rig.Number(loss)]);
            rig.Backward();
            golden.AssertClose($"grad.s{i}.student", [.. rig.Gradient(global), .. rig.Gradient(local)]);
            golden.AssertClose($"out.s{i}.center_after", Transfer.Floats(s_cpu, center));
            rig.Reset();
        }
    }

    /// <summary>Every image's hidden patches count 1 together, images 1/(V·B).</summary>
    private static float[] Weights(byte[] masks, int patches)
    {
        int images = masks.Length / patches;
        return [.. masks.Select((m, i) => m == 0 ? 0f : 1f / (images * masks.AsSpan(i / patches * patches, patches).ToArray().Count(h => h != 0)))];
    }

    private static void CheckSchedule(Golden golden, string name, TeacherTokens target)
    {
        double[] expected = golden.Tensors.Doubles(name);
        for (int e = 0; e < expected.Length; e++) Assert.That(target.TemperatureIn(e), Is.EqualTo(expected[e]).Within(1e-12 * expected[e]), $"{name}, epoch {e}");
    }

    private static TeacherTokens Target(Golden golden, string warmup, string final, int start) => new()
    {
        WarmupTemperature = golden.Hyper.GetProperty(warmup).GetDouble(),
        Temperature = golden.Hyper.GetProperty(final).GetDouble(),
        WarmupEpochs = golden.Int("warmup_teacher_temp_epochs"),
        StartEpoch = start,
        StudentTemperature = golden.Float("student_temp"),
        CenterMomentum = golden.Float("center_momentum"),
    };

    private static PrototypeHead Head(JsonElement h, HeadNorm norm)
    {
        int number(string key, int otherwise) => h.TryGetProperty(key, out JsonElement v) ? v.GetInt32() : otherwise;
        return new PrototypeHead
        {
            Prototypes = number("out_dim", 0),
            HiddenWidth = number("hidden_dim", 2048),
            Bottleneck = number("bottleneck_dim", 256),
            Layers = number("nlayers", 3),
            Norm = norm,
            Activation = h.TryGetProperty("act", out _) ? HeadActivation.Relu : HeadActivation.Gelu,
            UnitPrototypes = !h.TryGetProperty("norm_last_layer", out JsonElement unit) || unit.GetBoolean(),
        };
    }

    private static SharedPrototypes Second(JsonElement h)
        => new("cls", h.TryGetProperty("shared_head", out _) ? 0 : h.GetProperty("patch_out_dim").GetInt32());

    /// <summary>A head without an encoder.</summary>
    private sealed class Rig : IDisposable
    {
        private readonly ParamSet _params = new();
        private readonly Arena _arena = new(s_cpu, 16 << 20);
        private readonly List<IPredictor> _heads = [];
        private readonly Param _x;
        private readonly int _width;

        public Rig(PrototypeHead head, int width, SharedPrototypes? second)
        {
            _width = width;
            using var encoderParams = new ParamSet();
            var encoder = new VisionTransformer(encoderParams, new VitConfig { Width = width, Heads = 1, Depth = 1, ImagePixels = 32 });
            var term = new Term { Name = "cls", On = TokenChoice.Cls, Head = head };
            _heads.Add(head.Build(_params, encoder, new HeadSite(term, null)));
            if (second is not null)
                _heads.Add(second.Build(_params, encoder,
                    new HeadSite(new Term { Name = "patch", Head = second }, new Dictionary<string, IPredictor> { ["cls"] = _heads[0] })));
            _x = _params.Add("x", new Shape(18, width), Init.Zeros);
            _params.Allocate(s_cpu, 0);
        }

        public void Load(Golden golden, string prefix)
        {
            foreach (Param p in _params.Params)
                if (p != _x) ParamSet.Set(s_cpu, p, golden.Tensors.Floats(prefix + p.Name["head.".Length..]));
        }

        public void Run(float[] x, Shape shape, bool clsOnly, Func<int, float[]> upstream, Action<int, float[]> check)
        {
            var tape = new Tape(s_cpu, _arena);
            _params.BeginUpdate();
            s_cpu.Fill(_x.Data, 0f);
            Transfer.Upload(s_cpu, _x.Data.Slice(0, x.Length / _width), x);
            // The input is a parameter, so that its gradient stays.
            Value all = tape.Reshape(_x, new Shape(18, 1, _width));
            Value tokens = tape.Reshape(shape.Rows == 18 ? all : tape.SliceTokens(tape.Reshape(_x, new Shape(1, 18, _width)), 0, shape.Rows), shape);
            var encoded = new EncodedTokens(tokens, 1, 0);
            foreach (IPredictor h in _heads) h.BeginPass(tape);
            foreach (IPredictor h in _heads) h.See(tape, encoded, clsOnly);
            for (int i = 0; i < (clsOnly ? 1 : _heads.Count); i++)
            {
                Value y = _heads[i].Predict(tape, encoded);
                check(i, Transfer.Floats(s_cpu, y.Data));
                Tensor dy = tape.Keep(y.Shape);
                Transfer.Upload(s_cpu, dy, upstream(i));
                tape.Seed(y, dy);
            }
            tape.Backward();
            tape.Reset();
            Assert.That(_arena.Live, Is.Zero);
        }

        public void CheckGradients(Golden golden, string prefix)
        {
            Assert.Multiple(() =>
            {
                foreach (Param p in _params.Params)
                {
                    string name = prefix + (p == _x ? "x" : p.Name["head.".Length..]);
                    bool there = golden.Tensors.Entries.Any(e => e.Name == name);
                    Assert.That(p.Written, Is.EqualTo(there), $"{p.Name}: has a gradient");
                    if (!there) continue;
                    float[] actual = Transfer.Floats(s_cpu, p.Gradient), expected = golden.Tensors.Floats(name);
                    JsonElement rule = golden.Tolerance("grad.*");
                    bool zero = rule.GetProperty("mathematically_zero_tensors").EnumerateArray().Any(n => n.GetString() == name);
                    if (zero) Assert.That(actual.Max(Math.Abs), Is.LessThanOrEqualTo(rule.GetProperty("atol_for_those").GetDouble()), name);
                    else golden.AssertClose("grad.*", name, actual.AsSpan(0, p == _x ? expected.Length : actual.Length), expected);
                }
            });
        }

        public void Dispose()
        {
            _params.Dispose();
            _arena.Dispose();
        }
    }

    /// <summary>Losses on given logits.</summary>
    private sealed class LossRig : IDisposable
    {
        private readonly Arena _arena = new(s_cpu, 16 << 20);
        private readonly Tape _tape;
        private readonly List<Storage> _held = [];

        public LossRig() => _tape = new Tape(s_cpu, _arena);

        public Tensor Centre(int k)
        {
            Storage storage = s_cpu.Allocate(k * sizeof(float));
            _held.Add(storage);
            return new Tensor(storage, 0, new Shape(k), DType.F32);
        }

        public Tensor Keep(float[] values)
        {
            Tensor tensor = _tape.Keep(new Shape(values.Length));
            Transfer.Upload(s_cpu, tensor, values);
            return tensor;
        }

        public Value Student(Golden golden, string name) => Student(golden.Tensors.Floats(name), (int)golden.Tensors[name].Shape[^1]);

        public Value Student(float[] values, int k) => _tape.Input(Keep(values).Reshape(new Shape(values.Length / k, k)), needsGrad: true);

        public Tensor Teach(Golden golden, string name, Tensor center, TeacherTokens target, int epoch, Tensor? weights)
        {
            int k = (int)center.Count;
            float[] values = golden.Tensors.Floats(name);
            Tensor logits = Keep(values).Reshape(new Shape(values.Length / k, k)), targets = _tape.Keep(logits.Shape), entropy = _tape.Keep(new Shape(1));
            s_cpu.TeacherTargets(targets, entropy, logits, center, weights, (float)target.TemperatureIn(epoch));
            s_cpu.UpdateCenter(center, logits, target.CenterMomentum);
            return targets;
        }

        public Value Loss(TeacherTokens target, Value student, float scale, Lesson lesson)
            => target.Loss(_tape, student, new TermInputs(default, default, null, 1, PixelOrder.ChannelSlowest, scale, lesson));

        public float Number(Value loss) => Transfer.Floats(s_cpu, loss.Data)[0];

        public void Backward() => _tape.Backward();

        public float[] Gradient(Value student) => Transfer.Floats(s_cpu, student.Gradient!.Value);

        public void CheckGradient(Golden golden, string name, Value student) => golden.AssertClose(name, Gradient(student));

        public void Reset()
        {
            _tape.Reset();
            Assert.That(_arena.Live, Is.Zero);
        }

        public void Dispose()
        {
            _arena.Dispose();
            foreach (Storage s in _held) s.Dispose();
        }
    }
}
