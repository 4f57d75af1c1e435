using System.Runtime.CompilerServices;
using ILGPU;

[assembly: InternalsVisibleTo("ILGPURuntime")]

namespace MimEngine.Kernels.Ilgpu;

/// <summary>
/// One kernel: a value with its views and numbers; every thread of every group runs <see cref="Run"/>. <typeparamref name="TT"/> is the
/// device's group as a type, so that its size is a constant in the compiled code.
/// </summary>
internal interface IKernel
{
    void Run<TT>() where TT : struct, ITile;
}

/// <summary>A group of Side × Side threads. In a product each thread owns 4 × 4 results, a group 4·Side × 4·Side.</summary>
internal interface ITile
{
    static abstract int Side { get; }
}

/// <summary>16 threads: ILGPU's simulator, where a barrier costs 0.2 ms.</summary>
internal readonly struct Tile4 : ITile
{
    public static int Side => 4;
}

/// <summary>256 threads: GPUs.</summary>
internal readonly struct Tile16 : ITile
{
    public static int Side => 16;
}

/// <summary>Two numbers that are summed together.</summary>
internal readonly struct Pair(float a, float b)
{
    public readonly float A = a, B = b;
}

/// <summary>What the threads of a group do together. Every sum has one order, whatever the timing: no atomics.</summary>
internal static class Team
{
    /// <summary>Number of this thread in the whole grid.</summary>
    public static int Index<TT>() where TT : struct, ITile => Grid.IdxX * (TT.Side * TT.Side) + Group.IdxX;

    /// <summary>Threads of a group.</summary>
    public static int Threads<TT>() where TT : struct, ITile => TT.Side * TT.Side;

    /// <summary>Floats of shared memory that one call of <see cref="Sum"/> uses.</summary>
    public static int Room<TT>() where TT : struct, ITile => 2 * TT.Side * (TT.Side + 1);

    /// <summary>Sums both numbers over the group; every thread gets the result. Each call needs room of its own.</summary>
    public static Pair Sum<TT>(ArrayView<float> room, float a, float b) where TT : struct, ITile
    {
        int t = Group.IdxX, threads = TT.Side * TT.Side, folded = 2 * threads;
        room[t] = a;
        room[threads + t] = b;
        Group.Barrier();
        if (t < 2 * TT.Side)
        {
            int from = t < TT.Side ? t : threads + t - TT.Side;
            float sum = 0f;
            for (int i = 0; i < TT.Side; i++) sum += room[from + i * TT.Side];
            room[folded + t] = sum;
        }
        Group.Barrier();
        float x = 0f, y = 0f;
        for (int i = 0; i < TT.Side; i++)
        {
            x += room[folded + i];
            y += room[folded + TT.Side + i];
        }
        return new Pair(x, y);
    }

    /// <summary>The largest of the group's values; NaN is passed over. Each call needs room of its own.</summary>
    public static float Max<TT>(ArrayView<float> room, float a) where TT : struct, ITile
    {
        int t = Group.IdxX, threads = TT.Side * TT.Side;
        room[t] = a;
        Group.Barrier();
        if (t < TT.Side)
        {
            float best = room[t];
            for (int i = 1; i < TT.Side; i++) best = Scalar.Larger(best, room[t + i * TT.Side]);
            room[threads + t] = best;
        }
        Group.Barrier();
        float all = room[threads];
        for (int i = 1; i < TT.Side; i++) all = Scalar.Larger(all, room[threads + i]);
        return all;
    }
}
