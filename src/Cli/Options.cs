using System.CommandLine;
using System.Globalization;
using MimEngine.Engine.Pretraining;

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
            if (long.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out long number)
                && number >= least) return number;
            result.AddError($"{name}: '{text}' is not a whole number of at least {least}");
            return null;
        },
    };

    public static Option<string?> Device() => Text("--device", "NAME",
        "What to compute on: cpu, cuda, cuda:1, opencl, sim. See 'mim devices'. [cpu]");

    public static Option<long?> Threads() => Number("--threads", "N",
        "Threads of the cpu device; results do not depend on it. [all cores]", least: 1);

    public static Option<long?> LoaderThreads() => Number("--loader-threads", "N",
        "Threads that decode pictures; results do not depend on it. [1]", least: 1);

    public static Option<string?> Data(string help) => Text("--data", "PATH", help);

    /// <param name="example">An example of the option, and what more there is to say.</param>
    public static Option<string[]> Set(string example) => new("--set")
    {
        HelpName = "PATH=VALUE",
        Description = $"Changes any setting, as often as you like: {example}.",
        Arity = ArgumentArity.OneOrMore,
    };

    /// <summary>A configuration with every --set laid over it, in order.</summary>
    /// <exception cref="ConfigException">An unknown setting, or a value it cannot take.</exception>
    public static T Apply<T>(T config, string[]? settings)
    {
        foreach (string setting in settings ?? [])
        {
            int equals = setting.IndexOf('=');
            if (equals < 1) throw new ConfigException($"--set {setting}: write PATH=VALUE, as in --set masking.ratio=0.5.");
            config = ConfigJson.Set(config, setting[..equals], setting[(equals + 1)..]);
        }
        return config;
    }
}
