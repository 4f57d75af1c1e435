using System.IO.Compression;
using System.Reflection;

namespace MimEngine.Engine.Data;

/// <summary>
/// The labelled pictures inside the assembly: 6,000 training and 2,000 test pictures of Fashion-MNIST, 28 × 28, grey, ten balanced classes.
/// </summary>
/// <remarks>Xiao, Rasul and Vollgraf 2017, MIT licence (Default/LICENSE.txt); cut by eng/default_set.py.</remarks>
public static class DefaultDataset
{
    private static readonly string[] Names =
        ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

    /// <param name="split">Train or Test.</param>
    internal static IdxDataset Open(Split split)
    {
        string part = split == Split.Train ? "train" : "t10k";
        using Stream labels = Resource($"{part}-labels-idx1-ubyte.gz"), images = Resource($"{part}-images-idx3-ubyte.gz");
        return IdxDataset.Read($"embedded Fashion-MNIST {Datasets.Word(split)}", "the embedded dataset", images,
            IdxDataset.ReadLabels("the embedded dataset", labels), Names);
    }

    private static GZipStream Resource(string name) => new(
        Assembly.GetExecutingAssembly().GetManifestResourceStream($"MimEngine.Engine.Data.Default.{name}")
            ?? throw new DataException($"This build carries no embedded dataset ({name}); name one with --data."), CompressionMode.Decompress);
}
