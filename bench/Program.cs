using BenchmarkDotNet.Running;
using MimEngine.Bench;

switch (args)
{
    case ["gemm", ..]: return GemmTable.Run(args[1..]);
    case ["fast", ..]: return FastBench.Run(args.AsSpan(1));
    case ["loader", ..]: return LoaderBench.Run(args.AsSpan(1));
    default:
        BenchmarkSwitcher.FromAssembly(typeof(GemmTable).Assembly).Run(args);
        return 0;
}
