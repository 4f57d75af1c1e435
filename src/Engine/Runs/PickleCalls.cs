namespace MimEngine.Engine.Runs;

/// <summary>
/// What the calls in a checkpoint's pickle make: tensors, dictionaries, shapes. Functions are a whitelist, everything else is refused by name.
/// Instances of unknown classes become <see cref="PickleOpaque"/>, so that <c>args</c> of any project can lie beside the weights.
/// </summary>
internal static class PickleCalls
{
    private const int MostAxes = 32;

    /// <summary>Modules whose names no checkpoint needs and every exploit does. Nothing of them could run here; the file is refused to say so.</summary>
    private static readonly HashSet<string> s_suspect =
    [
        "asyncio", "bdb", "cgi", "code", "codeop", "commands", "concurrent", "ctypes", "dill", "cloudpickle", "distutils", "doctest", "ensurepip",
        "fileinput", "ftplib", "gc", "http", "httplib", "idlelib", "imp", "importlib", "inspect", "io", "joblib", "linecache", "marshal", "mmap",
        "multiprocessing", "nt", "ntpath", "operator", "os", "pdb", "pickle", "_pickle", "pip", "pkgutil", "platform", "popen2", "posix",
        "posixpath", "pty", "py_compile", "pydoc", "requests", "resource", "runpy", "select", "setuptools", "shelve", "shutil", "signal", "site",
        "smtplib", "socket", "socketserver", "ssl", "subprocess", "sys", "tarfile", "telnetlib", "tempfile", "test", "threading", "_thread",
        "timeit", "trace", "turtle", "urllib", "urllib2", "venv", "webbrowser", "weakref", "zipfile", "zipimport",
    ];

    private static readonly HashSet<string> s_plainBuiltins =
        ["set", "frozenset", "slice", "range", "xrange", "complex", "bytearray", "bytes", "object", "int", "long", "float", "bool", "str", "unicode",
            "list", "dict", "tuple", "NoneType", "Ellipsis", "getattr"];   // getattr names enumerations; what it gives cannot be called here

    /// <summary>Functions whose result is dropped, as their arguments are.</summary>
    private static readonly HashSet<string> s_inert =
    [
        "_codecs.encode", "copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__", "functools.partial", "collections.deque",
        "collections.defaultdict", "datetime.date", "datetime.datetime", "datetime.time", "datetime.timedelta", "datetime.timezone",
        "numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct", "numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer",
        "numpy.random._pickle.__randomstate_ctor", "numpy.random._pickle.__bit_generator_ctor", "numpy.random._pickle.__generator_ctor",
        "torch.device", "torch.serialization._get_layout", "torch.utils._get_layout",
    ];

    /// <summary>Keeps a name, unless it is one of a module that runs code.</summary>
    /// <exception cref="PickleException">The name is of a suspect module.</exception>
    public static PickleGlobal Named(string module, string name)
    {
        string root = module.Split('.')[0];
        bool builtin = root is "builtins" or "__builtin__" or "__builtins__";
        if (s_suspect.Contains(root) || (builtin && !s_plainBuiltins.Contains(name)))
            throw new PickleException($"it asks to run '{Short($"{module}.{name}")}', which no weights need: the file may be an attack, and "
                + "nothing of it was run");
        return new PickleGlobal(module, name);
    }

    /// <summary>What a call makes.</summary>
    /// <param name="copy">Told how many values are copied.</param>
    /// <exception cref="PickleException">A function off the whitelist, or arguments that make no tensor.</exception>
    public static object? Make(PickleGlobal callee, PickleTuple arguments, Action<int> copy)
    {
        object?[] a = arguments.Items;
        string name = callee.ToString();
        switch (name)
        {
            case "torch._utils._rebuild_tensor_v2" or "torch._utils._rebuild_tensor" when a.Length >= 4:
                return Tensor(a[0], a[1], a[2], a[3]);
            case "torch._utils._rebuild_parameter" or "torch._utils._rebuild_parameter_with_state" when a.Length >= 1 && a[0] is TorchTensor:
                return a[0];
            case "torch._tensor._rebuild_from_type_v2" when a.Length == 4 && a[0] is PickleGlobal inner && a[2] is PickleTuple of
                && inner.Module == "torch._utils":
                return Make(inner, of, copy);
            case "torch.Size" when a.Length == 1 && a[0] is PickleTuple size:
                return size;
            case "collections.OrderedDict":
                return Dictionary(a, copy);
        }
        if (name.StartsWith("torch._utils._rebuild", StringComparison.Ordinal) || name.StartsWith("torch._tensor.", StringComparison.Ordinal))
            throw new PickleException($"'{Short(name)}' makes a kind of tensor that this program does not read (quantised, sparse or of a "
                + "subclass)");
        if (s_inert.Contains(name) || IsClass(callee)) return new PickleOpaque(Short(name));
        throw new PickleException($"it calls the function '{Short(name)}', which is not among those that weights need; nothing of it was run");
    }

    /// <summary>Python's classes begin with a capital, apart from those that every Python has.</summary>
    private static bool IsClass(PickleGlobal callee)
        => callee.Module is "builtins" or "__builtin__"
            || char.IsUpper(callee.Name[(callee.Name.LastIndexOf('.') + 1)..].TrimStart('_').FirstOrDefault());

    private static PickleDict Dictionary(object?[] arguments, Action<int> copy)
    {
        PickleDict dict = new();
        if (arguments.Length == 0) return dict;
        if (arguments is not [List<object?> pairs]) throw new PickleException("an OrderedDict is made of something else than pairs");
        copy(pairs.Count);
        foreach (object? pair in pairs)
            dict.Pairs.Add(pair switch
            {
                PickleTuple { Items: [var key, var value] } => new(key, value),
                List<object?> { Count: 2 } list => new(list[0], list[1]),
                _ => throw new PickleException("an OrderedDict is made of something else than pairs"),
            });
        return dict;
    }

    /// <summary>A view, with every element of it inside its storage.</summary>
    private static TorchTensor Tensor(object? storage, object? offset, object? shape, object? strides)
    {
        if (storage is not TorchStorage of || offset is not long start) throw new PickleException("a tensor has no storage or no offset");
        (long[] extents, long[] steps) = (Numbers(shape, "shape"), Numbers(strides, "strides"));
        string what = $"a tensor of shape ({string.Join(", ", extents)}), strides ({string.Join(", ", steps)}) and offset {start}";
        if (extents.Length != steps.Length) throw new PickleException($"{what} has not one stride an axis");
        if (start < 0 || extents.Any(e => e < 0)) throw new PickleException($"{what} has a negative extent or offset");
        if (steps.Any(s => s < 0)) throw new PickleException($"{what} has a negative stride");
        UInt128 last = (UInt128)start, count = 1;
        for (int axis = 0; axis < extents.Length; axis++)
        {
            if ((count *= (UInt128)extents[axis]) > long.MaxValue)
                throw new PickleException($"{what} has more elements than a number can count");
            // At most 32 axes of 2^63 × 2^63: the sum stays below 2^128 only while it is checked at every axis.
            if (extents[axis] > 1 && (last += (UInt128)(extents[axis] - 1) * (UInt128)steps[axis]) > long.MaxValue)
                throw new PickleException($"{what} reaches beyond what a file can hold");
        }
        if (count == 0 ? start > of.Elements : last >= (UInt128)of.Elements)
            throw new PickleException($"{what} reaches beyond the {of.Elements} elements of its storage '{Short(of.Key)}'");
        return new TorchTensor(of, start, extents, steps);
    }

    private static long[] Numbers(object? value, string what)
    {
        object?[]? items = value switch { PickleTuple t => t.Items, List<object?> l => [.. l], _ => null };
        if (items is null || items.Length > MostAxes || !items.All(i => i is long))
            throw new PickleException($"the {what} of a tensor is no tuple of numbers");
        return [.. items.Select(i => (long)i!)];
    }

    private static string Short(string text) => text.Length <= 80 ? text : text[..80] + "…";
}
