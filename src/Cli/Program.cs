using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Invocation;
using MimEngine.Engine.Data;
using MimEngine.Engine.Imaging;
using MimEngine.Engine.Pretraining;
using MimEngine.Engine.Runs;
using MimEngine.Kernels;

namespace MimEngine.Cli;

/// <summary>The program <c>mim</c>: words in, exit code out. 0 done, 1 failure, 2 usage, 130 after Ctrl+C, 143 after SIGTERM.</summary>
public static class Program
{
    private const int Done = 0, Failure = 1, Usage = 2;

    public static int Main(string[] args)
    {
        using StopSignal stop = StopSignal.Listen();
        return Run(args, new Terminal(Console.Out, Console.Error, Terminal.IsLive, stop));
    }

    /// <summary>Runs one command line; everything it says goes to <paramref name="terminal"/>.</summary>
    public static int Run(string[] args, Terminal terminal)
    {
        RootCommand root = Root(terminal);
        ParseResult parsed = root.Parse(args, new ParserConfiguration { EnablePosixBundling = false, ResponseFileTokenReplacer = null });
        if (parsed.Errors.Count > 0 && parsed.Action is not { ClearsParseErrors: true })
        {
            terminal.Error.WriteLine(UsageError.Explain(parsed));
            return Usage;
        }
        try
        {
            return parsed.Invoke(new InvocationConfiguration
            {
                Output = terminal.Out,
                Error = terminal.Error,
                EnableDefaultExceptionHandler = false,
                ProcessTerminationTimeout = null,   // StopSignal decides what Ctrl+C means
            });
        }
        catch (OperationCanceledException) when (terminal.Stop.ExitCode != Done)
        {
            terminal.Error.WriteLine("mim: stopped.");
            return terminal.Stop.ExitCode;
        }
        catch (Exception e) when (e is UsageException or ConfigException)
        {
            terminal.Error.WriteLine($"mim: {e.Message}");
            return Usage;
        }
        catch (Exception e)
        {
            terminal.Error.WriteLine($"mim: {Sentence(e)}");
            return Failure;
        }
    }

    private static RootCommand Root(Terminal terminal)
    {
        RootCommand root = new("MimEngine: masked image modelling. Pretrains vision transformers on pictures and probes what they learned.")
        {
            PretrainCommand.Build(terminal),
            ProbeCommand.Build(terminal),
            FinetuneCommand.Build(terminal),
            AnalyzeCommand.Build(terminal),
            ImportCommand.Build(terminal),
            ExportCommand.Build(terminal),
            EmbedCommand.Build(terminal),
            PlanCommand.Build(terminal),
            ProfileCommand.Build(terminal),
            ShowMasksCommand.Build(terminal),
            PackCommand.Build(terminal),
            DevicesCommand.Build(terminal),
            CheckCommand.Build(terminal),
        };
        HelpOption help = root.Options.OfType<HelpOption>().Single();
        help.Action = new HelpWithExamples((SynchronousCommandLineAction)help.Action!);
        root.SetAction(_ => root.Parse("--help").Invoke(new InvocationConfiguration { Output = terminal.Out, Error = terminal.Error }));
        return root;
    }

    /// <summary>One sentence for a failure. Exceptions of these types are written for people; all else is a defect and says so.</summary>
    private static string Sentence(Exception e) => e switch
    {
        DeviceException or DataException or NonFiniteException or WeightFileException or RunException or ImageFormatException => e.Message,
        OutOfMemoryException
            => "out of memory: use a smaller --set run.batch, or --set run.recompute=block; 'mim plan' tells what a run needs.",
        IOException or UnauthorizedAccessException => e.Message,
        TypeInitializationException { InnerException: { } inner } => Sentence(inner),
        _ => $"internal error, please report it: {e.GetType().Name}: {e.Message.ReplaceLineEndings(" ")} ({Where(e)})",
    };

    private static string Where(Exception e) => e.TargetSite is { } site ? $"in {site.DeclaringType?.Name}.{site.Name}" : "place unknown";

    /// <summary>The usual help, then the command's examples.</summary>
    private sealed class HelpWithExamples(SynchronousCommandLineAction usual) : SynchronousCommandLineAction
    {
        public override bool ClearsParseErrors => true;

        public override int Invoke(ParseResult parsed)
        {
            int code = usual.Invoke(parsed);
            TextWriter output = parsed.InvocationConfiguration.Output;
            foreach (string line in Examples.Of(parsed.CommandResult.Command.Name)) output.WriteLine(line);
            return code;
        }
    }
}
