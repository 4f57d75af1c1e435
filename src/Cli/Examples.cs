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
        "pack" =>
        [
            "Examples:",
            "  mim pack --data photos/ --out photos.mimpack",
            "  mim pretrain --data photos.mimpack",
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
