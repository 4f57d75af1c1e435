namespace MimEngine.Engine.Runs;

/// <summary>The tuple by which a pickle refers to a storage: ('storage', class, key, device, elements[, view]).</summary>
internal static class StorageReference
{
    private const int LongestKey = 256;

    /// <exception cref="PickleException">It is none, or of a class that is not read.</exception>
    public static TorchStorage Parse(PickleTuple reference)
    {
        if (reference.Items is not ["storage", PickleGlobal kind, string key, string or null, long elements, ..] || elements < 0
            || key.Length > LongestKey)
            throw new PickleException("a storage reference is malformed");
        if (reference.Items.Length > 5 && reference.Items[5] is not null)
            throw new PickleException("a storage is part of another one, as PyTorch before 0.4 wrote them; save the file again with a newer one");
        return new TorchStorage(key, TypeOf(kind), elements);
    }

    private static string TypeOf(PickleGlobal kind) => kind.Name switch
    {
        _ when kind.Module is not ("torch" or "torch.storage" or "torch.cuda") => throw Unknown(kind),
        "FloatStorage" => "F32",
        "DoubleStorage" => "F64",
        "HalfStorage" => "F16",
        "BFloat16Storage" => "BF16",
        "LongStorage" => "I64",
        "IntStorage" => "I32",
        "ShortStorage" => "I16",
        "CharStorage" => "I8",
        "ByteStorage" => "U8",
        "BoolStorage" => "BOOL",
        _ => throw Unknown(kind),
    };

    private static PickleException Unknown(PickleGlobal kind)
        => new($"'{kind.Module}.{kind.Name}' is no class of numbers that this program reads (float, double, half, bfloat16, integers, bool)");
}
