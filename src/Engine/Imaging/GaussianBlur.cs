using System.Numerics;
using System.Runtime.InteropServices;

namespace MimEngine.Engine.Imaging;

/// <summary>
/// Pillow's Gaussian blur of one planar crop, in place: three box filters of fractional radius along rows, then three along columns, borders
/// repeated, every one rounded to bytes (Gwosdek et al. 2011, "extended box filters").
/// </summary>
/// <remarks>
/// One per thread; allocates nothing once it fits the largest crop. A box of radius ρ = r + a covers 2r + 1 pixels with weight 2²⁴/(2ρ + 1)
/// and one more at each end with what is left of 2²⁴, halved.
/// </remarks>
internal sealed class GaussianBlur
{
    private const int Passes = 3, Bits = 24;
    private uint[] _plane = [], _line = [], _next = [];

    /// <param name="planar">(3, S, S).</param>
    /// <param name="radius">Standard deviation in pixels, above 0.</param>
    public void Apply(Span<byte> planar, int size, float radius)
    {
        (int whole, uint weight, uint edge) = Box(radius);
        int plane = size * size, margin = whole + 1;
        if (_plane.Length < plane) _plane = new uint[plane];
        int room = (size + 2 * margin) * Math.Max(size, Vector<uint>.Count);
        if (_line.Length < room) (_line, _next) = (new uint[room], new uint[room]);
        for (int c = 0; c < 3; c++)
        {
            Span<byte> channel = planar.Slice(c * plane, plane);
            for (int i = 0; i < plane; i++) _plane[i] = channel[i];
            // Along rows: each row is a strip of one number a place. Along columns: the plane is one strip of S numbers a place.
            for (int y = 0; y < size; y++) Strip(_plane.AsSpan(y * size, size), 1, size, margin, weight, edge);
            Strip(_plane.AsSpan(0, plane), size, size, margin, weight, edge);
            for (int i = 0; i < plane; i++) channel[i] = (byte)_plane[i];
        }
    }

    /// <summary>Whole radius and the weights of inner and outer pixels, in 2²⁴ths.</summary>
    internal static (int Whole, uint Weight, uint Edge) Box(float radius)
    {
        // The box whose threefold variance is the Gaussian's: an ideal length L, its whole part, and the rest as a fraction.
        float variance = radius * radius / Passes;
        float length = MathF.Sqrt(12f * variance + 1f), l = MathF.Floor((length - 1f) / 2f);
        float fraction = (2 * l + 1) * (l * (l + 1) - 3 * variance) / (6 * (variance - (l + 1) * (l + 1)));
        float box = l + fraction;
        int whole = (int)box;
        uint weight = (uint)((1 << Bits) / (box * 2 + 1));
        return (whole, weight, ((1u << Bits) - (uint)(whole * 2 + 1) * weight) / 2);
    }

    /// <summary>The passes along a strip of <paramref name="places"/> places of <paramref name="step"/> numbers.</summary>
    private void Strip(Span<uint> strip, int step, int places, int margin, uint weight, uint edge)
    {
        int before = margin * step, count = places * step;
        Span<uint> line = _line.AsSpan(0, count + 2 * before), next = _next.AsSpan(0, count + 2 * before);
        strip.CopyTo(line[before..]);
        for (int pass = 0; pass < Passes; pass++)
        {
            for (int m = 0; m < margin; m++)
            {
                line.Slice(before, step).CopyTo(line[(m * step)..]);
                line.Slice(before + count - step, step).CopyTo(line[(before + count + m * step)..]);
            }
            Pass(next.Slice(before, count), line, step, margin, weight, edge);
            Span<uint> swap = line;
            line = next;
            next = swap;
        }
        line.Slice(before, count).CopyTo(strip);
    }

    private static void Pass(Span<uint> into, ReadOnlySpan<uint> from, int step, int margin, uint weight, uint edge)
    {
        int last = 2 * margin * step, i = 0, lanes = Vector<uint>.Count;
        ref uint read = ref MemoryMarshal.GetReference(from);
        for (; i + lanes <= into.Length; i += lanes)
        {
            Vector<uint> inner = Vector<uint>.Zero;
            for (int k = step; k < last; k += step) inner += Vector.LoadUnsafe(ref read, (nuint)(i + k));
            Vector<uint> outer = Vector.LoadUnsafe(ref read, (nuint)i) + Vector.LoadUnsafe(ref read, (nuint)(i + last));
            Vector<uint> sum = inner * weight + outer * edge + new Vector<uint>(1u << (Bits - 1));
            (sum >>> Bits).CopyTo(into[i..]);
        }
        for (; i < into.Length; i++)
        {
            uint inner = 0;
            for (int k = step; k < last; k += step) inner += from[i + k];
            into[i] = (inner * weight + (from[i] + from[i + last]) * edge + (1u << (Bits - 1))) >> Bits;
        }
    }
}
