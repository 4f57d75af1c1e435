namespace MimEngine.Engine.Runs;

/// <summary>What is wrong with a pickle, without the file's name: "at byte 12: …".</summary>
internal sealed class PickleException(string message) : Exception(message);

/// <summary>A name that a pickle mentions. It is only ever compared with the whitelist, never looked up.</summary>
internal sealed record PickleGlobal(string Module, string Name)
{
    public override string ToString() => $"{Module}.{Name}";
}

/// <summary>An object of a class that is not read: what the pickle says of its inside is dropped.</summary>
internal sealed record PickleOpaque(string Class);

/// <summary>A Python tuple.</summary>
internal sealed record PickleTuple(object?[] Items);

/// <summary>A Python dictionary, its pairs in order of insertion; a later pair of the same key wins.</summary>
internal sealed class PickleDict
{
    public List<KeyValuePair<object?, object?>> Pairs { get; } = [];
}

/// <summary>A storage that tensors are views of.</summary>
/// <param name="Key">Of its record.</param>
/// <param name="Elements">As the pickle claims; checked against the record.</param>
internal sealed record TorchStorage(string Key, string DType, long Elements);

/// <summary>A view of a storage; extents, strides and offset count elements, and every element lies inside the storage.</summary>
internal sealed record TorchTensor(TorchStorage Storage, long Offset, long[] Shape, long[] Strides)
{
    /// <summary>Whether its elements lie one after another, row-major.</summary>
    public bool Contiguous
    {
        get
        {
            long step = 1;
            for (int axis = Shape.Length - 1; axis >= 0; axis--)
            {
                if (Shape[axis] != 1 && Strides[axis] != step) return Array.IndexOf(Shape, 0) >= 0;
                step *= Shape[axis];
            }
            return true;
        }
    }
}
