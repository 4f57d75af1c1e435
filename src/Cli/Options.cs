using System.CommandLine;
using System.Globalization;

namespace MimEngine.Cli;

/// <summary>Kinds of options, and those that several commands share.</summary>
internal static class Options
{
    public static Option<string?> Text(string name, string value, string help) => new(name) { HelpName = value, Description = help };

    public static Option<bool> Flag(string name, string help) => new(name) { Description = help };

    /// <summary>A whole number of at least <paramref name="least"/>; null when not given.</summary>
    public static Option<long?> Number(string name, string value, string help, long least = 0) => new(name)
    {
        HelpName = value,
        Description = help,
        CustomParser = result =>
        {
            string text = result.Tokens[0].Value;
            if (long.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out long number) && number >= least) return number;
            result.AddError($"{name}: '{text}' is not a whole number of at least {least}");
            return null;
        },
    };

    public static Option<string?> Device() => Text("--device", "NAME", "What to compute on: cpu, cuda, cuda:1, opencl, sim. See 'mim devices'. [cpu]");

    public static Option<long?> Threads() => Number("--threads", "N", "Threads of the cpu device; results do not depend on it. [all cores]", least: 1);

    public static Option<long?> LoaderThreads() => Number("--loader-threads", "N", "Threads that decode pictures; results do not depend on it. [1]", least: 1);

    public static Option<string?> Data(string help) => Text("--data", "PATH", help);
}
