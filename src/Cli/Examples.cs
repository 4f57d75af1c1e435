namespace MimEngine.Cli;

/// <summary>What --help shows below the options of each command.</summary>
internal static class Examples
{
    public static string[] Of(string command) => command switch
    {
        "devices" =>
        [
            "Examples:",
            "  mim devices                  what this machine and this build can compute on",
            "  mim devices --threads 4      the same with four CPU threads",
            "",
        ],
        "check" =>
        [
            "Examples:",
            "  mim check --device cuda                               the default run's first step on the GPU, beside the CPU",
            "  mim check --device cuda --run runs/photos             a run's own network, from its newest checkpoint",
            "  mim check --device sim --vit micro --batch 2          the GPU kernels without a GPU",
            "",
        ],
        "pack" =>
        [
            "Examples:",
            "  mim pack --data photos/ --out photos.mimpack",
            "  mim pretrain --data photos.mimpack",
            "",
        ],
        "pretrain" =>
        [
            "Examples:",
            "  mim pretrain                                          KAMIM on the embedded pictures, minutes on two cores",
            "  mim pretrain --recipe kamim --vit small --data photos/ --pixels 192 --epochs 100 --out runs/photos",
            "  mim pretrain --recipe ibot-attmask-high               a student learns from its teacher what the teacher's attention hides",
            "  mim pretrain --recipe mae                             MAE on the embedded pictures; pictures/ shows what it fills in",
            "  mim pretrain --set terms.0.weighting.temperature=0.5 --set terms.0.weighting.mark=point",
            "  mim pretrain --resume runs/photos                     continue after Ctrl+C, to the same bits",
            "",
        ],
        "probe" =>
        [
            "Examples:",
            "  mim probe --run runs/kamim-001                        k-NN and a linear classifier, a minute or two",
            "  mim probe --run runs/kamim-001 --only knn --block 4",
            "  mim probe --run runs/kamim-001 --only linear --beside cls,mean-patches,ab-milp --rates 1.6,6.4,25.6",
            "  mim probe --run runs/photos --data photos/ --probe kamim-lp",
            "",
        ],
        "finetune" =>
        [
            "Presets:",
            "  small-ft    thousands of small pictures, minutes of a CPU: mild crops, label smoothing, layer decay",
            "  mae-ft      MAE's recipe: RandAugment, erasing, Mixup, CutMix, layer decay, 100 epochs of 1,024 pictures an update",
            "  simmim-ft   SimMIM's: the same, cosine from the start, clipped at 5, 2,048 pictures an update",
            "  kamim-ft    KAMIM's: TrivialAugment, Mixup or CutMix, one rate for all layers, decay on everything",
            "  ibot-ft     DINO's and iBOT's to CIFAR: [cls], RandAugment, Mixup and CutMix, small rates, 500 epochs of 900 pictures an update",
            "",
            "Examples:",
            "  mim finetune --run runs/kamim-001 --beside-untrained  what pretraining was worth, on the embedded pictures",
            "  mim finetune --run runs/photos --data photos/ --epochs 20 --batch 64 --out runs/photos-ft",
            "  mim finetune --run runs/mae-base --data photos/ --preset mae-ft --pixels 384",
            "  mim finetune --run runs/photos --data photos/ --set pooling=cls --set encoder.finalNorm=true --set ema=0.9999",
            "  mim finetune --resume runs/photos-ft                  continue after Ctrl+C, to the same bits",
            "",
        ],
        "import" =>
        [
            "Examples:",
            "  mim import --weights mae_pretrain_vit_base.pth --out runs/mae-base",
            "  mim import --weights checkpoint.pth --key student --pixels 192 --out runs/ibot-192",
            "  mim probe --run runs/mae-base --data photos/",
            "",
        ],
        "export" =>
        [
            "Examples:",
            "  mim export --run runs/kamim-001 --out kamim-for-timm",
            "  python3 docs/load_in_pytorch.py kamim-for-timm         the same encoder in PyTorch, timm or not",
            "",
        ],
        "embed" =>
        [
            "Examples:",
            "  mim embed --run runs/photos --data photos/ --out features",
            "  mim embed --run runs/mae-base --data photos/ --pooling cls --out features-cls",
            "",
        ],
        "analyze" =>
        [
            "Examples:",
            "  mim analyze --run runs/mae-001                        distance, NMI, entropy and magnitudes of every block and head",
            "  mim analyze --run runs/mae-001 --data photos/ --count 256",
            "",
        ],
        "show-masks" =>
        [
            "Examples:",
            "  mim show-masks --data photos/ --pixels 192            what KAMIM hides and weighs in your pictures",
            "  mim show-masks --data photos/ --pixels 192 --set terms.0.weighting.mark=point --out point.png",
            "",
        ],
        "plan" =>
        [
            "Examples:",
            "  mim plan                                              the default run",
            "  mim plan --recipe simmim --vit base --data photos/    does it fit?",
            "  mim plan --recipe simmim --vit base --data photos/ --set run.recompute=block",
            "",
        ],
        "profile" =>
        [
            "Examples:",
            "  mim profile                                           the default run, operation by operation",
            "  mim profile --vit small --pixels 192 --batch 16 --precision bf16 --out profile.json",
            "  mim profile --threads 1                               does the second thread help?",
            "",
        ],
        _ =>
        [
            "Start here:",
            "  mim pretrain                 KAMIM on the embedded pictures, a few minutes on two cores",
            "  mim probe --run RUN          what the pretrained encoder knows, beside a random one",
            "  mim COMMAND --help           every command explains itself, with examples",
            "",
        ],
    };
}
