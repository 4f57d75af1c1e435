namespace MimEngine.Engine.Imaging;

/// <summary>
/// Finds keypoints of grey pictures on the calling thread; only their places, as nothing else of them is used. One object a thread: it owns
/// its memory and allocates nothing once that has grown to the picture's size.
/// </summary>
public abstract class KeypointDetector
{
    private float[] _xy = new float[512];

    /// <summary>Keypoints of the last picture.</summary>
    public int Count { get; private set; }

    /// <summary>(Count, 2): x and y in pixels of the picture, (0, 0) = middle of the first pixel; fractional.</summary>
    public ReadOnlySpan<float> Points => _xy.AsSpan(0, 2 * Count);

    /// <summary>Replaces <see cref="Points"/> by those of this picture.</summary>
    /// <param name="gray">(H, W).</param>
    public void Detect(ReadOnlySpan<byte> gray, int height, int width)
    {
        Count = 0;
        Find(gray, height, width);
    }

    /// <summary>Calls <see cref="Add"/> for every keypoint.</summary>
    protected abstract void Find(ReadOnlySpan<byte> gray, int height, int width);

    protected void Add(float x, float y)
    {
        if (2 * Count == _xy.Length) Array.Resize(ref _xy, 2 * _xy.Length);
        (_xy[2 * Count], _xy[2 * Count + 1]) = (x, y);
        Count++;
    }

    /// <summary>An array that is kept while it is large enough.</summary>
    protected static T[] Grown<T>(ref T[] array, int length)
    {
        if (array.Length < length) array = new T[length];
        return array;
    }
}
