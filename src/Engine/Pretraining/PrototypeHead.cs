using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;

namespace MimEngine.Engine.Pretraining;

/// <summary>Normalisation between the hidden layers of a prototype head.</summary>
public enum HeadNorm : byte
{
    None,

    /// <summary>Batch normalisation, one for each layer: DINO's use_bn.</summary>
    Batch,

    /// <summary>One batch normalisation used after every hidden layer, as iBOT's released code has it.</summary>
    SharedBatch,
}

/// <summary>Nonlinearity between the layers of a prototype head.</summary>
public enum HeadActivation : byte { Gelu, Relu }

/// <summary>
/// DINO's and iBOT's head (Caron et al. 2021, section 3.2; SPEC E.1): an MLP to Bottleneck numbers, their direction (L2 norm 1), and its
/// products with Prototypes weight-normalised rows.
/// </summary>
public sealed record PrototypeHead : Head
{
    /// <summary>Rows of the last layer, K.</summary>
    public int Prototypes { get; init; } = 8192;

    /// <summary>Width of the MLP's hidden layers.</summary>
    public int HiddenWidth { get; init; } = 2048;

    /// <summary>Numbers before the last layer; 0 = the MLP ends in the prototypes, without norms.</summary>
    public int Bottleneck { get; init; } = 256;

    /// <summary>Layers of the MLP, the one to the bottleneck included.</summary>
    public int Layers { get; init; } = 3;

    public HeadNorm Norm { get; init; } = HeadNorm.None;
    public HeadActivation Activation { get; init; } = HeadActivation.Gelu;

    /// <summary>Keeps the prototypes' lengths at 1: trains more slowly and more stably.</summary>
    public bool UnitPrototypes { get; init; } = true;

    /// <summary>Epochs in which the last layers stay as they are.</summary>
    public int FreezeEpochs { get; init; } = 1;

    /// <inheritdoc/>
    public override IPredictor Build(ParamSet p, Encoder encoder, HeadSite site = default)
        => new PrototypeMlp(p, this, encoder.Width).Add(p, Prototypes, site.Term?.On ?? TokenChoice.Cls);

    /// <inheritdoc/>
    public override double MultiplyAdds(PretrainConfig config, Term term, int seen)
    {
        bool patches = config.Terms.Any(t => t.On == TokenChoice.HiddenPatches && (t == term || t.Head is SharedPrototypes s && s.With == term.Name));
        double mlp = 0;
        int width = config.Encoder.Width;
        for (int layer = 0; layer < Layers; layer++)
        {
            int to = layer < Layers - 1 ? HiddenWidth : Bottleneck;
            mlp += (double)width * to;
            width = to;
        }
        return mlp * (patches ? seen : 1) + LastLayer(term.On, Prototypes, seen);
    }

    /// <summary>Multiply-adds of one last layer on one crop.</summary>
    internal double LastLayer(TokenChoice on, int prototypes, int seen)
        => (double)(Bottleneck > 0 ? Bottleneck : HiddenWidth) * prototypes * (on == TokenChoice.Cls ? 1 : seen - 1);

    /// <inheritdoc/>
    public override void Validate(VitConfig encoder)
    {
        if (Prototypes < 2) throw new ConfigException($"head.prototypes is {Prototypes}; a distribution needs at least 2.");
        if (Layers < 1) throw new ConfigException($"head.layers is {Layers}; there must be at least 1.");
        if (Layers > 1 && HiddenWidth < 1) throw new ConfigException($"head.hiddenWidth is {HiddenWidth}; it must be positive.");
        if (Bottleneck < 0 || Bottleneck == 0 && Layers < 2)
            throw new ConfigException($"head.bottleneck is {Bottleneck} and head.layers is {Layers}; without a bottleneck there must be 2 layers or more.");
        if (FreezeEpochs < 0) throw new ConfigException($"head.freezeEpochs is {FreezeEpochs}; it must be 0 or more.");
    }
}

/// <summary>Another term's prototype head, with its last layer or with one of its own (iBOT's shared_head; SPEC E.1).</summary>
/// <param name="With">Name of that term.</param>
/// <param name="Prototypes">Rows of an own last layer; 0 = that term's layer.</param>
public sealed record SharedPrototypes(string With = "cls", int Prototypes = 0) : Head
{
    /// <inheritdoc/>
    public override IPredictor Build(ParamSet p, Encoder encoder, HeadSite site = default)
    {
        var owner = (PrototypeMlp.Output)site.Others![With];
        return owner.Mlp.Add(p, Prototypes, site.Term!.On, Prototypes > 0 ? null : owner);
    }

    /// <inheritdoc/>
    public override double MultiplyAdds(PretrainConfig config, Term term, int seen)
    {
        var owner = (PrototypeHead)config.Terms.First(t => t.Name == With).Head;
        return owner.LastLayer(term.On, Prototypes > 0 ? Prototypes : owner.Prototypes, seen);
    }

    /// <inheritdoc/>
    public override void Validate(VitConfig encoder)
    {
        if (Prototypes is < 0 or 1) throw new ConfigException($"head.prototypes is {Prototypes}; 0 shares the other term's last layer, and an own one needs 2 or more.");
    }
}
