using MimEngine.Engine.Imaging;

namespace MimEngine.Engine.Data;

/// <summary>CIFAR-10 or CIFAR-100 in the binary version: records of 1 or 2 label bytes and (3, 32, 32) planar pixels, memory-mapped.</summary>
/// <remarks>Krizhevsky 2009. CIFAR-100 records hold the coarse label, then the fine one, which is the one used.</remarks>
public sealed class CifarDataset : IDataset
{
    private const int Side = 32, Plane = Side * Side;
    private readonly MappedFile[] _files;
    private readonly int[] _firsts;
    private readonly int _labelBytes;

    private CifarDataset(string name, MappedFile[] files, int labelBytes, IReadOnlyList<string> classes)
    {
        (Name, _files, _labelBytes, Classes) = (name, files, labelBytes, classes);
        _firsts = new int[files.Length];
        for (int i = 0; i < files.Length; i++)
        {
            _firsts[i] = Count;
            Count += (int)(files[i].Length / Record);
        }
    }

    public string Name { get; }
    public int Count { get; }
    public IReadOnlyList<string> Classes { get; }
    public int Label(int index) => At(index)[_labelBytes - 1];

    public void Read(int index, RgbImage into)
    {
        into.Resize(Side, Side);
        ReadOnlySpan<byte> planes = At(index)[_labelBytes..];
        ReadOnlySpan<byte> r = planes[..Plane], g = planes.Slice(Plane, Plane), b = planes.Slice(2 * Plane, Plane);
        Span<byte> rgb = into.Bytes;
        for (int i = 0; i < Plane; i++) (rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2]) = (r[i], g[i], b[i]);
    }

    public string PictureName(int index) => $"picture {index} of {Name}";

    public void Dispose()
    {
        foreach (MappedFile file in _files) file.Dispose();
    }

    private int Record => _labelBytes + 3 * Plane;

    private ReadOnlySpan<byte> At(int index)
    {
        int file = _firsts.Length - 1;
        while (index < _firsts[file]) file--;
        return _files[file].Bytes((index - _firsts[file]) * (long)Record, Record);
    }

    internal static bool Recognises(string folder) => Has(folder, Split.Train) || Has(folder, Split.Test);

    internal static bool Has(string folder, Split split) => split == Split.Train
        ? Enumerable.Range(1, 5).Any(i => File.Exists(Path.Combine(folder, $"data_batch_{i}.bin"))) || File.Exists(Path.Combine(folder, "train.bin"))
        : File.Exists(Path.Combine(folder, "test_batch.bin")) || File.Exists(Path.Combine(folder, "test.bin"));

    /// <param name="split">Train or Test.</param>
    internal static CifarDataset Open(string folder, Split split)
    {
        bool hundred = File.Exists(Path.Combine(folder, "train.bin")) || File.Exists(Path.Combine(folder, "test.bin"));
        string[] names = (hundred, split) switch
        {
            (true, Split.Train) => ["train.bin"],
            (true, _) => ["test.bin"],
            (false, Split.Train) => ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
            _ => ["test_batch.bin"],
        };
        string[] missing = [.. names.Where(name => !File.Exists(Path.Combine(folder, name)))];
        if (missing.Length > 0)
            throw new DataException($"{folder}: {string.Join(", ", missing)} {(missing.Length == 1 ? "is" : "are")} missing from this CIFAR folder.");
        int classes = hundred ? 100 : 10, labelBytes = hundred ? 2 : 1;
        string labels = Path.Combine(folder, hundred ? "fine_label_names.txt" : "batches.meta.txt");
        string[] classNames = Datasets.ReadNames(labels, classes) ?? [.. Enumerable.Range(0, classes).Select(i => $"{i}")];
        var files = new List<MappedFile>();
        try
        {
            foreach (string name in names)
            {
                files.Add(new MappedFile(Path.Combine(folder, name)));
                Check(files[^1], labelBytes, classes);
            }
            return new CifarDataset($"{folder} {Datasets.Word(split)}", [.. files], labelBytes, classNames);
        }
        catch
        {
            foreach (MappedFile file in files) file.Dispose();
            throw;
        }
    }

    private static void Check(MappedFile file, int labelBytes, int classes)
    {
        int record = labelBytes + 3 * Plane;
        if (file.Length == 0 || file.Length % record != 0)
            throw new DataException($"{file.Path}: {file.Length} bytes are not a whole number of {record}-byte CIFAR-{classes} records; fetch it again.");
        for (long at = 0; at < file.Length; at += record)
        {
            int label = file.Bytes(at + labelBytes - 1, 1)[0];
            if (label >= classes)
                throw new DataException($"{file.Path}: record {at / record} has label {label}, CIFAR-{classes} has 0 to {classes - 1}; the file is damaged.");
        }
    }
}
