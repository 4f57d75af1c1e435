using BenchmarkDotNet.Running;
using MimEngine.Bench;
using MimEngine.Engine.Pretraining;
using MimEngine.Kernels;

try
{
    switch (args)
    {
        case ["gemm", "tails", ..]: return GemmTails.Run(args.Length > 2 ? int.Parse(args[2]) : 1);
        case ["gemm", ..]: return GemmTable.Run(args[1..]);
        case ["fast", ..]: return FastBench.Run(args.AsSpan(1));
        case ["loader", ..]: return LoaderBench.Run(args.AsSpan(1));
        case ["encoder", ..]: return EncoderBench.Run(args.AsSpan(1));
        case ["probes", ..]: return ProbeBench.Run(args.AsSpan(1));
        case ["teacher", ..]: return TeacherBench.Run(args.AsSpan(1));
        case ["rows", ..]: return RowBench.Run(args.AsSpan(1));
        case ["step", ..]: return StepBench.Run(args.AsSpan(1));
        case ["gpu", ..]: return GpuBench.Run(args.AsSpan(1));
        case ["ptx", var folder]: return PtxVariants.Run(folder);
        case ["ops", ..]:
            OpBench.Only = args.Length > 1 ? args[1] : "";
            OpBench.Threads = args.Length > 2 ? int.Parse(args[2]) : 0;
            BenchmarkRunner.Run<OpBench>();
            return 0;
        default:
            BenchmarkSwitcher.FromAssembly(typeof(OpBench).Assembly).Run(args);
            return 0;
    }
}
catch (Exception e) when (e is FormatException or OverflowException or ArgumentException or ConfigException or DeviceException or IOException)
{
    Console.Error.WriteLine($"bench {string.Join(' ', args)}: {e.Message} bench/README.md says what each command takes.");
    return 2;
}
