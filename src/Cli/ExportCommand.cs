using System.CommandLine;
using MimEngine.Engine.Experiments;

namespace MimEngine.Cli;

/// <summary><c>mim export</c>: an encoder for PyTorch and timm.</summary>
internal static class ExportCommand
{
    public static Command Build(Terminal terminal)
    {
        Option<string?> run = Options.Text("--run", "RUN", "A run folder, whose newest whole checkpoint is exported, or one checkpoint file.");
        Option<string?> output = Options.Text("--out", "FOLDER", "Where to write model.safetensors and config.json.");
        run.Required = output.Required = true;
        Command command = new("export",
            "Writes a run's encoder as model.safetensors under timm's names, with the config.json that timm and Hugging Face's hub read.")
            { run, output };
        command.SetAction(parsed =>
        {
            IDisplay display = terminal.Display();
            ExportReport r = ExportRun.Execute(parsed.GetValue(run)!, parsed.GetValue(output)!);
            foreach (string note in r.Notes) display.Warn(note);
            display.Line($"{r.Folder}: {r.Tensors} tensors, {Words.Bytes(r.Bytes)}, for timm's {r.Architecture}"
                + (r.LeftOut.Count == 0 ? "." : $"; left out, since it has no place for it: {string.Join(", ", r.LeftOut)}."));
            return 0;
        });
        return command;
    }
}
