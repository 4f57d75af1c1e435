using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Kernels;

namespace MimEngine.Engine.Pretraining;

/// <summary>
/// The network of a <see cref="PrototypeHead"/>: one MLP, and a last layer for every term that uses it. All tokens that any of them needs
/// go through the MLP together, as batch statistics are taken over them together.
/// </summary>
internal sealed class PrototypeMlp
{
    private const float BatchNormEps = 1e-5f, Std = 0.02f;

    private readonly record struct Layer(LinearParams Linear, Param? Gamma, Param? Beta);

    private readonly PrototypeHead _head;
    private readonly Layer[] _layers;
    private readonly List<Output> _outputs = [];
    private readonly int _width;
    private Value _tokens = null!;
    private int _prefix, _patches;
    private bool _whole;

    public PrototypeMlp(ParamSet p, PrototypeHead head, int width)
    {
        _head = head;
        // Without a bottleneck the last linear layer is a term's own.
        int count = head.Bottleneck > 0 ? head.Layers : head.Layers - 1, index = 0;
        _layers = new Layer[count];
        (Param Gamma, Param Beta)? shared = null;
        for (int i = 0; i < count; i++)
        {
            bool last = i == head.Layers - 1;
            int to = last ? head.Bottleneck : head.HiddenWidth;
            string name = head.Layers == 1 ? "head.mlp" : $"head.mlp.{index}";
            LinearParams linear = p.Linear(name, width, to, new Init.TruncatedNormal(Std));
            (Param? gamma, Param? beta) = (null, null);
            if (!last && head.Norm != HeadNorm.None)
            {
                if (shared is null || head.Norm == HeadNorm.Batch)
                    shared = (p.Add($"head.mlp.{index + 1}.weight", new Shape(to), Init.Ones), p.Add($"head.mlp.{index + 1}.bias", new Shape(to), Init.Zeros));
                (gamma, beta) = shared.Value;
                index++;
            }
            _layers[i] = new Layer(linear, gamma, beta);
            index += 2;
            width = to;
        }
        (_width, LastIndex) = (width, index);
    }

    /// <summary>Number of the linear layer that would follow.</summary>
    private int LastIndex { get; }

    /// <summary>Declares the last layer of a term, or lets it use another's.</summary>
    public Output Add(ParamSet p, int prototypes, TokenChoice on, Output? same = null)
    {
        Output output = same is not null ? new Output(this, on, same) : new Output(this, on, Declare(p, prototypes));
        _outputs.Add(output);
        return output;
    }

    private LastLayer Declare(ParamSet p, int prototypes)
    {
        int own = _outputs.Count(o => o.Owns);
        string number = own == 0 ? "" : (own + 1).ToString();
        if (_head.Bottleneck == 0)
            return new LastLayer { Linear = p.Linear(own == 0 ? $"head.mlp.{LastIndex}" : "head.mlp" + number, _width, prototypes, new Init.TruncatedNormal(Std)) };
        Param direction = p.Add($"head.last_layer{number}.weight_v", new Shape(prototypes, _width), new Init.Uniform(1f / MathF.Sqrt(_width)));
        Param gain = p.Add($"head.last_layer{number}.weight_g", new Shape(prototypes, 1), Init.Ones);
        gain.Trained = !_head.UnitPrototypes;
        return new LastLayer { Direction = direction, Gain = gain };
    }

    private void See(Tape t, EncodedTokens tokens, bool clsOnly)
    {
        _whole = !clsOnly && _outputs.Exists(o => o.On == TokenChoice.HiddenPatches);
        (_prefix, _patches) = (tokens.Prefix, tokens.All.Shape.D1 - tokens.Prefix);
        Value x = _whole ? tokens.All : t.SliceTokens(tokens.All, 0, 1);
        for (int i = 0; i < _layers.Length; i++)
        {
            Layer layer = _layers[i];
            if (i == _head.Layers - 1) x = t.Linear(x, layer.Linear);
            // The fused layer's output may be of the products' type, which only products read.
            else if (layer.Gamma is null && _head.Activation == HeadActivation.Gelu && i + 1 < _layers.Length) x = t.LinearGelu(x, layer.Linear);
            else
            {
                x = t.Linear(x, layer.Linear);
                if (layer.Gamma is { } gamma) x = t.ScaleShift(Normalised(t, x), gamma, layer.Beta!);
                x = _head.Activation == HeadActivation.Gelu ? t.Gelu(x) : t.Activate(x, Activation.Relu);
            }
        }
        _tokens = _head.Bottleneck > 0 ? t.L2Normalize(x) : x;
    }

    /// <summary>Statistics of this batch only: nothing ever evaluates a head, so running ones would have no reader.</summary>
    private static Value Normalised(Tape t, Value x)
    {
        var shape = new Shape(x.Shape.Cols);
        Tensor mean = t.Scratch(shape), variance = t.Scratch(shape);
        t.Backend.Fill(mean, 0f);
        t.Backend.Fill(variance, 0f);
        Value y = t.BatchNorm(x, mean, variance, BatchNormEps, momentum: 0f, training: true);
        t.Done(mean);
        t.Done(variance);
        return y;
    }

    internal sealed class LastLayer
    {
        public LinearParams? Linear { get; init; }
        public Param? Direction { get; init; }
        public Param? Gain { get; init; }

        /// <summary>This pass's weight-normalised rows.</summary>
        public Value? Weight { get; set; }
    }

    /// <summary>One term's predictions: (B, 1, K) at [cls] or (B, L, K) at patches.</summary>
    public sealed class Output : IPredictor
    {
        private readonly LastLayer _layer;

        public Output(PrototypeMlp mlp, TokenChoice on, Output other) => (Mlp, On, _layer, Owns) = (mlp, on, other._layer, false);

        internal Output(PrototypeMlp mlp, TokenChoice on, LastLayer layer) => (Mlp, On, _layer, Owns) = (mlp, on, layer, true);

        public PrototypeMlp Mlp { get; }
        public TokenChoice On { get; }
        public bool Owns { get; }
        private bool Leads => ReferenceEquals(Mlp._outputs[0], this);

        public void BeginPass(Tape t)
        {
            if (Owns && _layer.Direction is not null) _layer.Weight = t.L2Normalize(_layer.Direction, _layer.Gain);
        }

        public void See(Tape t, EncodedTokens tokens, bool clsOnly)
        {
            if (Leads) Mlp.See(t, tokens, clsOnly);
        }

        public Value Predict(Tape t, EncodedTokens tokens)
        {
            Value x = !Mlp._whole ? Mlp._tokens : On == TokenChoice.Cls ? t.SliceTokens(Mlp._tokens, 0, 1)
                : t.SliceTokens(Mlp._tokens, Mlp._prefix, Mlp._patches);
            return _layer.Linear is { } linear ? t.Linear(x, linear) : t.Project(x, _layer.Weight!);
        }

        public void Freeze(int epoch)
        {
            if (epoch >= Mlp._head.FreezeEpochs || _layer.Direction is null) return;
            _layer.Direction.Written = false;
            _layer.Gain!.Written = false;
        }
    }
}
