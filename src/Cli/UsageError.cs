using System.CommandLine;

namespace MimEngine.Cli;

/// <summary>A command line that parses but makes no sense: two options that exclude each other.</summary>
internal sealed class UsageException(string message) : Exception(message);

/// <summary>Turns a failed parse into one sentence with a suggestion.</summary>
internal static class UsageError
{
    public static string Explain(ParseResult parsed)
    {
        Command command = parsed.CommandResult.Command;
        string name = command is RootCommand ? "mim" : $"mim {command.Name}";
        string what = parsed.UnmatchedTokens.Count > 0 ? Unknown(parsed.UnmatchedTokens[0], command)
            : parsed.Errors[0].Message.TrimEnd('.').Replace(": '", " '");
        return $"{name}: {what}. See '{name} --help'.";
    }

    /// <summary>The known word nearest in spelling, if it is near enough to be meant.</summary>
    public static string? Nearest(string word, IEnumerable<string> known)
        => known.Select(k => (Word: k, Distance: Distance(word.ToLowerInvariant(), k.ToLowerInvariant())))
            .Where(k => k.Distance <= 1 + word.Length / 4).OrderBy(k => k.Distance).FirstOrDefault().Word;

    /// <summary>"; did you mean 'x'?", or "; known are …".</summary>
    public static string OrKnown(string word, IEnumerable<string> known)
        => Nearest(word, known) is { } near ? $"; did you mean '{near}'?" : $"; known are {string.Join(", ", known)}.";

    private static string Unknown(string token, Command command)
    {
        bool option = token.StartsWith('-');
        string word = option ? token.Split('=', ':')[0] : token;
        IEnumerable<string> known = option
            ? command.Options.Concat(command.Parents.OfType<Command>().SelectMany(p => p.Options.Where(o => o.Recursive)))
                .Where(o => !o.Hidden).SelectMany(o => o.Aliases.Append(o.Name)).Where(n => n.StartsWith("--", StringComparison.Ordinal))
            : command.Subcommands.Select(c => c.Name);
        string kind = option ? "option" : command.Subcommands.Count > 0 ? "command" : "argument";
        return $"there is no {kind} '{word}'" + (Nearest(word, known) is { } near ? $"; did you mean '{near}'?" : "").TrimEnd('?');
    }

    // Damerau's distance without repeats: insertions, deletions, substitutions, and two letters swapped.
    private static int Distance(string a, string b)
    {
        int[,] d = new int[a.Length + 1, b.Length + 1];
        for (int i = 0; i <= a.Length; i++) d[i, 0] = i;
        for (int j = 0; j <= b.Length; j++) d[0, j] = j;
        for (int i = 1; i <= a.Length; i++)
            for (int j = 1; j <= b.Length; j++)
            {
                int cost = Math.Min(Math.Min(d[i - 1, j], d[i, j - 1]) + 1, d[i - 1, j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1));
                if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) cost = Math.Min(cost, d[i - 2, j - 2] + 1);
                d[i, j] = cost;
            }
        return d[a.Length, b.Length];
    }
}
