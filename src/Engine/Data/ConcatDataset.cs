using MimEngine.Engine.Imaging;

namespace MimEngine.Engine.Data;

/// <summary>One dataset after the other; both have the same classes. Owns its parts.</summary>
internal sealed class ConcatDataset(string name, IDataset first, IDataset second) : IDataset
{
    public string Name => name;
    public int Count { get; } = checked(first.Count + second.Count);
    public IReadOnlyList<string> Classes => first.Classes;
    public int Label(int index) => index < first.Count ? first.Label(index) : second.Label(index - first.Count);
    public string PictureName(int index) => index < first.Count ? first.PictureName(index) : second.PictureName(index - first.Count);

    public void Read(int index, RgbImage into)
    {
        if (index < first.Count) first.Read(index, into);
        else second.Read(index - first.Count, into);
    }

    public void Dispose()
    {
        first.Dispose();
        second.Dispose();
    }
}
