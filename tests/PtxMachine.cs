using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using MimEngine.Kernels.Ptx;

namespace MimEngine.Tests;

/// <summary>
/// Runs emitted PTX on the host: 32 lanes in step, warps one after the other from barrier to barrier, every address checked. It knows the
/// instructions that this project emits and refuses others. Asynchronous copies land when they are waited for, not before; shared memory
/// begins as NaN.
/// </summary>
internal sealed class PtxMachine : IPtxRunner
{
    private delegate void Step(Warp w);

    private sealed record Instruction(string Text, Step Run, bool Barrier, string? Jump);

    private sealed class Warp(int number, int registers)
    {
        public readonly int Number = number;
        public readonly ulong[] R = new ulong[registers * 32];
        public readonly List<List<Action>> Groups = [];
        public List<Action> Open = [];
        public uint Active;
        public int At;
        public bool Done, AtBarrier, Waiting;
    }

    /// <summary>A matrix as the copy engine sees it: lines of Inner bfloat16, and the box that one copy fetches (always 64 wide).</summary>
    private sealed record Map(ulong Address, int Inner, int Outer, int BoxLines);

    /// <summary>A barrier in shared memory: arrivals and bytes that its phase still lacks.</summary>
    private sealed class Arrivals(int count)
    {
        public readonly int Count = count;
        public int Pending = count, Bytes, Phase;

        public void Settle()
        {
            if (Pending > 0 || Bytes != 0) return;
            Phase++;
            Pending = Count;
        }
    }

    private readonly List<byte[]> _memory = [];
    private readonly List<Map> _maps = [];
    private readonly Dictionary<ulong, Arrivals> _barriers = [];
    private byte[] _shared = [];
    private ulong[] _parameters = [];
    private List<string> _names = [];
    private readonly Dictionary<string, int> _registers = [];
    private (int X, int Y) _group;
    private int _sharedBytes;

    /// <summary>Device memory; the address is what kernels get.</summary>
    public ulong Add(byte[] bytes)
    {
        _memory.Add(bytes);
        return (ulong)_memory.Count << 40;
    }

    public ulong Add<T>(T[] values) where T : unmanaged
    {
        ulong at = Add(MemoryMarshal.AsBytes(values.AsSpan()).ToArray());
        return at;
    }

    /// <summary>A tensor map: a (outer, inner) matrix in boxes of lines × 64.</summary>
    public ulong AddMap(ulong address, int outer, int inner, int boxLines)
    {
        _maps.Add(new Map(address, inner, outer, boxLines));
        return (ulong)_maps.Count - 1;
    }

    public T[] Read<T>(ulong address) where T : unmanaged => MemoryMarshal.Cast<byte, T>(_memory[(int)(address >> 40) - 1]).ToArray();

    /// <summary>Addresses that are not of memory added here are the host's own.</summary>
    public bool OnHost { get; init; }

    /// <summary>Names of the kernels that were run, in order.</summary>
    public List<string> Ran { get; } = [];

    void IPtxRunner.Run(PtxKernel kernel, long groups, int slices, ReadOnlySpan<ulong> parameters) => Run(kernel, (int)groups, slices, false, parameters.ToArray());

    /// <param name="backwards">Runs the warps of a group in the other order: a missing barrier shows in one of the two.</param>
    public void Run(PtxKernel kernel, int groupsX, int groupsY, bool backwards, params ulong[] parameters)
    {
        if (parameters.Length != kernel.Parameters.Count)
            throw new ArgumentException($"{kernel.Name} takes {string.Join(", ", kernel.Parameters)}; {parameters.Length} were given.");
        Ran.Add(kernel.Name);
        _parameters = parameters;
        _names = [.. kernel.Parameters.Select(p => p.Split(':')[0])];
        _sharedBytes = kernel.SharedBytes;
        _registers.Clear();
        (Instruction[] code, Dictionary<string, int> labels) = Parse(kernel.Text);
        for (int y = 0; y < groupsY; y++)
            for (int x = 0; x < groupsX; x++)
            {
                _group = (x, y);
                RunGroup(code, labels, kernel.Threads / 32, backwards);
            }
    }

    private void RunGroup(Instruction[] code, Dictionary<string, int> labels, int warps, bool backwards)
    {
        _shared = new byte[_sharedBytes];
        Array.Fill(_shared, (byte)0xFF);
        _barriers.Clear();
        Warp[] all = [.. Enumerable.Range(0, warps).Select(i => new Warp(i, _registers.Count))];
        if (backwards) Array.Reverse(all);
        for (int idle = 0; all.Any(w => !w.Done); idle++)
        {
            foreach (Warp w in all.Where(w => !w.Done && !w.AtBarrier))
            {
                int before = w.At;
                RunToBarrier(code, labels, w);
                if (w.At != before && !w.Waiting) idle = 0;
            }
            if (idle > 100) throw new InvalidOperationException("every warp waits for another");
            if (!all.All(w => w.AtBarrier || w.Done)) continue;
            if (all.Any(w => w.Done) && all.Any(w => w.AtBarrier)) throw new InvalidOperationException("a warp ended while another waits at a barrier");
            foreach (Warp w in all) w.AtBarrier = false;
        }
    }

    private static void RunToBarrier(Instruction[] code, Dictionary<string, int> labels, Warp w)
    {
        w.Waiting = false;
        while (true)
        {
            if (w.At >= code.Length) throw new InvalidOperationException("the kernel does not return");
            Instruction i = code[w.At++];
            i.Run(w);
            if (i.Text == "ret")
            {
                w.Done = true;
                return;
            }
            if (i.Jump is { } label && w.Active != 0)
            {
                if (w.Active != uint.MaxValue) throw new InvalidOperationException($"'{i.Text}' parts the lanes of a warp: {w.Active:X8}");
                w.At = labels[label];
                if (w.Waiting) return;
            }
            w.AtBarrier = i.Barrier;
            if (i.Barrier) return;
        }
    }

    private (Instruction[], Dictionary<string, int>) Parse(string text)
    {
        Dictionary<string, int> labels = [];
        List<Instruction> code = [];
        HashSet<string> declared = [];
        string body = text[(text.IndexOf('{') + 1)..text.LastIndexOf('}')];
        foreach (string raw in body.Split('\n'))
        {
            string line = raw.Trim();
            if (line.Length == 0) continue;
            if (line.EndsWith(':'))
            {
                labels.Add(line[..^1], code.Count);
                continue;
            }
            if (!line.EndsWith(';')) throw new FormatException($"'{line}' does not end");
            line = line[..^1];
            if (Regex.Match(line, @"^\.reg \.(b32|b64|f32|pred) (%[a-z]+)<(\d+)>$") is { Success: true } m)
            {
                for (int i = 0; i < int.Parse(m.Groups[3].Value); i++) declared.Add(m.Groups[2].Value + i);
                continue;
            }
            foreach (Match r in Regex.Matches(line, @"%(r|rd|f|p)\d+\b"))
            {
                if (!declared.Contains(r.Value)) throw new FormatException($"'{line}': {r.Value} is not declared");
                _registers.TryAdd(r.Value, _registers.Count);
            }
            code.Add(Compile(line));
        }
        foreach (Instruction i in code)
            if (i.Jump is { } label && !labels.ContainsKey(label)) throw new FormatException($"there is no label {label}");
        return ([.. code], labels);
    }

    private Instruction Compile(string line)
    {
        Match m = Regex.Match(line, @"^(?:@(!?)(%p\d+) )?([a-z0-9_.:]+)(?: (.*))?$", RegexOptions.IgnoreCase);
        if (!m.Success) throw new FormatException($"'{line}' is no instruction");
        string op = m.Groups[3].Value;
        string[] x = [.. Regex.Matches(m.Groups[4].Value, @"\[[^\]]+\]|[^\s,{}]+").Select(o => o.Value)];
        int guard = m.Groups[2].Success ? _registers[m.Groups[2].Value] : -1;
        bool inverted = m.Groups[1].Value == "!";
        Step run = PtxInstructions.Compile(op, x) is { } plain ? Lanewise(plain, op, x) : Special(op, x) ?? throw new FormatException($"'{line}' is not known here");
        return new Instruction(line, w =>
        {
            w.Active = uint.MaxValue;
            if (guard >= 0)
                for (int lane = 0; lane < 32; lane++)
                    if (w.R[guard * 32 + lane] != 0 == inverted) w.Active &= ~(1u << lane);
            run(w);
        }, op.StartsWith("bar.sync"), op.StartsWith("bra") ? x[0] : null);
    }

    private Func<Warp, int, ulong> Value(string operand, bool single)
    {
        if (_registers.TryGetValue(operand, out int r)) return (w, lane) => w.R[r * 32 + lane];
        switch (operand)
        {
            case "%tid.x": return (w, lane) => (ulong)(w.Number * 32 + lane);
            case "%ctaid.x": return (_, _) => (ulong)_group.X;
            case "%ctaid.y": return (_, _) => (ulong)_group.Y;
            case "smem": return (_, _) => 0;
            case var p when _names.Contains(p): return (_, _) => _parameters[_names.IndexOf(p)];
        }
        ulong constant = operand.StartsWith("0f") ? Convert.ToUInt32(operand[2..], 16)
            : operand.StartsWith('-') ? (ulong)long.Parse(operand, CultureInfo.InvariantCulture) : ulong.Parse(operand, CultureInfo.InvariantCulture);
        if (single && operand.Length > 1 && !operand.StartsWith("0f")) throw new FormatException($"'{operand}' stands for a float32");
        return (_, _) => constant;
    }

    private Step Lanewise(Func<ulong, ulong, ulong, ulong> f, string op, string[] x)
    {
        int to = _registers[x[0]];
        bool single = op.EndsWith("f32") && !op.StartsWith("setp") && !op.StartsWith("mov") && !op.StartsWith("cvt");
        var sources = x.Skip(1).Select(o => Value(o, single)).ToArray();
        return w =>
        {
            for (int lane = 0; lane < 32; lane++)
            {
                if ((w.Active >> lane & 1) == 0) continue;
                ulong a = sources[0](w, lane), b = sources.Length > 1 ? sources[1](w, lane) : 0, c = sources.Length > 2 ? sources[2](w, lane) : 0;
                w.R[to * 32 + lane] = f(a, b, c);
            }
        };
    }

    private Step? Special(string op, string[] x)
    {
        if (op is "ret" or "bra" or "bra.uni" || op.StartsWith("bar.sync")) return _ => { };
        if (op.StartsWith("ld.param"))
        {
            int to = _registers[x[0]], index = _names.IndexOf(x[1][1..^1]);
            return w => Array.Fill(w.R, _parameters[index], to * 32, 32);
        }
        if (Regex.Match(op, @"^(ld|st)\.(global|shared)(\.nc)?(\.v[24])?\.([bfus])(\d+)$") is { Success: true } m)
        {
            bool load = m.Groups[1].Value == "ld", shared = m.Groups[2].Value == "shared";
            int count = m.Groups[4].Length > 0 ? m.Groups[4].Value[2] - '0' : 1, size = int.Parse(m.Groups[6].Value) / 8;
            Func<Warp, int, ulong> address = Address(load ? x[^1] : x[0]);
            string[] registers = load ? x[..^1] : x[1..];
            if (registers.Length != count) throw new FormatException($"{op} with {registers.Length} registers");
            int[] to = [.. registers.Select(r => load ? _registers[r] : 0)];
            var from = registers.Select(r => load ? null! : Value(r, false)).ToArray();
            return w =>
            {
                for (int lane = 0; lane < 32; lane++)
                {
                    if ((w.Active >> lane & 1) == 0) continue;
                    Span<byte> at = Bytes(address(w, lane), shared, count * size);
                    for (int i = 0; i < count; i++)
                    {
                        Span<byte> part = at.Slice(i * size, size);
                        if (load) w.R[to[i] * 32 + lane] = size switch { 2 => BitConverter.ToUInt16(part), 4 => BitConverter.ToUInt32(part), 8 => BitConverter.ToUInt64(part), _ => part[0] };
                        else BitConverter.GetBytes(from[i](w, lane)).AsSpan(0, size).CopyTo(part);
                    }
                }
            };
        }
        if (Hopper(op, x) is { } hopper) return hopper;
        switch (op)
        {
            case "cp.async.cg.shared.global":
            {
                Func<Warp, int, ulong> to = Address(x[0]), from = Address(x[1]), size = Value(x[3], false);
                return w =>
                {
                    for (int lane = 0; lane < 32; lane++)
                    {
                        if ((w.Active >> lane & 1) == 0) continue;
                        int bytes = (int)size(w, lane);
                        byte[] data = new byte[16];
                        if (bytes > 0) Bytes(from(w, lane), false, 16)[..bytes].CopyTo(data);
                        ulong at = to(w, lane);
                        w.Open.Add(() => data.CopyTo(Bytes(at, true, 16)));
                    }
                };
            }
            case "cp.async.commit_group":
                return w =>
                {
                    w.Groups.Add(w.Open);
                    w.Open = [];
                };
            case "cp.async.wait_group":
                int left = int.Parse(x[0]);
                return w =>
                {
                    while (w.Groups.Count > left)
                    {
                        w.Groups[0].ForEach(a => a());
                        w.Groups.RemoveAt(0);
                    }
                };
            case "ldmatrix.sync.aligned.m8n8.x4.shared.b16" or "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16":
            {
                bool transposed = op.Contains("trans");
                int[] to = [.. x[..4].Select(r => _registers[r])];
                Func<Warp, int, ulong> address = Address(x[4]);
                return w =>
                {
                    for (int i = 0; i < 4; i++)
                    {
                        ushort[,] tile = new ushort[8, 8];
                        HashSet<ulong> banks = [];
                        for (int row = 0; row < 8; row++)
                        {
                            ulong at = address(w, 8 * i + row);
                            banks.Add(at / 16 % 8);
                            ReadOnlySpan<byte> bytes = Bytes(at, true, 16);
                            for (int col = 0; col < 8; col++) tile[row, col] = BitConverter.ToUInt16(bytes[(2 * col)..]);
                        }
                        if (banks.Count < 8) throw new InvalidOperationException($"{op}: bank conflicts, {banks.Count} of 8");
                        for (int lane = 0; lane < 32; lane++)
                        {
                            int r = lane / 4, c = lane % 4 * 2;
                            w.R[to[i] * 32 + lane] = transposed ? tile[c, r] | (ulong)tile[c + 1, r] << 16 : tile[r, c] | (ulong)tile[r, c + 1] << 16;
                        }
                    }
                };
            }
            case "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32": return Product([.. x.Select(r => _registers[r])]);
            case "shfl.sync.bfly.b32":
            {
                int to = _registers[x[0]], from = _registers[x[1]], mask = int.Parse(x[2]);
                return w =>
                {
                    ulong[] all = w.R[(from * 32)..(from * 32 + 32)];
                    for (int lane = 0; lane < 32; lane++) w.R[to * 32 + lane] = all[lane ^ mask];
                };
            }
            default: return null;
        }
    }

    private Step? Hopper(string op, string[] x)
    {
        if (op is "fence.mbarrier_init.release.cluster" or "wgmma.fence.sync.aligned" or "wgmma.commit_group.sync.aligned" or "wgmma.wait_group.sync.aligned")
            return _ => { };
        if (op.StartsWith("mbarrier.") && op != "mbarrier.try_wait.parity.shared::cta.b64")
        {
            Func<Warp, int, ulong> address = Address(x[op.Contains("arrive") ? 1 : 0]), number = op.EndsWith("arrive.shared::cta.b64") ? (_, _) => 0 : Value(x[^1], false);
            return w =>
            {
                for (int lane = 0; lane < 32; lane++)
                {
                    if ((w.Active >> lane & 1) == 0) continue;
                    ulong at = address(w, lane);
                    if (op.StartsWith("mbarrier.init")) _barriers[at] = new Arrivals((int)number(w, lane));
                    else
                    {
                        _barriers[at].Bytes += (int)number(w, lane);
                        _barriers[at].Pending--;
                        _barriers[at].Settle();
                    }
                }
            };
        }
        if (op.StartsWith("mbarrier.try_wait"))
        {
            int to = _registers[x[0]];
            Func<Warp, int, ulong> address = Address(x[1]), parity = Value(x[2], false);
            return w =>
            {
                bool over = (_barriers[address(w, 0)].Phase & 1) != (int)parity(w, 0);
                w.Waiting = !over;
                Array.Fill(w.R, over ? 1UL : 0, to * 32, 32);
            };
        }
        if (op.StartsWith("cp.async.bulk.tensor.2d"))
        {
            // [to], [map, k, line], [barrier]: braces and commas are gone, the middle operand keeps its brackets.
            string[] source = [.. Regex.Matches(x[1], @"%\w+").Select(m => m.Value)];
            Func<Warp, int, ulong> to = Address(x[0]), map = Value(source[0], false), inner = Value(source[1], false), line = Value(source[2], false),
                barrier = Address(x[2]);
            return w =>
            {
                for (int lane = 0; lane < 32; lane++)
                    if ((w.Active >> lane & 1) != 0) CopyBox(to(w, lane), _maps[(int)map(w, lane)], (int)inner(w, lane), (int)line(w, lane), _barriers[barrier(w, lane)]);
            };
        }
        if (Regex.Match(op, @"^wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k16\.f32\.bf16\.bf16$") is { Success: true } m) return WarpgroupProduct(int.Parse(m.Groups[1].Value), x);
        return null;
    }

    private void CopyBox(ulong to, Map map, int inner, int line, Arrivals barrier)
    {
        if (to % 1024 != 0) throw new InvalidOperationException($"a box lands at {to:X}, which is not a multiple of 1024");
        for (int l = 0; l < map.BoxLines; l++)
            for (int i = 0; i < 64; i++)
            {
                bool inside = inner + i < map.Inner && line + l < map.Outer;
                ulong at = Swizzle(to + (ulong)(l * 128 + 2 * i));
                Span<byte> target = Bytes(at, true, 2);
                if (inside) Bytes(map.Address + 2 * (ulong)((long)(line + l) * map.Inner + inner + i), false, 2).CopyTo(target);
                else target.Clear();
            }
        barrier.Bytes -= map.BoxLines * 128;
        barrier.Settle();
    }

    private static ulong Swizzle(ulong at) => at ^ (at >> 7 & 7) << 4;

    private Step WarpgroupProduct(int cols, string[] x)
    {
        int[] sums = [.. x[..(cols / 2)].Select(r => _registers[r])];
        string[] rest = x[(cols / 2)..];
        Func<Warp, int, ulong> a = Value(rest[0], false), b = Value(rest[1], false);
        bool aAcross = rest[5] == "1", bAcross = rest[6] == "1";
        return w =>
        {
            float[,] left = Matrix(a(w, 0), aAcross, 16 * (w.Number % 4), 16), right = Matrix(b(w, 0), bAcross, 0, cols);
            for (int lane = 0; lane < 32; lane++)
                for (int i = 0; i < sums.Length; i++)
                {
                    int row = lane / 4 + i / 2 % 2 * 8, col = i / 4 * 8 + lane % 4 * 2 + i % 2;
                    float sum = BitConverter.UInt32BitsToSingle((uint)w.R[sums[i] * 32 + lane]);
                    for (int k = 0; k < 16; k++) sum += left[row, k] * right[col, k];
                    w.R[sums[i] * 32 + lane] = BitConverter.SingleToUInt32Bits(sum);
                }
        };
    }

    /// <summary>A 16-deep slab of a matrix that a descriptor names (CUTLASS, mma_sm90_desc.hpp, 128-byte swizzle).</summary>
    private float[,] Matrix(ulong descriptor, bool across, int first, int rows)
    {
        if (descriptor >> 62 != 1) throw new InvalidOperationException("only the 128-byte swizzle is known here");
        ulong start = (descriptor & 0x3FFF) << 4, leading = (descriptor >> 16 & 0x3FFF) << 4, stride = (descriptor >> 32 & 0x3FFF) << 4;
        float[,] all = new float[rows, 16];
        for (int r = 0; r < rows; r++)
            for (int k = 0; k < 16; k++)
            {
                ulong row = (ulong)(first + r), d = (ulong)k;
                ulong at = across ? row / 64 * leading + d / 8 * stride + d % 8 * 128 + row % 64 * 2 : row / 8 * stride + row % 8 * 128 + d * 2;
                all[r, k] = BitConverter.UInt32BitsToSingle((uint)BitConverter.ToUInt16(Bytes(Swizzle(start + at), true, 2)) << 16);
            }
        return all;
    }

    private static Step Product(int[] r) => w =>
    {
        float[,] a = new float[16, 16], b = new float[16, 8];
        for (int lane = 0; lane < 32; lane++)
        {
            int g = lane / 4, c = lane % 4 * 2;
            for (int i = 0; i < 4; i++) (a[g + i % 2 * 8, c + i / 2 * 8], a[g + i % 2 * 8, c + i / 2 * 8 + 1]) = Pair(w.R[r[4 + i] * 32 + lane]);
            for (int i = 0; i < 2; i++) (b[c + 8 * i, g], b[c + 8 * i + 1, g]) = Pair(w.R[r[8 + i] * 32 + lane]);
        }
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < 4; i++)
            {
                int row = lane / 4 + i / 2 * 8, col = lane % 4 * 2 + i % 2;
                float sum = BitConverter.UInt32BitsToSingle((uint)w.R[r[10 + i] * 32 + lane]);
                for (int k = 0; k < 16; k++) sum += a[row, k] * b[k, col];
                w.R[r[i] * 32 + lane] = BitConverter.SingleToUInt32Bits(sum);
            }
    };

    private static (float, float) Pair(ulong v) => (BitConverter.UInt32BitsToSingle((uint)v << 16), BitConverter.UInt32BitsToSingle((uint)v & 0xFFFF0000u));

    private Func<Warp, int, ulong> Address(string operand)
    {
        Match m = Regex.Match(operand, @"^\[(%\w+|smem)(?:\+(-?\d+))?\]$");
        if (!m.Success) throw new FormatException($"'{operand}' is no address");
        Func<Warp, int, ulong> at = Value(m.Groups[1].Value, false);
        ulong offset = m.Groups[2].Success ? (ulong)long.Parse(m.Groups[2].Value) : 0;
        return (w, lane) => at(w, lane) + offset;
    }

    private unsafe Span<byte> Bytes(ulong address, bool shared, int count)
    {
        if (address % (ulong)count != 0) throw new InvalidOperationException($"address {address:X} is not aligned to {count} bytes");
        if (OnHost && !shared && address >> 40 > (ulong)_memory.Count) return new Span<byte>((void*)address, count);
        byte[] all = shared ? _shared : address >> 40 is > 0 and var n && n <= (ulong)_memory.Count ? _memory[(int)n - 1]
            : throw new InvalidOperationException($"address {address:X} is not in device memory");
        ulong at = shared ? address : address & ((1UL << 40) - 1);
        if (at + (ulong)count > (ulong)all.Length) throw new InvalidOperationException($"address {address:X}: {count} bytes past the end ({all.Length})");
        return all.AsSpan((int)at, count);
    }
}
