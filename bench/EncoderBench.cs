using MimEngine.Engine.Autograd;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;

namespace MimEngine.Bench;

/// <summary>
/// <c>bench encoder [ROUNDS [THREADS]]</c>: MAE's encoder alone, forward and backward, at mask ratios 0, 0.5 and 0.75, alternating: pictures a second,
/// and how many times those without a mask, beside the ratio of multiplications and additions.
/// </summary>
internal static class EncoderBench
{
    private static readonly (string Name, string Size, int Pixels, int Patch, int Batch)[] s_cases =
        [("mini, 32 px, patch 4", "mini", 32, 4, 64), ("ViT-S, 192 px, patch 16", "small", 192, 16, 16)];

    public static int Run(ReadOnlySpan<string> args)
    {
        int rounds = args.Length > 0 ? int.Parse(args[0]) : 7, threads = args.Length > 1 ? int.Parse(args[1]) : 0;
        using var cpu = new CpuBackend(threads);
        Console.WriteLine($"{cpu.Threads} threads, {rounds} alternating rounds");
        Console.WriteLine("| encoder | mask ratio | tokens | img/s best | median | times ratio 0, best | median | flops of ratio 0 over its own |");
        Console.WriteLine("|---|---|---|---|---|---|---|---|");
        foreach ((string name, string size, int pixels, int patch, int batch) in s_cases)
        {
            VitConfig config = Recipes.Mae().Encoder.WithSize(size) with { ImagePixels = pixels, PatchPixels = patch };
            int patches = config.Grid * config.Grid;
            int[] visible = [patches, patches / 2, patches / 4];
            List<double>[] seconds = [[], [], []];
            using var parameters = new ParamSet();
            var encoder = new VisionTransformer(parameters, config);
            parameters.Allocate(cpu, seed: 1);
            for (int round = -1; round < rounds; round++)
                for (int i = 0; i < visible.Length; i++)
                {
                    double s = Seconds(cpu, encoder, parameters, config, batch, visible[i]);
                    if (round >= 0) seconds[i].Add(s);
                }
            for (int i = 0; i < visible.Length; i++)
                Console.WriteLine($"| {name} | {1 - visible[i] / (double)patches:0.##} | {1 + visible[i]} | {batch / seconds[i].Min():F0} | "
                    + $"{batch / seconds[i].Median():F0} | {seconds[0].Min() / seconds[i].Min():F2} | {seconds[0].Median() / seconds[i].Median():F2} | "
                    + $"{Flops(config, patches) / Flops(config, visible[i]):F2} |");
        }
        return 0;
    }

    private static double Seconds(CpuBackend cpu, VisionTransformer encoder, ParamSet parameters, VitConfig config, int batch, int visible)
    {
        int patches = config.Grid * config.Grid;
        using var arena = new Arena(cpu, 3L << 30);
        var tape = new Tape(cpu, arena);
        byte[] mask = new byte[batch * patches];
        for (int b = 0; b < batch; b++)
        {
            RngSequence random = new Rng(3, RandomStream.Mask, (ulong)b).Start();
            Span<byte> own = mask.AsSpan(b * patches, patches);
            own[visible..].Fill(1);
            random.Shuffle(own);
        }
        double best = double.PositiveInfinity;
        for (int step = 0; step < 4; step++)
        {
            Tensor images = tape.Keep(new Shape(batch, 3, config.ImagePixels, config.ImagePixels)), hidden = tape.Keep(new Shape(batch, patches), DType.U8);
            cpu.Fill(images, 0.5f);
            cpu.Upload(hidden, mask);
            double start = Clock.Seconds;
            parameters.BeginUpdate();
            EncodedTokens tokens = encoder.Encode(tape, images, new EncodeRequest(Hidden: hidden, Visible: visible));
            tape.Seed(tokens.All, tokens.All.Data);
            tape.Backward();
            if (step > 0) best = Math.Min(best, Clock.Seconds - start);   // the first grows scratch and touches memory
            tape.Reset();
        }
        return best;
    }

    /// <summary>Of one picture, forward and backward: blocks see [cls] and visible patches, the patch embedding all of them.</summary>
    private static double Flops(VitConfig c, int visible)
    {
        double n = 1 + visible, width = c.Width, embed = 2.0 * c.Grid * c.Grid * width * 3 * c.PatchPixels * c.PatchPixels;
        return 3 * c.Depth * n * ((8 + 4 * c.MlpRatio) * width * width + 4 * n * width) + 2 * embed;
    }
}
