using MimEngine.Engine.Imaging;

namespace MimEngine.Engine.Data;

/// <summary>
/// Pictures in folders, read from disk one by one: CLASS/…/*.png with labels, or *.png without; one level of train/ and test/ (or val/,
/// valid/, validation/) folders above that splits them.
/// </summary>
/// <remarks>Classes and pictures are in ordinal order of their names, so an index means the same on every machine.</remarks>
public sealed class ImageFolder : IDataset
{
    private static readonly string[] TestFolders = ["test", "val", "valid", "validation"];
    private static readonly HashSet<string> Extensions = new(StringComparer.OrdinalIgnoreCase)
        { ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".tga", ".qoi" };

    [ThreadStatic] private static byte[]? t_file;

    private readonly string _folder;
    private readonly string[] _names;
    private readonly int[] _labels;

    private ImageFolder(string name, string folder, string[] names, int[] labels, IReadOnlyList<string> classes) =>
        (Name, _folder, _names, _labels, Classes) = (name, folder, names, labels, classes);

    public string Name { get; }
    public int Count => _names.Length;
    public IReadOnlyList<string> Classes { get; }
    public int Label(int index) => _labels.Length == 0 ? -1 : _labels[index];

    /// <summary>The picture's path.</summary>
    public string PictureName(int index) => Path.Join(_folder, _names[index]);

    public void Read(int index, RgbImage into)
    {
        string path = PictureName(index);
        try
        {
            using Microsoft.Win32.SafeHandles.SafeFileHandle file = File.OpenHandle(path);
            long length = RandomAccess.GetLength(file);
            if (length == 0) throw new DataException($"{path}: is empty.");
            if (length > Array.MaxLength) throw new DataException($"{path}: {length} bytes are more than a picture file may have.");
            if (t_file is null || t_file.Length < length) t_file = new byte[length];
            int have = 0;
            for (int n; have < length && (n = RandomAccess.Read(file, t_file.AsSpan(have, (int)length - have), have)) > 0;) have += n;
            ImageFile.Decode(t_file.AsSpan(0, have), into, path);
        }
        catch (Exception e) when (e is ImageFormatException or IOException or UnauthorizedAccessException)
        {
            throw new DataException(e.Message.StartsWith(path, StringComparison.Ordinal) ? e.Message : $"{path}: {e.Message}", e);
        }
    }

    public void Dispose() { }

    /// <summary>Where the splits of a folder of pictures lie; null when it holds none.</summary>
    internal static Layout? Recognises(string folder)
    {
        string? train = Folders(folder).FirstOrDefault(f => Named(f, "train"));
        string[] tests = [.. TestFolders.Select(name => Folders(folder).FirstOrDefault(f => Named(f, name))).OfType<string>().Where(HasPictures)];
        if (train is not null && !HasPictures(train)) train = null;
        if (train is null && tests.Length == 0)
            return Pictures(folder).Any() || Folders(folder).Any(f => Pictures(f).Any()) || Folders(folder).Skip(1).Any() && HasPictures(folder)
                ? new Layout(folder, folder, null)
                : null;
        // ImageNet's test/ has no labels while val/ has: for labelled training pictures, take the test folder that has classes too.
        bool labelled = train is null || !Pictures(train).Any();
        return new Layout(folder, train, tests.FirstOrDefault(f => !Pictures(f).Any() == labelled) ?? tests.FirstOrDefault());
    }

    /// <summary>The only folder in a folder without pictures, or null.</summary>
    internal static string? OnlyFolder(string folder) => Folders(folder).Take(2).ToArray() is [string only] ? only : null;

    /// <summary>The folders of the two splits; null = not there.</summary>
    internal sealed record Layout(string Root, string? Train, string? Test)
    {
        public bool Has(Split split) => (split == Split.Train ? Train : Test) is not null;

        public IDataset Open(Split split)
        {
            string folder = (split == Split.Train ? Train : Test)!;
            bool flat = Pictures(folder).Any();
            // The classes of both splits together, so that a label means the same in both even if one lacks a class.
            string[] classes = flat ? [] : [.. new[] { Train, Test }.OfType<string>().Where(f => !Pictures(f).Any())
                .SelectMany(Folders).Where(HasPictures).Select(f => Path.GetFileName(f)).Distinct().Order(StringComparer.Ordinal)];
            return Scan(Test is null ? Root : $"{Root} {Datasets.Word(split)}", folder, flat, classes);
        }
    }

    private static ImageFolder Scan(string name, string folder, bool flat, string[] classes)
    {
        var names = new List<string>();
        var labels = new List<int>();
        if (flat)
        {
            if (Folders(folder).FirstOrDefault(HasPictures) is { } stray)
                throw new DataException($"{folder}: holds pictures and also folders of pictures ({Path.GetFileName(stray)}); keep one of the two.");
            names.AddRange(Pictures(folder).Select(f => Path.GetFileName(f)).Order(StringComparer.Ordinal));
        }
        for (int label = 0; label < classes.Length; label++)
        {
            string inside = Path.Join(folder, classes[label]);
            if (!Directory.Exists(inside)) continue;
            names.AddRange(AllPictures(inside).Select(f => Path.GetRelativePath(folder, f)).Order(StringComparer.Ordinal));
            while (labels.Count < names.Count) labels.Add(label);
        }
        return new ImageFolder(name, folder, [.. names], [.. labels], classes);
    }

    private static bool Named(string folder, string name) => Path.GetFileName(folder).Equals(name, StringComparison.OrdinalIgnoreCase);
    private static bool HasPictures(string folder) => AllPictures(folder).Any();
    private static IEnumerable<string> Pictures(string folder) => Directory.EnumerateFiles(folder).Where(IsPicture);

    private static IEnumerable<string> AllPictures(string folder) =>
        Pictures(folder).Concat(Folders(folder).SelectMany(AllPictures));

    // Hidden files and what archivers of other systems leave behind are not pictures.
    private static bool IsPicture(string path) => !Path.GetFileName(path).StartsWith('.') && Extensions.Contains(Path.GetExtension(path));

    private static IEnumerable<string> Folders(string folder) => Directory.EnumerateDirectories(folder)
        .Where(f => Path.GetFileName(f) is var name && !name.StartsWith('.') && name != "__MACOSX").Order(StringComparer.Ordinal);
}
