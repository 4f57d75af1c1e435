using System.Globalization;
using System.Text;

namespace MimEngine.Kernels.Ptx;

/// <summary>A kernel as PTX, and how it is launched.</summary>
/// <param name="Text">A whole module with one entry, named <paramref name="Name"/>.</param>
/// <param name="SharedBytes">Dynamic shared memory of a group.</param>
/// <param name="Parameters">In order, with their types: "a:u64".</param>
internal sealed record PtxKernel(string Name, string Text, int Threads, int SharedBytes, IReadOnlyList<string> Parameters);

/// <summary>
/// Writes one kernel. Registers are handed out by type and never reused: ptxas allocates. All shared memory is one block, named smem.
/// </summary>
internal sealed class PtxText
{
    private readonly StringBuilder _body = new();
    private readonly List<string> _parameters = [];
    private readonly int[] _registers = new int[4];
    private int _labels;

    public string B32() => $"%r{_registers[0]++}";
    public string B64() => $"%rd{_registers[1]++}";
    public string F32() => $"%f{_registers[2]++}";
    public string Pred() => $"%p{_registers[3]++}";
    public string[] B32(int count) => [.. Enumerable.Range(0, count).Select(_ => B32())];
    public string[] F32(int count) => [.. Enumerable.Range(0, count).Select(_ => F32())];
    public string NewLabel(string name) => $"{name}_{_labels++}";

    public void Op(string instruction) => _body.Append('\t').Append(instruction).Append(";\n");
    public void Label(string label) => _body.Append(label).Append(":\n");

    /// <summary>A parameter of 4 ("u32", "f32") or 8 bytes ("u64") in a register, or the address of a tensor map ("map").</summary>
    public string Parameter(string name, string type)
    {
        _parameters.Add($"{name}:{type}");
        if (type == "map") return Long("cvta.param.u64", Long("mov.b64", name));
        string register = type switch { "u64" => B64(), "f32" => F32(), _ => B32() };
        Op($"ld.param.{type} {register}, [{name}]");
        return register;
    }

    /// <summary>Writes an operation with a fresh 32-bit result, and gives the result.</summary>
    public string Int(string operation, params ReadOnlySpan<object> operands) => Make(B32(), operation, operands);
    public string Long(string operation, params ReadOnlySpan<object> operands) => Make(B64(), operation, operands);
    public string Float(string operation, params ReadOnlySpan<object> operands) => Make(F32(), operation, operands);
    public string Test(string operation, params ReadOnlySpan<object> operands) => Make(Pred(), operation, operands);

    /// <summary>A float32 constant, exactly.</summary>
    public static string Constant(float value) => "0f" + BitConverter.SingleToUInt32Bits(value).ToString("X8", CultureInfo.InvariantCulture);

    public PtxKernel Finish(string name, int threads, int sharedBytes, int groupsAtOnce = 1, string target = "sm_80", string version = "7.0")
    {
        StringBuilder all = new();
        all.Append("// shared ").Append(sharedBytes).Append(" bytes a group\n.version ").Append(version).Append("\n.target ").Append(target).Append("\n.address_size 64\n\n");
        if (sharedBytes > 0) all.Append(".extern .shared .align 1024 .b8 smem[];\n\n");
        string parameters = string.Join(",\n", _parameters.Select(p => p.Split(':') is [var n, "map"]
            ? $"\t.param .align 64 .b8 {n}[128]" : $"\t.param .{p.Split(':')[1]} {p.Split(':')[0]}"));
        all.Append(".visible .entry ").Append(name).Append("(\n").Append(parameters).Append("\n)\n");
        all.Append(".maxntid ").Append(threads).Append(", 1, 1\n.minnctapersm ").Append(groupsAtOnce).Append("\n{\n");
        string[] types = ["b32", "b64", "f32", "pred"], prefixes = ["%r", "%rd", "%f", "%p"];
        for (int i = 0; i < types.Length; i++)
            if (_registers[i] > 0) all.Append("\t.reg .").Append(types[i]).Append(' ').Append(prefixes[i]).Append('<').Append(_registers[i]).Append(">;\n");
        all.Append(_body).Append("}\n");
        return new PtxKernel(name, all.ToString(), threads, sharedBytes, _parameters);
    }

    private string Make(string result, string operation, ReadOnlySpan<object> operands)
    {
        _body.Append('\t').Append(operation).Append(' ').Append(result);
        foreach (object o in operands) _body.Append(", ").Append(o is float f ? Constant(f) : Convert.ToString(o, CultureInfo.InvariantCulture));
        _body.Append(";\n");
        return result;
    }
}
