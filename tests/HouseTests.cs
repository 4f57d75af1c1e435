using System.Runtime.CompilerServices;
using System.Text.RegularExpressions;
using MimEngine.Kernels;
using NUnit.Framework;

namespace MimEngine.Tests;

/// <summary>The rules of the house, read from the source text; see docs/architecture.md. Skipped where the sources are not there.</summary>
[TestFixture]
public partial class HouseTests
{
    private const int FamilyBudget = 500, FileBudget = 300;

    /// <summary>Inside Engine, later folders may use earlier ones.</summary>
    private static readonly string[] s_layers =
        ["Autograd", "Nn", "Optim", "Imaging", "Data", "Runs", "Pretraining", "Probing", "Analysis", "Experiments"];

    private static readonly (string Project, string[] MayReference)[] s_projects =
    [
        ("src/Kernels/Kernels.csproj", []),
        ("src/Kernels/Ilgpu/Kernels.Ilgpu.csproj", ["Kernels"]),
        ("src/Engine/Engine.csproj", ["Kernels"]),
        ("src/Cli/Cli.csproj", ["Engine"]),
        ("bench/Bench.csproj", ["Engine", "Kernels"]),
        ("tests/Tests.csproj", ["Cli", "Engine", "Kernels", "Bench"]),
    ];

    private string _root = "";

    private sealed record Source(string Path, string[] Lines)
    {
        public string Folder => System.IO.Path.GetDirectoryName(Path)!.Replace('\\', '/');

        /// <summary>Lines with their comments cut off; an approximation that may cut a string with // in it.</summary>
        public IEnumerable<(int Number, string Text)> Code => Lines.Select((line, i) => (i + 1, Comment().Replace(line, "")));
    }

    [OneTimeSetUp]
    public void Find_the_sources()
    {
        DirectoryInfo? at = new(AppContext.BaseDirectory);
        while (at is not null && !File.Exists(Path.Combine(at.FullName, "MimEngine.sln"))) at = at.Parent;
        if (at is null) Assert.Ignore($"The sources are not above {AppContext.BaseDirectory}: there is nothing to read.");
        _root = at!.FullName;
    }

    [Test]
    public void Projects_reference_only_what_lies_below_them()
    {
        List<string> broken = [];
        foreach ((string project, string[] may) in s_projects)
        {
            string path = Path.Combine(_root, project);
            if (!File.Exists(path)) continue;
            foreach (Match m in Regex.Matches(File.ReadAllText(path), "<ProjectReference Include=\"([^\"]+)\"([^>]*)>"))
            {
                string target = Path.GetFileNameWithoutExtension(m.Groups[1].Value.Replace('\\', '/'));
                bool onlyBuildOrder = m.Groups[2].Value.Contains("ReferenceOutputAssembly=\"false\"");
                if (!may.Contains(target) && !onlyBuildOrder) broken.Add($"{project} references {target}");
            }
        }
        Assert.That(broken, Is.Empty);
    }

    [Test]
    public void Every_project_is_one_the_house_knows()
        => Assert.That(Directory.EnumerateFiles(_root, "*.csproj", SearchOption.AllDirectories).Select(Relative)
            .Where(p => !p.Contains("/obj/")),
            Is.SubsetOf(s_projects.Select(p => p.Project)));

    [Test]
    public void Kernels_know_no_networks_and_the_engine_knows_no_people()
        => Assert.That(Violations("src/Kernels", @"MimEngine\.(Engine|Cli)\b")
            .Concat(Violations("src/Engine", @"MimEngine\.Cli\b")), Is.Empty);

    [Test]
    public void Inside_the_engine_later_layers_use_earlier_ones()
    {
        List<string> broken = [];
        foreach (Source source in Sources("src/Engine"))
        {
            string layer = source.Path.Split('/')[2];
            int rank = Array.IndexOf(s_layers, layer);
            if (rank < 0) broken.Add($"{source.Path}: {layer} is not a layer");
            foreach ((int number, string text) in source.Code)
                foreach (Match m in Regex.Matches(text, @"\bMimEngine\.Engine\.(\w+)"))
                    if (Array.IndexOf(s_layers, m.Groups[1].Value) > rank) broken.Add($"{source.Path}:{number} uses {m.Value}");
        }
        Assert.That(broken, Is.Empty);
    }

    [Test]
    public void Nobody_draws_from_the_systems_random_numbers()
        => Assert.That(Violations("src", @"\b(System\.Random|new Random\(|Random\.Shared|RandomNumberGenerator|Guid\.NewGuid)"), Is.Empty);

    [Test]
    public void Engine_and_kernels_read_neither_clock_nor_environment()
        => Assert.That(Violations("src/Engine", @"\bDateTime(Offset)?\.(Utc)?(Now|Today)\b|\bEnvironment\.")
            .Concat(Violations("src/Kernels",
                @"\bDateTime(Offset)?\.(Utc)?(Now|Today)\b|\bEnvironment\.(?!(ProcessorCount|CurrentManagedThreadId)\b)")), Is.Empty);

    [Test]
    public void Only_the_cpu_backend_asks_for_the_processor_count()
        => Assert.That(Violations("src", @"\bEnvironment\.ProcessorCount\b")
            .Where(v => !v.StartsWith("src/Kernels/Cpu/CpuBackend.cs")), Is.Empty);

    [Test]
    public void There_is_one_parallel_loop()
        => Assert.That(Violations("src", @"\bParallel\.|\.AsParallel\(|\bThreadPool\.|\bTask\.Run\("), Is.Empty);

    [Test]
    public void The_gpu_package_stays_in_its_folder()
        => Assert.That(Violations("src", @"\busing ILGPU\b").Where(v => !v.StartsWith("src/Kernels/Ilgpu/")), Is.Empty);

    [Test]
    public void The_gpu_backend_overrides_every_abstract_operation_even_where_it_is_not_built()
    {
        HashSet<string> Names(string folder, string modifier, Func<Source, bool> where) => [.. Sources(folder).Where(where)
            .SelectMany(s => s.Code).Select(l => Regex.Match(l.Text, $@"public {modifier} (?:unsafe )?\w+ (\w+)\(")).Where(m => m.Success).Select(m => m.Groups[1].Value)];
        HashSet<string> asked = Names("src/Kernels", "abstract", s => s.Folder == "src/Kernels" && s.Path.Contains("/Backend"));
        Assert.That(asked, Has.Count.GreaterThan(40));
        Assert.That(asked.Except(Names("src/Kernels/Ilgpu", "override", _ => true)), Is.Empty);
    }

    [Test]
    public void Every_abstract_operation_has_a_row_in_the_bench()
    {
        HashSet<string> asked = [.. Sources("src/Kernels").Where(s => s.Folder == "src/Kernels" && Regex.IsMatch(s.Path, @"/Backend\.\w+\.cs$")).SelectMany(s => s.Code)
            .Select(l => Regex.Match(l.Text, @"public abstract void (\w+)\(")).Where(m => m.Success).Select(m => m.Groups[1].Value)];
        HashSet<string> rows = [.. Sources("bench").Where(s => s.Path.Contains("/OpTable")).SelectMany(s => s.Code)
            .SelectMany(l => Regex.Matches(l.Text, @"\bx\.(\w+)\(")).Select(m => m.Groups[1].Value)];
        Assert.That(asked, Has.Count.GreaterThan(40));
        Assert.That(asked.Except(rows), Is.Empty);
    }

    [Test]
    public void Nothing_branches_on_the_method()
        => Assert.That(Violations("src/Engine", @"\b[Rr]ecipe\s*(==|!=|is)\s*""|\bdo(Dino|Mae|Kamim|Ibot|SimMim)\b"), Is.Empty);

    [Test]
    public void Nothing_is_left_undone()
        => Assert.That(Sources("src", "bench", "tests").SelectMany(s => s.Lines.Select((line, i) => (s.Path, Number: i + 1, line)))
            .Where(l => Regex.IsMatch(l.line, "\\b(TO" + "DO|FIX" + "ME|XX" + "X)\\b|NotImplemented" + "Exception"))
            .Select(l => $"{l.Path}:{l.Number}"), Is.Empty);

    [Test]
    public void Files_keep_their_budgets()
        => Assert.That(Sources("src", "bench")
            .Where(s => s.Lines.Length > (s.Folder is "src/Kernels/Cpu" or "src/Kernels/Ilgpu" ? FamilyBudget : FileBudget))
            .Select(s => $"{s.Path}: {s.Lines.Length} lines"), Is.Empty);

    [Test]
    public void Namespaces_follow_folders()
    {
        List<string> broken = [];
        foreach (Source source in Sources("src", "bench", "tests"))
        {
            string[] folders = source.Folder.Split('/');
            string expected = folders[0] switch
            {
                "src" => "MimEngine." + string.Join('.', folders[1..]),
                "tests" => "MimEngine.Tests",
                _ => "MimEngine.Bench",
            };
            foreach ((int number, string text) in source.Code)
                if (Regex.Match(text, @"^namespace ([\w.]+)") is { Success: true } m && m.Groups[1].Value != expected)
                    broken.Add($"{source.Path}:{number} declares {m.Groups[1].Value}, its folder says {expected}");
        }
        Assert.That(broken, Is.Empty);
    }

    [Test]
    public void Types_and_folders_say_what_they_are()
    {
        IEnumerable<string> types = new[] { typeof(Tensor), typeof(Engine.Autograd.Tape), typeof(Cli.Program) }
            .SelectMany(t => t.Assembly.GetTypes())
            .Where(t => !t.IsDefined(typeof(CompilerGeneratedAttribute), false) && !t.Name.Contains('<')
                && t.Namespace?.StartsWith("MimEngine") == true)
            .Select(t => t.Name.Split('`')[0]);
        Assert.That(types.Where(t => Regex.IsMatch(t, "(Utils?|Helpers?|Manager|Processor|Context|Info|Data|Common)$")), Is.Empty);
        Assert.That(Sources("src", "bench", "tests").SelectMany(s => s.Folder.Split('/')).Distinct(),
            Has.None.Match("^(Utils?|Helpers?|Common|Misc)$"));
    }

    [Test]
    public void Tests_are_named_by_sentences()
        => Assert.That(typeof(HouseTests).Assembly.GetTypes().SelectMany(t => t.GetMethods())
            .Where(m => m.IsDefined(typeof(TestAttribute), false) && m.Name.Count(c => c == '_') < 2)
            .Select(m => $"{m.DeclaringType!.Name}.{m.Name}"), Is.Empty);

    [Test]
    public void Public_types_are_documented()
    {
        List<string> bare = [];
        foreach (Source source in Sources("src"))
            for (int i = 0; i < source.Lines.Length; i++)
            {
                if (!Regex.IsMatch(source.Lines[i], @"^public (?!.*\bpartial\b).*\b(class|struct|interface|enum|record)\b")) continue;
                int above = i - 1;
                while (above >= 0 && source.Lines[above].StartsWith('[')) above--;
                if (above < 0 || !source.Lines[above].StartsWith("///")) bare.Add($"{source.Path}:{i + 1}");
            }
        Assert.That(bare, Is.Empty);
    }

    private IEnumerable<string> Violations(string folder, string pattern) => Sources(folder)
        .SelectMany(s => s.Code.Where(l => Regex.IsMatch(l.Text, pattern)).Select(l => $"{s.Path}:{l.Number} {l.Text.Trim()}"));

    private IEnumerable<Source> Sources(params string[] folders) => folders
        .SelectMany(f => Directory.EnumerateFiles(Path.Combine(_root, f), "*.cs", SearchOption.AllDirectories))
        .Where(p => !Relative(p).Contains("/obj/") && !Relative(p).Contains("/bin/"))
        .Select(p => new Source(Relative(p), File.ReadAllLines(p)));

    private string Relative(string path) => Path.GetRelativePath(_root, path).Replace('\\', '/');

    [GeneratedRegex(@"(^|\s)//.*$")]
    private static partial Regex Comment();
}
