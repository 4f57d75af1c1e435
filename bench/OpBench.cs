using BenchmarkDotNet.Attributes;
using BenchmarkDotNet.Columns;
using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Loggers;
using BenchmarkDotNet.Reports;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.Emit;
using MimEngine.Kernels;
using MimEngine.Kernels.Cpu;

namespace MimEngine.Bench;

/// <summary>
/// The op table at ViT-S and ViT-B shapes. Beside each time: GFLOP/s, GB/s, and the share of the roof, which is the time that flops at
/// the multiply-add rate or bytes at the copy rate would take, whichever is longer, over the time taken. Both rates are measured
/// before and after each operation, in the same process and on as many threads.
/// </summary>
[Config(typeof(OpBenchConfig))]
public class OpBench
{
    /// <summary>Runs only cases whose name holds this text.</summary>
    public static string Only { get; set; } = "";

    /// <summary>Threads of the backend and of the roofs; 0 = all.</summary>
    public static int Threads { get; set; }

    private CpuBackend? _cpu;
    private Operands? _operands;
    private CpuRoof? _roof;
    private Action _op = () => { };

    public static IEnumerable<object> Cases => OpTable.All.Where(c => c.ToString().Contains(Only, StringComparison.OrdinalIgnoreCase));

    [ParamsSource(nameof(Cases))]
    public object Op { get; set; } = null!;

    [GlobalSetup]
    public void Setup()
    {
        _cpu = new CpuBackend(Threads);
        _operands = new Operands(_cpu);
        _roof = new CpuRoof(_cpu.Threads);
        _op = ((OpBenchCase)Op).Setup(_cpu, _operands);
        MeasureRoof();
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        MeasureRoof();
        _operands?.Dispose();
        _roof?.Dispose();
        _cpu?.Dispose();
    }

    [Benchmark]
    public void Run() => _op();

    private void MeasureRoof()
    {
        string name = Op.ToString()!;
        (double fma, double copy) = OpBenchConfig.Roofs.GetValueOrDefault(name);
        for (int i = 0; i < 10; i++) fma = Math.Max(fma, _roof!.Fma());
        for (int i = 0; i < 4; i++) copy = Math.Max(copy, _roof!.Copy());
        OpBenchConfig.Roofs[name] = (fma, copy);
    }
}

/// <summary>In one process, so that roofs and operations share threads and clock; columns computed from <see cref="OpCost"/>.</summary>
internal sealed class OpBenchConfig : ManualConfig
{
    /// <summary>GFLOP/s and GB/s measured beside each case.</summary>
    public static Dictionary<string, (double Fma, double Copy)> Roofs { get; } = [];

    public OpBenchConfig()
    {
        AddJob(Job.Default.WithToolchain(InProcessEmitToolchain.Instance).WithWarmupCount(3).WithIterationCount(12).WithMinIterationTime(
            Perfolizer.Horology.TimeInterval.FromMilliseconds(20)).WithId("same process"));
        AddLogger(ConsoleLogger.Default);
        AddColumnProvider(DefaultColumnProviders.Params);
        AddColumn(StatisticColumn.Min, StatisticColumn.Median);
        AddColumn(new CostColumn("GFLOP/s", (c, s, _) => c.Flops / s / 1e9), new CostColumn("GB/s", (c, s, _) => c.Bytes / s / 1e9));
        AddColumn(new CostColumn("FMA roof", (_, _, r) => r.Fma), new CostColumn("copy roof", (_, _, r) => r.Copy));
        AddColumn(new CostColumn("share %", (c, s, r) => 100 * Math.Max(c.Flops / r.Fma, c.Bytes / r.Copy) / 1e9 / s));
        WithOptions(ConfigOptions.DisableOptimizationsValidator);
    }

    /// <summary>A number computed from the case's cost, its best time in seconds and its roofs.</summary>
    private sealed class CostColumn(string name, Func<OpCost, double, (double Fma, double Copy), double> value) : IColumn
    {
        public string Id => name;
        public string ColumnName => name;
        public bool AlwaysShow => true;
        public ColumnCategory Category => ColumnCategory.Custom;
        public int PriorityInCategory => 0;
        public bool IsNumeric => true;
        public UnitType UnitType => UnitType.Dimensionless;
        public string Legend => name switch
        {
            "GFLOP/s" or "GB/s" => "of the best iteration, flops and bytes of OpCost",
            "share %" => "time at the roof over the best iteration's time; more than 100 % when operands stay in a cache",
            _ => "measured before and after the case",
        };
        public bool IsAvailable(Summary summary) => true;
        public bool IsDefault(Summary summary, BenchmarkCase benchmarkCase) => false;
        public string GetValue(Summary summary, BenchmarkCase benchmarkCase, SummaryStyle style) => GetValue(summary, benchmarkCase);

        public string GetValue(Summary summary, BenchmarkCase benchmarkCase)
        {
            if (summary[benchmarkCase]?.ResultStatistics is not { } statistics) return "-";
            var op = (OpBenchCase)benchmarkCase.Parameters[nameof(OpBench.Op)];
            return Roofs.TryGetValue(op.ToString(), out (double, double) roofs) ? $"{value(op.Cost, statistics.Min / 1e9, roofs):F1}" : "-";
        }
    }
}
