using System.Buffers.Binary;
using System.Text;

namespace MimEngine.Engine.Runs;

/// <summary>
/// Reads one Python pickle of protocol 2 to 5 as data. Names of classes and functions stay names: nothing is imported, looked up or called;
/// what a call would make is decided by <see cref="PickleCalls"/> for a few names PyTorch itself writes.
/// </summary>
/// <remarks>
/// A loop without recursion. Every length is compared with what is left before memory is asked for; one opcode makes at most one object; a
/// value that the pickle repeats is shared. So memory is a small multiple of the pickle's bytes. Format: CPython Lib/pickletools.py.
/// </remarks>
internal sealed class Unpickler(PickleSource source)
{
    private const int MostOpcodes = 5_000_000, LongestName = 4096;
    private readonly List<object?> _stack = [];
    private readonly List<int> _marks = [];
    private readonly Dictionary<long, object?> _memo = [];
    private long _copied;

    /// <summary>What a reference to something outside the pickle names; set by the file's reader.</summary>
    public Func<PickleTuple, object> Outside { get; init; } = _ => throw new PickleException("it refers to a storage where none can be");

    /// <summary>Reads to the STOP opcode.</summary>
    /// <exception cref="PickleException">Malformed, cut off, or with content that is refused.</exception>
    public object? Read()
    {
        for (int count = 0; count < MostOpcodes; count++)
        {
            long at = source.Position;
            byte opcode = source.Byte();
            try
            {
                if (opcode == (byte)'.') return Stopped();
                Step(opcode);
            }
            catch (PickleException e) { throw e.Message.StartsWith("at byte") ? e : new PickleException($"at byte {at}: {e.Message}"); }
        }
        throw new PickleException($"it has more than {MostOpcodes} operations; those of checkpoints have thousands");
    }

    private object? Stopped()
    {
        if (_stack.Count != 1 || _marks.Count != 0) throw new PickleException($"it stops with {_stack.Count} values on the stack, not 1");
        return _stack[0];
    }

    private void Step(byte opcode)
    {
        switch (opcode)
        {
            case 0x80: Protocol(source.Byte()); break;
            case 0x95: _ = Length(source.U64()); break;   // FRAME: only a hint for readers
            case (byte)'(': _marks.Add(_stack.Count); break;
            case (byte)'0': _ = Pop(); break;
            case (byte)'1': _ = ToMark(); break;
            case (byte)'2': Push(Top()); break;

            case (byte)'N': Push(null); break;
            case 0x88: Push(true); break;
            case 0x89: Push(false); break;
            case (byte)'J': Push((long)(int)source.U32()); break;
            case (byte)'K': Push((long)source.Byte()); break;
            case (byte)'M': Push((long)(source.Byte() | source.Byte() << 8)); break;
            case 0x8A: Push(Long(source.Take(source.Byte()))); break;
            case 0x8B: Push(Long(source.Take(Length(source.U32())))); break;
            case (byte)'G': Push(BinaryPrimitives.ReadDoubleBigEndian(source.Take(8))); break;
            case (byte)'X': Push(Text(source.U32())); break;
            case 0x8C: Push(Text(source.Byte())); break;
            case 0x8D: Push(Text(source.U64())); break;
            case (byte)'T': Push(OldText(source.U32())); break;
            case (byte)'U': Push(OldText(source.Byte())); break;
            case (byte)'B': Bytes(source.U32()); break;
            case (byte)'C': Bytes(source.Byte()); break;
            case 0x8E or 0x96: Bytes(source.U64()); break;

            case (byte)')': Push(new PickleTuple([])); break;
            case 0x85: Push(new PickleTuple([Pop()])); break;
            case 0x86: Pair(); break;
            case 0x87: Triple(); break;
            case (byte)'t': Push(new PickleTuple(ToMark())); break;
            case (byte)']': Push(new List<object?>()); break;
            case (byte)'l': Push(new List<object?>(ToMark())); break;
            case (byte)'a': Append([Pop()]); break;
            case (byte)'e': Append(ToMark()); break;
            case (byte)'}': Push(new PickleDict()); break;
            case (byte)'d': { object?[] items = ToMark(); Push(new PickleDict()); SetItems(items); break; }
            case (byte)'s': { object? value = Pop(); SetItems([Pop(), value]); break; }
            case (byte)'u': SetItems(ToMark()); break;
            case 0x8F: Push(new PickleOpaque("set")); break;
            case 0x90: { _ = ToMark(); if (Top() is not PickleOpaque) throw new PickleException("it adds to what is no set"); break; }
            case 0x91: { _ = ToMark(); Push(new PickleOpaque("frozenset")); break; }

            case (byte)'q': Keep(source.Byte()); break;
            case (byte)'r': Keep(source.U32()); break;
            case 0x94: Keep(_memo.Count); break;
            case (byte)'h': Push(Memo(source.Byte())); break;
            case (byte)'j': Push(Memo(source.U32())); break;

            case (byte)'c': Push(PickleCalls.Named(Line(), Line())); break;
            case 0x93: StackGlobal(); break;
            case (byte)'Q':
                Push(Outside(Pop() as PickleTuple ?? throw new PickleException("a storage reference is no tuple")));
                break;
            case (byte)'R' or 0x81: { PickleTuple arguments = Arguments(); Call(arguments); break; }
            case 0x92: { _ = Pop(); PickleTuple arguments = Arguments(); Call(arguments); break; }
            case (byte)'b': Build(); break;
            default: throw new PickleException($"there is no operation 0x{opcode:x2} in what PyTorch writes");
        }
    }

    private void Pair()
    {
        object? second = Pop();
        Push(new PickleTuple([Pop(), second]));
    }

    private void Triple()
    {
        (object? third, object? second) = (Pop(), Pop());
        Push(new PickleTuple([Pop(), second, third]));
    }

    private void StackGlobal()
    {
        object? name = Pop();
        Push(Pop() is string module && name is string text ? PickleCalls.Named(module, text)
            : throw new PickleException("the name of a class is no text"));
    }

    private PickleTuple Arguments() => Pop() as PickleTuple ?? throw new PickleException("the arguments of a call are no tuple");

    private void Call(PickleTuple arguments)
    {
        PickleGlobal callee = Pop() as PickleGlobal ?? throw new PickleException("it calls what has no name");
        Push(PickleCalls.Make(callee, arguments, Copy));
    }

    /// <summary>An object's state: attributes of a dictionary or a record, which are dropped.</summary>
    private void Build()
    {
        _ = Pop();
        if (Top() is not (PickleOpaque or PickleDict or TorchTensor)) throw new PickleException("it sets the state of what has none");
    }

    private void Append(object?[] items)
    {
        if (Top() is List<object?> list) list.AddRange(items);
        else if (Top() is not PickleOpaque) throw new PickleException("it appends to what is no list");
    }

    private void SetItems(object?[] items)
    {
        if (items.Length % 2 != 0) throw new PickleException("a key has no value");
        if (Top() is PickleDict dict)
            for (int i = 0; i < items.Length; i += 2) dict.Pairs.Add(new(items[i], items[i + 1]));
        else if (Top() is not PickleOpaque) throw new PickleException("it sets items of what is no dictionary");
    }

    /// <summary>Copies of values that exist already cost memory without costing bytes of the pickle, so they are counted.</summary>
    private void Copy(int items)
    {
        if ((_copied += items) > source.Length) throw new PickleException("it copies one list again and again");
    }

    private void Push(object? value) => _stack.Add(value);

    private object? Top()
    {
        if (_stack.Count == 0 || (_marks.Count > 0 && _marks[^1] == _stack.Count)) throw new PickleException("it takes from an empty stack");
        return _stack[^1];
    }

    private object? Pop()
    {
        object? top = Top();
        _stack.RemoveAt(_stack.Count - 1);
        return top;
    }

    private object?[] ToMark()
    {
        if (_marks.Count == 0) throw new PickleException("it takes to a mark that was never set");
        int mark = _marks[^1];
        _marks.RemoveAt(_marks.Count - 1);
        object?[] items = new object?[_stack.Count - mark];
        _stack.CopyTo(mark, items, 0, items.Length);
        _stack.RemoveRange(mark, _stack.Count - mark);
        return items;
    }

    /// <summary>Writers number what they keep from 0 or 1 on, so a number beyond the bytes read so far is a trap for readers with arrays.</summary>
    private void Keep(long index)
    {
        if (index > source.Position) throw new PickleException($"it keeps a value under number {index} after {source.Position} bytes");
        _memo[index] = Top();
    }

    private object? Memo(long index)
        => _memo.TryGetValue(index, out object? value) ? value : throw new PickleException($"it asks for value {index}, which was never kept");

    private static void Protocol(byte version)
    {
        if (version is < 2 or > 5) throw new PickleException($"it is of protocol {version}; PyTorch writes 2 to 5");
    }

    private int Length(ulong claimed)
    {
        if (claimed > (ulong)source.Left) throw new PickleException($"something of {claimed} bytes is announced, {source.Left} are left");
        return claimed <= int.MaxValue ? (int)claimed : throw new PickleException($"something of {claimed} bytes is announced");
    }

    private string Text(ulong claimed)
    {
        ReadOnlySpan<byte> bytes = source.Take(Length(claimed));
        try { return s_utf8.GetString(bytes); }
        catch (ArgumentException) { throw new PickleException("a text is not valid UTF-8"); }
    }

    /// <summary>A str of Python 2, of which files hold ASCII only where it matters.</summary>
    private string OldText(uint claimed) => Encoding.Latin1.GetString(source.Take(Length(claimed)));

    private void Bytes(ulong claimed)
    {
        _ = source.Take(Length(claimed));
        Push(new PickleOpaque("bytes"));
    }

    private string Line()
    {
        string line = OldText((uint)source.LineLength(LongestName));
        _ = source.Byte();   // its end
        return line;
    }

    /// <summary>A little-endian two's complement number; beyond 64 bits its bytes matter to nobody but <see cref="TorchFile"/>'s magic.</summary>
    private static object Long(ReadOnlySpan<byte> bytes)
    {
        while (bytes.Length > 8 && bytes[^1] == ((sbyte)bytes[^2] < 0 ? 0xFF : 0)) bytes = bytes[..^1];   // only repeats the sign
        if (bytes.Length > 8) return new PickleOpaque("int " + Convert.ToHexStringLower(bytes[..Math.Min(bytes.Length, 32)]));
        long value = bytes.Length > 0 && (sbyte)bytes[^1] < 0 ? -1 : 0;
        for (int i = bytes.Length - 1; i >= 0; i--) value = value << 8 | bytes[i];
        return value;
    }

    private static readonly UTF8Encoding s_utf8 = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);
}
