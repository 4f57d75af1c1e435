using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;

namespace MimEngine.Kernels.Cpu;

/// <summary>Loops over one contiguous line of floats, past which nothing is touched. Sums have a fixed order for a given width.</summary>
internal static unsafe class Lines<TV> where TV : struct, ILanes<TV>
{
    /// <summary>Count floats, or the first <paramref name="n"/> of them where fewer are left.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TV Load(float* p, int n) => n >= TV.Count ? TV.Load(p) : TV.LoadFirst(p, n);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(TV v, float* p, int n)
    {
        if (n >= TV.Count) v.Store(p);
        else v.StoreFirst(p, n);
    }

    /// <summary>Count elements from place i on, or the first <paramref name="n"/> of them where fewer are left.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TV Load<TE>(void* p, nint i, int n) where TE : struct, IElement => n >= TV.Count ? TE.Load<TV>(p, i) : TE.LoadFirst<TV>(p, i, n);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store<TE>(TV v, void* p, nint i, int n) where TE : struct, IElement
    {
        if (n >= TV.Count) TE.Store(v, p, i);
        else TE.StoreFirst(v, p, i, n);
    }

    /// <summary>Σ a·b, two accumulators wide.</summary>
    public static float Dot<TE>(void* a, void* b, int n) where TE : struct, IElement
    {
        TV s0 = TV.Zero, s1 = TV.Zero;
        int i = 0;
        for (; i <= n - 2 * TV.Count; i += 2 * TV.Count)
        {
            s0 = TV.MulAdd(TE.Load<TV>(a, i), TE.Load<TV>(b, i), s0);
            s1 = TV.MulAdd(TE.Load<TV>(a, i + TV.Count), TE.Load<TV>(b, i + TV.Count), s1);
        }
        for (; i < n; i += TV.Count) s0 = TV.MulAdd(Load<TE>(a, i, n - i), Load<TE>(b, i, n - i), s0);
        return (s0 + s1).Sum();
    }

    public static void Copy(float* y, float* x, int n)
    {
        int i = 0;
        for (; i <= n - TV.Count; i += TV.Count) TV.Load(x + i).Store(y + i);
        if (i < n) TV.LoadFirst(x + i, n - i).StoreFirst(y + i, n - i);
    }

    public static void Set(float* y, float value, int n)
    {
        TV v = TV.All(value);
        int i = 0;
        for (; i <= n - TV.Count; i += TV.Count) v.Store(y + i);
        if (i < n) v.StoreFirst(y + i, n - i);
    }

    /// <summary>y = a + b.</summary>
    public static void Add(float* y, float* a, float* b, int n)
    {
        int i = 0;
        for (; i <= n - TV.Count; i += TV.Count) (TV.Load(a + i) + TV.Load(b + i)).Store(y + i);
        if (i < n) (TV.LoadFirst(a + i, n - i) + TV.LoadFirst(b + i, n - i)).StoreFirst(y + i, n - i);
    }

    /// <summary>y = a·x, or y += a·x.</summary>
    public static void Scale(float* y, float* x, float a, bool accumulate, int n)
    {
        TV va = TV.All(a);
        int i = 0;
        if (accumulate)
        {
            for (; i <= n - TV.Count; i += TV.Count) TV.MulAdd(va, TV.Load(x + i), TV.Load(y + i)).Store(y + i);
            if (i < n) TV.MulAdd(va, TV.LoadFirst(x + i, n - i), TV.LoadFirst(y + i, n - i)).StoreFirst(y + i, n - i);
            return;
        }
        for (; i <= n - TV.Count; i += TV.Count) (va * TV.Load(x + i)).Store(y + i);
        if (i < n) (va * TV.LoadFirst(x + i, n - i)).StoreFirst(y + i, n - i);
    }

    /// <summary>y = x where the gradient is written, y += x where it is accumulated.</summary>
    public static void Put(float* y, float* x, bool accumulate, int n)
    {
        if (accumulate) Add(y, y, x, n);
        else Copy(y, x, n);
    }

    /// <summary>Σ x, four accumulators wide.</summary>
    public static float Sum(float* x, int n)
    {
        TV s0 = TV.Zero, s1 = TV.Zero, s2 = TV.Zero, s3 = TV.Zero;
        int i = 0;
        for (; i <= n - 4 * TV.Count; i += 4 * TV.Count)
        {
            s0 += TV.Load(x + i);
            s1 += TV.Load(x + i + TV.Count);
            s2 += TV.Load(x + i + 2 * TV.Count);
            s3 += TV.Load(x + i + 3 * TV.Count);
        }
        for (; i <= n - TV.Count; i += TV.Count) s0 += TV.Load(x + i);
        if (i < n) s1 += TV.LoadFirst(x + i, n - i);
        return (s0 + s1 + (s2 + s3)).Sum();
    }

    /// <summary>Σ x², four accumulators wide.</summary>
    public static float SumSquares(float* x, int n) => Dot(x, x, n);

    /// <summary>Elements between the vector that is worked on and the lines that are asked for: about 100 ns of work.</summary>
    public const int Ahead = 768;

    /// <summary>
    /// Asks L1 for a line of memory, to be read or (a line that nobody shares comes owned) written soon. Where a row is worked on in L1, memory would
    /// idle; and a store waits for its line, which the processor fetches no earlier than it must. Not where processors do better by themselves.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Ask(void* line)
    {
        if (Simd.AsksAhead && Sse.IsSupported) Sse.Prefetch0(line);   // decided by the JIT
    }

    /// <summary>
    /// Asks for the line <see cref="Ahead"/> elements on, in loops that compute so long a line that processors follow them badly: where
    /// <see cref="Ask"/> is silent, for one four times as far, into L2.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void AskAlways(float* p)
    {
        if (Simd.AsksAhead) Ask(p + Ahead);
        else AskFar(p + 4 * Ahead);
    }

    /// <summary>
    /// Asks L2 for a line that no processor would guess. Not L1: a core waits for two dozen lines there at most, and what it loads needs some.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void AskFar(void* line)
    {
        if (Sse.IsSupported) Sse.Prefetch1(line);
    }

    /// <summary>Mean, and mean squared deviation from it, of a line in cache.</summary>
    /// <remarks>
    /// Deviations are taken from the rounded mean of the first eighth, and corrected by their own mean, so that a constant line has deviations of
    /// exactly 0: with a tiny eps they would otherwise be blown up by 1/√eps. The mean of k of n numbers is at most √(n/k) standard deviations
    /// from that of all, so the correction loses no more than a factor of 9 (3 bits) of the variance's digits.
    /// </remarks>
    public static (float Mean, float Variance) Moments(float* x, int n)
    {
        int part = Math.Min(n, Math.Max(64, (n / 8 + 15) & ~15));
        float guess = Sum(x, part) / part;
        TV s0 = TV.Zero, s1 = TV.Zero, s2 = TV.Zero, s3 = TV.Zero, q0 = TV.Zero, q1 = TV.Zero, q2 = TV.Zero, q3 = TV.Zero, m = TV.All(guess);
        int i = 0;
        for (; i <= n - 4 * TV.Count; i += 4 * TV.Count)
        {
            TV a = TV.Load(x + i) - m, b = TV.Load(x + i + TV.Count) - m;
            TV c = TV.Load(x + i + 2 * TV.Count) - m, d = TV.Load(x + i + 3 * TV.Count) - m;
            (s0, s1, s2, s3) = (s0 + a, s1 + b, s2 + c, s3 + d);
            (q0, q1, q2, q3) = (TV.MulAdd(a, a, q0), TV.MulAdd(b, b, q1), TV.MulAdd(c, c, q2), TV.MulAdd(d, d, q3));
        }
        for (; i <= n - TV.Count; i += TV.Count)
        {
            TV a = TV.Load(x + i) - m;
            s0 += a;
            q0 = TV.MulAdd(a, a, q0);
        }
        float sum = (s0 + s1 + (s2 + s3)).Sum(), squares = (q0 + q1 + (q2 + q3)).Sum();
        for (; i < n; i++)   // lanes past the end would count the guess
        {
            float a = x[i] - guess;
            sum += a;
            squares += a * a;
        }
        float shift = sum / n;
        return (guess + shift, MathF.Max(0f, squares / n - shift * shift));
    }

    /// <summary>Σ a·b, four accumulators wide.</summary>
    public static float Dot(float* a, float* b, int n)
    {
        TV s0 = TV.Zero, s1 = TV.Zero, s2 = TV.Zero, s3 = TV.Zero;
        int i = 0;
        for (; i <= n - 4 * TV.Count; i += 4 * TV.Count)
        {
            s0 = TV.MulAdd(TV.Load(a + i), TV.Load(b + i), s0);
            s1 = TV.MulAdd(TV.Load(a + i + TV.Count), TV.Load(b + i + TV.Count), s1);
            s2 = TV.MulAdd(TV.Load(a + i + 2 * TV.Count), TV.Load(b + i + 2 * TV.Count), s2);
            s3 = TV.MulAdd(TV.Load(a + i + 3 * TV.Count), TV.Load(b + i + 3 * TV.Count), s3);
        }
        for (; i <= n - TV.Count; i += TV.Count) s0 = TV.MulAdd(TV.Load(a + i), TV.Load(b + i), s0);
        if (i < n) s1 = TV.MulAdd(TV.LoadFirst(a + i, n - i), TV.LoadFirst(b + i, n - i), s1);
        return (s0 + s1 + (s2 + s3)).Sum();
    }

    /// <summary>Largest element; NaN where the line holds one only by chance, as the vector instruction has it.</summary>
    public static float Largest(float* x, int n)
    {
        float largest = x[0];
        int i = 0;
        if (n >= TV.Count)
        {
            TV m = TV.Load(x);
            for (i = TV.Count; i <= n - TV.Count; i += TV.Count) m = TV.Max(m, TV.Load(x + i));
            if (i < n) m = TV.Max(m, TV.Load(x + n - TV.Count));   // overlaps what was seen: a maximum does not mind
            return m.Largest();
        }
        for (; i < n; i++) largest = largest > x[i] ? largest : x[i];
        return largest;
    }

    /// <summary>y = exp(x − shift), no x above shift; y may be x; returns Σ y.</summary>
    public static float ExpMinus(float* y, float* x, float shift, int n)
    {
        TV m = TV.All(shift), s0 = TV.Zero, s1 = TV.Zero;
        int i = 0;
        for (; i <= n - 2 * TV.Count; i += 2 * TV.Count)
        {
            TV a = VectorMath.ExpDown(TV.Load(x + i) - m), b = VectorMath.ExpDown(TV.Load(x + i + TV.Count) - m);
            a.Store(y + i);
            b.Store(y + i + TV.Count);
            s0 += a;
            s1 += b;
        }
        for (; i <= n - TV.Count; i += TV.Count)
        {
            TV a = VectorMath.ExpDown(TV.Load(x + i) - m);
            a.Store(y + i);
            s0 += a;
        }
        float sum = (s0 + s1).Sum();
        if (i == n) return sum;
        // Lanes past the end hold exp(−shift): they are left out of the sum by adding what was stored.
        VectorMath.ExpDown(TV.LoadFirst(x + i, n - i) - m).StoreFirst(y + i, n - i);
        return sum + TV.LoadFirst(y + i, n - i).Sum();
    }

    /// <summary>
    /// As above, and on the same walk the largest of the line that is next, so that memory is read while exponentials are computed, and the line
    /// before, in L1, times <paramref name="factor"/>: its loads and stores cost nothing beside them.
    /// </summary>
    public static float ExpMinus(float* y, float* x, float shift, float* next, out float nextLargest, float* before, float factor, int n)
    {
        if (n < TV.Count)
        {
            nextLargest = Largest(next, n);   // first: y may be x, and next too
            Scale(before, before, factor, accumulate: false, n);
            return ExpMinus(y, x, shift, n);
        }
        TV m = TV.All(shift), f = TV.All(factor), s0 = TV.Zero, s1 = TV.Zero, most0 = TV.Load(next), most1 = most0;
        int i = 0;
        for (; i <= n - 2 * TV.Count; i += 2 * TV.Count)
        {
            AskAlways(next + i);
            AskAlways(next + i + TV.Count);
            AskAlways(y + i);
            AskAlways(y + i + TV.Count);
            (f * TV.Load(before + i)).Store(before + i);
            (f * TV.Load(before + i + TV.Count)).Store(before + i + TV.Count);
            most0 = TV.Max(most0, TV.Load(next + i));
            most1 = TV.Max(most1, TV.Load(next + i + TV.Count));
            TV a = VectorMath.ExpDown(TV.Load(x + i) - m), b = VectorMath.ExpDown(TV.Load(x + i + TV.Count) - m);
            a.Store(y + i);
            b.Store(y + i + TV.Count);
            s0 += a;
            s1 += b;
        }
        float most = TV.Max(TV.Max(most0, most1), TV.Load(next + n - TV.Count)).Largest(), sum = (s0 + s1).Sum();
        nextLargest = i < n - TV.Count ? MathF.Max(most, TV.Load(next + i).Largest()) : most;
        if (i == n) return sum;
        Scale(before + i, before + i, factor, accumulate: false, n - i);
        return sum + ExpMinus(y + i, x + i, shift, n - i);
    }
}
