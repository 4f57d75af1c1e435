using System.CommandLine;
using System.Globalization;
using MimEngine.Engine.Data;
using MimEngine.Engine.Experiments;
using MimEngine.Engine.Nn;
using MimEngine.Engine.Pretraining;

namespace MimEngine.Cli;

/// <summary><c>mim plan</c>: what a run will need, before anything of it is allocated.</summary>
internal static class PlanCommand
{
    public static Command Build(Terminal terminal)
    {
        ExperimentOptions experiment = new();
        Option<string?> device = Options.Device();
        Option<long?> threads = Options.Threads();
        Command command = new("plan",
            "Tells what a pretraining run needs before it starts: parameters, bytes of memory, operations, updates. "
            + "Takes the options of 'mim pretrain'.");
        experiment.AddTo(command);
        command.Add(device);
        command.Add(threads);
        command.SetAction(parsed => Run(terminal.Display(), experiment.Resolve(parsed), parsed.GetValue(experiment.DataPath),
            parsed.GetValue(device) ?? "cpu", (int)(parsed.GetValue(threads) ?? 0)));
        return command;
    }

    private static int Run(IDisplay display, PretrainConfig config, string? data, string device, int threads)
    {
        int pictures;
        using (IDataset dataset = Datasets.Open(data, Split.Train)) pictures = dataset.Count;
        int batches = pictures / config.Run.Batch;
        if (batches == 0)
            throw new DataException($"{data ?? "the embedded pictures"}: {pictures} pictures are fewer than one batch of {config.Run.Batch}; "
                + $"use --batch {pictures} or less.");
        MemoryPlan plan = PretrainRun.Plan(config, device, threads, pictures);
        StepCost cost = StepCost.Of(config);
        long steps = config.TotalSteps(batches), perUpdate = (long)config.Run.Batch * config.Run.Accumulate;
        VitConfig vit = config.Encoder;
        string title = $"Plan of {config.Recipe}, {vit.ImagePixels} px, ViT {vit.Width} wide, {vit.Depth} deep";
        display.Table(title, ["what", "amount", ""],
        [
            ["parameters", Words.Count(plan.Parameters), ""],
            [config.Run.Accumulate == 1 ? "memory: weights, moments" : "memory: weights, moments, gradients", Words.Bytes(plan.SlabBytes), $"{plan.SlabBytes} bytes"],
            [config.Run.Accumulate == 1 ? "memory: activations, gradients" : "memory: activations", Words.Bytes(plan.ArenaBytes),
                $"{plan.ArenaBytes} bytes, batch {config.Run.Batch}, recompute {config.Run.Recompute.ToString().ToLowerInvariant()}"],
            [$"memory: scratch of {device}", Words.Bytes(plan.ScratchBytes), $"{plan.ScratchBytes} bytes"],
            .. plan.WatchBytes == 0 ? Array.Empty<string[]>() : [["memory: k-NN while training", Words.Bytes(plan.WatchBytes), $"{plan.WatchBytes} bytes"]],
            ["memory: all of these", Words.Bytes(plan.TotalBytes), $"{plan.TotalBytes} bytes"],
            ["operations a picture", Words.Count(cost.Total) + "FLOP", $"forward {Words.Count(cost.Forward)}FLOP"],
            ["operations an update", Words.Count(cost.Total * perUpdate) + "FLOP", $"{perUpdate} pictures"],
            ["operations of the run", Words.Count(cost.Total * perUpdate * steps) + "FLOP",
                string.Create(CultureInfo.InvariantCulture,
                $"{steps} updates over {pictures} pictures, {(double)steps * perUpdate / pictures:0.#} epochs")],
        ]);
        display.Table("Largest activations", ["shape", "times", "bytes"],
            [.. plan.Largest.Select(a => new[] { a.Shape.ToString(), a.Count.ToString(), Words.Bytes(a.Bytes * (double)a.Count) })]);
        return 0;
    }
}
