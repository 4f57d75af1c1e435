using MimEngine.Engine.Imaging;

namespace MimEngine.Engine.Data;

/// <summary>Which part of a dataset. A source that knows no parts is all training pictures.</summary>
public enum Split : byte
{
    Train,
    Test,

    /// <summary>Training pictures, then test pictures.</summary>
    All,
}

/// <summary>Pictures by index, with labels where the source has them. Members may be called from any thread.</summary>
public interface IDataset : IDisposable
{
    /// <summary>What to call it in a log line: "cifar10 train", or a folder's path.</summary>
    string Name { get; }

    /// <summary>Pictures; at least 1.</summary>
    int Count { get; }

    /// <summary>Class names by label; empty = unlabelled.</summary>
    IReadOnlyList<string> Classes { get; }

    /// <summary>0 to Classes.Count − 1, or −1 = none.</summary>
    int Label(int index);

    /// <summary>Decodes picture <paramref name="index"/>. In-memory and packed kinds allocate nothing once <paramref name="into"/> has grown.</summary>
    /// <exception cref="DataException">The picture is damaged or unreadable; other pictures may be fine.</exception>
    void Read(int index, RgbImage into);

    /// <summary>What to call one picture in an error: its path, or its index and the dataset's name.</summary>
    string PictureName(int index) => $"picture {index} of {Name}";
}
