using MimEngine.Kernels.Ptx;

namespace MimEngine.Bench;

/// <summary>
/// <c>bench ptx FOLDER</c>: the tensor-core kernels in several tilings as PTX files, for <c>bench/ptx_variants.py</c> to assemble, check and
/// time on a GPU beside cuBLAS; those that a backend launches among them.
/// </summary>
internal static class PtxVariants
{
    private static readonly (bool A, bool B)[] s_layouts = [(true, true), (true, false), (false, false)];

    private static readonly GemmTiling[] s_tilings =
        [TensorKernels.Tiling, new(128, 128, 64, 64, 32, 4, 2), new(128, 256, 64, 64, 32, 4, 1), new(128, 256, 64, 64, 64, 3, 1), new(256, 128, 64, 64, 32, 4, 1)];

    private static readonly WgmmaTiling[] s_warpgroups = [new(2, 256, 4, 1), new(2, 192, 4, 1), new(2, 128, 3, 2), new(2, 128, 6, 1)];

    private static readonly FlashTiling[] s_attention = [new(64, 4, 64), new(64, 4, 32), new(64, 2, 32), new(64, 2, 64)];

    public static int Run(string folder)
    {
        Directory.CreateDirectory(folder);
        foreach ((bool a, bool b) in s_layouts)
        {
            string layout = $"{(a ? "k" : "m")}{(b ? "k" : "m")}";
            Ending ending = a ? Ending.Half : Ending.Float;
            foreach (GemmTiling t in s_tilings) Write($"gemm_{layout}_{t}", GemmMma.Write("gemm", a, b, t, TensorKernels.Epilogue(ending)));
            foreach (WgmmaTiling t in s_warpgroups) Write($"wg_{layout}_{t}", GemmWgmma.Write("gemm", a, b, t, TensorKernels.Epilogue(ending)));
        }
        foreach (FlashTiling t in s_attention)
        {
            Write($"flash_f_{t}", FlashForward.Write("flash", t, hasBias: false));
            Write($"flash_q_{t}", FlashBackward.Write("flash", t, hasBias: false, ofQueries: true));
            Write($"flash_kv_{t}", FlashBackward.Write("flash", t, hasBias: false, ofQueries: false));
        }
        foreach (PtxKernel kernel in TensorKernels.All()) Write("used_" + kernel.Name, kernel);
        Console.WriteLine($"{folder}: {Directory.GetFiles(folder, "*.ptx").Length} kernels.");
        return 0;

        void Write(string name, PtxKernel kernel) => File.WriteAllText(Path.Combine(folder, name + ".ptx"), kernel.Text);
    }
}
