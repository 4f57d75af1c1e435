using System.Text;

namespace MimEngine.Engine.Data;

/// <summary>Opens whatever a path holds: the one door through which data comes in.</summary>
public static class Datasets
{
    private const string Layouts = "a .mimpack file, CIFAR .bin files, idx files, or pictures as train/CLASS/*.png, CLASS/*.png or *.png";

    /// <summary>Opens <paramref name="split"/> of the data at <paramref name="path"/>; null is the dataset embedded in the program.</summary>
    /// <remarks>
    /// Recognised, in this order: a .mimpack file (<see cref="PackedDataset"/>); a folder of CIFAR .bin files (<see cref="CifarDataset"/>);
    /// of MNIST-style idx files (<see cref="IdxDataset"/>); of pictures (<see cref="ImageFolder"/>). A folder that holds nothing but one
    /// folder stands for it, as archives unpack that way.
    /// </remarks>
    /// <exception cref="DataException">Nothing is there, nothing there is recognised, or the split does not exist.</exception>
    public static IDataset Open(string? path, Split split)
    {
        try
        {
            Source source = Locate(path);
            if (split != Split.All) return source.Has(split) ? source.Open(split) : throw new DataException(source.Lacks(split));
            if (!source.Has(Split.Test)) return source.Open(Split.Train);
            if (!source.Has(Split.Train)) return source.Open(Split.Test);
            IDataset train = source.Open(Split.Train);
            try
            {
                return new ConcatDataset(path ?? "embedded Fashion-MNIST", train, source.Open(Split.Test));
            }
            catch
            {
                train.Dispose();
                throw;
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw Unreadable(path, e);
        }
    }

    /// <summary>Whether the data at <paramref name="path"/> has pictures of <paramref name="split"/>.</summary>
    /// <exception cref="DataException">As <see cref="Open"/>, except that a missing split is an answer.</exception>
    public static bool Has(string? path, Split split)
    {
        try
        {
            Source source = Locate(path);
            return split == Split.All || source.Has(split);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw Unreadable(path, e);
        }
    }

    /// <summary>The dataset itself if it is labelled.</summary>
    /// <param name="purpose">What needs the labels: "a linear probe".</param>
    /// <exception cref="DataException">It has no classes.</exception>
    public static IDataset WithLabels(this IDataset dataset, string purpose) => dataset.Classes.Count > 0
        ? dataset
        : throw new DataException($"{dataset.Name}: the pictures have no labels, and {purpose} needs them; put them into one folder per class.");

    internal static string Word(Split split) => split switch { Split.Train => "train", Split.Test => "test", _ => "train and test" };

    /// <summary>Class names, one a line, from a file beside the data; null when there is no such file.</summary>
    internal static string[]? ReadNames(string path, int classes)
    {
        if (!File.Exists(path)) return null;
        string[] names = [.. File.ReadAllLines(path, Encoding.UTF8).Select(line => line.Trim()).Where(line => line.Length > 0)];
        if (names.Length != classes)
            throw new DataException($"{path}: {names.Length} names for {classes} classes; give one a line, or remove the file.");
        return names;
    }

    private static DataException Unreadable(string? path, Exception e) => new($"{path}: cannot be read ({e.Message.TrimEnd('.')}).", e);

    private static Source Locate(string? path)
    {
        if (path is null) return new Source("the embedded dataset", _ => true, DefaultDataset.Open);
        if (File.Exists(path))
        {
            if (PackedDataset.Recognises(path)) return new Source(path, split => PackedDataset.Has(path, split), split => PackedDataset.Open(path, split));
            string kind = Path.GetExtension(path).ToLowerInvariant();
            throw new DataException(kind is ".zip" or ".tar" or ".gz" or ".tgz" or ".xz" or ".7z"
                ? $"{path}: is an archive; unpack it and give the folder."
                : $"{path}: is a file and not a .mimpack; give {Layouts}.");
        }
        if (!Directory.Exists(path)) throw new DataException($"{path}: there is no such file or folder.");
        string folder = Path.TrimEndingDirectorySeparator(path);
        for (; ; )
        {
            string here = folder;
            if (CifarDataset.Recognises(here)) return new Source(path, split => CifarDataset.Has(here, split), split => CifarDataset.Open(here, split));
            if (IdxDataset.Recognises(here)) return new Source(path, split => IdxDataset.Has(here, split), split => IdxDataset.Open(here, split));
            if (ImageFolder.Recognises(here) is { } layout) return new Source(path, layout.Has, layout.Open);
            if (ImageFolder.OnlyFolder(here) is not { } inner) throw new DataException($"{path}: holds no pictures; give {Layouts}.");
            folder = inner;
        }
    }

    /// <summary>A recognised place and how to open its splits.</summary>
    private sealed record Source(string Path, Func<Split, bool> Has, Func<Split, IDataset> Open)
    {
        public string Lacks(Split split) => split == Split.Test
            ? $"{Path}: has no test pictures; put them into a folder test/ beside train/, or name other data for the test."
            : $"{Path}: has only test pictures; put the others into a folder train/ beside test/.";
    }
}
